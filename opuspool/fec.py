"""Does a packet carry in-band FEC: a coarse copy of the sound just before it?

SILK calls it LBRR, low bit-rate redundancy (RFC 6716, 4.2.2). Whether it is there stands in the
header bits at the front of a packet's first frame (RFC 6716, 4.2.3):

    n x VAD flag, LBRR flag     of each channel, mid before side; n frames of 20 ms, or 1 of 10 ms

Each is a bit of probability 1/2, so that the range coder leaves them readable as they are: they
are the first byte's bits from the top. libopus reads them the same way
(`opus_packet_has_lbrr`, `src/opus_decoder.c`, from 1.5 on).
"""

from __future__ import annotations

from opuspool.packetframes import length, without_padding
from opuspool.toc import FRAME_UNITS

CELT = 0x80
"""A first byte with this bit: CELT alone, which has no FEC (RFC 6716, table 2)."""

_STEREO = 0x04
_UNITS_A_SILK_FRAME = 8
_PADDED, _VBR, _FRAMES = 0x40, 0x80, 0x3F  # the frame count byte (RFC 6716, 3.2.5)


def has_fec(packet: bytes) -> bool:
    """Whether a packet can give some of the sound before it; False where it is malformed.

    That sound is as long as one of the packet's frames. Of frames of 40 and 60 ms the copy may have
    gaps of its own, which libopus conceals.
    """
    if not packet or packet[0] & CELT:
        return False
    at, size = _first_frame(packet)
    if size < 2:  # nothing, or a pause that was not sent (DTX): libopus conceals it
        return False
    silk_frames = max(1, FRAME_UNITS[packet[0]] // _UNITS_A_SILK_FRAME)
    lbrr = 0x80 >> silk_frames
    if packet[0] & _STEREO:
        lbrr |= lbrr >> (silk_frames + 1)
    return bool(packet[at] & lbrr)


def _first_frame(packet: bytes) -> tuple[int, int]:
    """Where a packet's first frame begins, and its bytes (RFC 6716, 3.2); none: it has no frame.

    A packet that is malformed behind its first frame is left to the worker, which refuses it.
    """
    end = len(packet)
    code = packet[0] & 3
    if code == 3:
        return _first_of_many(packet)
    if code == 2:
        size, at = length(packet, 1, end)
        return at, min(size, end - at)
    return 1, (end - 1) // (code + 1)


def _first_of_many(packet: bytes) -> tuple[int, int]:
    end = len(packet)
    frames = packet[1] & _FRAMES if end > 1 else 0
    if not frames:
        return 0, 0
    at = 2
    if packet[1] & _PADDED:
        at, end = without_padding(packet, at, end)
    if not packet[1] & _VBR:
        return at, (end - at) // frames
    sizes = []
    for _ in range(frames - 1):
        size, at = length(packet, at, end)
        sizes.append(size)
    return at, min([*sizes[:1], end - at])
