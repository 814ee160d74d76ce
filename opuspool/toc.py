"""The table-of-contents byte of an Opus packet (RFC 6716, section 3.1)."""

from __future__ import annotations

MAX_UNITS = 48
"""R5: a packet holds at most 120 ms, in units of 2.5 ms."""

SAMPLES_A_UNIT = 120
"""Samples of 2.5 ms at 48 kHz."""

_BANDWIDTHS = ("narrowband", "mediumband", "wideband", "superwideband", "fullband")


def _units(config: int) -> int:
    """Length of a configuration's frames in units of 2.5 ms (RFC 6716, table 2)."""
    if config < 12:  # SILK: 10, 20, 40, 60 ms
        return (4, 8, 16, 24)[config % 4]
    if config < 16:  # hybrid: 10, 20 ms
        return (4, 8)[config % 2]
    return (1, 2, 4, 8)[config % 4]  # CELT: 2.5, 5, 10, 20 ms


FRAME_UNITS = tuple(_units(toc >> 3) for toc in range(256))
"""Length of a frame in units of 2.5 ms, by the first byte of its packet."""


def units(packet: bytes) -> int:
    """A packet's length in units of 2.5 ms; 0 where it has none or more than 120 ms."""
    if not packet:
        return 0
    code = packet[0] & 3
    frames = (1, 2, 2, packet[1] & 63 if len(packet) > 1 else 0)[code]
    total = frames * FRAME_UNITS[packet[0]]
    return total if total <= MAX_UNITS else 0


def words(packet: bytes) -> str:
    """What a packet says of itself, such as "SILK wideband, 20 ms frames, mono, code 0"."""
    if not packet:
        return "empty"
    toc = packet[0]
    config = toc >> 3
    if config < 12:
        mode, bandwidth = "SILK", _BANDWIDTHS[config // 4]
    elif config < 16:
        mode, bandwidth = "hybrid", _BANDWIDTHS[3 + (config - 12) // 2]
    else:
        mode, bandwidth = "CELT", (_BANDWIDTHS[0], *_BANDWIDTHS[2:])[(config - 16) // 4]
    channels = "stereo" if toc & 4 else "mono"
    return f"{mode} {bandwidth}, {FRAME_UNITS[toc] * 2.5:g} ms frames, {channels}, code {toc & 3}"
