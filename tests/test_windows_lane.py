"""The Windows lane leaves no process of its Wine prefix, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("WINDOWS_CACHE", ROOT / ".cache/windows"))

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the lane runs on Linux"),
    pytest.mark.skipif(
        not (CACHE / "programs.stamp").exists(), reason="run tests/windows/run --only-build first"
    ),
    pytest.mark.timeout(600),
]

SPINS = "print('here', flush=True)\nwhile True: pass"
"""Hangs without a call to the system, as a decoder may: it does not notice its wineserver's end."""

PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPINS!r}])"


def in_prefix() -> dict[int, str]:
    """Pid to program of all processes of the lane's prefix, wineserver among them."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = (folder / "environ").read_bytes().split(b"\0")
            program = str((folder / "exe").readlink())
        except OSError:  # it has ended
            continue
        if "/wine" in program and f"WINEPREFIX={CACHE}/prefix".encode() in variables:
            found[int(folder.name)] = Path(program).name
    return found


@pytest.fixture
def lane() -> Iterator[subprocess.Popen[str]]:
    """A run of the lane whose Python has a child that spins, which is there."""
    hears = ["env", "--default-signal=HUP"]  # also under nohup: a shell cannot, of its own
    command = [*hears, str(ROOT / "tests/windows/run"), "--python", "-c", PARENT]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert any(line.strip() == "here" for line in process.stdout)
        assert len(in_prefix()) > 2
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_lane_leaves_nothing(lane: subprocess.Popen[str], number: int) -> None:
    lane.send_signal(number)
    assert lane.wait(120) == 130
    assert not in_prefix()


def test_a_lane_whose_wineserver_dies_leaves_nothing(lane: subprocess.Popen[str]) -> None:
    servers = [pid for pid, program in in_prefix().items() if program.startswith("wineserver")]
    for server in servers:  # one waits for the end of the other, and may go with it
        with suppress(FileNotFoundError):
            if b"-w" not in Path(f"/proc/{server}/cmdline").read_bytes():
                os.kill(server, signal.SIGKILL)
    assert lane.wait(120) != 0
    assert not in_prefix()


def test_what_a_killed_lane_leaves_goes_with_the_next(lane: subprocess.Popen[str]) -> None:
    lane.kill()
    lane.wait(10)
    assert in_prefix()
    subprocess.run([ROOT / "tests/windows/run", "--only-build"], check=True, timeout=300)
    wait_until(lambda: not in_prefix(), 10, "nothing is left")
