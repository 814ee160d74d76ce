"""`Pool` and `Stream`: decode from any number of threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Self, cast, overload

from opuspool import calls
from opuspool.base import PoolBase, check_open, close_stream, drain_slot, plan_file, replace_worker
from opuspool.calls import Call, StreamState
from opuspool.errors import PoolClosedError
from opuspool.streamformat import StreamFormat
from opuspool.wire import Flag

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from types import TracebackType

    from opuspool.calls import Packet, Piece
    from opuspool.config import Config
    from opuspool.connection import Connection
    from opuspool.eventloop import LoopDriver
    from opuspool.losses import Losses
    from opuspool.numbered import NumberedStream
    from opuspool.oggopus import Source
    from opuspool.ops import Op, Outcome
    from opuspool.pcm import Pcm
    from opuspool.streamformat import SampleType

LATE_SECONDS = 3.0
"""A call that nobody has ended this long after its deadline ends by itself."""


class _ThreadCall(Call):
    """A call that a thread waits for."""

    __slots__ = ("_done",)

    def __init__(
        self, stream: StreamState, blob: bytes, count: int, flags: int, deadline: float
    ) -> None:
        super().__init__(stream, blob, count, flags, deadline)
        self._done = threading.Lock()
        self._done.acquire()

    def complete(self) -> None:
        """It has its answer or error."""
        self._done.release()

    def wait(self) -> None:
        self._done.acquire(timeout=max(0.0, self.deadline - time.monotonic()) + LATE_SECONDS)

    def outcome_when_complete(self) -> Outcome:
        self.wait()
        return self.outcome()


class _ThreadWaiter:
    """Tells the threads that wait for their calls."""

    driver: LoopDriver | None = None

    def complete(self, done: list[Call]) -> None:
        for call in cast("list[_ThreadCall]", done):
            call.complete()


class Pool(PoolBase):
    """A pool of decoder processes; may be used from any number of threads.

    Args:
        endpoint: address of a daemon (`opuspool-supervise`), such as
            "ipc:///run/opuspool/pool.sock"; None starts a private supervisor that lives as long
            as this pool.
        workers: decoder processes of the private supervisor; None: as configured.
        spares: warm workers that wait to replace a dead one; None: as configured.
        libopus: path of the libopus to load; None: as configured, or searched.
        config: path of a TOML file, or a `Config`; None: the defaults.

    Raises:
        ConfigError: a setting is wrong.
        SupervisorLostError: no supervisor answers, or the private one did not start.
        AuthenticationError: the daemon refused the keys.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        workers: int | None = None,
        spares: int | None = None,
        libopus: str | os.PathLike[str] | None = None,
        config: Config | str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(endpoint, workers, spares, libopus, config)
        self._open(_ThreadWaiter())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the pool, with its private supervisor; calls under way get `PoolClosedError`."""
        self._shut()

    @overload
    def stream(
        self,
        sample_rate: int = ...,
        channels: int = ...,
        dtype: SampleType = ...,
        *,
        losses: Losses,
    ) -> NumberedStream: ...

    @overload
    def stream(
        self,
        sample_rate: int = ...,
        channels: int = ...,
        dtype: SampleType = ...,
        *,
        losses: None = ...,
    ) -> Stream: ...

    def stream(
        self,
        sample_rate: int = 16000,
        channels: int = 1,
        dtype: SampleType = "float32",
        *,
        losses: Losses | None = None,
    ) -> Stream | NumberedStream:
        """Open a live stream; its decoder's state is kept between packets.

        Args:
            sample_rate: Hz; 8000, 12000, 16000, 24000 or 48000.
            channels: 1 or 2.
            dtype: "float32", in [-1, 1], or "int16".
            losses: packets have numbers, and losses are filled by them: a `NumberedStream`.
        """
        stream = self._stream(StreamFormat(sample_rate, channels, dtype))
        if losses is None:
            return stream
        from opuspool.numbered import NumberedStream

        return NumberedStream(stream, losses)

    def decode(
        self,
        packets: Iterable[Packet],
        sample_rate: int = 16000,
        channels: int = 1,
        dtype: SampleType = "float32",
        timeout: float | None = None,
    ) -> Pcm:
        """Decode a whole utterance with a decoder of its own.

        Args:
            packets: in their order; None stands for a lost packet (concealed).
            sample_rate: as in `stream`.
            channels: as in `stream`.
            dtype: as in `stream`.
            timeout: seconds; None: as configured.

        Returns:
            float32 or int16, shape `(samples,)` for mono, `(samples, 2)` for stereo.

        Raises:
            PacketError: packets were refused or are poison; its `pcm` has all the others.
            DecodeTimeoutError, OverloadedError, WorkerBootError, SupervisorLostError,
            PoolClosedError: the utterance was not decoded.
        """
        fmt = StreamFormat(sample_rate, channels, dtype)
        return self._decode(self._pieces(packets), fmt, timeout)

    def decode_file(
        self,
        source: Source,
        sample_rate: int = 16000,
        channels: int | None = None,
        dtype: SampleType = "float32",
        timeout: float | None = None,
    ) -> Pcm:
        """Decode an Ogg Opus file: pre-skip, end trim and header gain are applied.

        Args:
            source: path, bytes, or a binary file.
            sample_rate: as in `stream`.
            channels: 1 or 2; None: as the file has.
            dtype: as in `stream`.
            timeout: seconds; None: as configured.

        Raises:
            InvalidFileError: it is not Ogg Opus, or no audio can be had from it.
            OSError: it cannot be read.
            OpusPoolError: as in `decode`.
        """
        plan = plan_file(source, sample_rate, channels, dtype)
        for link in plan.links:
            pieces = plan.pieces(link, self._config.requests.piece_packets)
            plan.add(link, self._decode(pieces, plan.format, timeout))
        return plan.result()

    def status(self, timeout: float = 5.0) -> dict[str, Any]:
        """Workers, counters and health, as `opuspool status --json` prints them.

        Raises:
            SupervisorLostError: no answer within `timeout` seconds.
        """
        return self._connection.ask("status", timeout)

    def replace_worker(self, slot: int, *, at_once: bool = False, timeout: float = 5.0) -> None:
        """Have a slot's worker replaced by a new one; its streams move, bit for bit.

        Args:
            slot: its number, as `status()` tells it.
            at_once: kill it, whatever it does; otherwise it is replaced when it is idle. A slot
                that was drained gets its next worker.
            timeout: seconds for the supervisor's answer, which does not wait for the new worker.

        Raises:
            ValueError: there is no such slot, or it has no worker just now.
            SupervisorLostError: no answer within `timeout` seconds.
        """
        replace_worker(self._connection, slot, timeout, at_once=at_once)

    def drain_slot(self, slot: int, *, timeout: float = 5.0) -> None:
        """Have a slot emptied: it takes nothing new, its worker leaves, its streams move.

        It stays empty until `replace_worker(slot, at_once=True)`.

        Args:
            slot: its number, as `status()` tells it.
            timeout: seconds for the supervisor's answer, which does not wait for the worker.

        Raises:
            ValueError: there is no such slot, or it is the last one that serves.
            SupervisorLostError: no answer within `timeout` seconds.
        """
        drain_slot(self._connection, slot, timeout)

    def _stream(self, fmt: StreamFormat) -> Stream:
        self._connection.check()
        return Stream(self, StreamState(next(self._stream_ids), fmt))

    def _decode(self, pieces: list[Piece], fmt: StreamFormat, timeout: float | None) -> Pcm:
        deadline = self._deadline(timeout)
        with self._stream(fmt) as stream:
            return stream._run_pieces(pieces, deadline, Flag.BULK)  # noqa: SLF001  its other half

    @property
    def _connection(self) -> Connection:
        if self._backend is None or self._backend.connection is None:
            raise PoolClosedError("the pool was closed")
        return self._backend.connection


class Stream:
    """A live stream of a `Pool`; made by `Pool.stream`. Its calls run in their order."""

    def __init__(self, pool: Pool, state: StreamState) -> None:
        self._pool = pool
        self._connection = pool._connection  # noqa: SLF001  its other half
        self._state = state

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def decode(self, packet: Packet, *, fec: bool = False, timeout: float | None = None) -> Pcm:
        """Decode one packet.

        Args:
            packet: the packet; None: it was lost, conceal as long a time as the last one took
                (20 ms where there has been none).
            fec: decode the packet before this one from this one's in-band FEC; decode this one
                afterwards in a call of its own.
            timeout: seconds; None: as configured.

        Raises:
            InvalidPacketError, PoisonPacketError: of this packet; the stream goes on.
            StreamClosedError, DecodeTimeoutError, OverloadedError, WorkerBootError,
            SupervisorLostError, PoolClosedError: it was not decoded.
        """
        deadline = self._pool._deadline(timeout)  # noqa: SLF001  its other half
        state = self._state
        check_open(state)
        call = _ThreadCall(state, calls.packed(packet, fec=fec), 1, 0, deadline)
        if not self._connection.run_alone(call):
            self._connection.submit(call)
        call.wait()
        return call.pcm()

    def decode_many(self, packets: Iterable[Packet], *, timeout: float | None = None) -> Pcm:
        """Decode several packets, one after another; returns their PCM in one array.

        Raises:
            PacketError: packets were refused or are poison; its `pcm` has all the others.
            OpusPoolError: as in `decode`.
        """
        deadline = self._pool._deadline(timeout)  # noqa: SLF001  its other half
        return self._run_pieces(self._pool._pieces(packets), deadline)  # noqa: SLF001

    def close(self) -> None:
        """Give the decoder back; a second time does nothing."""
        close_stream(self._connection, self._state)

    def _run(self, operations: list[Op], deadline: float) -> Pcm:
        size = self._pool._config.requests.piece_packets  # noqa: SLF001  its other half
        return self._run_pieces(calls.pieces(operations, size), deadline)

    def _run_pieces(self, pieces: list[Piece], deadline: float, flags: int = 0) -> Pcm:
        state = self._state
        check_open(state)
        window = self._pool._config.requests.window_pieces  # noqa: SLF001  its other half
        waiting: deque[_ThreadCall] = deque()
        outcomes = []
        for blob, count in pieces:
            call = _ThreadCall(state, blob, count, flags, deadline)
            self._connection.submit(call)
            waiting.append(call)
            if len(waiting) >= window:
                outcomes.append(waiting.popleft().outcome_when_complete())
        outcomes += [call.outcome_when_complete() for call in waiting]
        return calls.collect(outcomes, pieces, state.format)
