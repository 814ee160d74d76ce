"""libopus called in this process, as a service does that uses PyOgg: the rivals' own decoder.

A decoder for each stream, its pointers prepared once. `keep_gil` tells how ctypes calls: PyOgg's
wrappers are those of `CDLL`, which let go of the GIL for each call.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_int, c_int32, c_void_p
from typing import TYPE_CHECKING, Any, Self

from opuspool.bench import speech

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

__all__ = ["Decoder", "Library"]

_MAX_SAMPLES = speech.SAMPLE_RATE * 120 // 1000


class Library:
    """The functions of a libopus.

    Args:
        path: the library.
        keep_gil: hold the GIL while libopus runs.
    """

    def __init__(self, path: str, *, keep_gil: bool) -> None:
        library = ctypes.CDLL(path)
        kind = ctypes.PYFUNCTYPE if keep_gil else ctypes.CFUNCTYPE

        def function(name: str, result: Any, *arguments: Any) -> Any:
            return kind(result, *arguments)((name, library))

        decode = (c_void_p, c_char_p, c_int32, c_void_p, c_int, c_int)
        self.decode = function("opus_decode_float", c_int, *decode)
        self.create = function("opus_decoder_create", c_void_p, c_int32, c_int, POINTER(c_int))
        self.destroy = function("opus_decoder_destroy", None, c_void_p)

    def decode_file(self, data: bytes) -> npt.NDArray[np.float32]:
        """Decode an Ogg Opus file, mono."""
        import numpy as np

        from opuspool import oggopus

        parts = []
        for link in oggopus.read(data):
            with Decoder(self) as decoder:
                raw = np.frombuffer(decoder.decode_all(link.packets), np.float32)
            parts.append(oggopus.cut(raw, link, speech.SAMPLE_RATE))
        return np.concatenate(parts)


class Decoder:
    """A decoder, 16 kHz mono, float32.

    Attributes:
        buffer: where PCM goes.
    """

    def __init__(self, library: Library) -> None:
        self._library = library
        self.buffer = (ctypes.c_float * _MAX_SAMPLES)()
        self._pointer = ctypes.addressof(self.buffer)
        self._bytes = memoryview(self.buffer).cast("B")
        self._state = library.create(speech.SAMPLE_RATE, 1, ctypes.byref(c_int()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(self, packet: bytes) -> int:
        """Decode a packet to `buffer`; returns the number of samples."""
        length = len(packet)
        count = self._library.decode(self._state, packet, length, self._pointer, _MAX_SAMPLES, 0)
        if count < 0:
            raise RuntimeError(f"libopus refused a packet of the benchmark's speech: {count}")
        return int(count)

    def decode_bytes(self, packet: bytes) -> bytes:
        """Decode a packet; returns its float32 samples."""
        return bytes(self._bytes[: 4 * self.decode(packet)])

    def decode_all(self, packets: Iterable[bytes]) -> bytes:
        """Decode packets one after another; returns their float32 samples."""
        return b"".join([self.decode_bytes(packet) for packet in packets])

    def close(self) -> None:
        """Give the decoder back; a second time does nothing."""
        state, self._state = self._state, None
        if state is not None:
            self._library.destroy(state)
