"""What goes in and out of the incident's service: packets on its wire, int16 as it made them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reference import Pcm


def int16(pcm: Pcm) -> bytes:
    """As the incident's service makes it, sample by sample, in Python's own numbers."""
    values = [int(max(-1.0, min(1.0, float(value))) * 32767) for value in pcm.reshape(-1)]
    return struct.pack(f"<{len(values)}h", *values)


def framed(packets: list[bytes], first: int | None = None) -> bytes:
    """As they stand on the wire, with numbers from `first` on."""
    parts = []
    for index, packet in enumerate(packets):
        parts.append(struct.pack("<H", len(packet)))
        if first is not None:
            parts.append(struct.pack("<I", (first + index) % 2**32))
        parts.append(packet)
    return b"".join(parts)
