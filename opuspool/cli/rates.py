"""What two readings of a status tell: rates and percentiles of the time between; pure."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

__all__ = ["percentile", "rate"]

Report = dict[str, Any]


def rate(before: Report | None, now: Report, counter: str) -> float | None:
    """A counter's growth a second; None without an earlier reading of the same daemon."""
    if before is None or before["supervisor"]["pid"] != now["supervisor"]["pid"]:
        return None
    span = now["supervisor"]["uptime_seconds"] - before["supervisor"]["uptime_seconds"]
    if span <= 0:
        return None
    return float((now["counters"][counter] - before["counters"][counter]) / span)


def percentile(before: Report | None, now: Report, timing: str, percent: float) -> float | None:
    """The upper bound (seconds) of the bucket in which a percentile lies; None without values.

    Of the values between the two readings; of all where there were none between.
    """
    histogram = now["timings"][timing]
    counts: list[int] = histogram["counts"]
    if before is not None and before["supervisor"]["pid"] == now["supervisor"]["pid"]:
        earlier = before["timings"][timing]["counts"]
        since = [n - m for n, m in zip(counts, earlier, strict=True)]
        counts = since if any(since) else counts
    total = sum(counts)
    if not total:
        return None
    bounds: list[float] = histogram["bounds"]
    for bound, seen in zip(bounds, accumulate(counts), strict=False):
        if seen >= total * percent / 100:
            return bound
    return bounds[-1]
