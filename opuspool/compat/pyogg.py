"""A drop-in for PyOgg's `OpusDecoder`, as PyOgg's development version (0.7) has it.

    from opuspool.compat.pyogg import OpusDecoder, PyOggError    # was: from pyogg import ...

What differs: docs/compat.md.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from opuspool.compat.codes import CodeError, strerror
from opuspool.compat.opusstate import OpusState
from opuspool.streamformat import SAMPLE_RATES

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["OpusDecoder", "PyOggError"]

MAX_MS = 120
"""Room for the longest packet, as in the original."""

_LOSS_TENTHS = (25, 50, 100, 200, 400, 600)
"""How long a loss may be, in 0.1 ms."""


class PyOggError(Exception):
    """Libopus refuses a call, the decoder was not set up for it, or the pool has failed."""


class OpusDecoder:
    """`pyogg.OpusDecoder`, whose decoder is in a worker; int16."""

    def __init__(self) -> None:
        self._decoder: OpusState | None = None
        self._channels: int | None = None
        self._samples_per_second: int | None = None

    def __del__(self) -> None:
        decoder: OpusState | None = getattr(self, "_decoder", None)
        if decoder is not None:
            decoder.close()

    def set_channels(self, n: int) -> None:
        """Set the number of channels, 1 or 2; before the first packet.

        Raises:
            PyOggError: it is neither, or too late.
        """
        if self._decoder is not None:
            raise PyOggError(
                "Cannot change the number of channels after the decoder was created.  "
                "Perhaps set_channels() was called after decode()?"
            )
        if n < 0 or n > 2:  # the original lets 0 pass too, and refuses it in decode()
            raise PyOggError("Invalid number of channels in call to set_channels()")
        self._channels = n

    def set_sampling_frequency(self, samples_per_second: int) -> None:
        """Set the sample rate in Hz: 8000, 12000, 16000, 24000 or 48000; before the first packet.

        Raises:
            PyOggError: it is none of these, or too late.
        """
        if self._decoder is not None:
            raise PyOggError(
                "Cannot change the sampling frequency after the decoder was created.  "
                "Perhaps set_sampling_frequency() was called after decode()?"
            )
        if samples_per_second not in SAMPLE_RATES:
            raise PyOggError(
                f"Specified sampling frequency ({samples_per_second:d}) "
                "was not one of the accepted values"
            )
        self._samples_per_second = samples_per_second

    def decode(self, encoded_bytes: bytes | bytearray | memoryview) -> memoryview[bytes]:
        """Decode a packet; an empty one conceals a loss of 120 ms, as in the original.

        Returns:
            Interleaved int16 samples as bytes (format "c"), in memory of their own.

        Raises:
            PyOggError: libopus refuses it, the decoder was not set up, or the pool has failed.
        """
        decoder, rate = self._created()
        packet = memoryview(encoded_bytes).tobytes()
        with _errors("An error occurred while decoding an Opus-encoded packet"):
            pcm = decoder.decode(packet, rate * MAX_MS // 1000)
        return memoryview(bytearray(pcm)).cast("c")

    def decode_missing_packet(self, frame_duration: float) -> bytes:
        """Conceal a lost packet.

        Args:
            frame_duration: its length in ms: 2.5, 5, 10, 20, 40 or 60.

        Returns:
            Interleaved int16 samples.

        Raises:
            PyOggError: it is none of these, the decoder was not set up, or the pool has failed.
        """
        if int(frame_duration * 10) not in _LOSS_TENTHS:
            raise PyOggError(
                f"Frame duration ({frame_duration:f}) is not one of the accepted values"
            )
        decoder, rate = self._created()
        with _errors("An error occurred while decoding an Opus-encoded packet"):
            return decoder.decode(b"", int(frame_duration * rate // 1000))

    def _created(self) -> tuple[OpusState, int]:
        """The decoder, made if there is none yet, and its sample rate."""
        rate, channels = self._samples_per_second, self._channels
        if rate is None:
            raise PyOggError(
                "The sampling frequency was not specified before attempting to create an Opus "
                "decoder.  Perhaps decode() was called before set_sampling_frequency()?"
            )
        if channels is None:
            raise PyOggError(
                "The number of channels were not specified before attempting to create an Opus "
                "decoder.  Perhaps decode() was called before set_channels()?"
            )
        if self._decoder is None:
            with _errors("An error occurred while creating the decoder"):
                self._decoder = OpusState(rate, channels)
        return self._decoder, rate


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except CodeError as error:
        words = strerror(error.code)
        raise PyOggError(
            f"{what}: {words}: {error.detail}" if error.detail else f"{what}: {words}"
        ) from error.__cause__
