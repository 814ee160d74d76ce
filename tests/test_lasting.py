"""Counters that outlive the daemon: they add up over starts; damage is told and moved aside."""

from __future__ import annotations

import json
import os
import signal
import stat
from functools import partial
from typing import TYPE_CHECKING, Any

import daemons
import pytest
from opuspool_supervisor import lasting
from opuspool_supervisor.log import Log
from waiting import wait_until

import opuspool
from opuspool import statedir

if TYPE_CHECKING:
    from pathlib import Path


class Told(Log):
    def __init__(self) -> None:
        super().__init__("error")
        self.events: list[str] = []

    def write(self, _level: str, event: str, _facts: dict[str, Any]) -> None:
        self.events.append(event)


def counters(path: Path | None, log: Log | None = None) -> lasting.LastingCounters:
    return lasting.LastingCounters(path, log or Told())


def test_restarts_and_starts_survive_the_daemon(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since start they are 0 again; since ever they are not."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    settings = daemons.settings_for(tmp_path, endpoint)
    for start in (1, 2):
        with daemons.daemon(settings), opuspool.Pool(endpoint) as pool:
            os.kill(pool.status()["workers"][0]["pid"], signal.SIGKILL)
            wait_until(
                lambda: pool.status()["counters"]["worker_restarts"]["killed"] == 1,
                what="the death is counted",
            )
            wait_until(partial(_ever_is, pool, start, start), what="starts and deaths are added up")
    (path,) = statedir.state_directory().glob("counters-*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def _ever_is(pool: opuspool.Pool, starts: int, killed: int) -> bool:
    ever = pool.status()["ever"]
    return (ever["supervisor_starts"], ever["worker_restarts"]["killed"]) == (starts, killed)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """The last update before the close counts."""
    path = tmp_path / "c.json"
    for start in (1, 2, 3):
        kept = counters(path)
        kept.update({"segv": 2})
        kept.close()
        assert kept.as_dict()["worker_restarts"]["segv"] == 2 * start
    assert lasting.read(path).starts == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": 2}',
        b'{"format": 1, "since": "x", "starts": 1, "restarts": {}}',
        b'{"format": 1, "since": "2026-01-01", "starts": -1, "restarts": {}}',
        b'{"format": 1, "since": "2026-01-01", "starts": 1, "restarts": {"segv": "1"}}',
        b"[" * 60_000,
        b" " * 70_000,
    ],
)
def test_a_damaged_file_is_told_and_moved_aside(tmp_path: Path, damage: bytes) -> None:
    """Counting begins anew."""
    path = tmp_path / "c.json"
    path.write_bytes(damage)
    log = Told()
    kept = counters(path, log)
    kept.close()
    assert log.events == ["counters_damaged"]
    assert (tmp_path / "c.damaged").read_bytes() == damage
    assert json.loads(path.read_bytes())["starts"] == 1


def test_a_place_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    """And the daemon goes on."""
    (tmp_path / "file").write_text("no directory")
    log = Told()
    kept = counters(tmp_path / "file" / "c.json", log)
    kept.update({"segv": 1})
    kept.close()
    assert set(log.events) == {"counters_not_kept"}
    assert len(log.events) == 1
    assert kept.as_dict()["worker_restarts"]["segv"] == 1
