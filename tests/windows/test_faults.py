"""Faults in opus.dll cost one worker and one packet, and are named (rows W1, W2)."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import faults
import numpy as np
import psutil
import pytest
import recordings
import reference
from waiting import wait_until
from windows import lane

import opuspool
from opuspool.exitcause import name_exit
from opuspool.exitcodes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

assert sys.platform == "win32"

INCIDENT = "exception: access violation writing 0x000000208F210000"

CAUGHT = [
    ("segv", "access_violation", INCIDENT),
    ("memset", "access_violation", INCIDENT),
    ("overrun", "access_violation", "exception: access violation writing 0x"),
    ("stack", "stack_overflow", "exception: stack overflow"),
    ("ill", "ill", "exception: illegal instruction (0xC000001D)"),
    ("fpe", "fpe", "exception: integer divide by zero"),
]
"""What libopus raises on the worker's own thread: ctypes catches it, and the worker leaves. Where
ctypes has words of its own, they have no code."""

ENDED = [
    ("thread-segv", "access_violation", "access violation (0xC0000005)"),
    ("thread-ill", "ill", "illegal instruction (0xC000001D)"),
    ("thread-stack", "stack_overflow", "stack overflow (0xC00000FD)"),
    ("thread-corrupt", "heap_corruption", "heap corruption (0xC0000374)"),
    ("thread-failfast", "abort", "fail-fast (0xC0000409)"),
    ("heap", "heap_corruption", "heap corruption (0xC0000374)"),
    ("abort", "abort", "abort()"),
    ("exit", "exit", "exit code 5"),
]
"""What nothing catches: Windows ends the process with a code, or it ends itself."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[opuspool.Pool]:
    with pytest.MonkeyPatch.context() as patch:
        lane.use_faulting(patch, folder)
        with opuspool.Pool(workers=2, spares=1, config=lane.settings(folder)) as pool:
            yield pool


@pytest.fixture(scope="module")
def bystander(pool: opuspool.Pool) -> Iterator[lane.Speaker]:
    speaker = lane.Speaker(pool, seed=1)
    speaker.say(20)
    yield speaker
    speaker.close()


class Victim:
    """Loses one packet to a fault, beside a stream that loses nothing."""

    def __init__(self, pool: opuspool.Pool, bystander: lane.Speaker, folder: Path) -> None:
        self._pool, self._bystander, self._folder = pool, bystander, folder

    def meet(self, fault: str, reason: str, cause: str) -> None:
        """Check what a fault costs, and what is said of it."""
        before, written = lane.restarts(self._pool), len(lane.reports(self._folder, 0))
        speaker = lane.Speaker(self._pool)
        speaker.say(5)
        speaker.hear_fault(fault, opuspool.PoisonPacketError)
        speaker.say(5)
        self._bystander.say(10)
        assert lane.restarts(self._pool) == before | {reason: before.get(reason, 0) + 2}
        for report in lane.reports(self._folder, written + 2)[written:]:
            assert report["reason"] == reason
            assert cause in report["cause"]
            assert report["digest"] is not None  # the flight recorder named the packet
            assert not psutil.pid_exists(report["pid"])
        speaker.close()


@pytest.fixture
def victim(pool: opuspool.Pool, bystander: lane.Speaker, folder: Path) -> Victim:
    return Victim(pool, bystander, folder)


@pytest.mark.parametrize(("fault", "reason", "cause"), CAUGHT)
def test_a_fault_that_ctypes_catches_costs_its_own_packet(
    victim: Victim, fault: str, reason: str, cause: str
) -> None:
    victim.meet(fault, reason, cause)


@pytest.mark.parametrize(("fault", "reason", "cause"), ENDED)
def test_an_exit_code_is_named_and_costs_its_own_packet(
    victim: Victim, fault: str, reason: str, cause: str
) -> None:
    victim.meet(fault, reason, cause)


def test_a_passing_fault_costs_nothing(pool: opuspool.Pool, bystander: lane.Speaker) -> None:
    packets = recordings.speech_packets(0.5)
    packets[10] = faults.marked("segv-once", packets[10])
    violations = pool.status()["counters"]["access_violations"]
    pcm = pool.decode(packets, timeout=120)
    assert np.array_equal(pcm, reference.golden(packets))
    assert pool.status()["counters"]["access_violations"] == violations + 1
    bystander.say(5)


def test_the_books_balance_and_all_is_well_again(pool: opuspool.Pool) -> None:
    wait_until(lambda: pool.status()["health"] == "ok", 60, "health is ok")
    status = pool.status()
    assert status["unbalanced"] == []
    assert len({slot["pid"] for slot in status["workers"] + status["spares"]}) == 3


@pytest.mark.parametrize("fault", ["loop", "sleep"])
def test_a_hang_costs_its_own_packet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    lane.use_faulting(monkeypatch)
    config = lane.settings(tmp_path, hang=3.0)
    with opuspool.Pool(workers=1, spares=1, config=config) as pool:
        speaker = lane.Speaker(pool)
        speaker.say(5)
        speaker.hear_fault(fault, opuspool.PoisonPacketError)
        speaker.say(5)
        assert lane.restarts(pool) == {"hang": 2}
        assert all(report["digest"] for report in lane.reports(tmp_path, 2))


@pytest.mark.parametrize("fault", [pytest.param("segv", marks=pytest.mark.smoke), "memset"])
def test_the_log_names_the_incident_and_the_restart_that_followed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    lane.use_faulting(monkeypatch, tmp_path)
    config, address = lane.daemon_settings(tmp_path, workers="count = 1\nspares = 0")
    packets = recordings.speech_packets(0.5)
    packets[10] = faults.marked(f"{fault}-once", packets[10])
    with (
        lane.daemon(lane.supervise("--config", config)) as daemon,
        opuspool.Pool(address, config=str(config)) as pool,
    ):
        pcm = pool.decode(packets, timeout=120)
        assert np.array_equal(pcm, reference.golden(packets))
        counters = pool.status()["counters"]
        wait_until(lambda: len(daemon.events("worker_ready")) == 2, 30, "the restart is logged")
        ((line, death),) = daemon.events("worker_ended")
        _, (restart, birth) = daemon.events("worker_ready")
        assert not psutil.pid_exists(death["pid"])
    assert (death["reason"], death["cause"]) == ("access_violation", INCIDENT)
    assert restart > line
    assert birth["slot"] == death["slot"]
    assert birth["generation"] == death["generation"] + 1
    assert counters["access_violations"] == counters["retries"] == 1
    (report,) = lane.reports(tmp_path, 1)
    assert (report["cause"], report["pid"]) == (INCIDENT, death["pid"])
    with capsys.disabled():  # for whoever reads what the lane has seen
        print("", daemon.lines[line], daemon.lines[restart], sep="\n", end="")


def test_the_incidents_own_line_is_named() -> None:
    """What `ctypes.memset` says at the incident's address is what a dying worker would say."""
    script = "import ctypes; ctypes.memset(0x208F210000, 1, 10)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    said = done.stderr.strip().rpartition("\n")[2].removeprefix("OSError: ")
    assert said == INCIDENT
    assert name_exit(ExitCode.FAULT, f"opuspool-worker: {said}\n") == ("access_violation", INCIDENT)
