"""A packet's digest, by which poison is known; and many of them as one message."""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import TYPE_CHECKING

from opuspool.errors import WireError
from opuspool.wire import DIGEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

_ENTRY = struct.Struct(f"<I{DIGEST_BYTES}s")


def digest(packet: bytes) -> bytes:
    """A packet's digest, BLAKE2b of 128 bits."""
    return blake2b(packet, digest_size=DIGEST_BYTES).digest()


def pack(entries: Iterable[tuple[int, bytes]]) -> bytes:
    """The payload of REFUSE: lengths of packets, bytes, and their digests."""
    return b"".join([_ENTRY.pack(size, key) for size, key in entries])


def unpack(data: bytes) -> list[tuple[int, bytes]]:
    """Read the payload of REFUSE.

    Raises:
        WireError: it is none.
    """
    if len(data) % _ENTRY.size:
        raise WireError(f"{len(data)} bytes are not whole digests")
    return list(_ENTRY.iter_unpack(data))
