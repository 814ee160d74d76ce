"""`opuspool bench`, run as its users run it; how fast anything is, is not for tests."""

from __future__ import annotations

import importlib.util
import itertools
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from reference import golden
from waiting import wait_until

from opuspool.bench import check, speech, summary
from opuspool.bench.loads import LOADS, Kind
from opuspool.bench.messages import Cell
from opuspool.bench.rival import Rival, Setup
from opuspool.bench.rivals import RIVALS
from opuspool.bench.rivals.inprocess import Locked
from opuspool.bench.window import Timings, Window
from opuspool.cli.bench import bench

if TYPE_CHECKING:
    from pathlib import Path

    from opuspool.pcm import Pcm

COMMAND = [sys.executable, "-m", "opuspool", "bench"]
QUICK = ("--quick", "--seconds", "0.1")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_a_quick_run_measures_what_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    rivals = ("lock", "unlocked", "executor", "executor-async", "opuspool", "opuspool-async")
    only = [word for name in rivals for word in ("--only", name)]
    loads = ("stream", "10-streams", "utterances")
    wanted = [word for name in loads for word in ("--load", name)]

    done = run(*QUICK, *only, *wanted, "--json", path)

    assert done.returncode == 0, done.stderr
    report = json.loads(path.read_text())
    assert not report["failed"]
    rows = {(row["load"], row["rival"]): row for row in report["rows"]}
    assert set(rows) == {(load, rival) for load in loads for rival in rivals}
    for row in rows.values():
        check_row(row)
    assert rows["stream", "lock"]["to_lock"] == 1.0
    assert rows["stream", "executor"]["to_pool"] == 1.0
    for name in ("opuspool", "opuspool-async"):
        assert rows["stream", name]["supervisor_mb"] > 1
        assert rows["stream", name]["worker_mb"] > 1
    assert rows["stream", "executor"]["supervisor_mb"] is None
    setup = report["plan"]["setup"]
    assert setup["own_workers"] == setup["workers"] + 1
    assert len(report["claims"]) == 3  # those of the loads that were asked for
    assert LOADS["utterances"].title in done.stdout


def check_row(row: dict[str, Any]) -> None:
    # From a tenth of real time on a machine that stands still, to more than any machine does.
    assert 5 < row["packets_per_second"] < 10_000_000
    assert row["slowest"] <= row["packets_per_second"] <= row["fastest"]
    assert 0 < row["p50_ms"] <= row["p99_ms"]
    assert row["client_mb"] > 1


def test_the_command_knows_all_rivals_and_loads() -> None:
    choices = {option.name: getattr(option.type, "choices", ()) for option in bench.params}

    assert tuple(choices["only"]) == tuple(RIVALS)
    assert tuple(choices["loads"]) == tuple(LOADS)


def test_speech_is_what_it_is_said_to_be() -> None:
    pcm = golden(speech.packets())

    assert len(pcm) == len(speech.packets()) * speech.FRAME_SAMPLES
    assert len(speech.utterance()) == speech.UTTERANCE_PACKETS
    assert len(speech.file()) < 30_000


def test_no_two_callers_speak_in_step() -> None:
    packets = speech.packets()

    spoken = [list(itertools.islice(speech.endless(n), len(packets) + 1)) for n in range(100)]

    assert spoken[0] == [*packets, packets[0]]
    for caller in spoken:
        assert sorted(caller[:-1]) == sorted(packets)
        assert caller[-1] == caller[0]
    assert len({tuple(caller) for caller in spoken}) == 100


def test_a_rival_with_right_pcm_passes(libopus: str) -> None:
    rival = Locked(Setup(libopus, 1, 1))
    rival.open()

    check.check(rival)

    assert np.array_equal(rival.decode_once(Kind.PACKET), golden(speech.packets()))


@pytest.mark.parametrize("exact", [True, False])
def test_a_rival_with_wrong_pcm_is_refused(libopus: str, *, exact: bool) -> None:
    class Wrong(Locked):
        def decode_once(self, kind: Kind) -> Pcm:
            return super().decode_once(kind)[::-1]

    Wrong.exact = exact
    rival = Wrong(Setup(libopus, 1, 1))
    rival.open()

    with pytest.raises(RuntimeError, match="wrong PCM from lock for a file"):
        check.check(rival)


@pytest.fixture
def libopus() -> str:
    from reference import real_libopus

    return str(real_libopus())


def test_calls_count_if_they_end_in_the_window() -> None:
    window = Window(1.0)
    early = (window.start - 2, window.start - 1)
    inside = (window.start - 0.1, window.start + 0.1)
    late = (window.stop - 0.1, window.stop + 0.1)
    window.calls += [early, inside, late]

    timings = window.timings(LOADS["stream"])

    assert timings.calls == 1
    assert timings.packets_per_second == pytest.approx(1.0)
    assert timings.p50_ms == pytest.approx(200)


def test_a_window_waits_for_calls_longer_than_itself() -> None:
    window = Window(1.0)
    window.calls += [(window.start, window.stop + 1)] * 8

    timings = window.timings(LOADS["utterances"])

    assert timings.packets_per_second == pytest.approx(8 * speech.UTTERANCE_PACKETS / 2)


def test_ratios_are_medians_of_rounds() -> None:
    cells = {
        "lock": rounds(100, 200, 300),
        "pebble": rounds(10, 10, 10),
        "executor": rounds(20, 20, 20),
        "opuspool": rounds(200, 200, 600),
    }
    from opuspool.bench.match import Results

    rows = {r.rival: r for r in summary.summarise(Results({"stream": cells}, {}))}

    assert rows["opuspool"].to_lock == 2.0
    assert rows["opuspool"].to_pool == 10.0  # the best pool is the executor
    assert rows["opuspool"].to_unlocked is None
    assert (rows["opuspool"].slowest, rows["opuspool"].fastest) == (200, 600)


def test_pools_are_compared_with_what_is_called_alike() -> None:
    from opuspool.bench.match import Results

    cells = {
        "pebble": rounds(40),
        "pebble-async": rounds(20),
        "opuspool": rounds(200),
        "opuspool-async": rounds(100),
    }

    rows = {r.rival: r for r in summary.summarise(Results({"stream": cells}, {}))}

    assert (rows["opuspool"].to_pool, rows["opuspool-async"].to_pool) == (5.0, 5.0)


def rounds(*rates: float) -> dict[int, Cell]:
    return {
        number: Cell(
            Timings(rate, 1, 0.5, 1.0),
            {"client": 0.1},
            {"client": [1.0], "supervisor": [], "workers": []},
        )
        for number, rate in enumerate(rates)
    }


def test_a_claim_that_is_not_met_says_so() -> None:
    from opuspool.bench.match import Results

    rows = summary.summarise(Results({"stream": {"opuspool": rounds(100)}}, {}))

    (verdict,) = summary.verdicts(rows)

    assert (verdict.measured, verdict.met) == (0.5, False)


@pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is not None, reason="matplotlib is installed"
)
def test_a_plot_without_matplotlib_says_what_to_install(tmp_path: Path) -> None:
    done = run("--plot", tmp_path / "bench.png")

    assert done.returncode == 2
    assert 'pip install "opuspool[bench]"' in done.stderr


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")

    done = run(*QUICK, "--only", "lock", "--load", "stream", "--plot", tmp_path / "bench.png")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_an_output_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    done = run("--json", tmp_path / "none" / "bench.json")

    assert done.returncode == 2
    assert "no such folder" in done.stderr


def test_no_daemon_is_told_at_once() -> None:
    done = run("--endpoint", "ipc:///nowhere/pool.sock")

    assert done.returncode == 1
    assert "no supervisor answers" in done.stderr


def test_ctrl_c_ends_it_and_all_that_it_started() -> None:
    words = ("--only", "executor", "--only", "opuspool", "--load", "10-streams", "--seconds", "60")
    with subprocess.Popen([*COMMAND, *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            family = wait_until(lambda: _at_work(process.pid), timeout=60, what="both at work")
        finally:
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)

    assert process.returncode == 130
    assert stderr.strip() == "opuspool: interrupted"
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive


def _at_work(pid: int) -> list[psutil.Process]:
    """All descendants, once both rivals are open and one of them has a load."""
    try:
        family = psutil.Process(pid).children(recursive=True)
        lines = [" ".join(process.cmdline()) for process in family]
        used = [sum(process.cpu_times()[:2]) for process in family]
    except psutil.NoSuchProcess:  # ended meanwhile
        return []
    runners = [n for n, line in enumerate(lines) if "opuspool.bench.runner" in line]
    busy = any(used[n] > 2 for n in runners)
    opened = any("opuspool_workers" in line for line in lines)
    return family if len(runners) == 2 and opened and busy else []


def test_import_opuspool_imports_no_benchmark() -> None:
    code = (
        "import sys, opuspool; opuspool.Pool; opuspool.AsyncPool;"
        "print([name for name in sys.modules if name.startswith('opuspool.bench')])"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_every_rival_has_a_name_and_something_to_do() -> None:
    for name, rival in RIVALS.items():
        assert issubclass(rival, Rival)
        assert name == rival.name
        assert any(rival.takes(load) for load in LOADS.values())
