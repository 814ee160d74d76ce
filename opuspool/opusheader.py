"""The two headers of an Ogg Opus stream (RFC 7845, section 5)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from opuspool.errors import InvalidFileError

__all__ = ["MAX_TAGS_BYTES", "OpusHead", "check_tags", "is_head"]

MAX_TAGS_BYTES = 125_829_120
"""A longer comment header may be refused (RFC 7845, section 5.2)."""

_MAGIC = b"OpusHead"
_HEAD = struct.Struct("<8xBBHIhB")
_FAMILIES = {1: "surround", 2: "ambisonics", 3: "ambisonics", 255: "independent channels"}


@dataclass(frozen=True, slots=True)
class OpusHead:
    """What the identification header says (RFC 7845, section 5.1).

    Attributes:
        channels: 1 or 2.
        pre_skip: samples at 48 kHz to drop at the start, 0 to 65535.
        gain: output gain in 1/256 dB, -32768 to 32767.
    """

    channels: int
    pre_skip: int
    gain: int

    @classmethod
    def parse(cls, packet: bytes) -> OpusHead:
        """Read the packet.

        Raises:
            InvalidFileError: it is damaged, or of a kind that is not supported.
        """
        if len(packet) > len(_MAGIC) and packet[8] > 15:
            # The upper four bits change where older decoders must not go on.
            raise InvalidFileError(
                f"its Opus header has version {packet[8]}, and only versions up to 15 can be read; "
                "check for a newer opuspool"
            )
        if len(packet) < _HEAD.size:
            raise _damaged(f"it has {len(packet)} bytes and needs {_HEAD.size}")
        version, channels, pre_skip, _, gain, family = _HEAD.unpack_from(packet)
        if channels == 0:
            raise _damaged("it names 0 channels")
        _check_mapping(packet, channels, family)
        if version <= 1 and len(packet) != _HEAD.size + (2 + channels) * (family == 1):
            raise _damaged(f"it has {len(packet)} bytes, too many")
        return cls(channels, pre_skip, gain)


def is_head(packet: bytes) -> bool:
    """Whether the first packet of an Ogg stream says that the stream is Opus."""
    return packet.startswith(_MAGIC)


def check_tags(packet: bytes) -> None:
    """Refuse a packet that is not a whole comment header (RFC 7845, section 5.2).

    Raises:
        InvalidFileError: it is not.
    """
    if not packet.startswith(b"OpusTags"):
        raise InvalidFileError(
            "its second Opus packet is not the comment header (OpusTags); the file is damaged: "
            "write it anew with a correct muxer, such as ffmpeg or opusenc"
        )
    try:
        at = _after_string(packet, 8)
        (count,) = struct.unpack_from("<I", packet, at)
        at += 4
        for _ in range(count):
            at = _after_string(packet, at)
    except struct.error:
        raise InvalidFileError(
            "its comment header (OpusTags) ends too early; the file is damaged: write it anew"
        ) from None


def _check_mapping(packet: bytes, channels: int, family: int) -> None:
    """Let pass what one mono or stereo decoder can decode (RFC 7845, section 5.1.1)."""
    if family == 0 and channels > 2:
        raise _damaged(f"it names {channels} channels in mapping family 0, which has at most 2")
    if family == 0:
        return
    if family == 1 and channels <= 2:
        # One stream, in the usual order: the same as family 0.
        if packet[19:] == bytes([1, channels - 1, *range(channels)]):
            return
        raise InvalidFileError(
            f"its {channels} channels are mapped to several or swapped streams (mapping family 1), "
            "which is not supported; encode it anew: ffmpeg -i FILE out.opus"
        )
    kind = _FAMILIES.get(family, "unknown")
    raise InvalidFileError(
        f"it has {channels} channels in mapping family {family} ({kind}): surround and other "
        "multistream Opus is not supported yet; mix it down: ffmpeg -i FILE -ac 2 out.opus"
    )


def _after_string(packet: bytes, at: int) -> int:
    """Where a string that begins at `at` with its 32-bit length ends."""
    (size,) = struct.unpack_from("<I", packet, at)
    end = at + 4 + int(size)
    if end > len(packet):
        raise struct.error
    return end


def _damaged(what: str) -> InvalidFileError:
    return InvalidFileError(f"its Opus header is damaged: {what}; write the file anew")
