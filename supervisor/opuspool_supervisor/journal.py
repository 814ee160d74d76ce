"""Checkpoint and log: what rebuilds a stream's decoder in another worker; pure.

The newest checkpoint of the decoder's state, and every operation settled since then. A rebuild
restores the one and replays the other: the decoder's future is the same, bit for bit, however
long the stream. Where workers cannot make checkpoints the log alone serves, with a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opuspool.wire import Action, Step

if TYPE_CHECKING:
    from opuspool_supervisor.dispatch import Stream


@dataclass(slots=True)
class Journal:
    """The settled operations of one stream since its checkpoint.

    Attributes:
        checkpoint: the newest checkpoint; None: the log starts at a fresh decoder.
        entries: settled operations, as (blob, number of operations).
        packets: operations in `entries`.
        exact: whether a rebuild gives the decoder's state bit for bit.
    """

    checkpoint: bytes | None = None
    entries: list[tuple[bytes, int]] = field(default_factory=list)
    packets: int = 0
    exact: bool = True

    def settle(self, blob: bytes, count: int, limit: int) -> None:
        """Append a settled request; what is over `limit` operations is dropped, oldest first."""
        self.entries.append((blob, count))
        self.packets += count
        while self.packets > limit and len(self.entries) > 1:
            self.packets -= self.entries.pop(0)[1]
            self.checkpoint = None
            self.exact = False

    def save(self, checkpoint: bytes) -> None:
        """Take a new checkpoint: all that is in the log lies before it."""
        self.checkpoint = checkpoint
        self.entries.clear()
        self.packets = 0
        self.exact = True

    def distrust(self, *, replayed: bool) -> None:
        """The rebuilt decoder killed its worker: next time leave out what may be damaged.

        First the checkpoint; then, where it died in the replay itself, the log.
        """
        if self.checkpoint is not None:
            self.checkpoint = None
            self.exact = False
        elif replayed and self.entries:
            self.entries.clear()
            self.packets = 0
            self.exact = False

    def rebuild(self, stream: Stream) -> list[tuple[Step, bytes]]:
        """The steps that make this stream's decoder in a worker that has none."""
        key, code = stream.key, stream.format.code
        if self.checkpoint is None:
            steps = [(Step(key, 0, 0, code, Action.OPEN), b"")]
        else:
            size = len(self.checkpoint)
            steps = [(Step(key, size, 0, code, Action.RESTORE), self.checkpoint)]
        for blob, count in self.entries:
            steps.append((Step(key, len(blob), count, code, Action.REPLAY), blob))
        return steps
