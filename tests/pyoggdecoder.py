"""The decoder of PyOgg 0.7 (not on PyPI): its calls of libopus, its checks, its words."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import reference

if TYPE_CHECKING:
    import numpy.typing as npt


class Library(NamedTuple):
    """A library with a decoder in it."""

    OpusDecoder: Any


class PyOggError(Exception):
    """Named as the original's."""


class TheirDecoder:
    """What PyOgg's `OpusDecoder` does with libopus, after both of its settings."""

    def __init__(self) -> None:
        self.channels = self.rate = 0
        self.decoder: reference.ReferenceDecoder | None = None

    def set_channels(self, n: int) -> None:
        if n < 0 or n > 2:
            raise PyOggError
        self._unused()
        self.channels = n

    def set_sampling_frequency(self, rate: int) -> None:
        if rate not in [8000, 12000, 16000, 24000, 48000]:
            raise PyOggError
        self._unused()
        self.rate = rate

    def decode(self, data: Any) -> bytes:
        decoder = self._made()
        packet = bytes((ctypes.c_char * len(data)).from_buffer(data)) if len(data) else b""
        return self._call(decoder, packet, self.rate * 120 // 1000)

    def decode_missing_packet(self, ms: float) -> bytes:
        if int(ms * 10) not in [25, 50, 100, 200, 400, 600]:
            raise PyOggError
        return self._call(self._made(), b"", int(ms * self.rate // 1000))

    def _unused(self) -> None:
        if self.decoder is not None:
            raise PyOggError

    def _made(self) -> reference.ReferenceDecoder:
        if not self.rate or not self.channels:
            raise PyOggError
        if self.decoder is None:
            self.decoder = reference.ReferenceDecoder(self.rate, self.channels, "int16")
        return self.decoder

    def _call(self, decoder: reference.ReferenceDecoder, packet: bytes, samples: int) -> bytes:
        library, state = decoder._library, decoder._state
        pcm: npt.NDArray[np.int16] = np.zeros(self.rate * 120 // 1000 * self.channels, np.int16)
        count = library.opus_decode(state, packet or None, len(packet), pcm.ctypes.data, samples, 0)
        if count < 0:
            raise PyOggError(
                "An error occurred while decoding an Opus-encoded packet: "
                + library.opus_strerror(count).decode()
            )
        return pcm[: count * self.channels].tobytes()
