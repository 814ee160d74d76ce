"""How long leases and recoveries take, as histograms; pure, and cheap: one note a lease."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from opuspool.recorder import DECODE_BOUNDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opuspool.recorder import LaneCounts
    from opuspool_supervisor.records import Lease, Request

RECOVERY_BOUNDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: from a warm spare's takeover to a restart after backoff."""


class Histogram:
    """Counts of values by upper bound; the last count is of those above every bound."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add(self, counts: Sequence[int], total: float) -> None:
        """Add what another histogram with these bounds has counted."""
        self._counts = [mine + its for mine, its in zip(self._counts, counts, strict=True)]
        self._sum += total

    def as_dict(self) -> dict[str, Any]:
        """A copy for `status()`: bounds in seconds, a count for each and one more, their sum."""
        return {"bounds": list(self._bounds), "counts": list(self._counts), "sum": self._sum}


class Timings:
    """The histograms of one supervisor.

    Attributes:
        decode: seconds from a lease's making to its results, and of a client's batch in its
            worker; canaries are left out.
        recovery: seconds from the end of a worker with requests in hand until the last of these
            has its answer.
    """

    def __init__(self) -> None:
        self.decode = Histogram(DECODE_BOUNDS)
        self.recovery = Histogram(RECOVERY_BOUNDS)
        self._recovering: list[tuple[float, list[Request]]] = []

    def settled(self, lease: Lease, now: float) -> None:
        """A lease's results have been taken."""
        if not lease.canary:
            self.decode.observe(now - lease.made)
        if self._recovering:
            self.look(now)

    def died(self, lease: Lease | None, now: float) -> None:
        """A worker has ended with this lease in hand."""
        requests = lease.requests() if lease else []
        if waiting := [request for request in requests if not request.answered]:
            self._recovering.append((now, waiting))

    def came_back(self, request: Request, since: float) -> None:
        """A request that a worker had in hand for its client when it ended at that time."""
        for died, requests in self._recovering:
            if died == since:
                requests.append(request)
                return
        self._recovering.append((since, [request]))

    def by_lane(self, done: LaneCounts) -> None:
        """Add what a worker has done for clients by lanes."""
        self.decode.add(done.times, done.microseconds / 1e6)

    def look(self, now: float) -> None:
        """Find the recoveries that are over; some requests get their answer otherwise."""
        still: list[tuple[float, list[Request]]] = []
        for since, requests in self._recovering:
            if waiting := [request for request in requests if not request.answered]:
                still.append((since, waiting))
            else:
                self.recovery.observe(now - since)
        self._recovering = still

    def as_dict(self) -> dict[str, Any]:
        """Both, for `status()`."""
        return {
            "decode_seconds": self.decode.as_dict(),
            "recovery_seconds": self.recovery.as_dict(),
        }
