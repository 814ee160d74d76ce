"""The files in deploy/ as the tools read them that will use them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@needs_systemd
def test_the_unit_is_hardened(unit: Path) -> None:
    """A plain unit has 9.6."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < MOST_EXPOSED


def test_the_unit_waits_for_the_drain(unit: Path) -> None:
    """systemd kills later than the daemon gives up by default."""
    import opuspool.config

    stop = re.search(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.MULTILINE)
    assert stop
    assert int(stop[1]) > opuspool.config.load(environ={}).supervisor.drain_seconds + 5
