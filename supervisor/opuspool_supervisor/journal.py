"""Checkpoint and log: what rebuilds a stream's decoder in another worker; pure.

The newest checkpoint of the decoder's state, and every operation settled since then. A rebuild
restores the one and replays the other: the decoder's future is the same, bit for bit, however
long the stream. Where workers cannot make checkpoints the log alone serves, with a limit.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from opuspool.journal import Log
from opuspool.wire import Action, Step

if TYPE_CHECKING:
    from opuspool_supervisor.records import Stream


class Trust(IntEnum):
    """How much of a journal a rebuild uses; less where rebuilt decoders keep killing."""

    ALL = 0
    """The checkpoint and the log: exact."""
    LOG = 1
    """A fresh decoder and the log: the checkpoint of a dying worker may be damaged."""
    NOTHING = 2
    """A fresh decoder: what killed it later may be in the log."""


class Journal(Log):
    """A stream's checkpoint and log, and how a rebuild uses them."""

    __slots__ = ()

    def commit(self, trust: Trust) -> None:
        """A decoder that was rebuilt with less than all has decoded: forget the rest."""
        if trust > Trust.ALL:
            self.checkpoint = None
            self.exact = False
        if trust is Trust.NOTHING:
            self.entries.clear()
            self.packets = 0

    def rebuild(self, stream: Stream, trust: Trust) -> list[tuple[Step, bytes]]:
        """The steps that make this stream's decoder in a worker that has none."""
        key, code = stream.key, stream.format.code
        if self.checkpoint is not None and trust is Trust.ALL:
            size = len(self.checkpoint)
            steps = [(Step(key, size, 0, code, Action.RESTORE), self.checkpoint)]
        else:
            steps = [(Step(key, 0, 0, code, Action.OPEN), b"")]
            if self.gain is not None and (trust is not Trust.ALL or not self.exact):
                steps.append((Step(key, len(self.gain), 1, code, Action.REPLAY), self.gain))
        if trust is not Trust.NOTHING:
            for blob, count in self.entries:
                steps.append((Step(key, len(blob), count, code, Action.REPLAY), blob))
        return steps
