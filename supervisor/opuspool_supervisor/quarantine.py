"""Quarantine: packets that have killed their workers are refused unseen, for a time; pure.

Known by digest, bounded, the longest unmet forgotten first. A packet of a few bytes (silence, a
loss marked by the sender) looks the same in every stream; it is judged anew each time.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from opuspool.digests import digest

MIN_BYTES = 8
"""Smaller packets are not quarantined."""

TOLD_PACKETS = 10_000
"""Workers are told of so many, the latest, at most."""


@dataclass(slots=True)
class _Entry:
    """A packet's length, and the monotonic time until which it is refused."""

    size: int
    until: float


class Quarantine:
    """Poison packets, by digest.

    Attributes:
        changes: how often what is refused has changed.
    """

    def __init__(self, entries: int, seconds: float) -> None:
        self.changes = 0
        self._most = entries
        self._seconds = seconds
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._sizes: set[int] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def resize(self, entries: int, seconds: float) -> None:
        """Take other limits; what is in it stays for as long as it was to."""
        self._most = entries
        self._seconds = seconds
        self._forget_oldest()

    def add(self, packet: bytes, now: float) -> None:
        """Refuse a packet from now on."""
        if len(packet) < MIN_BYTES or not self._most:
            return
        key = digest(packet)
        self._entries[key] = _Entry(len(packet), now + self._seconds)
        self._entries.move_to_end(key)
        self._sizes.add(len(packet))
        self.changes += 1
        self._forget_oldest()

    def holds(self, packet: bytes, now: float) -> bool:
        """Whether a packet is to be refused."""
        if len(packet) not in self._sizes:
            return False
        key = digest(packet)
        entry = self._entries.get(key)
        if entry is None or entry.until <= now:
            return False
        self._entries.move_to_end(key)
        return True

    def expire(self, now: float) -> None:
        """Forget what has been refused for long enough."""
        for key in [key for key, entry in self._entries.items() if entry.until <= now]:
            del self._entries[key]
            self.changes += 1
        if not self._entries:
            self._sizes.clear()

    def latest(self) -> list[tuple[int, bytes]]:
        """Lengths and digests of what is refused, for workers."""
        keys = list(self._entries)[-TOLD_PACKETS:]
        return [(self._entries[key].size, key) for key in keys]

    def _forget_oldest(self) -> None:
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)
            self.changes += 1
