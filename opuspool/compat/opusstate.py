"""A decoder in the pool, called as libopus's own is called: what all drop-ins are made of."""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from opuspool import ops
from opuspool.compat.codes import CodeError
from opuspool.compat.defaultpool import STREAM_LOST, default_pool
from opuspool.compat.opusdefines import BAD_ARG, BUFFER_TOO_SMALL
from opuspool.errors import (
    OpusPoolError,
)
from opuspool.ops import AS_INT16, TOO_SHORT, VALUE, Op, OpKind
from opuspool.streamformat import MAX_PACKET_BYTES, SAMPLE_RATES
from opuspool.toc import MAX_UNITS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opuspool.pool import Stream

MAX_LOSS_UNITS = ops.MAX_OPS * MAX_UNITS
"""The longest loss that one call conceals, in units of 2.5 ms: 122.88 s."""


class OpusState:
    """What an `OpusDecoder *` is to libopus's callers; may be used from any number of threads.

    Its stream opens with the first call. Where the stream is lost (its supervisor or pool is gone,
    the process has forked), one call fails, and the next begins with a fresh decoder and the gain.

    Args:
        sample_rate: Hz.
        channels: 1 or 2.

    Raises:
        CodeError: `BAD_ARG`; libopus has no such decoder.
    """

    def __init__(self, sample_rate: int, channels: int) -> None:
        if sample_rate not in SAMPLE_RATES or channels not in (1, 2):
            raise CodeError(BAD_ARG)
        self._unit = sample_rate // 400
        self._format = int(sample_rate), int(channels)  # True is 1, as to C
        self._lock = threading.Lock()
        self._gain = 0
        self._stream: Stream | None = None

    def decode(
        self, packet: bytes, frame_size: int, fec: int = 0, *, as_int16: bool = True
    ) -> bytes:
        """Decode a packet or conceal a loss: `opus_decode`, `opus_decode_float`.

        Args:
            packet: b"": it was lost.
            frame_size: samples per channel: at most so many of a packet, exactly so many of a
                loss or of FEC.
            fec: 1: decode the packet before this one, from this one's in-band FEC.
            as_int16: int16, else float32.

        Returns:
            Interleaved samples.

        Raises:
            CodeError: libopus refuses it, or the pool has failed.
        """
        if fec not in (0, 1) or frame_size <= 0:
            raise CodeError(BAD_ARG)
        flag = AS_INT16 if as_int16 else 0
        if packet and not fec:
            fits = min(frame_size // self._unit, MAX_UNITS) or TOO_SHORT
            return self._run([Op(OpKind.PACKET, _sendable(packet), fits | flag)])
        units, rest = divmod(frame_size, self._unit)
        if rest or units > MAX_LOSS_UNITS:
            raise CodeError(BAD_ARG)
        if packet and units > MAX_UNITS:
            self._check(packet)
        return self._run(_exactly(packet, units, flag))

    def conceal(self) -> bytes:
        """Conceal a loss as long as the last packet; 20 ms where there was none. int16."""
        return self._run([Op(OpKind.LOST, b"", AS_INT16)])

    def get(self, request: int) -> int:
        """Read a value of the decoder: `opus_decoder_ctl` with a GET request.

        Raises:
            CodeError: `UNIMPLEMENTED`, or the pool has failed.
        """
        value = self._run([Op(OpKind.GET, ops.pack_request(request))])
        return int(VALUE.unpack(value)[0])

    def set_gain(self, gain: int) -> None:
        """Set the output's gain: `OPUS_SET_GAIN`.

        Args:
            gain: 1/256 dB.

        Raises:
            CodeError: `BAD_ARG`; it is not from -32768 to 32767. Or the pool has failed.
        """
        if not -32768 <= gain <= 32767:
            raise CodeError(BAD_ARG)
        self._run([Op(OpKind.GAIN, ops.pack_gain(gain))])
        self._gain = gain

    def reset(self) -> None:
        """Make the decoder as new, but for its gain: `OPUS_RESET_STATE`."""
        self._run([Op(OpKind.RESET, b"")])

    def close(self) -> None:
        """Give the decoder back; a second time does nothing."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(OpusPoolError):  # the pool has gone first
                stream.close()

    def _check(self, packet: bytes) -> None:
        """Let libopus refuse a packet before anything is concealed for it, as it does itself."""
        try:
            self._run([Op(OpKind.PACKET, _sendable(packet), TOO_SHORT)])
        except CodeError as error:
            if error.code != BUFFER_TOO_SMALL:  # the answer to every valid packet
                raise

    def _run(self, operations: list[Op]) -> bytes:
        with _codes():
            stream = self._open()
            pool = stream._pool  # noqa: SLF001  the public stream knows no frame sizes
            try:
                return stream._run(operations, pool._deadline(None)).tobytes()  # noqa: SLF001
            except STREAM_LOST:
                with self._lock:
                    if self._stream is stream:
                        self._stream = None
                raise

    def _open(self) -> Stream:
        with self._lock:
            if self._stream is None:
                stream = default_pool().stream(*self._format)
                if self._gain:
                    gain = [Op(OpKind.GAIN, ops.pack_gain(self._gain))]
                    stream._run(gain, stream._pool._deadline(None))  # noqa: SLF001
                self._stream = stream
            return self._stream


@contextmanager
def _codes() -> Iterator[None]:
    """Errors of the pool become libopus's codes."""
    try:
        yield
    except OpusPoolError as error:
        raise CodeError.of(error) from error


def _sendable(packet: bytes) -> bytes:
    """The packet; where it is longer than any valid one, one that is invalid too."""
    return packet if len(packet) <= MAX_PACKET_BYTES else b""


def _exactly(packet: bytes, units: int, flag: int) -> list[Op]:
    """Operations that give exactly so much PCM: what is over 120 ms is concealed in pieces.

    Pieces of 120 ms are whole frames of every length, as those that libopus itself conceals. FEC
    is in the last one: where that is shorter than a frame, there is none.
    """
    pieces = [Op(OpKind.LOST, b"", MAX_UNITS | flag)] * max(0, -(-units // MAX_UNITS) - 1)
    last = units - MAX_UNITS * len(pieces)
    kind = OpKind.FEC if packet else OpKind.LOST
    return [*pieces, Op(kind, _sendable(packet), last | flag)]
