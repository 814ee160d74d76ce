"""A worker that is not let run is not taken for one that hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from opuspool_supervisor.launch import Launched
from opuspool_supervisor.process import WorkerProcess
from waiting import wait_until

from opuspool import recorder, unnamedfile

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux tells")

SPIN = "while True: pass"
SLEEP = "import time; time.sleep(60)"

HOG = """
import os, time
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
print("runs", flush=True)
until = time.monotonic() + 0.7
while time.monotonic() < until:
    pass
"""
"""Lets no ordinary process run on its core, for less time than the kernel leaves to such (1 s)."""


@contextmanager
def process(code: str, core: int) -> Iterator[WorkerProcess]:
    """A process pinned to a core, as the supervisor knows its workers."""
    popen = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    os.sched_setaffinity(popen.pid, {core})
    memory, fault = recorder.create(), unnamedfile.create("fault")
    found = WorkerProcess(1, Launched(popen, memory, fault, (0, 0)))
    recorder.release(memory)
    try:
        yield found
    finally:
        popen.kill()
        found.wait()
        found.close()


def counted(pid: int) -> float:
    """The seconds that the kernel has counted, of waits that are over."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def test_a_wait_that_goes_on_counts() -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs a core for the test")
    with process(SPIN, cores[-1]) as starved:
        hog = subprocess.Popen([sys.executable, "-c", HOG], stdout=subprocess.PIPE)
        with hog:
            os.sched_setaffinity(hog.pid, {cores[-1]})
            assert hog.stdout is not None
            if not hog.stdout.readline():
                pytest.skip("needs the right to run before all others")
            most = 0.0
            while hog.poll() is None:
                waited = starved.waited_seconds(time.monotonic())
                most = max(most, waited - counted(starved.pid))
                time.sleep(0.01)
    assert most > 0.3


def test_sleep_is_not_a_wait() -> None:
    with process(SLEEP, min(os.sched_getaffinity(0))) as asleep:
        wait_until(lambda: asleep._status() == "sleeping", what="it sleeps")
        before = counted(asleep.pid)
        for _ in range(10):
            assert asleep.waited_seconds(time.monotonic()) == pytest.approx(before, abs=0.05)
            time.sleep(0.01)
