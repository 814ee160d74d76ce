"""libopus called directly, for golden data: shares no code with what is tested."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import sys
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_int, c_int32, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Pcm: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int16]
DtypeName: TypeAlias = Literal["float32", "int16"]

# opus_defines.h
APPLICATIONS = {"voip": 2048, "audio": 2049, "lowdelay": 2051}
BANDWIDTHS = {"narrow": 1101, "medium": 1102, "wide": 1103, "superwide": 1104, "full": 1105}
# opus_private.h: an unofficial request, but the only way to a mode of one's choice
MODES = {"silk": 1000, "hybrid": 1001, "celt": 1002}
SET_BITRATE, SET_BANDWIDTH, SET_COMPLEXITY = 4002, 4008, 4010
SET_INBAND_FEC, SET_PACKET_LOSS_PERC, SET_FORCE_MODE = 4012, 4014, 11002
RESET_STATE, GET_FINAL_RANGE, GET_LAST_PACKET_DURATION = 4028, 4031, 4039

MAX_PACKET_BYTES = 7680
"""More than any packet needs: 6 frames of 1,275 bytes and their lengths."""


class OpusError(Exception):
    """libopus refused a call; `code` is its answer (negative)."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code


def real_libopus() -> Path:
    """Return the path of the libopus that opuspool would choose by itself."""
    path = _first_libopus()
    if path is None:
        raise FileNotFoundError("no libopus: install libopus0 (Debian), or PyAV (pip install av)")
    return path


@cache
def _first_libopus() -> Path | None:
    return next(_candidates(), None)


def all_libopus() -> list[Path]:
    """Return every libopus of this machine, the chosen one first; usually of several versions."""
    return list(dict.fromkeys(_candidates()))


def _candidates() -> Iterator[Path]:
    if sys.platform in {"win32", "darwin"}:
        yield from _inside("pyogg", ["**/opus.dll", "**/libopus*.dylib"])
    if name := ctypes.util.find_library("opus"):
        with suppress(OSError):  # there, but broken: opuspool passes it over as well
            yield _loaded_path(ctypes.CDLL(name))
    yield from _inside("av", ["../av.libs/libopus*", ".dylibs/libopus*"])


def _inside(package: str, patterns: list[str]) -> Iterator[Path]:
    """Find files in a package's folder without importing it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or []:
        for pattern in patterns:
            # glob follows no ".." in a pattern on Python 3.13, so it goes into the folder
            start, glob = Path(folder), pattern
            if pattern.startswith("../"):
                start, glob = start.parent, pattern[3:]
            yield from sorted(start.glob(glob))


class _DlInfo(ctypes.Structure):
    """`Dl_info` of dlfcn.h."""

    _fields_ = [
        ("file_name", c_char_p),
        ("base", c_void_p),
        ("symbol_name", c_char_p),
        ("symbol", c_void_p),
    ]


def _loaded_path(library: ctypes.CDLL) -> Path:
    """Return the file that a library was loaded from."""
    if sys.platform == "win32":
        return Path(library._name)
    dladdr = ctypes.CDLL(None).dladdr
    dladdr.argtypes = [c_void_p, POINTER(_DlInfo)]
    info = _DlInfo()
    dladdr(ctypes.cast(library.opus_get_version_string, c_void_p), byref(info))
    return Path(info.file_name.decode())


@cache
def load(path: Path | None = None) -> ctypes.CDLL:
    """Load a libopus (default: `real_libopus()`) and declare the prototypes used here."""
    library = ctypes.CDLL(str(path or real_libopus()))
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


# A ctl is variadic: only its fixed arguments are declared, the last one is given as a ctypes value.
_PROTOTYPES: dict[str, tuple[type | None, list[type]]] = {
    "opus_get_version_string": (c_char_p, []),
    "opus_strerror": (c_char_p, [c_int]),
    "opus_encoder_create": (c_void_p, [c_int32, c_int, c_int, POINTER(c_int)]),
    "opus_encoder_ctl": (c_int, [c_void_p, c_int]),
    "opus_encoder_destroy": (None, [c_void_p]),
    "opus_encode": (c_int32, [c_void_p, c_void_p, c_int, c_void_p, c_int32]),
    "opus_encode_float": (c_int32, [c_void_p, c_void_p, c_int, c_void_p, c_int32]),
    "opus_decoder_create": (c_void_p, [c_int32, c_int, POINTER(c_int)]),
    "opus_decoder_ctl": (c_int, [c_void_p, c_int]),
    "opus_decoder_destroy": (None, [c_void_p]),
    "opus_decode": (c_int, [c_void_p, c_char_p, c_int32, c_void_p, c_int, c_int]),
    "opus_decode_float": (c_int, [c_void_p, c_char_p, c_int32, c_void_p, c_int, c_int]),
    "opus_packet_pad": (c_int, [c_void_p, c_int32, c_int32]),
    "opus_packet_get_nb_samples": (c_int, [c_char_p, c_int32, c_int32]),
    "opus_packet_get_nb_frames": (c_int, [c_char_p, c_int32]),
    "opus_packet_get_nb_channels": (c_int, [c_char_p]),
}


def version(path: Path | None = None) -> str:
    """Return what libopus calls itself, e.g. "libopus 1.3.1"."""
    return str(load(path).opus_get_version_string().decode())


def _checked(library: ctypes.CDLL, code: int) -> int:
    if code < 0:
        raise OpusError(code, library.opus_strerror(code).decode())
    return code


def pad(packet: bytes, length: int) -> bytes:
    """Return the same packet at `length` bytes; what is added is padding (zeros), at the end."""
    buffer = ctypes.create_string_buffer(packet, length)
    library = load()
    _checked(library, library.opus_packet_pad(buffer, len(packet), length))
    return buffer.raw


def samples(packet: bytes, sample_rate: int = 48000) -> int:
    """Return a packet's duration in samples per channel."""
    library = load()
    found = library.opus_packet_get_nb_samples(packet, len(packet), sample_rate)
    return _checked(library, found)


class ReferenceEncoder:
    """An Opus encoder; it keeps its state between calls.

    Args:
        sample_rate: 8000, 12000, 16000, 24000 or 48000 Hz.
        channels: 1 or 2.
        application: a key of APPLICATIONS.
        bitrate: bits per second.
        fec: put a coarse copy of the previous frame into each packet.
        loss_percent: the packet loss that the encoder reckons with; FEC needs it above 0.
        frame_ms: 2.5, 5, 10, 20, 40 or 60; also 80, 100 and 120 from libopus 1.2 on.
        complexity: 0 (fast) to 10.
        bandwidth: a key of BANDWIDTHS; None leaves it to the encoder.
        mode: a key of MODES; None leaves it to the encoder.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        channels: int = 1,
        *,
        application: str = "voip",
        bitrate: int = 16000,
        fec: bool = False,
        loss_percent: int = 0,
        frame_ms: float = 20,
        complexity: int = 5,
        bandwidth: str | None = None,
        mode: str | None = None,
    ) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self.frame_size = round(sample_rate * frame_ms / 1000)
        self._library = load()
        error = c_int()
        use = APPLICATIONS[application]
        self._state = self._library.opus_encoder_create(sample_rate, channels, use, byref(error))
        _checked(self._library, error.value)
        self._set(SET_BITRATE, bitrate)
        self._set(SET_COMPLEXITY, complexity)
        self._set(SET_INBAND_FEC, int(fec))
        self._set(SET_PACKET_LOSS_PERC, loss_percent)
        if bandwidth is not None:
            self._set(SET_BANDWIDTH, BANDWIDTHS[bandwidth])
        if mode is not None:
            self._set(SET_FORCE_MODE, MODES[mode])

    def _set(self, request: int, value: int) -> None:
        _checked(
            self._library, self._library.opus_encoder_ctl(self._state, request, c_int32(value))
        )

    def encode(self, pcm: npt.NDArray[np.floating] | npt.NDArray[np.int16]) -> list[bytes]:
        """Encode int16 or float PCM, `(n,)` or `(n, channels)`; silence fills the last frame."""
        pcm = pcm if pcm.dtype == np.int16 else pcm.astype(np.float32)
        step = self.frame_size * self.channels
        flat = pcm.reshape(-1)
        flat = np.concatenate([flat, np.zeros(-flat.size % step, flat.dtype)])
        return [self._encode_frame(flat[at : at + step]) for at in range(0, flat.size, step)]

    def _encode_frame(self, frame: npt.NDArray[np.float32] | npt.NDArray[np.int16]) -> bytes:
        library = self._library
        encode = library.opus_encode if frame.dtype == np.int16 else library.opus_encode_float
        out = ctypes.create_string_buffer(MAX_PACKET_BYTES)
        length = encode(self._state, frame.ctypes.data, self.frame_size, out, len(out))
        return out.raw[: _checked(library, length)]

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._library.opus_encoder_destroy(self._state)


class ReferenceDecoder:
    """An Opus decoder; it keeps its state between calls.

    Args:
        sample_rate: 8000, 12000, 16000, 24000 or 48000 Hz.
        channels: 1 or 2.
        dtype: "float32" or "int16".
        library: path of another libopus than `real_libopus()`.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        channels: int = 1,
        dtype: DtypeName = "float32",
        *,
        library: Path | None = None,
    ) -> None:
        self.channels = channels
        self._library = load(library)
        self._decode = (
            self._library.opus_decode if dtype == "int16" else self._library.opus_decode_float
        )
        self._buffer: Pcm = np.zeros(sample_rate * 120 // 1000 * channels, dtype)
        error = c_int()
        self._state = self._library.opus_decoder_create(sample_rate, channels, byref(error))
        _checked(self._library, error.value)

    def decode(self, packet: bytes) -> Pcm:
        """Decode one packet."""
        return self._call(packet, self._buffer.size // self.channels, fec=False)

    def lost(self, samples: int) -> Pcm:
        """Conceal a lost packet of `samples` per channel (PLC)."""
        return self._call(None, samples, fec=False)

    def fec(self, packet: bytes, samples: int) -> Pcm:
        """Decode the packet before `packet`, of `samples` per channel, from its in-band FEC."""
        return self._call(packet, samples, fec=True)

    def decode_all(self, packets: Iterable[bytes | None]) -> Pcm:
        """Decode packets one after another; None is a lost packet of the last duration."""
        parts = [
            self.lost(self.last_samples) if packet is None else self.decode(packet)
            for packet in packets
        ]
        return np.concatenate([self._shape(self._buffer[:0]), *parts])

    def reset(self) -> None:
        """Forget the stream so far."""
        _checked(self._library, self._library.opus_decoder_ctl(self._state, RESET_STATE))

    @property
    def last_samples(self) -> int:
        """Samples per channel of the last packet decoded or concealed; 0 in a fresh decoder."""
        return self._get(GET_LAST_PACKET_DURATION, c_int32())

    @property
    def final_range(self) -> int:
        """The entropy coder's state after the last packet; equal where the same bits were read."""
        return self._get(GET_FINAL_RANGE, c_uint32())

    def _get(self, request: int, value: c_int32 | c_uint32) -> int:
        _checked(self._library, self._library.opus_decoder_ctl(self._state, request, byref(value)))
        return value.value

    def _call(self, packet: bytes | None, samples: int, *, fec: bool) -> Pcm:
        if samples * self.channels > self._buffer.size:
            raise ValueError(f"{samples} samples are more than 120 ms")
        length = len(packet) if packet is not None else 0
        pcm = self._buffer.ctypes.data
        count = self._decode(self._state, packet, length, pcm, samples, int(fec))
        _checked(self._library, count)
        return self._shape(self._buffer[: count * self.channels].copy())

    def _shape(self, pcm: Pcm) -> Pcm:
        return pcm if self.channels == 1 else pcm.reshape(-1, self.channels)

    def __del__(self) -> None:
        if getattr(self, "_state", None):
            self._library.opus_decoder_destroy(self._state)


def golden(
    packets: Iterable[bytes | None],
    sample_rate: int = 16000,
    channels: int = 1,
    dtype: DtypeName = "float32",
) -> Pcm:
    """Return what a fresh decoder of the real libopus makes of the packets."""
    return ReferenceDecoder(sample_rate, channels, dtype).decode_all(packets)
