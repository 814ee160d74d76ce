"""Ctrl-C and the end of the console: what was accepted is finished, nothing is left (row W4)."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import faults
import numpy as np
import pytest
import recordings
import reference
from waiting import wait_until
from windows import consoles, lane

import opuspool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from windows.lane import Daemon

assert sys.platform == "win32"

SPEECH = Path(__file__).parents[2] / "examples" / "speech.opus"

CONSOLE_EVENT = """
import ctypes, sys, threading
from opuspool_supervisor import cli

def event():
    # What Windows runs on a thread of its own at such an event: all handlers, the last one first.
    ctypes.WinDLL("kernelbase").CtrlRoutine(int(sys.stdin.readline()))

threading.Thread(target=event, daemon=True).start()
cli.main(["--config", sys.argv[1]])
"""

CLIENT = """
import sys, time, opuspool
with opuspool.Pool(workers=1, spares=1, config=sys.argv[1]) as pool:
    status = pool.status()
    pids = [slot["pid"] for slot in status["workers"] + status["spares"]]
    print(status["supervisor"]["pid"], *pids, flush=True)
    try:
        while True:
            time.sleep(0.05)
    except KeyboardInterrupt:
        print(len(pool.decode_file(sys.argv[2])), flush=True)
        print(sum(pool.status()["counters"]["worker_restarts"].values()), flush=True)
"""


@contextmanager
def slow_call(config: Path, address: str) -> Iterator[list[int]]:
    """A call that is under way here and is answered in full; gives the workers' pids."""
    packets = recordings.speech_packets(1.0)
    for number in range(10, 20):
        packets[number] = faults.marked("slow", packets[number])
    pcm = []
    with opuspool.Pool(address, config=str(config)) as pool:
        pids = lane.pids(pool)
        call = threading.Thread(target=lambda: pcm.append(pool.decode(packets, timeout=120)))
        call.start()
        wait_until(lambda: pool.status()["in_flight"], 60, "it is under way")
        yield pids
        call.join(60)
    assert pcm, "it was not answered"
    assert np.array_equal(pcm[0], reference.golden(packets))


def stopped(daemon: Daemon, pids: list[int]) -> None:
    code = daemon.wait()
    assert code == 0, (code, daemon.lines)
    assert daemon.logged("signal")()
    assert daemon.logged("supervisor_stopped")()
    assert not daemon.logged("worker_ended")(), "the console's workers were hit as well"
    lane.gone(pids)


def test_ctrl_c_drains_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lane.use_faulting(monkeypatch)
    config, address = lane.daemon_settings(tmp_path)
    flags = subprocess.CREATE_NEW_CONSOLE
    with (
        lane.daemon(lane.supervise("--config", config), flags) as daemon,
        consoles.ctrl_c(daemon.process.pid) as press,
    ):
        with slow_call(config, address) as pids:
            press()
        stopped(daemon, pids)


@pytest.mark.parametrize("event", [1, 2, 5, 6], ids=["Ctrl-Break", "close", "logoff", "shutdown"])
def test_the_end_of_the_console_drains_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, event: int
) -> None:
    lane.use_faulting(monkeypatch)
    config, address = lane.daemon_settings(tmp_path)
    with lane.daemon([sys.executable, "-c", CONSOLE_EVENT, str(config)]) as daemon:
        assert daemon.process.stdin is not None
        with slow_call(config, address) as pids:
            daemon.process.stdin.write(f"{event}\n")
            daemon.process.stdin.flush()
        stopped(daemon, pids)


def test_ctrl_c_is_the_clients_and_its_pool_is_unharmed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(lane.settings(tmp_path)), str(SPEECH)],
        stdout=subprocess.PIPE,
        text=True,
        creationflags=subprocess.CREATE_NEW_CONSOLE,
    ) as client:
        assert client.stdout is not None
        pids = [int(word) for word in client.stdout.readline().split()]
        assert len(pids) == 3
        with consoles.ctrl_c(client.pid) as press:
            press()
            samples, restarts = map(int, client.stdout.read().split())
        assert client.wait(60) == 0
    assert (samples > 16000, restarts) == (True, 0)
    lane.gone(pids)
