"""Without a console, as a service is; inside a job; started by a launcher (row W3)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from distlib.scripts import ScriptMaker
from waiting import wait_until
from windows import lane

import opuspool
from opuspool import winprocess

assert sys.platform == "win32"

PYTHONS = Path(sys.executable).parent
SPEECH = Path(__file__).parents[2] / "examples" / "speech.opus"

CLIENT = """
import json, sys, opuspool
from pathlib import Path
config, speech, answer = sys.argv[1:]
with opuspool.Pool(workers=1, spares=1, config=config) as pool:
    said = {"stderr": sys.stderr is not None, "samples": len(pool.decode_file(speech))}
    said["status"] = pool.status()
Path(answer).write_text(json.dumps(said))
"""


@pytest.mark.parametrize("program", ["python.exe", "pythonw.exe"])
def test_a_pool_starts_in_a_process_without_a_console(tmp_path: Path, program: str) -> None:
    answer = tmp_path / "answer.json"
    command = [str(PYTHONS / program), "-c", CLIENT]
    with subprocess.Popen(
        [*command, str(lane.settings(tmp_path)), str(SPEECH), str(answer)],
        creationflags=subprocess.DETACHED_PROCESS,
    ) as client:
        assert client.wait(120) == 0
    said = json.loads(answer.read_text())
    assert not said["stderr"], "it has standard streams: the test is wrong"
    assert said["samples"] > 16000
    assert said["status"]["health"] == "ok"
    lane.gone([slot["pid"] for slot in said["status"]["workers"] + said["status"]["spares"]])


def serve(config: Path, address: str) -> list[int]:
    """Be served by a daemon, once it is there; returns the pids of daemon and workers."""
    with opuspool.Pool(address, config=str(config)) as pool:
        wait_until(lambda: pool.status()["health"] == "ok", 90, "it is ready")
        lane.Speaker(pool).say(5)
        return [pool.status()["supervisor"]["pid"], *lane.pids(pool)]


def test_a_daemon_serves_without_a_console_and_inside_a_job(tmp_path: Path) -> None:
    """So the Task Scheduler runs it; its workers are in that job and in the daemon's own."""
    config, address = lane.daemon_settings(tmp_path)
    outer = winprocess.Job()
    command = [str(PYTHONS / "pythonw.exe"), "-m", "opuspool_supervisor", "--config", str(config)]
    with subprocess.Popen(command, creationflags=subprocess.DETACHED_PROCESS) as daemon:
        outer.add(daemon)
        wait_until((tmp_path / "keys.json").exists, 90, "its keys are made")
        pids = serve(config, address)
        psutil.Process(pids[-1]).suspend()
        daemon.kill()
        lane.gone(pids)


def test_everything_goes_with_the_installed_command(tmp_path: Path) -> None:
    """`opuspool-supervise.exe` is a launcher: who ends it means the daemon."""
    folder = tmp_path / "Ünder wäy with spaces"
    folder.mkdir()
    maker = ScriptMaker(None, str(folder))  # pip makes its commands with it
    maker.executable, maker.variants = sys.executable, {""}
    (program,) = maker.make("opuspool-supervise = opuspool_supervisor.cli:main")
    config, address = lane.daemon_settings(folder)
    with lane.daemon([program, "--config", str(config)]) as daemon:
        pids = serve(config, address)
        assert pids[0] != daemon.process.pid
        daemon.process.kill()
        lane.gone(pids)
