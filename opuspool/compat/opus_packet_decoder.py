"""The classes of the incident's service, over the shared pool.

    from opuspool.compat.opus_packet_decoder import OpusPacketDecodingPipeline   # was: its own file

The names, arguments and habits are those of `opus_packet_decoder.py` in TinoTau/lingua_1, whose
decoders shared its process and took it down; docs/compat.md tells where these differ. Nothing that
a sender or a worker does makes them raise: what fails gives no PCM, is logged, and is counted.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from opuspool import toc
from opuspool.compat.defaultpool import STREAM_LOST, default_pool
from opuspool.compat.packetframer import MAX_PACKET_BYTES, PacketFramer
from opuspool.compat.pcm16buffer import PCM16RingBuffer
from opuspool.errors import (
    InvalidPacketError,
    OpusPoolError,
    PacketError,
)
from opuspool.losses import LossCounts, Losses
from opuspool.numbered import NumberedStream
from opuspool.streamformat import StreamFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opuspool.pcm import Pcm
    from opuspool.pool import Stream

__all__ = [
    "CHANNELS",
    "FRAME_MS",
    "FRAME_SAMPLES",
    "MAX_PACKET_BYTES",
    "SAMPLE_RATE",
    "AudioStats",
    "OpusPacketDecoder",
    "OpusPacketDecodingPipeline",
    "PCM16RingBuffer",
    "PacketFramer",
]

SAMPLE_RATE = 16000
CHANNELS = 1
FRAME_MS = 20
"""What the service's senders use; packets of any length are decoded."""
FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000

logger = logging.getLogger(__name__)


@dataclass
class AudioStats:
    """What a pipeline has done since it was made or reset; samples are int16 values.

    Attributes:
        seq: number of the last packet; None without numbers.
        last_decode_samples: of the last packet that gave PCM.
        consecutive_decode_fails: packets that gave an error since the last that gave none.
        buffer_samples: in the buffer, after the last `feed_data`.
        total_decoded_samples: of all packets, with what filled gaps.
        decode_fail_total: packets that gave an error.
    """

    seq: int | None = None
    last_decode_samples: int = 0
    consecutive_decode_fails: int = 0
    buffer_samples: int = 0
    total_decoded_samples: int = 0
    decode_fail_total: int = 0


class OpusPacketDecoder:
    """Decodes the packets of one stream; may be used from any number of threads.

    Its decoder, in a worker, is made with the first packet. Where it is lost with its supervisor,
    or in a forked child, another takes over, with a fresh state.

    Args:
        sample_rate: Hz; 8000, 12000, 16000, 24000 or 48000.
        channels: 1 or 2.
        losses: packets have numbers, given to `decode`, and gaps are filled.

    Raises:
        ValueError: there is no such rate, or number of channels.
    """

    def __init__(
        self,
        sample_rate: int = SAMPLE_RATE,
        channels: int = CHANNELS,
        *,
        losses: Losses | None = None,
    ) -> None:
        StreamFormat(sample_rate, channels)  # refuses what there is not
        self.sample_rate = sample_rate
        self.channels = channels
        self._losses = losses
        self._lock = threading.Lock()
        self._stream: Stream | NumberedStream | None = None

    def decode(self, opus_packet: bytes, *, seq: int | None = None) -> bytes:
        """Decode one packet.

        Args:
            opus_packet: 1 to `MAX_PACKET_BYTES` bytes.
            seq: its number, where the decoder was made with `losses`.

        Returns:
            int16, little endian, interleaved; b"" where there is none: the packet is invalid,
            poison, or there was no decoding it in time.
        """
        return self._decode(opus_packet, seq)[0]

    def flush(self) -> bytes:
        """Decode what waits for a missing packet: at the end, with `losses.reorder_packets`."""
        stream = self._stream
        if not isinstance(stream, NumberedStream):
            return b""
        return self._run(lambda _: stream.flush())[0]

    def close(self) -> None:
        """Give the decoder back, as its end does by itself; the next packet makes another."""
        with self._lock:
            stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(OpusPoolError):  # the pool has gone first
                stream.close()

    def __del__(self) -> None:
        if hasattr(self, "_stream"):
            self.close()

    @property
    def losses(self) -> LossCounts | None:
        """What became of the packets by their numbers; None: they have none, or none came yet."""
        stream = self._stream
        return stream.losses if isinstance(stream, NumberedStream) else None

    def decode_each(self, packets: list[tuple[int | None, bytes]]) -> Iterator[tuple[bytes, bool]]:
        """Decode packets one after another; without numbers all in one call, which is faster.

        Args:
            packets: with their numbers, as `PacketFramer` gives them.

        Yields:
            Of each packet: its PCM, and whether it was decoded, or rightly dropped.
        """
        if self._losses is not None:
            for seq, packet in packets:
                yield self._decode(packet, seq)
            return
        pcm, failed = self._run(lambda stream: _many(stream, [packet for _, packet in packets]))
        at = 0
        for index, (_, packet) in enumerate(packets):
            well = failed is not None and index not in failed
            end = at + (toc.units(packet) * self._unit_values if well else 0)
            yield pcm[2 * at : 2 * end], well
            at = end

    @property
    def _unit_values(self) -> int:
        """int16 values of 2.5 ms."""
        return self.sample_rate // 400 * self.channels

    def _decode(self, packet: bytes, seq: int | None) -> tuple[bytes, bool]:
        pcm, failed = self._run(lambda stream: _one(stream, packet, seq))
        return pcm, failed is not None and not failed

    def _run(self, call: Callable[[Stream | NumberedStream], Pcm]) -> tuple[bytes, set[int] | None]:
        """Make a call; the PCM, and which of its packets were refused. None: it has failed."""
        try:
            return _pcm16(self._twice(call)), set()
        except PacketError as error:
            logger.warning("%s", error)
            return _pcm16(error.pcm), set(error.failures)
        except OpusPoolError as error:
            logger.error("not decoded: %s: %s", type(error).__name__, error)  # noqa: TRY400  no bug
        except Exception:
            logger.exception("not decoded")
        return b"", None

    def _twice(self, call: Callable[[Stream | NumberedStream], Pcm]) -> Pcm:
        """Make a call; once more, with another stream, where the first is lost."""
        stream = self._opened()
        try:
            return call(stream)
        except STREAM_LOST:
            with self._lock:
                if self._stream is stream:
                    self._stream = None
            return call(self._opened())

    def _opened(self) -> Stream | NumberedStream:
        with self._lock:
            if self._stream is None:
                pool, fmt = default_pool(), (self.sample_rate, self.channels)
                if self._losses is None:
                    self._stream = pool.stream(*fmt)
                else:
                    self._stream = pool.stream(*fmt, losses=self._losses)
            return self._stream


def _one(stream: Stream | NumberedStream, packet: bytes, seq: int | None) -> Pcm:
    if not packet or len(packet) > MAX_PACKET_BYTES:
        size = len(packet) if packet else 0
        raise InvalidPacketError(f"a packet of {size} bytes, not 1 to {MAX_PACKET_BYTES}")
    if isinstance(stream, NumberedStream):
        if seq is None:
            raise ValueError("a decoder with losses needs each packet's seq")
        return stream.decode(packet, seq=seq)
    if seq is not None:
        raise ValueError("a decoder without losses takes no seq")
    return stream.decode(packet)


def _many(stream: Stream | NumberedStream, packets: list[bytes]) -> Pcm:
    return cast("Stream", stream).decode_many(packets)  # only asked for without losses


def _pcm16(pcm: Pcm | None) -> bytes:
    """int16 as the original makes it: clipped, times 32,767, cut off towards 0.

    libopus's own int16 is rounded from times 32,768, after a soft clip (`opus_decode`).
    """
    if pcm is None:
        return b""
    return (np.clip(pcm.astype(np.float64), -1.0, 1.0) * 32767).astype("<i2").tobytes()


class OpusPacketDecodingPipeline:
    """Bytes of a connection in, PCM out: framer, decoder and buffer of one stream.

    Args:
        sample_rate: Hz; 8000, 12000, 16000, 24000 or 48000.
        channels: 1 or 2.
        with_seq: packets have numbers: gaps are filled, late and double packets dropped.
        buffer_capacity_ms: where more PCM waits to be read, the oldest is forgotten.
        losses: how gaps are filled, where packets have numbers.

    Attributes:
        framer, decoder, ring_buffer, stats: its parts.

    Raises:
        ValueError: there is no such rate, or number of channels.
    """

    def __init__(
        self,
        sample_rate: int = SAMPLE_RATE,
        channels: int = CHANNELS,
        with_seq: bool = False,  # noqa: FBT001, FBT002, RUF100  the original's signature
        buffer_capacity_ms: int = 30000,
        *,
        losses: Losses | None = None,
    ) -> None:
        self.sample_rate = sample_rate
        self.channels = channels
        self.framer = PacketFramer(with_seq=with_seq)
        self.decoder = OpusPacketDecoder(
            sample_rate, channels, losses=(losses or Losses()) if with_seq else None
        )
        capacity = sample_rate * channels * buffer_capacity_ms // 1000
        self.ring_buffer = PCM16RingBuffer(capacity_samples=capacity)
        self.stats = AudioStats()

    def feed_data(self, data: bytes) -> None:
        """Take bytes in pieces of any size; every packet that is whole is decoded at once."""
        self.framer.feed(data)
        packets = []
        while popped := self.framer.try_pop():
            packets.append(popped)
        if not packets:
            return
        for pcm16, well in self.decoder.decode_each(packets):
            self._count(well=well)
            self._write(pcm16)
        self.stats.seq = packets[-1][0]

    def flush(self) -> None:
        """Decode what waits for a missing packet: at the end, with `losses.reorder_packets`."""
        self._write(self.decoder.flush())

    def read_pcm16(self, samples: int) -> bytes:
        """Take the oldest PCM: `samples` int16 values of all channels together, at most."""
        return self.ring_buffer.read(samples)

    def available_samples(self) -> int:
        """How many int16 values can be read."""
        return self.ring_buffer.available_samples()

    def get_stats(self) -> AudioStats:
        """What has been done; the same object, which goes on changing, until `reset`."""
        return self.stats

    @property
    def losses(self) -> LossCounts | None:
        """What became of the packets by their numbers; None: they have none, or none came yet."""
        return self.decoder.losses

    def reset(self) -> None:
        """Be as new: nothing buffered, a fresh decoder, any first number, stats from 0."""
        self.framer.clear()
        self.ring_buffer.clear()
        self.decoder.close()
        self.stats = AudioStats()

    def _count(self, *, well: bool) -> None:
        if well:
            self.stats.consecutive_decode_fails = 0
        else:
            self.stats.consecutive_decode_fails += 1
            self.stats.decode_fail_total += 1

    def _write(self, pcm16: bytes) -> None:
        if pcm16:
            self.ring_buffer.write(pcm16)
            self.stats.last_decode_samples = len(pcm16) // 2
            self.stats.total_decoded_samples += len(pcm16) // 2
        self.stats.buffer_samples = self.ring_buffer.available_samples()
