"""The incident itself: access violations that are caught, a dead service; and its cure."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from windows import incidentload

assert sys.platform == "win32"

INCIDENT = Path(__file__).parents[2] / "examples" / "incident"


def reproduce(script: str) -> str:
    """What a script of the incident prints."""
    command = [sys.executable, str(INCIDENT / script)]
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wrong_destroy_leads_to_faults_in_other_decoders() -> None:
    said = reproduce("wrong_destroy.py")
    assert "decoder 1: right" in said
    assert re.search(r"decoder \d+: (OSError: exception: |wrong PCM)", said)


def test_a_fault_is_caught_and_the_memory_stays_damaged() -> None:
    said = reproduce("caught_and_continued.py")
    assert "caught 278 times: exception: access violation writing 0x" in said
    assert "512 of 512 bytes of another buffer are overwritten" in said
    assert "the process ended: exit code 0" in said


def test_the_rebuild_under_its_own_lock_hangs() -> None:
    said = reproduce("self_deadlock.py")
    assert "caught: exception: access violation writing 0x000000208F210000" in said
    assert "(made up)" not in said
    assert "made anew" not in said
    assert "the process ended: it hung" in said


@pytest.mark.timeout(900)
def test_every_request_is_answered_while_workers_die(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    incidentload.prepare(monkeypatch, tmp_path)
    score = incidentload.survive(500, fault_every=101, kill_every=10)
    assert score.right == score.requests == 500
    assert not score.deaths
    assert score.worker_restarts["access_violation"] == 5
    assert score.worker_restarts.get("killed", 0) >= score.kills
