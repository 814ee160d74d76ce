"""Rows 13 and 30: a supervisor killed while workers start; a daemon asked to read a bad file."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from daemons import daemon, daemon_command, settings_for
from frontlibs import SLOW, front
from leaks import alive
from matrix import UTTERANCE, scene
from reference import golden
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if alive(process)]


def _just_spawned(supervisor: psutil.Process, _library: Path) -> list[psutil.Process]:
    """All workers, as soon as there is a process of each; Python is still starting."""
    workers = supervisor.children()
    return workers if len(workers) == 3 else []


def _in_their_library(supervisor: psutil.Process, library: Path) -> list[psutil.Process]:
    """All workers, once the last of them is loading its libopus."""
    workers = supervisor.children()
    loading = [w for w in workers if _has_mapped(w, library)]
    return workers if len(loading) == 3 else []


def _has_mapped(process: psutil.Process, library: Path) -> bool:
    return any(m.path == str(library) for m in process.memory_maps())


MOMENTS = {"just spawned": _just_spawned, "loading libopus": _in_their_library}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_supervisor_killed_while_workers_start_leaves_none(
    tmp_path: Path, moment: Callable[[psutil.Process, Path], list[psutil.Process]]
) -> None:
    """Row 13: spawned, not yet READY: they go soon; the successor does the work."""
    library, slow = front(tmp_path, SLOW)
    slow.touch()
    with opuspool.Pool(workers=2, libopus=library) as pool:
        supervisor = psutil.Process(pool.status()["supervisor"]["pid"])
        starting = wait_until(lambda: moment(supervisor, library), what="all have started")
        supervisor.kill()
        wait_until(lambda: not _living(starting), timeout=5, what="none is left")
        slow.unlink()
        assert np.array_equal(pool.decode(UTTERANCE), golden(UTTERANCE))


def test_a_bad_file_and_a_hangup_change_nothing(tmp_path: Path, endpoint: str) -> None:
    """Row 30: the daemon goes on as it was, also in a crash; `--check` says what is bad."""
    path = settings_for(tmp_path, endpoint)
    with daemon(path) as process, scene(endpoint, deaths={"killed": 3}) as here:
        path.write_text("[workers]\ncuont = 3\n")
        for number in (1, 2, 3):
            os.kill(here.pid(), signal.SIGKILL)
            process.send_signal(signal.SIGHUP)
            here.await_restarts(killed=number)
        command = daemon_command("--config", path, "--check")
        check = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (check.returncode, "[workers] count" in check.stderr) == (64, True)
