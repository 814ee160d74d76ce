"""The benchmarks of live streams and of memory run, measure what they say, and leave nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import wait_until

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="ipc and signals of POSIX")


def run(tmp_path: Path, script: str, *arguments: str) -> Any:
    """Run a benchmark; returns the figures that it wrote."""
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(figures.read_text())


def test_live_streams_are_all_decoded_and_timed(tmp_path: Path) -> None:
    (result,) = run(tmp_path, "live.py", "--streams", "7", "--seconds", "1")
    assert result["streams"] == 7
    assert result["packets"] == 7 * 50
    assert result["lost"] == 0
    assert result["failures"] == {}
    assert result["kills"] == result["restarts"] == result["bulk_packets"] == 0
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["worst_ms"] < 30_000


def test_live_streams_lose_nothing_to_kills_and_bulk_work(tmp_path: Path) -> None:
    (result,) = run(tmp_path, "live.py", "--streams", "4", "--seconds", "2", "--kill", "--bulk")
    assert result["kills"] == 2
    assert 1 <= result["restarts"] <= 2  # of the last one the supervisor may not know yet
    assert result["bulk_packets"] > 0
    assert result["lost"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="processes are pinned to cores")
def test_wake_ups_are_timed(tmp_path: Path) -> None:
    rows = run(tmp_path, "wakeups.py", "--rounds", "20", "--work-us", "50")
    assert [row["cores"] for row in rows] == ["one", "two"]
    for row in rows:
        assert 0 < row["p50_us"] <= row["p99_us"] < 1e6
        assert 0 < row["mean_us"] < 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="processes are pinned to cores")
def test_each_core_is_timed(tmp_path: Path) -> None:
    rows = run(tmp_path, "steadiness.py", "--seconds", "0.5")
    assert [row["core"] for row in rows] == sorted(os.sched_getaffinity(0))
    for row in rows:
        assert 0 <= row["slow_share"] < 0.5  # of slices under the median's 60 %
        assert 0 < row["p1_speed"] <= 100


def test_spells_of_slow_slices_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import steadiness

    counts = [100] * 200
    counts[20:25] = [59, 10, 100, 59, 59]
    counts[50] = 60
    counts[90] = 1

    found = steadiness.judge(1, counts)

    assert found == steadiness.Steadiness(1, 0.025, 2, 50.0, 59.0)


def test_the_incidents_service_outlives_its_workers(tmp_path: Path) -> None:
    figures = run(tmp_path, "incident.py", "--requests", "80", "--kill-seconds", "0.2")
    assert (figures["failed"], figures["wrong"], figures["service_deaths"]) == (0, 0, 0)
    assert figures["kills"]
    for reason, kills in figures["kills"].items():
        assert figures["restarts"][reason] >= kills


def test_a_service_that_dies_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has not answered has failed."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import incident

    script = tmp_path / "service.py"
    facts = {
        "ended": {"right": 7, "wrong": 1},
        "seconds": 1.0,
        "kills": {},
        "restarts": {},
        "reasons": {},
    }
    script.write_text(
        f"import json, os, signal\nprint(json.dumps({facts}), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setattr(incident, "__file__", str(script))
    figures = incident.measure(argparse.Namespace(requests=10))
    assert (figures["failed"], figures["wrong"], figures["service_deaths"]) == (3, 1, 1)
    assert figures["service_end"] == "SIGSEGV"


def test_a_search_ends_at_the_largest_number_that_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a daemon that serves 237 streams."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import live

    def measure(_: live.Plan, streams: int) -> live.Result:
        p99 = 5.0 if streams <= 237 else 30.0
        return live.Result(streams, 50, 0, {}, 1.0, p99, p99, 0, 0, 0, 0.1)

    monkeypatch.setattr(live, "measure", measure)
    plan = live.Plan("ipc:///none", None, 2, 1.0, kill=False, bulk=False)
    for first, step, best in ((100, 25, 225), (60, 1, 237), (300, 25, 225), (237, 10, 237)):
        results = live.search(plan, first, step)
        assert max(r.streams for r in results if r.passes) == best
        assert min(r.streams for r in results if not r.passes) <= best + step


def test_a_lost_packet_fails_whatever_the_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import live

    assert live.Result(1, 50, 0, {}, 1.0, 5.0, 5.0, 0, 0, 0, 0.1).passes
    assert not live.Result(1, 50, 1, {}, 1.0, 5.0, 5.0, 0, 0, 0, 0.1).passes


def test_ctrl_c_ends_a_live_run_and_leaves_no_process() -> None:
    command = [sys.executable, str(BENCHMARKS / "live.py"), "--streams", "3", "--seconds", "60"]
    with subprocess.Popen(
        [*command, "--kill", "--bulk"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: _generators(process.pid) == 2, timeout=30, what="generators run")
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == ""
    assert errors == "interrupted\n"


def _generators(pid: int) -> int:
    children = psutil.Process(pid).children()
    return sum("liveload.py" in " ".join(child.cmdline()) for child in children)


def test_memory_and_start_have_figures(tmp_path: Path) -> None:
    figures = run(tmp_path, "memory.py", "--streams", "20", "--packets", "111", "--starts", "2")
    memory, start = figures["memory"], figures["start"]
    for stage in ("fresh", "open", "spoken", "closed"):
        roles = memory["uss_mib"][stage]
        assert [len(roles[role]) for role in ("client", "supervisor", "workers", "spares")] == [
            1,
            1,
            2,
            1,
        ]
        assert all(1 < mib < 1000 for role in roles.values() for mib in role)
    times = [start[name]["median"] for name in ("opened_to_pcm_ms", "pool_to_pcm_ms")]
    assert 0 < times[0] < times[1] < start["import_to_pcm_ms"]["median"]
    assert start["import_to_pcm_ms"]["median"] < start["process_ms"]["median"]


def test_growth_is_measured_in_all_its_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import growth

    monkeypatch.setattr(growth, "STREAMS", (3,))
    monkeypatch.setattr(growth, "WORKERS", (1,))
    monkeypatch.setattr(growth, "LENGTHS", (5,))
    rows = asyncio.run(growth.grow(1, 1.0))  # CPU time is counted in hundredths of a second
    assert [(row["grows"], row["to"]) for row in rows] == [
        ("streams", 3),
        ("workers", 1),
        ("length", 5),
    ]
    for row in rows:
        idle = {"grows", "supervisor_us"}  # by lanes, it has nothing to do
        assert all(value > 0 for key, value in row.items() if key not in idle)
