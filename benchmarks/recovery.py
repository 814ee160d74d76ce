"""What a death costs: the latency of the call in flight at a SIGSEGV, with a warm spare.

.venv/bin/python benchmarks/recovery.py --kills 500
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from recordings import speech_packets

import opuspool

STREAMS = 6


class Speaker(threading.Thread):
    """A live stream that notes the begin, end and length of every call."""

    def __init__(self, pool: opuspool.Pool, packets: list[bytes], stop: threading.Event) -> None:
        super().__init__()
        self.calls: list[tuple[float, float]] = []
        self._pool = pool
        self._packets = packets
        self._over = stop

    def run(self) -> None:
        """Speak until told to stop."""
        while not self._over.is_set():
            with self._pool.stream() as stream:
                for packet in self._packets:
                    began = time.perf_counter()
                    stream.decode(packet)
                    self.calls.append((began, time.perf_counter()))
                    if self._over.wait(0.004):
                        return


def measure(kills: int) -> dict[str, Any]:
    """Kill a worker again and again; returns latencies in milliseconds."""
    stop = threading.Event()
    killed: list[float] = []
    with opuspool.Pool(workers=2) as pool:
        speakers = [Speaker(pool, speech_packets(20.0, seed=n), stop) for n in range(STREAMS)]
        for speaker in speakers:
            speaker.start()
        try:
            for number in range(kills):
                victim = _warm_pool(pool, number)["workers"][number % 2]
                killed.append(time.perf_counter())
                os.kill(victim["pid"], signal.SIGSEGV)
                if number % 50 == 49:
                    sys.stderr.write(f"{number + 1} kills\n")
        finally:
            stop.set()
            for speaker in speakers:
                speaker.join()
        counters = pool.status()["counters"]
    hit, quiet = _split([call for s in speakers for call in s.calls], killed)
    return {
        "kills": kills,
        "in_flight_ms": _figures(hit),
        "other_calls_ms": _figures(quiet),
        "inexact_rebuilds": counters["inexact_rebuilds"],
        "poison_packets": counters["poison_packets"],
    }


def _warm_pool(pool: opuspool.Pool, deaths: int) -> dict[str, Any]:
    """Wait until so many deaths are counted and all has started again; returns the status."""
    while True:
        status = pool.status()
        slots = status["workers"] + status["spares"]
        counted = sum(status["counters"]["worker_restarts"].values()) >= deaths
        if counted and all(slot["state"] in {"IDLE", "BUSY"} for slot in slots):
            return status
        time.sleep(0.01)


def _split(
    calls: list[tuple[float, float]], killed: list[float]
) -> tuple[list[float], list[float]]:
    """Latencies of the slowest call at each kill, and of all calls at none."""
    hit, quiet = [], []
    ordered = sorted(calls)
    at = 0
    for moment in killed:
        around = []
        while at < len(ordered) and ordered[at][0] < moment - 1:
            at += 1
        for began, ended in ordered[at:]:
            if began > moment + 0.05:
                break
            if ended >= moment:
                around.append(ended - began)
        if around:
            hit.append(max(around))
    for began, ended in ordered:
        if not any(moment - 0.2 < began < moment + 0.2 for moment in killed):
            quiet.append(ended - began)
    return hit, quiet


def _figures(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(1000 * s for s in seconds) or [0.0]
    count = len(ordered)
    return {
        "calls": len(seconds),
        "p50": round(ordered[count // 2], 2),
        "p99": round(ordered[min(count - 1, count * 99 // 100)], 2),
        "worst": round(ordered[-1], 2),
    }


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description="Latency of the calls that a death hits.")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    os.environ.setdefault("OPUSPOOL_SUPERVISOR_EMBEDDED_LOG_LEVEL", "error")
    figures = measure(arguments.kills)
    for name, value in figures.items():
        print(f"{name:18} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
