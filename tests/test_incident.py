"""The incident's causes can be reproduced, and opuspool survives the load that it could not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

INCIDENT = Path(__file__).parents[1] / "examples" / "incident"
HEAP_COMPLAINTS = ("double free", "free():", "corrupted", "malloc", "Fatal (internal) error")
"""What glibc, and libopus of its own state, say before they abort."""

linux = pytest.mark.skipif(sys.platform != "linux", reason="how glibc sees it")


def run(script: str, *arguments: str) -> str:
    """What a script of the incident prints."""
    command = [sys.executable, str(INCIDENT / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def measure(only: str, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        run("before_after.py", "--only", only, "--json", *arguments)
    )[only]
    assert sum(found[name] for name in ("right", "wrong", "failed", "lost")) == found["requests"]
    return found


@linux
def test_the_wrong_destroy_aborts_the_process() -> None:
    said = run("run.py", "wrong_destroy")
    assert "decoder 1: right" in said
    assert any(complaint in said for complaint in HEAP_COMPLAINTS)
    assert said.endswith("the process ended: SIGABRT\n")


@linux
def test_a_lock_does_not_help_and_threads_are_not_needed() -> None:
    said = run("run.py", "lock_does_not_help")
    for threads in (8, 1):
        part = said.partition(f"{threads} threads, one lock\n")[2]
        ended = part.partition("the process ended: ")[2].partition("\n")[0]
        assert ended in {"SIGABRT", "SIGSEGV"}


@linux
def test_the_rebuild_under_its_own_lock_hangs() -> None:
    said = run("self_deadlock.py", "8")
    assert "caught: exception: access violation writing 0x000000208F210000" in said
    assert "in init\n" in said  # where it waits, as faulthandler tells
    assert "made anew" not in said
    assert "the process ended: it hung" in said


@pytest.mark.skipif(sys.platform == "win32", reason="there it runs")
def test_what_needs_windows_says_so() -> None:
    assert "needs Windows" in run("run.py", "caught_and_continued")


def test_all_are_told_by_help() -> None:
    said = run("run.py", "--help")
    for name in ("wrong_destroy", "lock_does_not_help", "caught_and_continued", "self_deadlock"):
        assert name in said
        assert (INCIDENT / f"{name}.py").exists()


@linux
def test_before_the_service_dies_and_takes_requests_along() -> None:
    score = measure("before", "--requests", "40")
    assert score["deaths"]
    assert score["lost"] > 0
    assert score["restarts"] > 0


@pytest.mark.skipif(sys.platform == "win32", reason="tests/windows has its own form")
def test_after_every_request_is_answered_while_workers_die() -> None:
    score = measure("after", "--requests", "200", "--kill-every", "0.5")
    assert score["right"] == score["requests"] == 200
    assert score["deaths"] == {}
    assert score["kills"] > 0
    assert sum(score["worker_restarts"].values()) >= score["kills"]
