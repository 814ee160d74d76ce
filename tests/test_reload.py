"""SIGHUP: a running daemon takes new settings, or says why not and goes on with the old ones."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
from coremodel import World
from daemons import daemon, settings_for
from matrix import scene
from opuspool_supervisor import reload
from opuspool_supervisor.slots import SlotState
from waiting import wait_until

from opuspool import config as configs

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from matrix import Scene


def sized(workers: int, spares: int = 1) -> configs.Config:
    return configs.load(environ={}, overrides={"workers": {"count": workers, "spares": spares}})


def numbers(world: World) -> list[tuple[int, bool]]:
    return [(slot.number, slot.spare) for slot in world.core.slots]


def test_what_needs_a_restart_stays_as_it_was() -> None:
    """The rest is taken; both are told."""
    old = configs.load(environ={})
    wishes: dict[str, dict[str, object]] = {
        "supervisor": {"http": ""},
        "workers": {"count": 7},
        "health": {"canary_seconds": 1.0},
    }
    new = configs.load(environ={}, overrides=wishes)
    taken = reload.merged(old, new)
    assert reload.changed(old, taken) == ["[workers] count", "[health] canary_seconds"]
    assert reload.changed(taken, new) == ["[supervisor] http"]


@pytest.mark.parametrize("sizes", [[4], [1], [4, 1, 3], [1, 4, 2], [1, 1], [2, 2]])
def test_slots_come_and_go(sizes: list[int]) -> None:
    """Each change in full: as many slots and workers as asked for, no number twice."""
    world = World({"workers": {"count": 2, "spares": 1}})
    world.boot()
    for size in sizes:
        world.core.reconfigure(sized(size), world.now)
        world.work(6)
        found = numbers(world)
        assert sum(not spare for _, spare in found) == size
        assert len({number for number, _ in found}) == size + 1
        assert all(slot.state is SlotState.IDLE for slot in world.core.slots)
        assert len(world.workers) == size + 1


def test_a_worker_that_is_still_starting_leaves_when_it_is_ready() -> None:
    """It is not killed for it, and serves nobody."""
    world = World({"workers": {"count": 2, "spares": 0}})
    world.turn()
    world.core.reconfigure(sized(1, 0), world.now)
    world.work(4)
    assert numbers(world) == [(0, False)]
    assert world.core.books.worker_restarts["exit"] == 1


def _told(process: subprocess.Popen[str], event: str) -> list[dict[str, Any]]:
    lines: list[str] = process.log  # type: ignore[attr-defined]  # `daemon` has put it there
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [told for told in events if told["event"] == event]


def _hang_up(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    before = len(_told(process, event))
    process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(_told(process, event)) > before, what=f"{event} is told")
    return _told(process, event)[-1]


def _await_workers(here: Scene, count: int) -> None:
    wait_until(lambda: len(here.status()["workers"]) == count, what=f"{count} workers")


def test_a_pool_grows_and_shrinks_under_load(tmp_path: Path, endpoint: str) -> None:
    """Between 1 and 4 workers; a bad file in between changes nothing; nobody notices."""
    path = settings_for(tmp_path, endpoint, "[workers]\ncount = 2\n")
    with daemon(path) as process, scene(endpoint, deaths=None) as here:
        for count in (4, 1, 4, 2):
            settings_for(tmp_path, endpoint, f"[workers]\ncount = {count}\n")
            assert _hang_up(process, "reloaded")["changed"] == ["[workers] count"]
            _await_workers(here, count)
            here.await_health()
            settings_for(tmp_path, endpoint, "[workers]\ncuont = 3\n")
            assert "the nearest is [workers] count" in _hang_up(process, "reload_refused")["why"]
            assert len(here.status()["workers"]) == count
            assert not here.status()["reload"]["ok"]
        assert set(here.restarts()) == {"exit"}, "only planned ends"
        assert here.counters()["inexact_rebuilds"] == 0
        assert here.counters()["retries"] == 0


def test_a_reload_during_a_crash(tmp_path: Path, endpoint: str) -> None:
    """Row 30: deaths and reloads at once; the count of workers is the last one asked for."""
    with daemon(settings_for(tmp_path, endpoint)) as process, scene(endpoint, deaths=None) as here:
        for count in (3, 1, 2):
            os.kill(here.pid(), signal.SIGKILL)
            settings_for(tmp_path, endpoint, f"[workers]\ncount = {count}\n")
            _hang_up(process, "reloaded")
            _await_workers(here, count)
            here.await_health()
        assert here.restarts()["killed"] == 3
        told = _hang_up(process, "reloaded")
        assert (told["changed"], told["need_restart"]) == ([], [])


def test_the_log_level_changes(tmp_path: Path, endpoint: str) -> None:
    """What is less severe than the new level is not written any more."""
    with daemon(settings_for(tmp_path, endpoint)) as process, scene(endpoint, deaths=None) as here:
        settings_for(tmp_path, endpoint, 'log_level = "error"\n')
        _hang_up(process, "reloaded")
        os.kill(here.pid(), signal.SIGKILL)
        here.await_restarts(killed=1)
        here.await_health()
        assert not _told(process, "worker_ended")
