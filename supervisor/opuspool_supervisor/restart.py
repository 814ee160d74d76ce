"""The restart policy: when a slot may start its next worker; pure.

- A worker that never got READY (a boot failure): after a delay that doubles every time.
- One that died before it had settled anything: at once; when that happens again and again, after
  a growing delay, since something kills workers as soon as they serve.
- One that had done good work: at once; when its slot's deaths come thick, after a short delay.
- More than `intensity` deaths within `period` seconds (OTP's restart intensity): the slot is
  FAILED, and one probe is started every `failed_retry` seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

    from opuspool.config import RestartConfig
    from opuspool_supervisor.slots import Slot, Worker

FREE_RESTARTS = 5
"""Deaths that are replaced without delay: within the period, or fruitless ones in a row."""

USEFUL_STEPS = 10
"""After good work, no delay is longer than this many times the first backoff."""

FRUITLESS_STEPS = 50
"""After READY, no delay is longer than this many times the first backoff."""


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

    def reconfigure(self, config: RestartConfig) -> None:
        """Decide by other settings from now on."""
        self._config = config

    def judge(self, slot: Slot, worker: Worker, now: float) -> Verdict:
        """Note a death in the slot's history and say when its next worker may start."""
        config = self._config
        deaths = slot.deaths
        deaths.append(now)
        while deaths[0] <= now - config.period_seconds:
            deaths.popleft()
        booted = worker.ready is not None
        slot.boot_failures = 0 if booted else slot.boot_failures + 1
        slot.fruitless = 0 if worker.settled else slot.fruitless + booted
        if len(deaths) > config.intensity:
            return Verdict(now + self._jitter(config.failed_retry_seconds), failed=True)
        if not booted:
            return Verdict(now + self._backoff(slot.boot_failures, config.backoff_max_seconds))
        if worker.settled:
            step, steps = len(deaths) - FREE_RESTARTS, USEFUL_STEPS
        else:
            step, steps = slot.fruitless - FREE_RESTARTS, FRUITLESS_STEPS
        if step <= 0:
            return Verdict(now)
        most = min(config.backoff_max_seconds, steps * config.backoff_seconds)
        return Verdict(now + self._backoff(step, most))

    def _backoff(self, step: int, most: float) -> float:
        return min(most, self._jitter(self._config.backoff_seconds * 2 ** min(step - 1, 30)))

    def _jitter(self, seconds: float) -> float:
        return seconds * self._rng.uniform(0.75, 1.25)
