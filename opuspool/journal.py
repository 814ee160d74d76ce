"""Checkpoint and log: the newest copy of a decoder's state, and what has been done since.

The client keeps one for each of its streams too, so that they outlive a supervisor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opuspool import ops

if TYPE_CHECKING:
    from collections.abc import Iterator

JOINED = 64
"""Operations in a blob of joined ones, unless one entry alone has more."""

_GAIN = bytes([ops.OpKind.GAIN])


@dataclass(slots=True)
class Log:
    """The settled operations of one stream since its checkpoint.

    Attributes:
        checkpoint: the newest checkpoint; None: the log starts at a fresh decoder.
        entries: settled operations, as (blob, number of operations).
        packets: operations in `entries`.
        gain: the last GAIN operation, which outlives what is dropped.
        exact: whether checkpoint and log give the decoder's state bit for bit.
    """

    checkpoint: bytes | None = None
    entries: list[tuple[bytes, int]] = field(default_factory=list)
    packets: int = 0
    gain: bytes | None = None
    exact: bool = True

    def settle(self, blob: bytes, count: int, limit: int) -> None:
        """Append settled operations; what is over `limit` operations is dropped, oldest first."""
        if count > 1 or blob[3:4] == _GAIN:  # nearly all have one operation, which is no gain
            self.gain = ops.last_gain(blob, count) or self.gain
        self.entries.append((blob, count))
        self.packets += count
        if self.packets > limit:
            self.cut(limit)

    def cut(self, limit: int) -> None:
        """Drop what is over `limit` operations, oldest first."""
        while self.packets > limit and len(self.entries) > 1:
            self.packets -= self.entries.pop(0)[1]
            self.checkpoint = None
            self.exact = False

    def joined(self) -> Iterator[tuple[bytes, int]]:
        """The settled operations as few blobs, in their order."""
        heads: list[bytes] = []
        packets: list[bytes] = []
        count = 0
        for blob, more in self.entries:
            if count and count + more > JOINED:
                yield b"".join([*heads, *packets]), count
                heads, packets, count = [], [], 0
            heads.append(blob[: 4 * more])
            packets.append(blob[4 * more :])
            count += more
        if count:
            yield b"".join([*heads, *packets]), count

    def save(self, checkpoint: bytes) -> None:
        """Take a new checkpoint: all that is in the log lies before it."""
        self.checkpoint = checkpoint
        self.entries.clear()
        self.packets = 0
        self.exact = True
