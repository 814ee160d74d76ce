"""Recordings for tests: real ones where the corpus is there, else generated speech."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from reference import ReferenceEncoder

if TYPE_CHECKING:
    from collections.abc import Iterator

Signal: TypeAlias = npt.NDArray[np.float32]

VOWELS = [
    (730, 1090, 2440),
    (530, 1840, 2480),
    (270, 2290, 3010),
    (570, 840, 2410),
    (300, 870, 2240),
]
"""Formants in Hz of a, e, i, o, u (Peterson and Barney, 1952)."""


class Recording(NamedTuple):
    """One logical stream: its name, its channels (1 or 2) and its packets."""

    name: str
    channels: int
    packets: list[bytes]


# ---- generated ------------------------------------------------------------------------------


def speech(sample_rate: int = 16000, seconds: float = 2.0, seed: int = 0) -> Signal:
    """Return a mono signal that an encoder takes for speech; equal for equal arguments."""
    rng = np.random.default_rng(seed)
    wanted = round(sample_rate * seconds)
    parts: list[Signal] = []
    while sum(part.size for part in parts) < wanted:
        parts.append(_fricative(rng, sample_rate))
        parts.append(_vowel(rng, sample_rate))
        if rng.random() < 0.3:
            parts.append(_pause(rng, sample_rate))
    return np.concatenate(parts)[:wanted]


def _vowel(rng: np.random.Generator, sample_rate: int) -> Signal:
    """Glottal pulses with a gliding pitch, through three formants; 0.12 to 0.3 s."""
    count = round(sample_rate * rng.uniform(0.12, 0.3))
    pitch = np.linspace(rng.uniform(110, 220), rng.uniform(90, 180), count)
    periods = np.floor(np.cumsum(pitch) / sample_rate)
    pulses = np.diff(periods, prepend=0.0)
    time = np.arange(round(sample_rate * 0.04)) / sample_rate
    response = sum(
        np.exp(-time * np.pi * (60 + 0.04 * formant)) * np.sin(2 * np.pi * formant * time) / rank
        for rank, formant in enumerate(VOWELS[rng.integers(len(VOWELS))], start=1)
    )
    return _shaped(_filtered(pulses, np.asarray(response)), 0.4)


def _fricative(rng: np.random.Generator, sample_rate: int) -> Signal:
    """Noise without its low part, as in s or sh; 0.04 to 0.12 s."""
    noise = rng.standard_normal(round(sample_rate * rng.uniform(0.04, 0.12)))
    return _shaped(np.diff(noise, prepend=0.0), 0.08)


def _pause(rng: np.random.Generator, sample_rate: int) -> Signal:
    """A pause with a little noise; 0.1 to 0.4 s."""
    noise = rng.standard_normal(round(sample_rate * rng.uniform(0.1, 0.4)))
    return (noise * 1e-4).astype(np.float32)


def _filtered(
    signal: npt.NDArray[np.float64], response: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    size = signal.size + response.size
    spectrum = np.fft.rfft(signal, size) * np.fft.rfft(response, size)
    return np.fft.irfft(spectrum, size)[: signal.size]


def _shaped(signal: npt.NDArray[np.float64], peak: float) -> Signal:
    """Scale to a peak, fading in and out."""
    faded = signal * np.hanning(signal.size)
    return (faded * (peak / max(1e-9, float(np.abs(faded).max())))).astype(np.float32)


def speech_packets(
    seconds: float = 2.0,
    sample_rate: int = 16000,
    channels: int = 1,
    *,
    bitrate: int = 16000,
    frame_ms: float = 20,
    seed: int = 0,
    application: str = "voip",
    fec: bool = False,
    loss_percent: int = 0,
    mode: str | None = None,
) -> list[bytes]:
    """Return `speech` encoded; the arguments are `speech`'s and `ReferenceEncoder`'s."""
    encoder = (application, bitrate, fec, loss_percent, frame_ms, mode)
    return list(_encoded(seconds, sample_rate, channels, seed, encoder))


@cache
def _encoded(
    seconds: float,
    sample_rate: int,
    channels: int,
    seed: int,
    encoder: tuple[str, int, bool, int, float, str | None],
) -> tuple[bytes, ...]:
    application, bitrate, fec, loss_percent, frame_ms, mode = encoder
    pcm = speech(sample_rate, seconds, seed)
    if channels == 2:
        # a second voice, to the other side
        other = speech(sample_rate, seconds, seed + 1000)
        pcm = np.stack([0.7 * pcm + 0.2 * other, 0.2 * pcm + 0.7 * other], axis=1)
    packets = ReferenceEncoder(
        sample_rate,
        channels,
        application=application,
        bitrate=bitrate,
        fec=fec,
        loss_percent=loss_percent,
        frame_ms=frame_ms,
        mode=mode,
    ).encode(pcm)
    return tuple(packets)


# ---- real -----------------------------------------------------------------------------------


def corpus() -> Path | None:
    """Return the folder of real recordings (OPUSPOOL_CORPUS), None where it is absent."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("OPUSPOOL_CORPUS") or default)
    return folder if folder.is_dir() else None


def real_file(name: str) -> Path:
    """Return a file of the corpus, e.g. "voice/silero_16k.opus"; skips the test without it."""
    folder = corpus()
    if folder is None or not (folder / name).is_file():
        pytest.skip(f"no real recording {name}: set OPUSPOOL_CORPUS")
    return folder / name


def real_packets(name: str) -> list[bytes]:
    """Return the audio packets of a file of the corpus (of all its links, one after another)."""
    return read_ogg(real_file(name)).packets


def real_streams() -> list[Recording]:
    """Return at least 12 different streams: the corpus's voices and devices, or generated ones."""
    folder = corpus()
    if folder is None:
        return generated_streams()
    files = [*(folder / "voice").iterdir(), *(folder / "devices").iterdir()]
    streams = [read_ogg(file) for file in sorted(files) if file.suffix in {".opus", ".ogg"}]
    return streams if len(streams) >= 12 else streams + generated_streams()


def generated_streams() -> list[Recording]:
    """Return 14 different streams: SILK, hybrid and CELT, mono and stereo, 2.5 to 60 ms, FEC."""
    return [
        Recording("silk 8 kHz", 1, speech_packets(4, 8000, bitrate=8000, seed=1)),
        Recording("silk 12 kHz", 1, speech_packets(4, 12000, bitrate=12000, seed=2)),
        Recording("silk 16 kHz", 1, speech_packets(6, bitrate=16000, seed=3)),
        Recording("silk 6 kb/s", 1, speech_packets(6, bitrate=6000, seed=4)),
        Recording("silk 10 ms", 1, speech_packets(4, bitrate=20000, frame_ms=10, seed=5)),
        Recording("silk 60 ms", 1, speech_packets(6, frame_ms=60, seed=6)),
        Recording(
            "silk FEC", 1, speech_packets(6, bitrate=24000, fec=True, loss_percent=20, seed=7)
        ),
        Recording("silk stereo", 2, speech_packets(4, channels=2, bitrate=24000, seed=8)),
        Recording("hybrid", 1, speech_packets(4, 48000, bitrate=32000, mode="hybrid", seed=9)),
        Recording(
            "hybrid stereo", 2, speech_packets(3, 48000, 2, bitrate=48000, mode="hybrid", seed=10)
        ),
        Recording("celt", 1, speech_packets(3, 48000, bitrate=64000, mode="celt", seed=11)),
        Recording(
            "celt stereo", 2, speech_packets(3, 48000, 2, bitrate=96000, mode="celt", seed=12)
        ),
        Recording("celt 2.5 ms", 1, speech_packets(2, 48000, bitrate=64000, frame_ms=2.5, seed=13)),
        Recording(
            "audio", 1, speech_packets(4, 24000, bitrate=40000, application="audio", seed=14)
        ),
    ]


def read_ogg(path: Path) -> Recording:
    """Read an Ogg Opus file: the channels of its first link, the audio packets of all."""
    channels = 0
    packets: list[bytes] = []
    for index, packet in _ogg_packets(path.read_bytes()):
        if index == 0:
            channels = channels or packet[9]
        elif index >= 2:
            packets.append(packet)
    return Recording(f"{path.parent.name}/{path.name}", channels, packets)


def _ogg_packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each packet with its number in its link: 0 OpusHead, 1 OpusTags, then audio."""
    index, packet, at = 0, b"", 0
    while data[at : at + 4] == b"OggS":
        begins_stream = data[at + 5] & 2
        lacing = data[at + 27 : at + 27 + data[at + 26]]
        at += 27 + len(lacing)
        if begins_stream:
            index, packet = 0, b""
        for size in lacing:
            packet += data[at : at + size]
            at += size
            if size < 255:
                yield index, packet
                index, packet = index + 1, b""
