"""Faults in opus.dll cost one worker and one packet, and are named (rows W1, W2)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import faults
import numpy as np
import pytest
import recordings
import reference
from waiting import wait_until
from windows import lane

import opuspool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

assert sys.platform == "win32"

INCIDENT = "exception: access violation writing 0x000000208F210000"

CAUSES = {
    # ctypes catches what is raised on its own thread; the worker leaves by itself
    "segv": ("access_violation", INCIDENT),
    "overrun": ("access_violation", "exception: access violation writing 0x"),
    "stack": ("stack_overflow", "exception: stack overflow"),
    "ill": ("ill", "illegal instruction (0xC000001D)"),
    "fpe": ("fpe", "integer divide by zero"),
    # nothing catches these: Windows ends the process with the code
    "thread-segv": ("access_violation", "access violation (0xC0000005)"),
    "thread-ill": ("ill", "illegal instruction (0xC000001D)"),
    "thread-stack": ("stack_overflow", "stack overflow (0xC00000FD)"),
    "thread-failfast": ("abort", "fail-fast (0xC0000409)"),
    "heap": ("heap_corruption", "heap corruption (0xC0000374)"),
    "abort": ("abort", "abort()"),
    "exit": ("exit", "exit code 5"),
    "loop": ("hang", ""),
    "sleep": ("hang", ""),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[opuspool.Pool]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in lane.faulting().items():
            patch.setenv(name, value)
        patch.setenv("OPUSPOOL_FAULT_TOKENS", str(folder))
        config = lane.settings(folder, hang=5.0)
        with opuspool.Pool(workers=2, spares=1, config=config) as pool:
            yield pool


@pytest.fixture(scope="module")
def bystander(pool: opuspool.Pool) -> Iterator[lane.Speaker]:
    speaker = lane.Speaker(pool, seed=1)
    speaker.say(20)
    yield speaker
    speaker.close()


@pytest.mark.smoke
@pytest.mark.parametrize("fault", CAUSES)
def test_a_killer_costs_its_own_packet(
    fault: str, pool: opuspool.Pool, bystander: lane.Speaker, folder: Path
) -> None:
    before, written = lane.restarts(pool), len(list((folder / "crashes").glob("*.json")))
    speaker = lane.Speaker(pool)
    speaker.say(5)
    speaker.hear_fault(fault, opuspool.PoisonPacketError)
    bystander.say(10)
    reason, cause = CAUSES[fault]
    assert lane.restarts(pool) == before | {reason: before.get(reason, 0) + 2}
    for report in lane.reports(folder, written + 2)[written:]:
        assert report["reason"] == reason
        assert cause in report["cause"]
        assert report["digest"] is not None  # the flight recorder named the packet
    speaker.close()


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
