"""What a stream decodes to: sample rate, channels, sample type."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

SampleType = Literal["float32", "int16"]

SAMPLE_RATES = (8000, 12000, 16000, 24000, 48000)
"""The rates libopus decodes to, in Hz (`opus.h`, `opus_decoder_create`)."""

SAMPLE_TYPES: tuple[SampleType, ...] = get_args(SampleType)
SAMPLE_BYTES: dict[SampleType, int] = {"float32": 4, "int16": 2}

MAX_PACKET_SECONDS = 0.12
"""No Opus packet is longer than 120 ms (RFC 6716, section 3.4, R5)."""

MAX_PACKET_BYTES = 61_440
"""A larger packet is invalid for one stream (RFC 7845, section 6)."""


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """The PCM that a stream's decoder gives.

    Attributes:
        sample_rate: Hz, one of `SAMPLE_RATES`.
        channels: 1 or 2; interleaved where 2.
        dtype: "float32", in [-1, 1], or "int16".
        frame_bytes: bytes of one sample of all channels.
        capacity: samples per channel of the longest packet, 120 ms.
        max_packet_pcm_bytes: bytes of PCM that one packet may decode to.
        bytes_per_second: bytes of one second of PCM.
        code: the format in one byte, as it stands on the wire.

    Raises:
        ValueError: a value is out of range.
        TypeError: a value is of the wrong type.
    """

    sample_rate: int = 16000
    channels: int = 1
    dtype: SampleType = "float32"
    frame_bytes: int = field(init=False, compare=False)
    bytes_per_second: int = field(init=False, compare=False)
    capacity: int = field(init=False, compare=False)
    max_packet_pcm_bytes: int = field(init=False, compare=False)
    code: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("sample_rate", "channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
        if self.sample_rate not in SAMPLE_RATES:
            allowed = ", ".join(map(str, SAMPLE_RATES))
            raise ValueError(f"sample_rate must be one of {allowed}, not {self.sample_rate}")
        if self.channels not in (1, 2):
            raise ValueError(f"channels must be 1 or 2, not {self.channels}")
        if self.dtype not in SAMPLE_TYPES:
            raise ValueError(f'dtype must be "float32" or "int16", not {self.dtype!r}')

        frame_bytes = SAMPLE_BYTES[self.dtype] * self.channels
        capacity = self.sample_rate * 12 // 100
        rate = SAMPLE_RATES.index(self.sample_rate)
        code = rate | (self.channels - 1) << 3 | SAMPLE_TYPES.index(self.dtype) << 4
        for name, value in (
            ("frame_bytes", frame_bytes),
            ("capacity", capacity),
            ("max_packet_pcm_bytes", capacity * frame_bytes),
            ("bytes_per_second", self.sample_rate * frame_bytes),
            ("code", code),
        ):
            object.__setattr__(self, name, value)  # frozen, but these follow from the rest


FORMATS: dict[int, StreamFormat] = {
    fmt.code: fmt
    for fmt in (
        StreamFormat(rate, channels, dtype)
        for rate in SAMPLE_RATES
        for channels in (1, 2)
        for dtype in SAMPLE_TYPES
    )
}
"""Every format by its code on the wire."""

MAX_PACKET_PCM_BYTES = max(fmt.max_packet_pcm_bytes for fmt in FORMATS.values())
"""Bytes of PCM that a packet may decode to, whatever the format."""
