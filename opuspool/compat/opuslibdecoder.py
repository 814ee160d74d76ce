"""The decoder that the drop-ins for opuslib and opuslib_next share."""

from __future__ import annotations

import ctypes
import operator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from opuspool.compat.codes import CodeError, strerror
from opuspool.compat.opusdefines import (
    GET_BANDWIDTH_REQUEST,
    GET_FINAL_RANGE_REQUEST,
    GET_GAIN_REQUEST,
    GET_PITCH_REQUEST,
    UNIMPLEMENTED,
)
from opuspool.compat.opusstate import OpusState

if TYPE_CHECKING:
    from collections.abc import Iterator


class OpusLibError(Exception):
    """What both libraries' `OpusError` have in common.

    Attributes:
        code: libopus's code, -1 to -7.
        detail: what the pool says of it; "" where libopus itself has refused.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        self.code = code
        self.detail = detail
        super().__init__()  # without arguments, as in the originals

    def __str__(self) -> str:
        words = self._words(strerror(self.code))
        return f"{words}: {self.detail}" if self.detail else words

    def _words(self, text: str) -> str:
        return text


class DecoderBase:
    """`Decoder` of both libraries, whose decoder is in a worker.

    Args:
        fs: sample rate in Hz: 8000, 12000, 16000, 24000 or 48000.
        channels: 1 or 2.

    Raises:
        OpusError: -1: libopus decodes to no such rate or channels.
    """

    _error: ClassVar[type[OpusLibError]]

    def __init__(self, fs: int, channels: int) -> None:
        self._fs = fs
        self._channels = channels
        with self._errors():
            self.decoder_state = OpusState(_int(fs), _int(channels))

    def __del__(self) -> None:
        if hasattr(self, "decoder_state"):
            self.decoder_state.close()

    def reset_state(self) -> None:
        """Make the decoder as new, but for its gain."""
        with self._errors():
            self.decoder_state.reset()

    def decode(self, opus_data: bytes, frame_size: int, decode_fec: bool = False) -> bytes:
        """Decode a packet, or conceal a loss (`b""`), to int16.

        Args:
            opus_data: the packet.
            frame_size: samples per channel: of a packet at most so many, of a loss or of FEC
                exactly so many (a multiple of 2.5 ms).
            decode_fec: decode the packet before this one, from this one's in-band FEC.

        Returns:
            Interleaved samples.

        Raises:
            OpusError: libopus refuses it (-1, -2, -4), or the pool has failed (-3, -4, -6).
            TypeError, ValueError, ctypes.ArgumentError: as in the originals.
        """
        return self._decode(opus_data, frame_size, decode_fec, as_int16=True)

    def decode_float(self, opus_data: bytes, frame_size: int, decode_fec: bool = False) -> bytes:
        """Decode as `decode` does, to float32 in [-1, 1] or, where it is loud, a little beyond."""
        return self._decode(opus_data, frame_size, decode_fec, as_int16=False)

    @property
    def final_range(self) -> int:
        """The range decoder's state after the last packet."""
        return self._get(GET_FINAL_RANGE_REQUEST)

    @property
    def bandwidth(self) -> int:
        """The last packet's bandwidth: 1101 (narrow) to 1105 (full); 0 before the first."""
        return self._get(GET_BANDWIDTH_REQUEST)

    @property
    def pitch(self) -> int:
        """The last frame's pitch period, in samples at 48 kHz; 0: none."""
        return self._get(GET_PITCH_REQUEST)

    @property
    def lsb_depth(self) -> int:
        """Not of a decoder: always `OpusError` -5, as in the originals."""
        raise self._error(UNIMPLEMENTED)

    @lsb_depth.setter
    def lsb_depth(self, _value: int) -> None:
        raise self._error(UNIMPLEMENTED)

    @property
    def gain(self) -> int:
        """The output's gain in 1/256 dB, from -32768 to 32767."""
        return self._get(GET_GAIN_REQUEST)

    @gain.setter
    def gain(self, value: int) -> None:
        if value is None:
            raise TypeError("gain cannot be None")
        with self._errors():
            self.decoder_state.set_gain(_int(value))

    def _decode(self, opus_data: bytes, frame_size: int, fec: object, *, as_int16: bool) -> bytes:
        len(opus_data)  # refuses what has none, such as None, as the originals do
        packet = _bytes(opus_data)
        number = operator.index(frame_size)
        if number < 0:
            raise ValueError(f"frame_size must be >= 0, not {number}")
        with self._errors():
            return self.decoder_state.decode(packet, number, int(fec), as_int16=as_int16)  # type: ignore[call-overload]  # whatever int() takes

    def _get(self, request: int) -> int:
        with self._errors():
            return self.decoder_state.get(request)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except CodeError as error:
            raise self._error(error.code, error.detail) from error.__cause__


def _int(value: object) -> int:
    """An int as ctypes takes it: nothing else, not even a float."""
    if not isinstance(value, int):
        raise ctypes.ArgumentError(f"an int is needed, not {type(value).__name__}")
    return value


def _bytes(data: object) -> bytes:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ctypes.ArgumentError(f"a packet is bytes, not {type(data).__name__}")
    return bytes(data)
