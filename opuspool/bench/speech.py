"""The speech that is decoded: 9 s, 16 kHz mono, 24 kb/s, 20 ms packets (examples/README.md)."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "APART",
    "FRAME_SAMPLES",
    "SAMPLE_RATE",
    "UTTERANCE_PACKETS",
    "endless",
    "file",
    "packets",
    "utterance",
]

SAMPLE_RATE = 16000
"""Hz."""

FRAME_SAMPLES = 320
"""Samples of a packet."""

UTTERANCE_PACKETS = 500
"""Packets of an utterance: 10 s."""

APART = 37
"""Packets between where two callers begin; no two of 466 callers begin at the same one."""


@cache
def file() -> bytes:
    """The recording, as an Ogg Opus file.

    Raises:
        FileNotFoundError: the installation is not whole.
    """
    package = Path(__file__).resolve().parent
    shipped = package / "speech.opus"
    if not shipped.is_file():  # a checkout
        shipped = package.parents[1] / "examples" / "speech.opus"
    return shipped.read_bytes()


@cache
def packets() -> list[bytes]:
    """The recording's packets."""
    from opuspool import oggopus

    return [packet for link in oggopus.read(file()) for packet in link.packets]


def endless(caller: int) -> Iterator[bytes]:
    """The recording's packets over and over, for a caller by its number; 0 begins in front.

    Each begins elsewhere, as people do not speak in step: were all at the same packet, libopus
    would take the same branches again and again, and need two thirds of its time.
    """
    begin = caller * APART % len(packets())
    return itertools.cycle(packets()[begin:] + packets()[:begin])


@cache
def utterance(caller: int = 0) -> list[bytes]:
    """What a caller says: the first `UTTERANCE_PACKETS` of its endless packets."""
    return list(itertools.islice(endless(caller), UTTERANCE_PACKETS))
