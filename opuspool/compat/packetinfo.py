"""What a packet's first bytes say: libopus's `opus_packet_get_*` functions, without libopus."""

from __future__ import annotations

from opuspool.compat.codes import CodeError
from opuspool.compat.opusdefines import BAD_ARG, INVALID_PACKET
from opuspool.toc import FRAME_UNITS


def nb_frames(packet: bytes) -> int:
    """Frames in a packet, 0 to 63 (`opus_packet_get_nb_frames`).

    Raises:
        CodeError: `BAD_ARG`: it is empty; `INVALID_PACKET`: its frame count is missing.
    """
    if not packet:
        raise CodeError(BAD_ARG)
    code = packet[0] & 3
    if code < 3:
        return min(code + 1, 2)
    if len(packet) < 2:
        raise CodeError(INVALID_PACKET)
    return packet[1] & 63


def nb_channels(packet: bytes) -> int:
    """Channels that were encoded, 1 or 2 (`opus_packet_get_nb_channels`)."""
    return 2 if _toc(packet) & 4 else 1


def samples_per_frame(packet: bytes, sample_rate: int) -> int:
    """Samples per channel of one frame at a rate in Hz (`opus_packet_get_samples_per_frame`)."""
    return FRAME_UNITS[_toc(packet)] * sample_rate // 400


def _toc(packet: bytes) -> int:
    """A packet's first byte; of an empty one libopus sees the zero behind it."""
    return packet[0] if packet else 0
