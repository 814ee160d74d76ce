"""Packets out of a byte stream: `uint16_le length [uint32_le number] packet`, again and again."""

from __future__ import annotations

import logging
import struct

MAX_PACKET_BYTES = 4096
"""A longer packet is taken for a broken stream."""

_LENGTH = struct.Struct("<H")
_LENGTH_AND_NUMBER = struct.Struct("<HI")

logger = logging.getLogger(__name__)


class PacketFramer:
    """Takes bytes in pieces of any size and gives whole packets.

    A length of 0, or more than `MAX_PACKET_BYTES`, cannot be right, and where the next packet
    begins is then unknown: all that is buffered is thrown away, and an error is logged. The next
    `feed` should begin with a packet; a connection is better closed.

    Args:
        with_seq: packets have numbers.
    """

    def __init__(self, with_seq: bool = False) -> None:  # noqa: FBT001, FBT002, RUF100  the original's signature
        self.with_seq = with_seq
        self._header = _LENGTH_AND_NUMBER if with_seq else _LENGTH
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take bytes as they come."""
        self._buffer += data

    def try_pop(self) -> tuple[int | None, bytes] | None:
        """The next packet with its number, if it has one; None: there is no whole packet yet."""
        if len(self._buffer) < self._header.size:
            return None
        length, *numbers = self._header.unpack_from(self._buffer)
        if not 0 < length <= MAX_PACKET_BYTES:
            logger.error(
                "a packet of %d bytes, not 1 to %d: %d buffered bytes are thrown away",
                length,
                MAX_PACKET_BYTES,
                len(self._buffer),
            )
            self._buffer.clear()
            return None
        end = self._header.size + length
        if len(self._buffer) < end:
            return None
        packet = bytes(self._buffer[self._header.size : end])
        del self._buffer[:end]
        return (numbers[0] if numbers else None), packet

    def clear(self) -> None:
        """Forget what is buffered."""
        self._buffer.clear()
