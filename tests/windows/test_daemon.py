"""The daemon on Windows: tcp with keys, one a port, found without settings, restarted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from windows import lane

import opuspool
from opuspool import curve

assert sys.platform == "win32"


def test_clients_with_keys_are_served_and_others_are_not(tmp_path: Path) -> None:
    config, address = lane.daemon_settings(tmp_path)
    with lane.daemon(lane.supervise("--config", config)) as daemon:
        with opuspool.Pool(address, config=str(config)) as pool:
            lane.Speaker(pool).say(5)
            pids = lane.pids(pool)
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
        with opuspool.Pool(address, config=str(config)) as pool:
            lane.Speaker(pool).say(2)
        daemon.process.kill()
        lane.gone(pids)


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


def test_new_settings_come_with_a_restart_and_the_stream_goes_on(tmp_path: Path) -> None:
    """Instead of a reload, for which Windows has no signal."""
    config, address = lane.daemon_settings(tmp_path, workers="count = 1\nspares = 0")
    with lane.daemon(lane.supervise("--config", config)) as daemon:
        pool = opuspool.Pool(address, config=str(config))
        speaker = lane.Speaker(pool)
        speaker.say(50)
        daemon.process.kill()
        daemon.wait()
    port = int(address.rpartition(":")[2])
    lane.daemon_settings(tmp_path, port=port, workers="count = 2\nspares = 0")
    with lane.daemon(lane.supervise("--config", config)), pool:
        speaker.say(50)
        assert len(pool.status()["workers"]) == 2
        speaker.close()
