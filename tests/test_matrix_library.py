"""Rows 10, 11 and 32: a libopus that is slow, wrong, deadly, or replaced while it is used."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from frontlibs import DEADLY, SLOW, front
from killing import all_idle
from matrix import PACKETS, UTTERANCE, scene
from reference import all_libopus, golden, real_libopus, version
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matrix import Settings


def _cpu(process: psutil.Process) -> float:
    """Processor time of a supervisor and of all its workers, also those that have ended."""
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def test_a_crash_loop_is_slowed_given_up_and_healed(tmp_path: Path) -> None:
    """Row 11: workers start, then die of all they decode: few starts, little work, never `ok`."""
    library, deadly = front(tmp_path, DEADLY)
    settings: Settings = {
        "workers": {"libopus": str(library)},
        "restart": {
            "backoff_seconds": 0.02,
            "intensity": 10,
            "period_seconds": 600.0,  # however long ten starts take
            "failed_retry_seconds": 0.5,
        },
        "health": {"canary_seconds": 0.1},
    }
    with scene(deaths=None, bystanders=0, settings=settings) as here:
        deadly.touch()
        here.await_restarts(segv=3)
        with pytest.raises((opuspool.PoisonPacketError, opuspool.DecodeTimeoutError)):
            here.pool.decode(PACKETS[60:61], timeout=1)

        def all_failed() -> bool:
            return all(slot["state"] == "FAILED" for slot in here.status()["workers"])

        wait_until(all_failed, 90, what="every slot has been given up")
        starts, work, began = here.counters()["spawns"], _cpu(here.supervisor), time.monotonic()
        states = [here.status()["health"] for _ in _ticks(2.0)]
        starts, work = here.counters()["spawns"] - starts, _cpu(here.supervisor) - work
        seconds = time.monotonic() - began
        assert "ok" not in states
        assert starts <= 3 * (seconds / (0.75 * 0.5) + 1), "one probe at a time"
        assert work / seconds < 1.0
        deadly.unlink()
        here.await_health()
        assert set(here.restarts()) == {"segv"}


def _ticks(seconds: float) -> Iterator[None]:
    """A look every 20 ms, for so long; the time is what is measured."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)
        yield


def test_a_worker_that_does_not_get_ready_is_ended(tmp_path: Path) -> None:
    """Row 10: a start that takes too long is a boot failure; when it is mended, so is the pool."""
    library, slow = front(tmp_path, SLOW)
    settings: Settings = {
        "workers": {"libopus": str(library), "start_seconds": 4.0},
        "restart": {"backoff_max_seconds": 0.3},
    }
    with scene(deaths=None, settings=settings) as here:
        slow.touch()
        os.kill(here.pid(0), signal.SIGKILL)  # the spare takes over; its slot has nobody
        here.await_restarts(killed=1, boot=1)
        assert here.status()["health"] in {"ok", "degraded"}, "the others serve"
        slow.unlink()
        here.await_health()
        assert set(here.restarts()) == {"killed", "boot"}


def _text(path: Path) -> None:
    path.write_text("no library")


def _foreign(path: Path) -> None:
    shutil.copy(next(p for p in _loaded_libraries() if p.name.startswith("libm.so")), path)


def _loaded_libraries() -> list[Path]:
    return [Path(m.path) for m in psutil.Process().memory_maps() if ".so" in m.path]


def _gone(path: Path) -> None:
    path.unlink()


WRONG = {"no library": _text, "another library": _foreign, "gone": _gone}


@pytest.mark.parametrize("spoil", WRONG.values(), ids=WRONG)
def test_a_libopus_that_is_spoilt_and_mended(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """Rows 10 and 32: running workers serve on; new ones say why not, and no storm comes of it."""
    library = tmp_path / "libopus.so"
    shutil.copy(real_libopus(), library)
    settings: Settings = {
        "workers": {"libopus": str(library)},
        "restart": {"backoff_seconds": 0.2, "backoff_max_seconds": 0.5},
    }
    with scene(deaths=None, settings=settings) as here:
        spoilt = tmp_path / "spoilt"
        shutil.copy(library, spoilt)
        spoil(spoilt)
        library.unlink()
        if spoilt.exists():
            spoilt.rename(library)
        os.kill(here.pid(0), signal.SIGKILL)
        here.await_restarts(killed=1, boot=2)
        assert str(library) in here.status()["boot_error"]
        mended = tmp_path / "mended"
        shutil.copy(real_libopus(), mended)
        mended.rename(library)
        here.await_health()
        assert set(here.restarts()) == {"killed", "boot"}


def test_a_libopus_that_is_overwritten_in_place_heals(tmp_path: Path) -> None:
    """Row 32: its pages go from under every worker (SIGBUS), then it is there again."""
    library = tmp_path / "libopus.so"
    shutil.copy(real_libopus(), library)
    settings: Settings = {
        "workers": {"libopus": str(library)},
        "restart": {"backoff_max_seconds": 0.5},
        "health": {"canary_seconds": 0.2},
    }
    with scene(deaths=None, bystanders=0, settings=settings) as here:
        library.write_bytes(b"")
        with pytest.raises(opuspool.OpusPoolError):
            here.pool.decode(PACKETS[60:61], timeout=5)
        wait_until(lambda: here.status()["health"] == "down", what="no worker can decode")
        library.write_bytes(real_libopus().read_bytes())
        here.await_health()
        assert {"bus", "boot"} <= set(here.restarts())


def test_a_libopus_of_another_version_takes_over(tmp_path: Path) -> None:
    """Row 32: replaced on disk; streams go on from their journals, nothing is refused."""
    versions = all_libopus()
    if len(versions) < 2:
        pytest.skip("there is one libopus only: install PyAV")
    library = tmp_path / "libopus.so"
    shutil.copy(versions[0], library)
    settings: Settings = {"workers": {"libopus": str(library)}}
    with (
        scene(deaths={"killed": 3}, bystanders=0, settings=settings) as here,
        here.pool.stream() as stream,
    ):
        before = stream.decode_many(PACKETS[:150])
        assert np.array_equal(before, golden(PACKETS[:150]))
        newer = tmp_path / "newer"
        shutil.copy(versions[1], newer)
        newer.rename(library)
        for number, pid in enumerate([here.pid(slot) for slot in (0, 1, 2)], start=1):
            os.kill(pid, signal.SIGKILL)
            here.await_restarts(killed=number)
        wait_until(lambda: all_idle(here.status()), what="others have taken their places")
        assert here.status()["libopus"]["version"] == version(versions[1])
        after = stream.decode_many(PACKETS[150:200])
        assert after.shape == (50 * 320,)
        assert np.abs(after - golden(PACKETS[:200])[150 * 320 :]).max() < 0.05
        assert here.pool.decode(UTTERANCE).shape == (50 * 320,)
