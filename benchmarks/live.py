"""How many live streams a daemon serves: one packet every 20 ms each, p99 under 20 ms, none lost.

.venv/bin/python benchmarks/live.py                       search the largest number
.venv/bin/python benchmarks/live.py --streams 400 --kill  that number, a worker killed each second
.venv/bin/python benchmarks/live.py --streams 400 --bulk  that number, files decoded beside them
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from liveload import Job, Report
from livescene import Bulk, Killer, daemon

import opuspool

ROOT = Path(__file__).parents[1]
P99_MS = 20.0
START_SECONDS = 4.0
"""From the start of a generator to its first packet."""


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        endpoint, config: of the daemon.
        generators: processes that send.
        seconds: for which they do.
        kill, bulk: whether workers are killed, and files decoded, meanwhile.
    """

    endpoint: str
    config: str | None
    generators: int
    seconds: float
    kill: bool
    bulk: bool


@dataclass(frozen=True)
class Result:
    """What became of a number of streams; latencies in milliseconds, from when packets were due.

    Attributes:
        lost: packets that were not decoded, or whose PCM was wrong.
        restarts: of workers.
        bulk_packets: a second, of the files beside.
        load_cpu: cores that the generators used.
    """

    streams: int
    packets: int
    lost: int
    failures: dict[str, int]
    p50_ms: float
    p99_ms: float
    worst_ms: float
    restarts: int
    kills: int
    bulk_packets: float
    load_cpu: float

    @property
    def passes(self) -> bool:
        """Whether so many streams are served."""
        return self.lost == 0 and self.p99_ms < P99_MS


def measure(plan: Plan, streams: int) -> Result:
    """Run so many streams.

    Raises:
        RuntimeError: a generator failed, or was not ready in time.
    """
    with ExitStack() as stack:
        pool = stack.enter_context(opuspool.Pool(plan.endpoint, config=plan.config))
        before = _restarts(pool)
        begin = time.monotonic() + START_SECONDS
        beside = {
            kind: kind(pool, begin, plan.seconds)
            for kind, asked in ((Killer, plan.kill), (Bulk, plan.bulk))
            if asked
        }
        load = _Generators()
        for one in (load, *beside.values()):
            stack.callback(one.stop)  # before it starts: Ctrl-C may come at any time
        load.start(plan, streams, begin)
        for thread in beside.values():
            thread.start()
        reports = load.reports()
        for thread in beside.values():
            thread.stop()
        counts = {kind: thread.count for kind, thread in beside.items()}
        return Result(
            streams=streams,
            **_figures(reports, plan.seconds),
            restarts=_restarts(pool) - before,
            kills=counts.get(Killer, 0),
            bulk_packets=round(counts.get(Bulk, 0) / plan.seconds),
        )


def _restarts(pool: opuspool.Pool) -> int:
    return sum(pool.status()["counters"]["worker_restarts"].values())


class _Generators:
    """The processes that send."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, plan: Plan, streams: int, begin: float) -> None:
        """Start them; they send from `begin` on."""
        self._seconds = plan.seconds
        first = 0
        for number in range(min(plan.generators, streams)):
            share = len(range(number, streams, plan.generators))
            job = Job(plan.endpoint, plan.config, share, first, begin, plan.seconds)
            first += share
            self._processes.append(_start(msgspec.json.encode(job)))

    def reports(self) -> list[Report]:
        """Wait for all."""
        found = []
        limit = START_SECONDS + self._seconds + 60
        for process in self._processes:
            output, _ = process.communicate(timeout=limit)
            if process.returncode != 0:
                raise RuntimeError(f"a load generator failed: exit code {process.returncode}")
            found.append(msgspec.json.decode(output, type=Report))
        if any(report.late_start for report in found):
            raise RuntimeError(f"a load generator was not ready within {START_SECONDS} s")
        return found

    def stop(self) -> None:
        """End what is still there."""
        for process in self._processes:
            process.kill()
            process.communicate()


def _start(job: bytes) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "liveload.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours, and ends it
    )
    assert process.stdin is not None
    process.stdin.write(job + b"\n")
    process.stdin.flush()
    return process


def _figures(reports: list[Report], seconds: float) -> dict[str, Any]:
    """The generators' reports, summed up."""
    latencies = np.frombuffer(b"".join(report.latencies for report in reports), np.float32)
    failures: Counter[str] = Counter()
    for report in reports:
        failures.update(report.failed)
    due, wrong = sum(r.due for r in reports), sum(r.wrong for r in reports)
    p50, p99, worst = np.percentile(latencies, (50, 99, 100)) if latencies.size else [math.inf] * 3
    return {
        "packets": due,
        "lost": due - latencies.size + wrong,
        "failures": dict(failures),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "worst_ms": round(float(worst), 1),
        "load_cpu": round(sum(r.cpu_seconds for r in reports) / seconds, 2),
    }


def search(plan: Plan, first: int, step: int) -> list[Result]:
    """Double until it is too much, then halve the gap until it is one step."""
    results = [_told(measure(plan, first))]
    good, bad = (first, 0) if results[0].passes else (0, first)
    while not bad or bad - good > step:
        streams = good * 2 if not bad else good + max(1, (bad - good) // (2 * step)) * step
        results.append(_told(measure(plan, streams)))
        if results[-1].passes:
            good = streams
        else:
            bad = streams
    return results


def _told(result: Result) -> Result:
    mark = "ok " if result.passes else "NO "
    figures = {key: value for key, value in asdict(result).items() if key != "streams"}
    text = ", ".join(f"{key} {value}" for key, value in figures.items())
    print(f"{mark} {result.streams:5} streams: {text}", flush=True)
    return result


def run(asked: argparse.Namespace) -> list[Result]:
    """Measure one number of streams, or search."""
    with ExitStack() as stack:
        endpoint, config = asked.endpoint, asked.config
        if endpoint is None:
            endpoint, config = stack.enter_context(daemon(asked.workers))
        plan = Plan(endpoint, config, asked.generators, asked.seconds, asked.kill, asked.bulk)
        if asked.streams is not None:
            return [_told(measure(plan, asked.streams))]
        results = search(plan, asked.first, asked.step)
    best = max((r.streams for r in results if r.passes), default=0)
    print(f"largest number of streams with p99 < {P99_MS:g} ms and none lost: {best}")
    return results


def main() -> int:
    """Parse arguments, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=_positive, help="just this number; without it, search")
    parser.add_argument("--first", type=_positive, default=100, help="a search begins with it")
    parser.add_argument("--step", type=_positive, default=25, help="how near a search comes")
    parser.add_argument("--seconds", type=float, default=30.0, help="for each number")
    parser.add_argument("--generators", type=_positive, default=2, help="processes that send")
    parser.add_argument("--workers", type=_positive, default=2, help="of the own daemon")
    parser.add_argument("--endpoint", help="a running daemon's address; without it, an own one")
    parser.add_argument("--config", help="that daemon's settings")
    parser.add_argument("--kill", action="store_true", help="kill a worker each second")
    parser.add_argument("--bulk", action="store_true", help="decode files beside")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    asked = parser.parse_args()
    try:
        results = run(asked)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    if asked.json:
        figures = [{**asdict(result), "passes": result.passes} for result in results]
        asked.json.write_text(json.dumps(figures, indent=1))
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
