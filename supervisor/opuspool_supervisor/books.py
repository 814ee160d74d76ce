"""The books: every counter of a supervisor; accepted = finished + queued + in flight."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from opuspool.errors import WireError
from opuspool.recorder import TICKS_PER_SECOND
from opuspool.wire import MAX_RECORDS

if TYPE_CHECKING:
    from opuspool import wire
    from opuspool.recorder import LaneCounts

RESTART_REASONS = (
    "segv",
    "abort",
    "bus",
    "ill",
    "fpe",
    "killed",
    "access_violation",
    "heap_corruption",
    "stack_overflow",
    "hang",
    "heartbeat",
    "exit",
    "boot",
    "recycled_age",
    "recycled_requests",
    "recycled_memory",
)
"""Why a worker ended; the values of the metrics' label `reason`."""

OUTCOMES = (
    "ok",
    "invalid",
    "poison",
    "timeout",
    "overloaded",
    "closed",
    "boot",
    "shutdown",
    "bad_request",
    "abandoned",
)
"""How a request ended; `abandoned`: its client went away first."""

ACCESS_VIOLATIONS = frozenset({"segv", "access_violation"})
"""Reasons that name one thing, a read or write outside the process's memory, on two systems."""


@dataclass(slots=True)
class Books:
    """Counters since the supervisor's start."""

    accepted: int = 0
    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    packets_decoded: int = 0
    audio_seconds: float = 0.0
    spawns: int = 0
    worker_restarts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(RESTART_REASONS, 0)
    )
    access_violations: int = 0
    retries: int = 0
    streams_moved: int = 0
    streams_handed_over: int = 0
    streams_lent: int = 0
    streams_returned: int = 0
    ended_by_clients: int = 0
    replayed_packets: int = 0
    checkpoints: int = 0
    inexact_rebuilds: int = 0
    poison_packets: int = 0
    quarantine_hits: int = 0
    held_requests: int = 0
    delayed_retries: int = 0
    canaries: int = 0
    protocol_errors: int = 0
    refused_peers: int = 0
    crash_reports: int = 0
    crash_report_errors: int = 0

    def worker_ended(self, reason: str) -> None:
        """Count a worker's end by its cause."""
        self.worker_restarts[reason] += 1
        if reason in ACCESS_VIOLATIONS:
            self.access_violations += 1

    def add_by_lane(self, done: LaneCounts) -> None:
        """Count what a worker has done for clients by lanes."""
        self.accepted += done.requests
        for outcome in ("ok", "invalid", "poison"):
            self.requests[outcome] += getattr(done, outcome)
        self.packets_decoded += done.packets
        self.audio_seconds += done.ticks / TICKS_PER_SECOND
        self.quarantine_hits += done.refused
        self.checkpoints += done.checkpoints

    def add_ended(self, message: wire.Message) -> None:
        """Count the calls by lanes that a client has ended itself."""
        try:
            ended = message.json()
        except WireError:
            self.protocol_errors += 1
            return
        for outcome in ("timeout", "overloaded"):
            number = ended.get(outcome, 0)
            if isinstance(number, int) and 0 < number <= MAX_RECORDS:
                self.accepted += number
                self.ended_by_clients += number
                self.requests[outcome] += number

    def as_dict(self) -> dict[str, Any]:
        """All counters, for `status()`."""
        return asdict(self)
