"""`AsyncPool` and `AsyncStream`: the same names as in `Pool`, awaited."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, cast, overload

from opuspool import calls, eventloop
from opuspool.base import PoolBase, check_open, close_stream, drain_slot, plan_file, replace_worker
from opuspool.calls import Call, StreamState
from opuspool.errors import PoolClosedError
from opuspool.eventloop import LoopDriver
from opuspool.streamformat import StreamFormat
from opuspool.wire import Flag

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable
    from types import TracebackType

    from opuspool.calls import Packet, Piece
    from opuspool.config import Config
    from opuspool.connection import Connection
    from opuspool.losses import Losses
    from opuspool.numbered import AsyncNumberedStream
    from opuspool.oggopus import Source
    from opuspool.ops import Op, Outcome
    from opuspool.pcm import Pcm
    from opuspool.streamformat import SampleType


class _LoopCall(Call):
    """A call that a task waits for.

    Attributes:
        future: done when it is complete; set by its maker, to spare every call a constructor.
    """

    __slots__ = ("future",)
    future: asyncio.Future[None]

    async def outcome_when_complete(self) -> Outcome:
        await self.future
        return self.outcome()


class _LoopWaiter:
    """Tells the tasks of an event loop that their calls are complete."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.driver = LoopDriver(loop) if eventloop.supports(loop) else None

    def complete(self, done: list[Call]) -> None:
        if self.driver is not None and self.driver.here:
            _wake(done)
            return
        with suppress(RuntimeError):  # the loop was closed: nobody waits
            self._loop.call_soon_threadsafe(_wake, done)


def _wake(done: list[Call]) -> None:
    """Tell the tasks that wait for their calls."""
    for call in cast("list[_LoopCall]", done):
        future = call.future
        if not future.done():
            future.set_result(None)


class AsyncPool(PoolBase):
    """A pool of decoder processes for asyncio; may be used from any number of tasks.

    Use it as `async with AsyncPool() as pool`, or await `open` and `close`. Arguments and errors
    are those of `Pool`. A cancelled call's packet is decoded all the same: the stream goes on
    as if its PCM had been thrown away.
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
        self._loop: asyncio.AbstractEventLoop

    async def open(self) -> Self:
        """Start the private supervisor, or connect to the daemon; without blocking the loop."""
        if self._backend is None:
            # Kept, since to ask for it is a call of the system, and too dear for every packet.
            self._loop = asyncio.get_running_loop()
            await asyncio.to_thread(self._open, _LoopWaiter(self._loop))
        return self

    async def close(self) -> None:
        """End the pool, with its private supervisor; calls under way get `PoolClosedError`."""
        await asyncio.to_thread(self._shut)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @overload
    def stream(
        self,
        sample_rate: int = ...,
        channels: int = ...,
        dtype: SampleType = ...,
        *,
        losses: Losses,
    ) -> AsyncNumberedStream: ...

    @overload
    def stream(
        self,
        sample_rate: int = ...,
        channels: int = ...,
        dtype: SampleType = ...,
        *,
        losses: None = ...,
    ) -> AsyncStream: ...

    def stream(
        self,
        sample_rate: int = 16000,
        channels: int = 1,
        dtype: SampleType = "float32",
        *,
        losses: Losses | None = None,
    ) -> AsyncStream | AsyncNumberedStream:
        """Open a live stream, for `async with`; see `Pool.stream`."""
        stream = self._stream(StreamFormat(sample_rate, channels, dtype))
        if losses is None:
            return stream
        from opuspool.numbered import AsyncNumberedStream

        return AsyncNumberedStream(stream, losses)

    async def decode(
        self,
        packets: Iterable[Packet],
        sample_rate: int = 16000,
        channels: int = 1,
        dtype: SampleType = "float32",
        timeout: float | None = None,  # noqa: ASYNC109  the supervisor must know the deadline
    ) -> Pcm:
        """Decode a whole utterance with a decoder of its own; see `Pool.decode`."""
        fmt = StreamFormat(sample_rate, channels, dtype)
        return await self._decode(self._pieces(packets), fmt, timeout)

    async def decode_file(
        self,
        source: Source,
        sample_rate: int = 16000,
        channels: int | None = None,
        dtype: SampleType = "float32",
        timeout: float | None = None,  # noqa: ASYNC109  the supervisor must know the deadline
    ) -> Pcm:
        """Decode an Ogg Opus file; see `Pool.decode_file`."""
        plan = await asyncio.to_thread(plan_file, source, sample_rate, channels, dtype)
        for link in plan.links:
            pieces = plan.pieces(link, self._config.requests.piece_packets)
            plan.add(link, await self._decode(pieces, plan.format, timeout))
        return plan.result()

    async def status(self, timeout: float = 5.0) -> dict[str, Any]:  # noqa: ASYNC109
        """Workers, counters and health; see `Pool.status`."""
        return await asyncio.to_thread(self._connection.ask, "status", timeout)

    async def replace_worker(
        self,
        slot: int,
        *,
        at_once: bool = False,
        timeout: float = 5.0,  # noqa: ASYNC109  as in status
    ) -> None:
        """Have a slot's worker replaced; see `Pool.replace_worker`."""
        await asyncio.to_thread(replace_worker, self._connection, slot, timeout, at_once=at_once)

    async def drain_slot(self, slot: int, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Have a slot emptied; see `Pool.drain_slot`."""
        await asyncio.to_thread(drain_slot, self._connection, slot, timeout)

    def _stream(self, fmt: StreamFormat) -> AsyncStream:
        self._connection.check()
        return AsyncStream(self, StreamState(next(self._stream_ids), fmt))

    async def _decode(
        self,
        pieces: list[Piece],
        fmt: StreamFormat,
        timeout: float | None,  # noqa: ASYNC109  the supervisor must know the deadline
    ) -> Pcm:
        deadline = self._deadline(timeout)
        async with self._stream(fmt) as stream:
            return await stream._run_pieces(pieces, deadline, Flag.BULK)  # noqa: SLF001

    @property
    def _connection(self) -> Connection:
        if self._backend is None or self._backend.connection is None:
            raise PoolClosedError("the pool is not open: use `async with`, or await pool.open()")
        return self._backend.connection


class AsyncStream:
    """A live stream of an `AsyncPool`; made by `AsyncPool.stream`. Its calls run in their order."""

    def __init__(self, pool: AsyncPool, state: StreamState) -> None:
        self._pool = pool
        self._connection = pool._connection  # noqa: SLF001  its other half
        self._loop = pool._loop  # noqa: SLF001
        self._state = state

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def decode(
        self,
        packet: Packet,
        *,
        fec: bool = False,
        timeout: float | None = None,  # noqa: ASYNC109  the supervisor must know the deadline
    ) -> Pcm:
        """Decode one packet; see `Stream.decode`."""
        deadline = self._pool._deadline(timeout)  # noqa: SLF001  its other half
        check_open(self._state)
        call = self._submit(calls.packed(packet, fec=fec), 1, 0, deadline)
        await call.future
        return call.pcm()

    async def decode_many(
        self,
        packets: Iterable[Packet],
        *,
        timeout: float | None = None,  # noqa: ASYNC109  the supervisor must know the deadline
    ) -> Pcm:
        """Decode several packets, one after another; see `Stream.decode_many`."""
        deadline = self._pool._deadline(timeout)  # noqa: SLF001  its other half
        return await self._run_pieces(self._pool._pieces(packets), deadline)  # noqa: SLF001

    async def close(self) -> None:
        """Give the decoder back; a second time does nothing."""
        close_stream(self._connection, self._state)

    def _submit(self, blob: bytes, count: int, flags: int, deadline: float) -> _LoopCall:
        call = _LoopCall(self._state, blob, count, flags, deadline)
        call.future = self._loop.create_future()
        self._connection.submit(call)
        return call

    async def _run(self, operations: list[Op], deadline: float) -> Pcm:
        size = self._pool._config.requests.piece_packets  # noqa: SLF001  its other half
        return await self._run_pieces(calls.pieces(operations, size), deadline)

    async def _run_pieces(self, pieces: list[Piece], deadline: float, flags: int = 0) -> Pcm:
        state = self._state
        check_open(state)
        window = self._pool._config.requests.window_pieces  # noqa: SLF001  its other half
        waiting: deque[_LoopCall] = deque()
        outcomes = []
        for blob, count in pieces:
            waiting.append(self._submit(blob, count, flags, deadline))
            if len(waiting) >= window:
                outcomes.append(await waiting.popleft().outcome_when_complete())
        outcomes += [await call.outcome_when_complete() for call in waiting]
        return calls.collect(outcomes, pieces, state.format)
