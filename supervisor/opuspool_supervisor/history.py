"""The last deaths of workers, and how many there were by minute and cause; pure and bounded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

ENDS = 50
"""So many of the last ends are kept."""

MINUTES = 60
"""Minutes over which ends are counted by cause."""


@dataclass(frozen=True, slots=True)
class End:
    """One worker's end: when (monotonic, seconds), where, and why."""

    at: float
    slot: int
    generation: int
    pid: int | None
    reason: str
    cause: str


class History:
    """Ends of workers within the last hour."""

    def __init__(self) -> None:
        self._ends: deque[End] = deque(maxlen=ENDS)
        self._minutes: deque[tuple[int, dict[str, int]]] = deque(maxlen=MINUTES)

    def add(self, end: End) -> None:
        """Note an end."""
        self._ends.append(end)
        minute = int(end.at // 60)
        if not self._minutes or self._minutes[-1][0] != minute:
            self._minutes.append((minute, {}))
        counts = self._minutes[-1][1]
        counts[end.reason] = counts.get(end.reason, 0) + 1

    def as_dict(self, now: float) -> dict[str, Any]:
        """`ends`, the newest first; `minutes`: counts by reason and minutes ago (0: this one)."""
        this = int(now // 60)
        return {
            "ends": [_end(end, now) for end in reversed(self._ends)],
            "minutes": [
                {"ago": this - minute, "reasons": dict(reasons)}
                for minute, reasons in self._minutes
                if this - minute < MINUTES
            ],
        }


def _end(end: End, now: float) -> dict[str, Any]:
    return {
        "ago_seconds": now - end.at,
        "slot": end.slot,
        "generation": end.generation,
        "pid": end.pid,
        "reason": end.reason,
        "cause": end.cause,
    }
