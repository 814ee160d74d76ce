"""The incident's way to decode, no more of it than does the damage; for throw-away processes only.

What is wrong: `opus_decoder_init` is given memory that belongs to Python, and
`opus_decoder_destroy`, which calls `free()`, is given the same memory. `CorrectDecoder` beside it
uses the pair that belongs together.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from ctypes import POINTER, c_float, c_int, c_int32, c_ubyte, c_void_p

import numpy as np
from heap import array
from opuspool_workers import libopus

SAMPLE_RATE = 16_000
MAX_SAMPLES = 960
"""Samples of the PCM buffer, 60 ms, as in the incident."""

LOCK = threading.Lock()
"""Around init, decode and destroy, all decoders' and all threads'. It cannot be taken twice."""

_PROTOTYPES = {
    "opus_decoder_get_size": (c_int, [c_int]),
    "opus_decoder_init": (c_int, [c_void_p, c_int32, c_int]),
    "opus_decoder_create": (c_void_p, [c_int32, c_int, POINTER(c_int)]),
    "opus_decoder_destroy": (None, [c_void_p]),
    "opus_decode_float": (c_int, [c_void_p, c_void_p, c_int32, c_void_p, c_int, c_int]),
}


def _load() -> ctypes.CDLL:
    """The libopus that PyOgg has loaded; its calls let go of the GIL, as PyOgg's do."""
    libopus.load()  # not OPUSPOOL_LIBOPUS: tests set it to a library that faults
    import pyogg.opus

    library: ctypes.CDLL = pyogg.opus.libopus
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


OPUS = _load()


class IncidentDecoder:
    """A decoder as the incident had one for each request: 16 kHz, mono."""

    def __init__(self) -> None:
        self.init()

    def init(self) -> None:
        """Make the decoder's state, or make it anew."""
        with LOCK:
            self.state = array(c_ubyte, OPUS.opus_decoder_get_size(1))
            error = OPUS.opus_decoder_init(_pointer(self.state), SAMPLE_RATE, 1)
        if error:
            raise ValueError(f"opus_decoder_init: {error}")

    def decode(self, packet: bytes) -> bytes:
        """Decode one packet to int16 PCM; `b""` where libopus refuses it.

        Raises:
            OSError: Windows: ctypes has caught a fault.
        """
        data, pcm = (c_ubyte * len(packet)).from_buffer_copy(packet), array(c_float, MAX_SAMPLES)
        with LOCK:
            samples = OPUS.opus_decode_float(
                _pointer(self.state), _pointer(data), len(packet), _pointer(pcm), MAX_SAMPLES, 0
            )
        return _int16(pcm, samples)

    def __del__(self) -> None:
        with suppress(Exception), LOCK:  # the incident's did not want to hear of it either
            OPUS.opus_decoder_destroy(_pointer(self.state))  # a free() of what Python owns


class CorrectDecoder:
    """The same with memory that is libopus's from its beginning to its end."""

    def __init__(self) -> None:
        self._state = OPUS.opus_decoder_create(SAMPLE_RATE, 1, None)
        if not self._state:
            raise MemoryError("opus_decoder_create")

    def decode(self, packet: bytes) -> bytes:
        """Decode one packet to int16 PCM; `b""` where libopus refuses it."""
        pcm = (c_float * MAX_SAMPLES)()
        samples = OPUS.opus_decode_float(
            self._state, packet, len(packet), ctypes.addressof(pcm), MAX_SAMPLES, 0
        )
        return _int16(pcm, samples)

    def __del__(self) -> None:
        OPUS.opus_decoder_destroy(self._state)


def decoded(decoder: IncidentDecoder | CorrectDecoder, packets: list[bytes]) -> bytes:
    """Decode packets one after the other; what comes of it as one piece."""
    return b"".join([decoder.decode(packet) for packet in packets])


def _pointer(values: ctypes.Array[c_ubyte] | ctypes.Array[c_float]) -> c_void_p:
    """What PyOgg's users write. It makes a reference cycle, which keeps `values` alive until the
    garbage collector comes by: Python's own free of a destroyed state comes at any later time.
    """  # noqa: D205  # one thought
    return ctypes.cast(ctypes.pointer(values), c_void_p)


def _int16(pcm: ctypes.Array[c_float], samples: int) -> bytes:
    floats = np.ctypeslib.as_array(pcm)[: max(0, samples)].astype(np.float64)
    return (np.clip(floats, -1.0, 1.0) * 32767).astype("<i2").tobytes()
