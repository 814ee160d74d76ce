"""Workers and supervisors that are ended from outside, and what goes with whom (row W3)."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import TYPE_CHECKING

import faults
import numpy as np
import psutil
import pytest
import recordings
import reference
from waiting import wait_until
from windows import lane, processes

import opuspool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

assert sys.platform == "win32"


def await_recovery(pool: opuspool.Pool, kills: int, threads: list[threading.Thread]) -> None:
    """Until the last kill is counted and more is decoded, so that the next falls into work."""
    wait_until(lambda: sum(lane.restarts(pool).values()) == kills, 60, "it is counted")
    wanted = pool.status()["counters"]["packets_decoded"] + 60

    def goes_on() -> bool:
        enough: bool = pool.status()["counters"]["packets_decoded"] > wanted
        return enough or not any(thread.is_alive() for thread in threads)

    wait_until(goes_on, 60, "it goes on")


def test_streams_go_on_when_workers_are_ended_under_load(tmp_path: Path) -> None:
    with opuspool.Pool(workers=2, spares=1, config=lane.settings(tmp_path)) as pool:
        speakers = [lane.Speaker(pool, seed) for seed in range(3)]
        failures: list[BaseException] = []

        def talk(speaker: lane.Speaker) -> None:
            try:
                speaker.say(400)
            except BaseException as error:  # noqa: BLE001  told below
                failures.append(error)

        threads = [threading.Thread(target=talk, args=(speaker,)) for speaker in speakers]
        for thread in threads:
            thread.start()
        kills = 0
        while any(thread.is_alive() for thread in threads) and kills < 6:
            psutil.Process(lane.pids(pool)[kills % 2]).kill()  # TerminateProcess
            kills += 1
            await_recovery(pool, kills, threads)
        for thread in threads:
            thread.join(120)
        assert not failures
        assert kills >= 3
        assert lane.restarts(pool) == {"killed": kills}
        assert pool.status()["counters"]["inexact_rebuilds"] == 0


def test_workers_go_with_their_supervisor_and_the_stream_goes_on(tmp_path: Path) -> None:
    with opuspool.Pool(workers=2, spares=1, config=lane.settings(tmp_path)) as pool:
        speaker = lane.Speaker(pool)
        speaker.say(300)
        old, supervisor = lane.pids(pool), pool.status()["supervisor"]["pid"]
        psutil.Process(supervisor).kill()
        lane.gone(old)
        speaker.say(100)
        assert pool.status()["supervisor"]["pid"] != supervisor


@pytest.mark.smoke
def test_suspended_workers_go_with_their_supervisor(tmp_path: Path) -> None:
    """They cannot see it go: nothing but the job object can end them."""
    with opuspool.Pool(workers=1, spares=1, config=lane.settings(tmp_path)) as pool:
        speaker = lane.Speaker(pool)
        speaker.say(20)
        old, supervisor = lane.pids(pool), pool.status()["supervisor"]["pid"]
        for pid in old:
            psutil.Process(pid).suspend()
        psutil.Process(supervisor).kill()
        lane.gone(old)
        speaker.say(20)  # with the pool's next supervisor


def test_a_worker_stuck_in_c_goes_with_its_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the GIL, so that its own thread cannot see the supervisor go."""
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    lane.use_faulting(monkeypatch, tokens)
    packets = recordings.speech_packets(0.1)
    packets[2] = faults.marked("loop-once", packets[2])
    pcm = []
    config = lane.settings(tmp_path, hang=60.0)
    with opuspool.Pool(workers=1, spares=0, config=config) as pool:
        (worker,) = lane.pids(pool)
        supervisor = pool.status()["supervisor"]["pid"]
        call = threading.Thread(target=lambda: pcm.append(pool.decode(packets, timeout=120)))
        call.start()
        wait_until(lambda: any(tokens.iterdir()), 60, "it hangs")
        psutil.Process(supervisor).kill()
        lane.gone([worker])
        call.join(120)
    assert pcm, "the successor's worker has not answered"
    assert np.array_equal(pcm[0], reference.golden(packets))


CLIENT = """
import sys, opuspool
pool = opuspool.Pool(workers=2, spares=0, config=sys.argv[1])
status = pool.status()
print(status["supervisor"]["pid"], *[slot["pid"] for slot in status["workers"]], flush=True)
if sys.argv[2] == "wait":
    sys.stdin.read()
"""


@contextmanager
def client(program: Path | str, folder: Path, how: str) -> Iterator[tuple[Popen[str], list[int]]]:
    """A process with a pool; gives it, and the pids of supervisor and workers."""
    with Popen(
        [str(program), "-c", CLIENT, str(lane.settings(folder)), how],
        env=os.environ | {"REAL_PYTHON": sys.executable},
        stdin=PIPE,
        stdout=PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 3
        yield process, pids


@pytest.mark.parametrize("how", ["wait", "leave"])
def test_everything_goes_with_the_client(tmp_path: Path, how: str) -> None:
    with client(sys.executable, tmp_path, how) as (process, pids):
        if how == "wait":
            assert all(map(psutil.pid_exists, pids))
            process.kill()
        process.wait(60)
        lane.gone(pids)


def test_a_virtual_environments_launcher_is_seen_through(tmp_path: Path) -> None:
    """Where `sys.executable` starts the real Python as its child, the pids are the real ones."""
    folder = tmp_path / "Ünder wäy with spaces"
    folder.mkdir()
    launcher = folder / "launcher.exe"
    with open(os.environ["LAUNCHER_EXE"], "rb") as file:  # noqa: PTH123  # Z:/… as it is
        launcher.write_bytes(file.read())
    with client(launcher, folder, "wait") as (process, pids):
        assert {processes.names()[pid] for pid in pids} == {"python.exe"}
        assert list(processes.names().values()).count("launcher.exe") == 1, "only the client's own"
        process.kill()
        lane.gone(pids)
