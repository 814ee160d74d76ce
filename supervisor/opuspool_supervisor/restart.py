"""The restart policy: when a slot may start its next worker; pure.

A worker that had served is replaced at once, at first; when its slot's deaths come thick, after a
growing delay. A worker that never got READY (a boot failure) is retried after a delay that doubles
every time. More than `intensity` deaths within `period` seconds (OTP's restart intensity): the
slot is FAILED, and one probe is started every `failed_retry` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from opuspool.config import RestartConfig
    from opuspool_supervisor.slots import Slot, Worker

FREE_RESTARTS = 5
"""Deaths within the period that are replaced without delay."""

CRASH_BACKOFF_STEPS = 10
"""A crash after good work never waits longer than this many times the first backoff."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """When to start the next worker (monotonic seconds), and whether the slot is FAILED."""

    due: float
    failed: bool = False


class RestartPolicy:
    """Decides on each death of a worker."""

    def __init__(self, config: RestartConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng

    def judge(self, slot: Slot, worker: Worker, now: float) -> Verdict:
        """Note a death in the slot's history and say when its next worker may start."""
        config = self._config
        deaths = slot.deaths
        deaths.append(now)
        while deaths[0] <= now - config.period_seconds:
            deaths.popleft()
        slot.boot_failures = slot.boot_failures + 1 if worker.ready is None else 0
        if len(deaths) > config.intensity:
            return Verdict(now + self._jitter(config.failed_retry_seconds), failed=True)
        if worker.ready is None:
            return Verdict(now + self._backoff(slot.boot_failures, config.backoff_max_seconds))
        extra = len(deaths) - FREE_RESTARTS
        if extra <= 0:
            return Verdict(now)
        most = config.backoff_max_seconds
        if worker.settled:
            most = min(most, CRASH_BACKOFF_STEPS * config.backoff_seconds)
        return Verdict(now + self._backoff(extra, most))

    def _backoff(self, step: int, most: float) -> float:
        return self._jitter(min(most, self._config.backoff_seconds * 2 ** min(step - 1, 30)))

    def _jitter(self, seconds: float) -> float:
        return seconds * self._rng.uniform(0.75, 1.25)
