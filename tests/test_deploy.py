"""The files in deploy/ as the tools read them that will use them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from daemons import daemon_command, settings_for
from killing import deaths, pids
from recordings import speech_packets
from waiting import wait_until

import opuspool
from opuspool.exitcodes import ExitCode

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
SYSTEMD = DEPLOY / "systemd"
KUBERNETES = DEPLOY / "kubernetes/opuspool.yaml"

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


@pytest.mark.parametrize(
    ("file", "variable"),
    [
        (SYSTEMD / "opuspool.service", r"Environment=(OPUSPOOL_\w+)=(\S+)"),
        (DEPLOY / "container/Containerfile", r"\b(OPUSPOOL_\w+)=(\S+)"),
        (KUBERNETES, r'name: (OPUSPOOL_\w+), value: "(.*?)"'),
    ],
    ids=lambda given: given.name if isinstance(given, Path) else "",
)
def test_the_settings_in_it_are_settings(file: Path, variable: str) -> None:
    """Unknown names and wrong values raise."""
    import opuspool.config

    found = dict(re.findall(variable, file.read_text(encoding="utf-8")))
    assert found
    opuspool.config.load(environ=found)


def _check_kubernetes(text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


@pytest.mark.skipif(
    find_spec("kubernetes_validate") is None, reason="needs kubernetes-validate (PyPI, 108 MB)"
)
def test_kubernetes_takes_the_example() -> None:
    """By its own schema, strictly: what it does not know is refused."""
    text = KUBERNETES.read_text(encoding="utf-8")
    done = _check_kubernetes(text)
    assert done.returncode == 0, done.stderr
    misspelt = _check_kubernetes(text.replace("readinessProbe", "readynessProbe"))
    assert "readynessProbe" in misspelt.stdout + misspelt.stderr
    assert misspelt.returncode != 0


def test_kubernetes_waits_for_the_drain() -> None:
    """The pod's grace is longer than the daemon's default drain."""
    import opuspool.config

    grace = re.search(
        r"terminationGracePeriodSeconds: (\d+)", KUBERNETES.read_text(encoding="utf-8")
    )
    assert grace
    assert int(grace[1]) > opuspool.config.load(environ={}).supervisor.drain_seconds + 5


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
