"""Streams whose packets have sequence numbers: losses are filled, so that time stays true."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from opuspool import calls, pcm
from opuspool.errors import PacketError
from opuspool.losses import LossCounts, Losses, Sequencer, Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from opuspool.aio import AsyncStream
    from opuspool.calls import Packet
    from opuspool.pcm import Pcm
    from opuspool.pool import Stream
    from opuspool.streamformat import StreamFormat


class _Numbered:
    """What both kinds share: the order of the packets, and PCM that is not given back yet."""

    def __init__(self, losses: Losses, fmt: StreamFormat) -> None:
        self._sequencer = Sequencer(losses)
        self._format = fmt
        self._kept: list[Pcm] = []

    @property
    def losses(self) -> LossCounts:
        """What became of the packets so far, by kind."""
        return self._sequencer.counts

    def _push(self, packet: Packet, seq: int) -> None:
        if packet is None:
            raise TypeError("a lost packet is not given: the next packet's seq tells of it")
        self._sequencer.push(seq, calls.operation(packet).packet)

    def _take(self) -> Pcm:
        kept, self._kept = self._kept, []
        return pcm.join(kept, self._format)

    @contextmanager
    def _settling(self, step: Step) -> Iterator[None]:
        """Tell the sequencer how a step ended; what the steps before it gave is kept."""
        try:
            yield
        except PacketError as error:
            self._sequencer.settle(step, error.failures)
            if error.pcm is not None:
                self._kept.append(error.pcm)
            raise self._of_the_packet(error, step) from None
        except BaseException:  # also a cancelled task: this step's PCM is lost
            self._sequencer.drop(step)
            raise
        self._sequencer.settle(step)

    def _of_the_packet(self, error: PacketError, step: Step) -> PacketError:
        """The same error, told of the packet alone and not of what filled the gap before it."""
        code = next(reversed(error.failures.values()))
        gap = f", after {len(step.ops) - 1} for the gap before it" if len(step.ops) > 1 else ""
        return type(error)(f"{error} (seq {step.seq}{gap})", code=code, pcm=self._take())


class NumberedStream(_Numbered):
    """A live stream whose packets have numbers; made by `Pool.stream(losses=...)`.

    The PCM is as long as what was sent: gaps are filled from in-band FEC where the next packet has
    it, else concealed; late and double packets are dropped. `losses` counts them. Calls from
    several threads run one after another.
    """

    def __init__(self, stream: Stream, losses: Losses) -> None:
        super().__init__(losses, stream._state.format)  # noqa: SLF001  its inner stream
        self._stream = stream
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def decode(self, packet: Packet, *, seq: int, timeout: float | None = None) -> Pcm:
        """Decode a packet, after what fills the gap before it.

        Args:
            packet: as in `Stream.decode`; lost ones are not given.
            seq: its number, 0 to 2 ** `Losses.seq_bits` - 1, one more than the packet's before;
                the first may be any.
            timeout: seconds; None: as configured.

        Returns:
            The PCM of the gap and of the packet; none where the packet is late or double, or waits
            for one that is missing.

        Raises:
            InvalidPacketError, PoisonPacketError: of this packet, or of one that waited; its `pcm`
                has all else. The packet counts as lost: the next call fills its time.
            OpusPoolError: as in `Stream.decode`; the packet, with the gap before it, is filled by
                the next call, unless it is given again.
        """
        with self._lock:
            self._push(packet, seq)
            return self._run(timeout)

    def flush(self, *, timeout: float | None = None) -> Pcm:
        """Decode what waits for a missing packet; at the end, where `reorder_packets` is not 0."""
        with self._lock:
            return self._run(timeout, flush=True)

    def close(self) -> None:
        """Give the decoder back; a second time does nothing."""
        self._stream.close()

    def _run(self, timeout: float | None, *, flush: bool = False) -> Pcm:
        deadline = self._stream._pool._deadline(timeout)  # noqa: SLF001  its inner stream
        while step := self._sequencer.step(flush=flush):
            with self._settling(step):
                self._kept.append(self._stream._run(step.ops, deadline))  # noqa: SLF001
        return self._take()


class AsyncNumberedStream(_Numbered):
    """The same for asyncio; made by `AsyncPool.stream(losses=...)`. See `NumberedStream`."""

    def __init__(self, stream: AsyncStream, losses: Losses) -> None:
        super().__init__(losses, stream._state.format)  # noqa: SLF001  its inner stream
        self._stream = stream
        self._lock = asyncio.Lock()

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
        seq: int,
        timeout: float | None = None,  # noqa: ASYNC109  the supervisor must know the deadline
    ) -> Pcm:
        """Decode a packet, after what fills the gap before it; see `NumberedStream.decode`."""
        async with self._lock:
            self._push(packet, seq)
            return await self._run(timeout)

    async def flush(self, *, timeout: float | None = None) -> Pcm:  # noqa: ASYNC109  as in decode
        """Decode what waits for a missing packet; see `NumberedStream.flush`."""
        async with self._lock:
            return await self._run(timeout, flush=True)

    async def close(self) -> None:
        """Give the decoder back; a second time does nothing."""
        await self._stream.close()

    async def _run(
        self,
        timeout: float | None,  # noqa: ASYNC109  as in decode
        *,
        flush: bool = False,
    ) -> Pcm:
        deadline = self._stream._pool._deadline(timeout)  # noqa: SLF001  its inner stream
        while step := self._sequencer.step(flush=flush):
            with self._settling(step):
                self._kept.append(await self._stream._run(step.ops, deadline))  # noqa: SLF001
        return self._take()
