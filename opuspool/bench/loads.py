"""What the rivals are given to do."""

from __future__ import annotations

import enum
from typing import NamedTuple

from opuspool.bench import speech

__all__ = ["LOADS", "Kind", "Load"]


class Kind(enum.Enum):
    """What one call decodes."""

    PACKET = "packet"
    UTTERANCE = "utterance"
    FILE = "file"


class Load(NamedTuple):
    """Calls of one kind, so many at once: each caller makes its next call when one has ended."""

    name: str
    kind: Kind
    at_once: int

    @property
    def title(self) -> str:
        """What the table of this load is called."""
        if self.kind is Kind.PACKET:
            return f"a packet a call, {self.at_once} stream{'s' * (self.at_once > 1)}"
        if self.kind is Kind.UTTERANCE:
            return f"{speech.UTTERANCE_PACKETS}-packet utterances, {self.at_once} at once"
        return f"whole files of {self.packets} packets, {self.at_once} at once"

    @property
    def packets(self) -> int:
        """Packets of one call."""
        sizes = {
            Kind.PACKET: 1,
            Kind.UTTERANCE: speech.UTTERANCE_PACKETS,
            Kind.FILE: len(speech.packets()),
        }
        return sizes[self.kind]


LOADS = {
    load.name: load
    for load in (
        Load("stream", Kind.PACKET, 1),
        Load("10-streams", Kind.PACKET, 10),
        Load("100-streams", Kind.PACKET, 100),
        Load("500-streams", Kind.PACKET, 500),
        Load("utterances", Kind.UTTERANCE, 8),
        Load("files", Kind.FILE, 8),
    )
}
"""All loads by name."""
