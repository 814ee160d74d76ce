"""Quarantine: packets that have killed their workers are refused unseen, for a time; pure.

Known by digest, bounded, the longest unmet forgotten first. A packet of a few bytes (silence, a
loss marked by the sender) looks the same in every stream; it is judged anew each time.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

MIN_BYTES = 8
"""Smaller packets are not quarantined."""

DIGEST_BYTES = 16


def digest(packet: bytes) -> bytes:
    """A packet's digest, BLAKE2b of 128 bits."""
    return blake2b(packet, digest_size=DIGEST_BYTES).digest()


class Quarantine:
    """Digests of poison packets, each with the monotonic time until which it is refused."""

    def __init__(self, entries: int, seconds: float) -> None:
        self._most = entries
        self._seconds = seconds
        self._until: OrderedDict[bytes, float] = OrderedDict()
        self._sizes: set[int] = set()

    def __len__(self) -> int:
        return len(self._until)

    def resize(self, entries: int, seconds: float) -> None:
        """Take other limits; what is in it stays for as long as it was to."""
        self._most = entries
        self._seconds = seconds
        while len(self._until) > self._most:
            self._until.popitem(last=False)

    def add(self, packet: bytes, now: float) -> None:
        """Refuse a packet from now on."""
        if len(packet) < MIN_BYTES or not self._most:
            return
        key = digest(packet)
        self._until[key] = now + self._seconds
        self._until.move_to_end(key)
        self._sizes.add(len(packet))
        while len(self._until) > self._most:
            self._until.popitem(last=False)

    def holds(self, packet: bytes, now: float) -> bool:
        """Whether a packet is to be refused."""
        if len(packet) not in self._sizes:
            return False
        key = digest(packet)
        if self._until.get(key, now) <= now:
            return False
        self._until.move_to_end(key)
        return True

    def expire(self, now: float) -> None:
        """Forget what has been refused for long enough."""
        for key in [key for key, until in self._until.items() if until <= now]:
            del self._until[key]
        if not self._until:
            self._sizes.clear()
