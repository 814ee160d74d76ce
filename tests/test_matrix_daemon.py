"""Rows 25 and 31: the daemon's clock and its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import faults
import pytest
from daemons import daemon, daemon_command, settings_for
from matrix import PACKETS, scene
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from collections.abc import Callable

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
HOUR = 3600


@pytest.mark.skipif(not FAKETIME, reason="no libfaketime: apt-get install libfaketime")
def test_a_clock_that_jumps_is_not_noticed(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 25: an hour forth, two back; the log's times show that the clock did jump."""
    clock = tmp_path / "clock"
    _set(clock, 0)
    settings = settings_for(tmp_path, endpoint, "[health]\ncanary_seconds = 0.2\n")
    for name, value in {
        "LD_PRELOAD": str(FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with daemon(settings) as process:
        monkeypatch.delenv("LD_PRELOAD")
        with scene(endpoint, deaths={"killed": 3}) as here:
            for number, jump in enumerate([HOUR, -HOUR, 0], start=1):
                _set(clock, jump)
                here.decodes()
                os.kill(here.pid(), signal.SIGKILL)  # writes the time into the log
                here.await_restarts(killed=number)
                wait_until(partial(_has_told, process, number), what="the log has it")
                assert 0 < here.status()["supervisor"]["uptime_seconds"] < HOUR / 2
    forth, back, true = _ends(process)
    assert forth - true > HOUR / 2
    assert true - back > HOUR / 2


def _has_told(process: subprocess.Popen[str], deaths: int) -> bool:
    return len(_ends(process)) == deaths


def _ends(process: subprocess.Popen[str]) -> list[float]:
    """The times at which workers have ended, by the log."""
    events = [json.loads(line) for line in process.log]  # type: ignore[attr-defined]
    return [
        datetime.fromisoformat(event["timestamp"]).timestamp()
        for event in events
        if event["event"] == "worker_ended"
    ]


def _set(clock: Path, jump: int) -> None:
    """Let the clock jump by seconds; at no moment is the file empty."""
    new = clock.with_suffix(".new")
    new.write_text(f"{jump:+d}")
    new.rename(clock)


def _busy_daemons_end(
    tmp_path: Path, endpoint: str, more: str, end: Callable[[subprocess.Popen[str]], None]
) -> tuple[float, list[str]]:
    """Seconds from `end` to the daemon's exit with 0, and how its clients' calls ended."""
    slow = [faults.marker("slow", like=packet) for packet in PACKETS[:100]]  # 5 s
    outcomes: list[str] = []

    def decode(pool: opuspool.Pool) -> None:
        try:
            pool.decode(slow, timeout=5)
            outcomes.append("ok")
        except opuspool.OpusPoolError as error:
            outcomes.append(type(error).__name__)

    with daemon(settings_for(tmp_path, endpoint, more)) as process, opuspool.Pool(endpoint) as pool:
        threads = [threading.Thread(target=decode, args=(pool,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: pool.status()["streams"] == 4, what="all requests are under way")
        began = time.monotonic()
        end(process)
        assert process.wait(30) == 0
        seconds = time.monotonic() - began
        for thread in threads:
            thread.join()
    return seconds, outcomes


def test_sigterm_drains_to_a_limit(tmp_path: Path, endpoint: str, faulty: Path) -> None:
    """Row 31: what is not done by then, nor by a successor, has a typed error; exit code 0."""
    seconds, outcomes = _busy_daemons_end(
        tmp_path, endpoint, "drain_seconds = 1.0\n", lambda process: process.terminate()
    )
    assert seconds > 0.9
    assert outcomes == ["SupervisorLostError"] * 4


def test_sigterm_twice_ends_at_once(tmp_path: Path, endpoint: str, faulty: Path) -> None:
    """Row 31: the second one does not wait."""

    def twice(process: subprocess.Popen[str]) -> None:
        process.terminate()
        log: list[str] = process.log  # type: ignore[attr-defined]
        wait_until(lambda: any("draining" in line for line in log), what="it drains")
        process.terminate()

    seconds, outcomes = _busy_daemons_end(tmp_path, endpoint, "drain_seconds = 60.0\n", twice)
    assert seconds < 30
    assert outcomes == ["SupervisorLostError"] * 4


@pytest.mark.parametrize("delay", [0.05, 0.2, 0.3, 0.4, 0.6])
def test_sigterm_during_start_leaves_nothing(tmp_path: Path, endpoint: str, delay: float) -> None:
    """Row 31: at any moment; with 0 as soon as there is a supervisor."""
    settings = settings_for(tmp_path, endpoint)
    command = daemon_command("--config", settings)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(delay)  # the moment is what is tested
        process.terminate()
        _, log = process.communicate(timeout=60)
    assert process.returncode == (0 if "supervisor_started" in log else -signal.SIGTERM)
    assert not Path(endpoint.removeprefix("ipc://")).exists()
