"""Rows 3, 5, 7, 26 and 27: signals to workers and to the supervisor."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import faults
import numpy as np
import pytest
from daemons import daemon, settings_for
from killing import stopped
from matrix import PACKETS, scene
from reference import golden

import opuspool
from opuspool.exitcause import name_exit

if TYPE_CHECKING:
    from pathlib import Path

HANG_SECONDS = 2.0
"""A healthy worker on a busy machine moves within it."""

PROMPT = {"health": {"canary_seconds": 0.2}, "workers": {"hang_seconds": HANG_SECONDS}}
PATIENT = {"workers": {"hang_seconds": 60.0}, "health": {"canary_seconds": 60.0}}


LONG_WORK = 40
"""Slow packets, 50 ms each: 2 s."""


def test_kills_of_busy_idle_and_spare_workers_go_unnoticed() -> None:
    """Row 3: every 200 ms, whatever the victim is doing."""
    killed: Counter[str] = Counter()
    reasons = {signal.SIGKILL: "killed", signal.SIGSEGV: "segv"}
    with scene(deaths=None) as here:
        for number in range(12):
            victim = here.pid(number % 3)  # two workers and the spare
            sent = (signal.SIGKILL, signal.SIGSEGV)[number % 2]
            os.kill(victim, sent)
            killed[reasons[sent]] += 1
            here.await_restarts(**killed)
            time.sleep(0.2)  # the pace is the fault's
        assert here.restarts() == killed
        assert here.counters()["inexact_rebuilds"] == 0


def test_the_kernels_kill_blames_no_packet_at_first(
    tmp_path: Path, endpoint: str, faulty: Path
) -> None:
    """Row 5: SIGKILL, as when memory is out, with a packet in hand; the log says what it may be."""
    slow = [faults.marker("slow", like=packet) for packet in PACKETS[:LONG_WORK]]
    with (
        daemon(settings_for(tmp_path, endpoint)) as process,
        scene(endpoint, deaths={"killed": 1}) as here,
        here.pool.stream() as stream,
    ):
        results: list[opuspool.pcm.Pcm] = []
        thread = threading.Thread(target=lambda: results.append(stream.decode_many(slow)))
        thread.start()
        os.kill(here.busy_pid(), signal.SIGKILL)
        thread.join()
        assert np.array_equal(results[0], golden(PACKETS[:LONG_WORK]))
        assert here.counters()["poison_packets"] == 0
    ends = [line for line in process.log if "worker_ended" in line]  # type: ignore[attr-defined]
    assert "is the memory out?" in ends[0]
    assert name_exit(-signal.SIGKILL)[0] == "killed"


def test_a_busy_worker_that_is_stopped_is_a_hang(faulty: Path) -> None:
    """Row 7: found by its deadline, whoever else waits; the packet in hand is decoded elsewhere."""
    slow = [faults.marker("slow", like=packet) for packet in PACKETS[:LONG_WORK]]
    with scene(deaths={"hang": 1}, settings=PROMPT) as here, here.pool.stream() as stream:
        results: list[opuspool.pcm.Pcm] = []
        thread = threading.Thread(target=lambda: results.append(stream.decode_many(slow)))
        thread.start()
        os.kill(here.busy_pid(), signal.SIGSTOP)
        thread.join()
        assert np.array_equal(results[0], golden(PACKETS[:LONG_WORK]))


@pytest.mark.parametrize("which", ["worker", "spare"])
def test_an_idle_worker_that_is_stopped_misses_its_heartbeat(which: str) -> None:
    """Row 7: its canary is not answered; it is replaced before it is needed."""
    settings = {**PROMPT, "workers": {"count": 5, "hang_seconds": HANG_SECONDS}}
    with scene(deaths={"heartbeat": 1}, settings=settings) as here:
        pid = here.idle_pid() if which == "worker" else here.pid(5)
        os.kill(pid, signal.SIGSTOP)
        here.await_restarts(heartbeat=1)


def test_an_answer_that_comes_after_the_deadline_is_dropped() -> None:
    """Row 7: SIGSTOP, deadline, SIGCONT: the late answer is nobody's, the stream goes on right."""
    with scene(deaths={}, settings=PATIENT, bystanders=0) as here, here.pool.stream() as stream:
        pcm = [stream.decode(packet) for packet in PACKETS[:10]]
        home = next(w["pid"] for w in here.status()["workers"] if w["streams"])
        with stopped(home), pytest.raises(opuspool.DecodeTimeoutError):
            stream.decode(PACKETS[10], timeout=0.3)
        right = golden(PACKETS[:20])
        pcm += [right[10 * 320 : 11 * 320], *[stream.decode(packet) for packet in PACKETS[11:20]]]
        assert np.array_equal(np.concatenate(pcm), right)
        assert here.counters()["requests"]["timeout"] == 1


LONG = pytest.mark.skipif("MATRIX_LONG" not in os.environ, reason="10 s: set MATRIX_LONG=1")


@pytest.mark.parametrize("seconds", [3, pytest.param(10, marks=[pytest.mark.soak, LONG])])
def test_a_supervisor_that_was_stopped_blames_no_worker(seconds: float) -> None:
    """Row 26: overdue requests have ended meanwhile, no healthy worker is killed for it."""
    with scene(deaths={}, patience=seconds + 10, settings=PROMPT) as here:
        with stopped(here.supervisor.pid):
            began = time.monotonic()
            with pytest.raises(opuspool.DecodeTimeoutError):
                here.pool.decode(PACKETS[:5], timeout=0.5)
            assert time.monotonic() - began < 3, "deadline, grace and a busy machine"
            time.sleep(max(0, began + seconds - time.monotonic()))  # the time is the fault's
        here.decodes()


def test_a_pause_of_supervisor_and_workers_is_no_hang(faulty: Path) -> None:
    """Row 26: all stopped together, as a container is: the worker in hand has not been late."""
    slow = [faults.marker("slow", like=packet) for packet in PACKETS[:LONG_WORK]]
    with scene(deaths={}, settings=PROMPT) as here, here.pool.stream() as stream:
        results: list[opuspool.pcm.Pcm] = []
        thread = threading.Thread(target=lambda: results.append(stream.decode_many(slow)))
        thread.start()
        busy = here.busy_pid()
        with stopped(busy), stopped(here.supervisor.pid):
            time.sleep(1.5 * HANG_SECONDS)  # the time is the fault's
        thread.join()
        assert np.array_equal(results[0], golden(PACKETS[:LONG_WORK]))


@pytest.mark.parametrize("name", ["SIGCHLD", "SIGHUP"])
def test_a_storm_of_signals_loses_no_exit(tmp_path: Path, endpoint: str, name: str) -> None:
    """Row 27: 10,000 signals while workers die: every death is counted, nothing else happens."""
    with (
        daemon(settings_for(tmp_path, endpoint)) as process,
        scene(endpoint, deaths={"killed": 4}) as here,
    ):
        for round_ in range(1, 5):
            os.kill(here.pid(round_ % 2), signal.SIGKILL)
            for _ in range(2500):
                os.kill(process.pid, signal.Signals[name])
            here.await_restarts(killed=round_)
