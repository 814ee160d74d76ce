"""How long leases and recoveries take, as histograms; pure, and cheap: one note a lease."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opuspool_supervisor.records import Lease, Request

DECODE_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds: from one packet's round trip to `[workers] hang_seconds` and beyond."""

RECOVERY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from a warm spare's takeover to a restart after backoff."""


class Histogram:
    """Counts of values by upper bound; the last count is of those above every bound."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def as_dict(self) -> dict[str, Any]:
        """A copy for `status()`: bounds in seconds, a count for each and one more, their sum."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}


class Timings:
    """The histograms of one supervisor.

    Attributes:
        decode: from the making of a lease to its results.
        recovery: from a worker's end to the results, of another, of a request that it had in hand.
    """

    def __init__(self) -> None:
        self.decode = Histogram(DECODE_BOUNDS)
        self.recovery = Histogram(RECOVERY_BOUNDS)
        self._lost: dict[Request, float] = {}

    def lost(self, requests: Iterable[Request], now: float) -> None:
        """A worker has died with these in hand."""
        self._forget_answered()
        for request in requests:
            if not request.answered:
                self._lost.setdefault(request, now)

    def settled(self, lease: Lease, now: float) -> None:
        """A lease of clients' requests has its results."""
        self.decode.observe(now - lease.made)
        if self._lost:
            self._recovered(lease, now)

    def _recovered(self, lease: Lease, now: float) -> None:
        for request in lease.requests():
            since = self._lost.pop(request, None)
            if since is not None:
                self.recovery.observe(now - since)
        self._forget_answered()

    def _forget_answered(self) -> None:
        """Some have had their answer otherwise: too late, or their client has left."""
        for request in [request for request in self._lost if request.answered]:
            del self._lost[request]

    def as_dict(self) -> dict[str, Any]:
        """Both, for `status()`."""
        return {
            "decode_seconds": self.decode.as_dict(),
            "recovery_seconds": self.recovery.as_dict(),
        }
