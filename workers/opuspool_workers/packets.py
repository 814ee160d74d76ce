"""RFC 6716's rules for packets (section 3.4, R1 to R7), checked before libopus sees one."""

from __future__ import annotations

from opuspool.packetframes import length, without_padding
from opuspool.streamformat import MAX_PACKET_BYTES
from opuspool.toc import FRAME_UNITS, MAX_UNITS

MAX_FRAME_BYTES = 1275
"""R2: no frame is longer."""


def violation(packet: bytes) -> str | None:
    """The rule that a packet breaks, in words; None where it breaks none."""
    size = len(packet)
    if not size:
        return "R1: the packet is empty"
    toc = packet[0]
    code = toc & 3
    if code == 0:
        return None if size <= MAX_FRAME_BYTES + 1 else f"R2: a frame of {size - 1} bytes"
    if size > MAX_PACKET_BYTES:
        return f"{size} bytes, more than any packet of one stream has (RFC 7845, section 6)"
    if code == 1:
        return _two_equal(size - 1)
    if code == 2:
        return _two_different(packet)
    return _many(packet)


def _two_equal(size: int) -> str | None:
    if size % 2:
        return f"R3: {size} bytes for two equal frames"
    return _frame(size // 2)


def _two_different(packet: bytes) -> str | None:
    first, at = length(packet, 1, len(packet))
    if first < 0 or at + first > len(packet):
        return "R4: the first frame's length does not fit the packet"
    return _frame(len(packet) - at - first)


def _many(packet: bytes) -> str | None:
    end = len(packet)
    if end < 2:
        return "R6, R7: the frame count byte is missing"
    count = packet[1]
    frames = count & 63
    units = frames * FRAME_UNITS[packet[0]]
    if not frames or units > MAX_UNITS:
        return f"R5: {units * 2.5:g} ms of audio, more than 0 and at most 120 ms"
    at = 2
    if count & 64:
        at, end = without_padding(packet, at, end)
    if at > end:
        return "R6, R7: the padding does not fit the packet"
    return _variable(packet, at, end, frames) if count & 128 else _constant(end - at, frames)


def _constant(size: int, frames: int) -> str | None:
    if size % frames:
        return f"R6: {size} bytes for {frames} equal frames"
    return _frame(size // frames)


def _variable(packet: bytes, at: int, end: int, frames: int) -> str | None:
    total = 0
    for _ in range(frames - 1):
        size, at = length(packet, at, end)
        if size < 0:
            return "R7: a frame's length is missing"
        total += size
    if at + total > end:
        return "R7: the frames do not fit the packet"
    return _frame(end - at - total)


def _frame(size: int) -> str | None:
    return None if size <= MAX_FRAME_BYTES else f"R2: a frame of {size} bytes"
