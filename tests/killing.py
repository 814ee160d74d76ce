"""Kill workers of a running pool, and keep the score."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import psutil
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REASONS = {
    signal.SIGSEGV: "segv",
    signal.SIGKILL: "killed",
    signal.SIGABRT: "abort",
}

Status = dict[str, Any]


def pids(status: Status) -> list[int]:
    """Pids of the workers that serve streams."""
    serving = {"IDLE", "BUSY"}
    return [worker["pid"] for worker in status["workers"] if worker["state"] in serving]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that is stopped meanwhile (SIGSTOP), and goes on then (SIGCONT)."""
    os.kill(pid, signal.SIGSTOP)
    try:
        standing = {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE}
        wait_until(lambda: psutil.Process(pid).status() in standing, what="it stands still")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class Killer:
    """Kills a random worker again and again, from a thread, until told to stop.

    Each kill waits until the pool has counted the one before, so that every death is a worker's
    own, and until it has decoded more, so that kills fall into work.

    Args:
        status: of the pool.
        total: kills.
        seed: of what is killed, and how.
        pause: seconds between two kills, at least.
        work: packets that the pool decodes between two, at least. A stream that is struck again
            before it has gone on is suspected, and rebuilt from less.

    Attributes:
        kills: how many, by restart reason.
        failure: what ended it early.
    """

    def __init__(
        self,
        status: Callable[[], Status],
        total: int,
        *,
        seed: int = 0,
        pause: float = 0.0,
        work: int = 50,
    ) -> None:
        self.kills: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self.done = threading.Event()
        self._status = status
        self._total = total
        self._rng = random.Random(seed)
        self._pause = pause
        self._work = work
        self._thread = threading.Thread(target=self._run, name="killer")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._total = 0
        self._thread.join(60)

    def _run(self) -> None:
        try:
            while sum(self.kills.values()) < self._total:
                self._kill_one()
        except BaseException as error:  # noqa: BLE001  told by the test's thread
            self.failure = error
        finally:
            self.done.set()

    def _kill_one(self) -> None:
        before = self._status()
        victim = self._rng.choice(pids(before) or [0])
        number = self._rng.choice(list(REASONS))
        if victim:
            os.kill(victim, number)
            self.kills[REASONS[number]] += 1
        for after in self._statuses():
            counters = after["counters"]
            counted = deaths(after) == sum(self.kills.values())
            decoded = counters["packets_decoded"] - before["counters"]["packets_decoded"]
            worked = decoded > self._work
            if counted and worked and len(pids(after)) == len(after["workers"]):
                break
        self.done.wait(self._pause)

    def _statuses(self) -> Iterator[Status]:
        end = time.monotonic() + 20
        while time.monotonic() < end and self._total:
            yield self._status()
            time.sleep(0.005)


def deaths(status: Status) -> int:
    """All deaths that a pool has counted."""
    return sum(status["counters"]["worker_restarts"].values())


def check_books(status: Status) -> None:
    """Accepted = finished by outcome + queued + in flight; spawned = alive + ended (P8)."""
    counters = status["counters"]
    finished = sum(counters["requests"].values())
    assert counters["accepted"] == finished + status["queue_depth"] + status["in_flight"]
    alive = [slot for slot in status["workers"] + status["spares"] if slot["pid"]]
    assert counters["spawns"] == len(alive) + deaths(status)
    assert status["unbalanced"] == []


def all_idle(status: Status) -> bool:
    """Whether every worker, and every spare, has started and has nothing to do."""
    return all(slot["state"] == "IDLE" for slot in status["workers"] + status["spares"])
