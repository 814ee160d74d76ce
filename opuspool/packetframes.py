"""How frames lie in a packet (RFC 6716, section 3.2): lengths and padding."""

from __future__ import annotations


def length(packet: bytes, at: int, end: int) -> tuple[int, int]:
    """A frame's length and where what follows begins (RFC 6716, 3.2.1); -1: it is missing."""
    if at >= end:
        return -1, at
    first = packet[at]
    if first < 252:
        return first, at + 1
    if at + 1 >= end:
        return -1, at
    return 4 * packet[at + 1] + first, at + 2


def without_padding(packet: bytes, at: int, end: int) -> tuple[int, int]:
    """Where the frames begin and end without the padding; begin > end: it does not fit.

    Args:
        packet: one of code 3 whose frame count byte announces padding (RFC 6716, 3.2.5).
        at: where the padding's length stands.
        end: where the packet ends.
    """
    while at < len(packet):
        byte = packet[at]
        at += 1
        if byte < 255:
            return at, end - byte
        end -= 254
    return 1, 0
