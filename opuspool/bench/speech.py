"""The speech that is decoded: 9 s, 16 kHz mono, 24 kb/s, 20 ms packets (examples/README.md)."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path

__all__ = ["FRAME_SAMPLES", "SAMPLE_RATE", "UTTERANCE_PACKETS", "file", "packets", "utterance"]

SAMPLE_RATE = 16000
"""Hz."""

FRAME_SAMPLES = 320
"""Samples of a packet."""

UTTERANCE_PACKETS = 500
"""Packets of an utterance: 10 s."""


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


@cache
def utterance() -> list[bytes]:
    """`UTTERANCE_PACKETS` packets: the recording, and its beginning once more."""
    return list(itertools.islice(itertools.cycle(packets()), UTTERANCE_PACKETS))
