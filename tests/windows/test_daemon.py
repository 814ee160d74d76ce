"""The daemon on Windows: tcp with keys, one a port, Ctrl-C, the end of its console (row W4)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from waiting import wait_until
from windows import lane

import opuspool
from opuspool import curve

assert sys.platform == "win32"

SEND_CTRL = """
import ctypes, sys
kernel = ctypes.WinDLL("kernel32", use_last_error=True)
kernel.FreeConsole()
assert kernel.AttachConsole(int(sys.argv[1])), ctypes.get_last_error()
assert kernel.SetConsoleCtrlHandler(None, True)
assert kernel.GenerateConsoleCtrlEvent(0, 0), ctypes.get_last_error()
"""

CONSOLE_EVENT = """
import ctypes, sys, threading
from opuspool_supervisor import cli

def event():
    # What Windows runs on a thread of its own at such an event: all handlers, the last one first.
    ctypes.WinDLL("kernelbase").CtrlRoutine(int(sys.stdin.readline()))

threading.Thread(target=event, daemon=True).start()
cli.main(["--config", sys.argv[1]])
"""


def settings(folder: Path) -> tuple[Path, str]:
    address = f"tcp://127.0.0.1:{lane.free_port()}"
    keys = json.dumps(str(folder / "keys.json"))
    return lane.settings(folder, supervisor=f'endpoint = "{address}"\nkeys = {keys}'), address


def workers(config: Path, address: str) -> list[int]:
    with opuspool.Pool(address, config=str(config)) as pool:
        lane.Speaker(pool).say(5)
        status = pool.status()
    return [slot["pid"] for slot in status["workers"] + status["spares"] if slot["pid"]]


def gone(pids: list[int]) -> None:
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), 5, "its workers are gone")


def test_clients_with_keys_are_served_and_others_are_not(tmp_path: Path) -> None:
    config, address = settings(tmp_path)
    with lane.daemon(lane.supervise("--config", config)) as daemon:
        pids = workers(config, address)
        other = tmp_path / "other"
        other.mkdir()
        curve.read_or_create(other / "keys.json")
        stranger = lane.settings(other, supervisor=f"keys = {json.dumps(str(other / 'keys.json'))}")
        with pytest.raises(opuspool.AuthenticationError):
            opuspool.Pool(address, config=str(stranger))
        second = subprocess.run(
            lane.supervise("--config", config),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert second.returncode == 73, second.stderr
        assert "cannot listen" in second.stderr
        lane.Speaker(opuspool.Pool(address, config=str(config))).say(2)
        daemon.process.kill()
        gone(pids)


@pytest.mark.smoke
def test_without_settings_daemon_and_clients_find_each_other() -> None:
    with lane.daemon(lane.supervise()):
        keys = Path(os.environ["LOCALAPPDATA"], "opuspool", "keys.json")
        assert keys.exists()
        with opuspool.Pool("auto") as pool:
            lane.Speaker(pool).say(3)
        status = subprocess.run(
            [sys.executable, "-m", "opuspool", "status", "--json"],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert json.loads(status.stdout)["health"] == "ok", status.stderr


@pytest.mark.smoke
def test_ctrl_c_drains_and_leaves_nothing(tmp_path: Path) -> None:
    config, address = settings(tmp_path)
    flags = subprocess.CREATE_NEW_CONSOLE
    with lane.daemon(lane.supervise("--config", config), flags) as daemon:
        pids = workers(config, address)
        sender = [sys.executable, "-c", SEND_CTRL, str(daemon.process.pid)]
        subprocess.run(sender, check=True, timeout=60)
        assert daemon.wait() == 0, daemon.lines
        assert daemon.logged("signal")()
        assert daemon.logged("supervisor_stopped")()
        assert not daemon.logged("worker_exited")(), "the console's workers were hit as well"
        gone(pids)


@pytest.mark.parametrize("event", [1, 2, 5, 6], ids=["Ctrl-Break", "close", "logoff", "shutdown"])
def test_the_end_of_the_console_drains_and_leaves_nothing(tmp_path: Path, event: int) -> None:
    config, address = settings(tmp_path)
    with lane.daemon([sys.executable, "-c", CONSOLE_EVENT, str(config)]) as daemon:
        pids = workers(config, address)
        assert daemon.process.stdin is not None
        daemon.process.stdin.write(f"{event}\n")
        daemon.process.stdin.flush()
        daemon.wait()
        assert daemon.logged("supervisor_stopped")(), daemon.lines
        gone(pids)
