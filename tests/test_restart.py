"""The restart policy, in scripted histories: how long a slot waits after each death."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from opuspool_supervisor.restart import FREE_RESTARTS, RestartPolicy
from opuspool_supervisor.slots import Slot, Worker

from opuspool import config

if TYPE_CHECKING:
    from opuspool_supervisor.restart import Verdict

LOW, HIGH = 0.75, 1.25
"""What jitter makes of a delay of 1."""

FIRST = 0.1
MOST = 30.0
PERIOD = 10.0
RETRY = 20.0

USEFUL_MOST, FRUITLESS_MOST = 1.0, 5.0
"""The longest delays with these settings, after good work and after none."""


class History:
    """One slot, whose workers all die."""

    def __init__(self, seed: int = 0, intensity: int = 10_000, most: float = MOST) -> None:
        settings = {
            "backoff_seconds": FIRST,
            "backoff_max_seconds": most,
            "intensity": intensity,
            "period_seconds": PERIOD,
            "failed_retry_seconds": RETRY,
        }
        restart = config.load(environ={}, overrides={"restart": settings}).restart
        self.policy = RestartPolicy(restart, Random(seed))
        self.slot = Slot(0, spare=False)
        self.now = 1000.0

    def death(self, how: str, after: float = 0.0) -> Verdict:
        """A worker's death: of "boot", as a "crash" before any work, or after "good" work."""
        self.now += after
        worker = Worker(1, 1, self.now)
        worker.ready = None if how == "boot" else self.now
        worker.settled = 3 if how == "good" else 0
        return self.policy.judge(self.slot, worker, self.now)

    def deaths(self, how: str, number: int, after: float = 0.0) -> list[float]:
        """Delays after that many deaths, each when the worker of the last delay has come up."""
        delays: list[float] = []
        for _ in range(number):
            delays.append(self.death(how, after).due - self.now)
            self.now += delays[-1]
        return delays

    def starts_within(self, how: str, seconds: float, life: float) -> int:
        """Starts of workers that each live so long."""
        end = self.now + seconds
        starts = 0
        while self.now < end:
            starts += 1
            self.now = self.death(how, life).due
        return starts


def is_jittered(delay: float, base: float) -> bool:
    return LOW * base <= delay <= HIGH * base


@pytest.mark.parametrize("seed", range(5))
def test_boot_failures_wait_twice_as_long_each_time(seed: int) -> None:
    """From the first backoff to the greatest, each with jitter; no one is retried at once."""
    delays = History(seed).deaths("boot", 14)
    bases = [min(MOST, FIRST * 2**n) for n in range(14)]
    assert all(map(is_jittered, delays, bases))
    assert bases[-3:] == [MOST] * 3


def test_jitter_spreads_the_restarts_of_slots() -> None:
    """Slots that died together do not all come back together."""
    delays = {History(seed).deaths("boot", 1)[0] for seed in range(20)}
    assert len(delays) == 20
    assert max(delays) - min(delays) > 0.2 * FIRST


def test_boot_failures_without_end_do_not_overflow() -> None:
    """After a day of it the delay is still the greatest."""
    assert is_jittered(History().deaths("boot", 3000)[-1], MOST)


@pytest.mark.parametrize(("how", "most"), [("good", USEFUL_MOST), ("crash", FRUITLESS_MOST)])
def test_crashes_are_replaced_at_once_then_after_bounded_delays(how: str, most: float) -> None:
    """The first few cost nothing; then delays grow, less high where good work was done."""
    delays = History().deaths(how, FREE_RESTARTS + 10)
    assert delays[:FREE_RESTARTS] == [0.0] * FREE_RESTARTS
    bases = [min(most, FIRST * 2**n) for n in range(10)]
    if how == "crash":  # these are counted in a row, however long it takes
        assert all(map(is_jittered, delays[FREE_RESTARTS:], bases))
    else:
        assert all(map(is_jittered, delays[FREE_RESTARTS : FREE_RESTARTS + 4], bases))
        assert 0 < max(delays) <= HIGH * most


def test_good_work_with_rare_deaths_never_waits() -> None:
    """Deaths that lie further apart than the period are not counted together."""
    assert History().deaths("good", 100, after=PERIOD / FREE_RESTARTS) == [0.0] * 100


def test_boot_failures_and_crashes_are_told_apart() -> None:
    """A crash ends the row of boot failures; boot failures leave crashes as free as they were."""
    history = History()
    assert history.deaths("boot", 6)[-1] > 2.0
    assert history.death("crash", after=PERIOD).due == history.now
    assert is_jittered(history.deaths("boot", 1)[0], FIRST)


def test_good_work_ends_a_row_of_fruitless_crashes() -> None:
    """The next crash before any work is the first of a new row."""
    history = History()
    assert history.deaths("crash", FREE_RESTARTS + 5)[-1] > FIRST
    assert history.death("good", after=PERIOD).due == history.now
    assert history.deaths("crash", FREE_RESTARTS) == [0.0] * FREE_RESTARTS


@pytest.mark.parametrize("how", ["boot", "crash", "good"])
def test_more_deaths_than_the_intensity_fail_the_slot(how: str) -> None:
    """The slot is given up, and a probe is started after the retry time, with jitter."""
    history = History(intensity=4, most=0.001)
    for _ in range(4):
        assert not history.death(how, after=0.1).failed
    verdict = history.death(how, after=0.1)
    assert verdict.failed
    assert is_jittered(verdict.due - history.now, RETRY)


@pytest.mark.parametrize(("age", "failed"), [(PERIOD - 0.01, True), (PERIOD, False)])
def test_only_deaths_within_the_period_count(age: float, failed: bool) -> None:
    """A death that is as old as the period is forgotten."""
    history = History(intensity=1)
    history.death("good")
    assert history.death("good", after=age).failed == failed


def test_a_failed_slot_starts_afresh_when_its_probe_holds() -> None:
    """After the retry time the old deaths are forgotten: the next crash is replaced at once."""
    history = History(intensity=3)
    verdicts = [history.death("good") for _ in range(4)]
    assert verdicts[-1].failed
    history.now = verdicts[-1].due
    verdict = history.death("good", after=1.0)
    assert not verdict.failed
    assert verdict.due == history.now


def test_a_probe_that_fails_to_boot_backs_off_on() -> None:
    """A slot with a broken libopus is not started more often for having been given up once."""
    history = History(intensity=3, most=0.2)
    assert history.deaths("boot", 4)[-1] >= LOW * RETRY
    history.now += 1.0
    assert is_jittered(history.death("boot").due - history.now, 0.2)


@pytest.mark.parametrize("life", [0.0, 0.02, 0.2])
@pytest.mark.parametrize(
    ("how", "most"),
    [("boot", 12), ("crash", FREE_RESTARTS + 24), ("good", 100)],
)
def test_no_loop_of_deaths_is_a_storm(how: str, most: int, life: float) -> None:
    """Of workers that die soon after their start, few are started in a minute."""
    assert 3 < History().starts_within(how, 60.0, life) <= most


@pytest.mark.parametrize("how", ["boot", "crash", "good"])
def test_the_intensity_bounds_what_the_backoff_does_not(how: str) -> None:
    """With almost no backoff there are still no more starts than the intensity allows."""
    history = History(intensity=5, most=0.001)
    probes = 60.0 / (LOW * RETRY)
    assert history.starts_within(how, 60.0, 0.0) <= 6 * (probes + 1)
