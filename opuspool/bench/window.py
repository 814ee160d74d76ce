"""The time in which calls are counted, and the calls that were noted."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from opuspool.bench.loads import Load

__all__ = ["Timings", "Window"]

WARM_UP_SHARE = 0.25
"""Of the measured time, that goes by before it."""


class Timings(msgspec.Struct, frozen=True):
    """What a window has seen.

    Attributes:
        packets_per_second: of the calls that ended in it.
        calls: their number.
        p50_ms, p99_ms: their latencies.
    """

    packets_per_second: float
    calls: int
    p50_ms: float
    p99_ms: float


class Window:
    """A warm-up, then `seconds` that count.

    Attributes:
        calls: begin and end of each call, `time.perf_counter` seconds; callers append.
        stop: callers make no call after it.
    """

    def __init__(self, seconds: float) -> None:
        self.start = time.perf_counter() + WARM_UP_SHARE * seconds
        self.stop = self.start + seconds
        self.calls: list[tuple[float, float]] = []

    def cancel(self) -> None:
        """Let all callers end after the call that they are in."""
        self.stop = -math.inf

    def timings(self, load: Load) -> Timings:
        """What was seen.

        A window in which fewer calls ended than were made at once goes on to the last one's end.
        """
        calls = np.array(self.calls).reshape(-1, 2)
        ends = calls[:, 1]
        ended = calls[(ends >= self.start) & (ends <= self.stop)]
        stop = self.stop
        if len(ended) < load.at_once:
            ended = calls[ends >= self.start]
            stop = float(ends.max(initial=self.stop))
        if not len(ended):
            raise RuntimeError(f"no call ended in {stop - self.start:.1f} s")
        p50, p99 = np.percentile(1000 * (ended[:, 1] - ended[:, 0]), (50, 99))
        rate = len(ended) * load.packets / (stop - self.start)
        return Timings(rate, len(ended), float(p50), float(p99))
