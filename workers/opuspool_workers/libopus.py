"""Find libopus, load it through PyOgg, declare its functions; the only file that calls libopus.

PyOgg looks for its libraries with `ctypes.util.find_library` when imported. For the time of that
import the answer for "opus" is the chosen path and for everything else none: neither FLAC nor
Vorbis is loaded. Its own prototypes are incomplete (and some are wrong), so the few that are
needed are declared here, as `PYFUNCTYPE`: they keep the GIL, which a process of one thread loses
nothing by, and which saves a microsecond a call.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import platform
import re
import sys
from contextlib import contextmanager, suppress
from ctypes import POINTER, c_char_p, c_int, c_int32, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opuspool.errors import WorkerBootError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WHAT_TO_DO = (
    'install it (Debian: "apt install libopus0"), or "pip install opuspool[av]", which brings one, '
    "or set [workers] libopus to a library's path"
)

_SONAMES = ("libopus.so.0", "libopus.so")

_FILE_NAME = re.compile(r"(lib)?opus([-.][0-9a-f]\S*)?\.(so|dll|dylib)")
"""As opus.dll, libopus.0.dylib, libopus-114e2b1a.so.0.11.1; not opusfile.dll, nor opusenc.dll."""

RESET_STATE = 4028  # opus_defines.h, OPUS_RESET_STATE
SET_GAIN = 4034  # opus_defines.h, OPUS_SET_GAIN_REQUEST
GET_FINAL_RANGE = 4031  # opus_defines.h, OPUS_GET_FINAL_RANGE_REQUEST
GET_LAST_PACKET_DURATION = 4039  # opus_defines.h, OPUS_GET_LAST_PACKET_DURATION_REQUEST

UNSIGNED_VALUES = frozenset({GET_FINAL_RANGE})
SIGNED_VALUES = frozenset(
    {
        4009,  # OPUS_GET_BANDWIDTH_REQUEST
        4029,  # OPUS_GET_SAMPLE_RATE_REQUEST
        4033,  # OPUS_GET_PITCH_REQUEST
        GET_LAST_PACKET_DURATION,
        4045,  # OPUS_GET_GAIN_REQUEST
    }
)
"""What every libopus can be asked of a decoder, each by a pointer to 32 bits (`opus_defines.h`)."""


@dataclass(frozen=True, slots=True)
class LibOpus:
    """A loaded libopus and its functions (`opus.h`).

    Attributes:
        path: what was loaded.
        version: what it says of itself, such as "libopus 1.3.1".
        decode: `opus_decode`: (state, packet, bytes, pcm, samples, fec) to samples or a code;
            addresses must be `c_void_p`, since nothing converts an argument.
        decode_float: `opus_decode_float`, with the same arguments.
        create: `opus_decoder_create`: (rate, channels, error) to a state.
        destroy: `opus_decoder_destroy`.
        get_size: `opus_decoder_get_size`: channels to bytes of a state.
        packet_samples: `opus_packet_get_nb_samples`: (packet, bytes, rate) to samples or a code.
        packet_parse: `opus_packet_parse`.
    """

    path: str
    version: str
    decode: Callable[..., int]
    decode_float: Callable[..., int]
    create: Callable[..., int | None]
    destroy: Callable[[c_void_p], None]
    get_size: Callable[[int], int]
    packet_samples: Callable[[bytes, int, int], int]
    packet_parse: Callable[..., int]
    _ctl: Callable[..., int]

    def get(self, state: c_void_p, request: int) -> int:
        """Read a 32-bit value of a decoder with `opus_decoder_ctl`."""
        value = c_uint32()
        self._ctl(state, request, ctypes.byref(value))
        return value.value

    def reset(self, state: c_void_p) -> int:
        """Make a decoder as new, but for its gain; returns 0 or a code."""
        return self._ctl(state, RESET_STATE)

    def set(self, state: c_void_p, request: int, value: int) -> int:
        """Set a 32-bit value of a decoder with `opus_decoder_ctl`; returns 0 or a code."""
        return self._ctl(state, request, c_int32(value))


def load(path: str | None = None) -> LibOpus:
    """Load libopus: the given one, or the first that is found.

    Args:
        path: the library to load (`[workers] libopus`); None: search.

    Raises:
        WorkerBootError: there is none, or it is not a libopus.
    """
    chosen = path or locate()
    expected = _try_to_load(chosen)
    library = _through_pyogg(chosen)
    if library._handle != expected._handle:  # noqa: SLF001  # dlopen's, the same for the same file
        raise WorkerBootError(f"PyOgg has another libopus than {chosen} in this process already")
    return _declare(library, _file_of(library) or chosen)


def locate() -> str:
    """The libopus that `load` takes when none is given.

    PyOgg's own on Windows and macOS, else the system's, else the one inside an installed PyAV.

    Raises:
        WorkerBootError: there is none.
    """
    tried = []
    for where, find in _PLACES:
        found = find()
        if found:
            return found
        tried.append(where)
    raise WorkerBootError(f"libopus was not found (looked in {', '.join(tried)}): {WHAT_TO_DO}")


def _pyoggs_own() -> str | None:
    return _beside("pyogg", ".") if sys.platform in {"win32", "darwin"} else None


def _systems() -> str | None:
    for name in _system_names():
        with suppress(OSError, AttributeError):  # cannot be loaded, or is something else
            return _file_of(ctypes.CDLL(name)) or name
    return None


def _system_names() -> Iterator[str]:
    if sys.platform == "linux":
        yield from _SONAMES
    found = ctypes.util.find_library("opus")  # last: on Linux it starts processes to find out
    if found is not None:
        yield found


def _pyavs() -> str | None:
    return _beside("av", "../av.libs") or _beside("av", ".dylibs")


def _beside(package: str, place: str) -> str | None:
    """The libopus in a folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for found in sorted(Path(folder, place).glob("*opus*")):
            if _FILE_NAME.match(found.name):
                return str(found.resolve())
    return None


_PLACES: tuple[tuple[str, Callable[[], str | None]], ...] = (
    ("PyOgg", _pyoggs_own),
    ("the system", _systems),
    ("PyAV", _pyavs),
)


def _try_to_load(path: str) -> ctypes.CDLL:
    """Load it once for the sake of the error's text: PyOgg swallows it."""
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        raise WorkerBootError(f"{path} cannot be loaded: {error}; {WHAT_TO_DO}") from None
    if not hasattr(library, "opus_decode_float"):
        raise WorkerBootError(f"{path} is not a libopus: it has no opus_decode_float; {WHAT_TO_DO}")
    return library


def _through_pyogg(path: str) -> ctypes.CDLL:
    try:
        with _only_opus(path):
            import pyogg.opus
    except ImportError as error:
        raise WorkerBootError(f"PyOgg cannot be imported: {error}; pip install pyogg") from None
    library = pyogg.opus.libopus
    if library is None:
        raise WorkerBootError(f"PyOgg would not load {path}: {WHAT_TO_DO}")
    return library  # type: ignore[no-any-return]  # PyOgg has no types


class _DlInfo(ctypes.Structure):
    """`Dl_info` of dlfcn.h."""

    _fields_ = (
        ("file", c_char_p),
        ("base", c_void_p),
        ("symbol", c_char_p),
        ("address", c_void_p),
    )


def _file_of(library: ctypes.CDLL) -> str | None:
    """The file that a library was loaded from; None where the system cannot tell."""
    if sys.platform != "win32":
        info = _DlInfo()
        address = ctypes.cast(library.opus_decode, c_void_p)
        found = ctypes.CDLL(None).dladdr(address, ctypes.byref(info))
        if found and info.file:
            return os.path.realpath(os.fsdecode(info.file))
    return None


@contextmanager
def _only_opus(path: str) -> Iterator[None]:
    """For a while, the only library that can be found is this one.

    PyOgg appends the current folder to PATH for each library that it looks for; it cannot be
    imported where either is missing, so both are made up for it.
    """
    find, folder, search_path = ctypes.util.find_library, os.getcwd, os.environ.get("PATH")
    architecture = platform.architecture
    ctypes.util.find_library = lambda name: path if name == "opus" else None
    os.getcwd = lambda: os.curdir
    platform.architecture = lambda *_: ("", "")
    os.environ["PATH"] = search_path or ""
    try:
        yield
    finally:
        ctypes.util.find_library, os.getcwd = find, folder
        platform.architecture = architecture
        if search_path is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = search_path


def _declare(library: ctypes.CDLL, path: str) -> LibOpus:
    def function(name: str, result: Any, *arguments: Any) -> Any:
        try:
            return ctypes.PYFUNCTYPE(result, *arguments)((name, library))
        except AttributeError:
            message = f"{path} is not a whole libopus: it has no {name}; {WHAT_TO_DO}"
            raise WorkerBootError(message) from None

    parse = (c_char_p, c_int32, c_void_p, c_void_p, c_void_p, c_void_p)
    version = function("opus_get_version_string", c_char_p)()
    return LibOpus(
        path=path,
        version=version.decode(errors="replace"),
        # No types of arguments: to convert six of them takes as long as all else in the call.
        decode=function("opus_decode", c_int),
        decode_float=function("opus_decode_float", c_int),
        create=function("opus_decoder_create", c_void_p, c_int32, c_int, POINTER(c_int)),
        destroy=function("opus_decoder_destroy", None, c_void_p),
        get_size=function("opus_decoder_get_size", c_int, c_int),
        packet_samples=function("opus_packet_get_nb_samples", c_int, c_char_p, c_int32, c_int32),
        packet_parse=function("opus_packet_parse", c_int, *parse),
        # Variadic: what stands behind the declared arguments goes by the rules for variadic ones,
        # which are others on Apple's arm64.
        _ctl=function("opus_decoder_ctl", c_int, c_void_p, c_int),
    )
