"""The packets that the reproductions decode: of examples/speech.opus, 20 ms of 16 kHz mono each."""

from __future__ import annotations

from pathlib import Path

from opuspool import oggopus

FILE = Path(__file__).parents[1] / "speech.opus"


def packets() -> list[bytes]:
    """All packets of the recording (466)."""
    (link,) = oggopus.read(FILE)
    return link.packets


def utterances(count: int, length: int = 12) -> list[list[bytes]]:
    """Make requests of consecutive packets; 12 are 0.24 s, the length of the incident's jobs.

    Args:
        count: how many; they start at different packets, as long as there are such.
        length: packets of each.
    """
    recording = packets()
    starts = range(len(recording) - length + 1)
    return [
        recording[at : at + length]
        for at in (starts[number * length % len(starts)] for number in range(count))
    ]
