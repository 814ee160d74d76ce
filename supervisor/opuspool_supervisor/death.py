"""How a worker ended: all that is known of it when its process is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opuspool.recorder import LaneCounts, Position


@dataclass(frozen=True, slots=True)
class Death:
    """How a worker ended.

    Attributes:
        reason: one of `books.RESTART_REASONS`.
        words: the same for a reader ("SIGSEGV", "exit code 66: libopus was not found ...").
        position: what its flight recorder says; None where it cannot be read.
        fault_text: what faulthandler wrote.
        stderr_tail: the end of its standard error.
        by_lane: what it had done for clients by lanes; None: that cannot be read.
        kept: the packets that it ran last for them, the newest last; None: those of a
            batch that was too long to be kept.
    """

    reason: str
    words: str
    position: Position | None = None
    fault_text: str = ""
    stderr_tail: str = ""
    by_lane: LaneCounts | None = None
    kept: tuple[bytes | None, ...] = ()
