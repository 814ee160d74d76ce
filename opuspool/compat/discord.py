"""A drop-in for `discord.opus` of discord.py 2.x, of which it has the decoder.

    import opuspool.compat.discord as opus          # was: from discord import opus
    discord.opus.Decoder = opus.Decoder             # for libraries that take it from there

Encoders are the original's own, if it is installed. What differs: docs/compat.md.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opuspool.compat import packetinfo
from opuspool.compat.codes import CodeError, strerror
from opuspool.compat.defaultpool import default_pool
from opuspool.compat.encoders import encoder
from opuspool.compat.opusdefines import GET_LAST_PACKET_DURATION_REQUEST, GET_SAMPLE_RATE_REQUEST
from opuspool.compat.opusstate import OpusState

if TYPE_CHECKING:
    from collections.abc import Iterator


def _originals_error() -> type[Exception]:
    """discord.py's error, so that whoever catches that one catches ours."""
    try:
        return importlib.import_module("discord.opus").OpusError  # type: ignore[no-any-return]
    except ImportError:
        return Exception


__all__ = ["Decoder", "OpusError", "OpusNotLoaded", "is_loaded", "load_opus"]

OPUS_SILENCE = b"\xf8\xff\xfe"
"""Discord's packet of silence, 20 ms."""


def __getattr__(name: str) -> Any:
    return encoder(__name__, "discord.opus", frozenset({"Encoder"}), name)


class OpusError(_originals_error()):  # type: ignore[misc]  # which one, is seen at run time
    """Libopus refuses a call, or the pool has failed.

    Where discord.py is installed this is a `discord.opus.OpusError` too.

    Attributes:
        code: libopus's code, -1 to -7.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        self.code = code
        words = strerror(code)
        # The original's own would ask libopus for the words, which is not in this process.
        Exception.__init__(self, f"{words}: {detail}" if detail else words)


class OpusNotLoaded(Exception):  # noqa: N818  the original's name
    """No worker can load libopus; says why and what to do."""


def is_loaded() -> bool:
    """Whether libopus is loaded: always; workers load it when the pool starts."""
    return True


def load_opus(name: str) -> None:
    """Does nothing: `opuspool.compat.configure(libopus=...)` says what workers load."""


class Decoder:
    """`discord.opus.Decoder`: 48 kHz, stereo, int16; the decoder is in a worker."""

    SAMPLING_RATE = 48000
    CHANNELS = 2
    FRAME_LENGTH = 20  # ms
    SAMPLE_SIZE = 2 * CHANNELS  # bytes, of all channels
    SAMPLES_PER_FRAME = SAMPLING_RATE // 1000 * FRAME_LENGTH
    FRAME_SIZE = SAMPLES_PER_FRAME * SAMPLE_SIZE  # bytes

    def __init__(self) -> None:
        self._state = OpusState(self.SAMPLING_RATE, self.CHANNELS)

    def __del__(self) -> None:
        if hasattr(self, "_state"):
            self._state.close()

    @staticmethod
    def get_opus_version() -> str:
        """What the workers' libopus calls itself, such as "libopus 1.3.1".

        Raises:
            OpusNotLoaded: no worker can load one.
        """
        state = OpusState(Decoder.SAMPLING_RATE, Decoder.CHANNELS)
        try:
            state.get(GET_SAMPLE_RATE_REQUEST)  # when it is answered, a worker is there
        except CodeError as error:
            raise OpusNotLoaded(error.detail) from error.__cause__
        finally:
            state.close()
        return str(default_pool().status()["libopus"]["version"])

    @staticmethod
    def packet_get_nb_frames(data: bytes) -> int:
        """Frames in a packet.

        Raises:
            OpusError: -1: it is empty; -4: its frame count is missing.
        """
        len(data)  # refuses what has none, as the original does
        with _errors():
            return packetinfo.nb_frames(_bytes(data))

    @staticmethod
    def packet_get_nb_channels(data: bytes) -> int:
        """Channels that were encoded, 1 or 2."""
        return packetinfo.nb_channels(_bytes(data))

    @classmethod
    def packet_get_samples_per_frame(cls, data: bytes) -> int:
        """Samples per channel of one of a packet's frames."""
        return packetinfo.samples_per_frame(_bytes(data), cls.SAMPLING_RATE)

    def set_gain(self, dB: float) -> int:  # noqa: N803  the original's name
        """Set the output's gain in dB, clipped to -128 to 128; returns 0."""
        return self._set_gain(max(-32768, min(32767, round(dB * 256))))

    def set_volume(self, mult: float) -> int:
        """Set the output's volume: 0.5 is half, 1.75 is 175 %; returns 0.

        Raises:
            ValueError: it is not more than 0.
        """
        return self.set_gain(20 * math.log10(mult))

    def decode(self, data: bytes | None, *, fec: bool = False) -> bytes:
        """Decode a packet, or conceal a loss (None) of the last packet's length.

        Args:
            data: the packet.
            fec: decode the packet before this one, from this one's in-band FEC.

        Returns:
            int16, interleaved stereo.

        Raises:
            TypeError: FEC is asked of a lost packet.
            OpusError: libopus refuses it (-1, -4), or the pool has failed (-3, -4, -6).
        """
        if data is None:
            if fec:
                raise TypeError("Invalid arguments: FEC cannot be used with null data")
            with _errors():
                return self._state.conceal()
        frame_size = self.packet_get_nb_frames(data) * self.packet_get_samples_per_frame(data)
        with _errors():
            return self._state.decode(_bytes(data), frame_size, int(fec))

    def _set_gain(self, adjustment: int) -> int:
        with _errors():
            self._state.set_gain(adjustment)
        return 0

    def _get_last_packet_duration(self) -> int:
        with _errors():
            return self._state.get(GET_LAST_PACKET_DURATION_REQUEST)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except CodeError as error:
        raise OpusError(error.code, error.detail) from error.__cause__


def _bytes(data: object) -> bytes:
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ctypes.ArgumentError(f"a packet is bytes, not {type(data).__name__}")
    return bytes(data)
