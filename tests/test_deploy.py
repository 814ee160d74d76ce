"""The files in deploy/ as the tools read them that will use them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from daemons import daemon_command, settings_for
from killing import deaths, pids
from recordings import speech_packets
from waiting import wait_until

import opuspool
from opuspool.exitcodes import ExitCode

SYSTEMD = Path(__file__).resolve().parent.parent / "deploy/systemd"

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (Debian: systemd)"
)

MOST_EXPOSED = 2.0


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit, with a program that this machine has."""
    text = (SYSTEMD / "opuspool.service").read_text(encoding="utf-8")
    path = tmp_path / "opuspool.service"
    path.write_text(re.sub(r"/opt/\S+/opuspool-supervise", sys.executable, text))
    return path


@needs_systemd
def test_the_unit_is_good(unit: Path) -> None:
    """No warning either."""
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def _security(unit: Path) -> str:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_systemd
def test_the_unit_is_hardened(unit: Path) -> None:
    """A plain unit has 9.6."""
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", _security(unit))
    assert found
    assert float(found[1]) < MOST_EXPOSED


def test_the_unit_waits_for_the_drain(unit: Path) -> None:
    """systemd kills later than the daemon gives up by default."""
    import opuspool.config

    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.MULTILINE)
    assert stop
    assert int(stop[1]) > opuspool.config.load(environ={}).supervisor.drain_seconds + 5


def test_the_unit_gives_up_at_wrong_settings(unit: Path) -> None:
    """And at nothing else: an endpoint may still be a dead daemon's for a moment."""
    line = re.search(r"^RestartPreventExitStatus=(.*)$", unit.read_text(), re.MULTILINE)
    assert line
    assert line[1] == str(int(ExitCode.USAGE))


@needs_systemd
def test_the_docs_tell_the_units_score(unit: Path) -> None:
    """As systemd gives it now."""
    score = re.search(r"level for \S+: ([\d.]+)", _security(unit))
    assert score
    operations = SYSTEMD.parents[1] / "docs" / "operations.md"
    assert f"gives it {score[1]} " in operations.read_text(encoding="utf-8")


def _can_unshare() -> bool:
    command = ["unshare", "--pid", "--fork", "true"]
    return bool(shutil.which("unshare")) and not subprocess.run(command, check=False).returncode


@pytest.mark.skipif(
    sys.platform != "linux" or not _can_unshare(), reason="no right to make a PID namespace"
)
def test_as_process_1_it_reaps_and_stops(tmp_path: Path, endpoint: str) -> None:
    """As in a container: killed workers leave no zombies, SIGTERM ends it with 0."""
    command = daemon_command("--config", settings_for(tmp_path, endpoint))
    outer = subprocess.Popen(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command],
        stderr=subprocess.DEVNULL,
    )
    try:
        socket = Path(endpoint.removeprefix("ipc://"))
        wait_until(socket.exists, what="the daemon listens")
        with opuspool.Pool(endpoint) as pool:
            pool.decode(speech_packets(1.0))
            init = psutil.Process(outer.pid).children()[0]
            assert pool.status()["supervisor"]["pid"] == 1
            for dead in range(1, 4):
                wait_until(lambda: len(pids(pool.status())) == 2, what="two workers")
                _kill_in_namespace(init, pids(pool.status())[0])
                wait_until(lambda n=dead: deaths(pool.status()) == n, what="a death")  # type: ignore[misc]
            states = [child.status() for child in init.children(recursive=True)]
            assert psutil.STATUS_ZOMBIE not in states
        init.send_signal(signal.SIGTERM)
        assert outer.wait(20) == 0
    finally:
        outer.kill()
        outer.wait()


def _kill_in_namespace(init: psutil.Process, pid: int) -> None:
    """Kill the child whose pid inside the namespace is `pid`."""
    for child in init.children():
        status = Path(f"/proc/{child.pid}/status").read_text()
        if int(status.partition("NSpid:")[2].splitlines()[0].split()[-1]) == pid:
            os.kill(child.pid, signal.SIGKILL)
            return
    pytest.fail(f"no process {pid} in the namespace")
