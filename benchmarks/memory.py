"""What a pool costs: memory of its processes and of an open stream, and time to the first PCM.

.venv/bin/python benchmarks/memory.py --streams 1000 --starts 7
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from recordings import speech_packets
from waiting import wait_until

import opuspool

MIB = 1 << 20

BATCH = 50
"""Packets in a call."""

_START = """
import sys, time
packet = bytes.fromhex(sys.argv[1])
began = time.perf_counter()
import opuspool
imported = time.perf_counter()
pool = opuspool.Pool()
opened = time.perf_counter()
with pool.stream() as stream:
    pcm = stream.decode(packet)
done = time.perf_counter()
assert len(pcm) == 320
pool.close()
print(done - began, done - imported, done - opened)
"""
"""A fresh process; prints seconds to the first PCM from before the import, from before `Pool()`,
and from when that has returned. The class is loaded when it is first named: with `Pool()`."""


def uss_mib(pid: int) -> float:
    """USS: memory that is the process's alone."""
    return round(float(psutil.Process(pid).memory_full_info().uss) / MIB, 2)


def processes(status: dict[str, Any]) -> dict[str, list[float]]:
    """USS in MiB, by role."""
    return {
        "client": [uss_mib(psutil.Process().pid)],
        "supervisor": [uss_mib(status["supervisor"]["pid"])],
        "workers": [uss_mib(worker["pid"]) for worker in status["workers"]],
        "spares": [uss_mib(spare["pid"]) for spare in status["spares"]],
    }


def measure(streams: int, packets: int) -> dict[str, Any]:
    """Open streams, decode with each of them; returns USS at each stage.

    Args:
        packets: that each stream decodes: enough for a checkpoint, and a journal after it.
    """
    speech = speech_packets(packets * 0.02)
    with opuspool.Pool() as pool:
        wait_until(lambda: _is_warm(pool.status()), what="all processes are ready", timeout=30)
        pool.decode(speech)
        stages = {"fresh": processes(pool.status())}
        opened = [pool.stream() for _ in range(streams)]
        for stream in opened:
            stream.decode(speech[0])
        stages["open"] = processes(pool.status())
        for begin in range(1, len(speech), BATCH):
            for stream in opened:
                stream.decode_many(speech[begin : begin + BATCH])
        stages["spoken"] = processes(pool.status())
        assert pool.status()["streams"] == streams
        for stream in opened:
            stream.close()
        wait_until(lambda: pool.status()["streams"] == 0, what="all streams are closed")
        stages["closed"] = processes(pool.status())
    return {"streams": streams, "packets_each": packets, "uss_mib": stages, **_growth(stages)}


def _is_warm(status: dict[str, Any]) -> bool:
    slots = status["workers"] + status["spares"]
    return all(slot["state"] in {"IDLE", "BUSY"} for slot in slots)


def _growth(stages: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    """What the open streams cost, in MiB: the most of all stages, against the fresh pool."""
    return {
        f"{role}_growth_mib": round(
            max(sum(stage[role]) for stage in stages.values()) - sum(stages["fresh"][role]), 1
        )
        for role in ("client", "supervisor", "workers")
    }


def starts(runs: int) -> dict[str, Any]:
    """Seconds of fresh processes from `import opuspool` to PCM: medians, and all."""
    packet = speech_packets(0.02)[0].hex()
    names = ("import_to_pcm_ms", "pool_to_pcm_ms", "opened_to_pcm_ms")
    whole, rows = [], []
    for _ in range(runs):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _START, packet], capture_output=True, text=True, check=True
        )
        whole.append(time.perf_counter() - began)
        rows.append([float(figure) for figure in done.stdout.split()])
    columns = {name: _ms(list(c)) for name, c in zip(names, zip(*rows, strict=True), strict=True)}
    return {**columns, "process_ms": _ms(whole)}


def _ms(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(1000 * statistics.median(seconds), 1),
        "least": round(1000 * min(seconds), 1),
        "most": round(1000 * max(seconds), 1),
    }


def main() -> int:
    """Parse arguments, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--packets", type=int, default=251, help="that each stream decodes")
    parser.add_argument("--starts", type=int, default=7, help="fresh processes to time")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    asked = parser.parse_args()
    try:
        figures = {"memory": measure(asked.streams, asked.packets), "start": starts(asked.starts)}
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(json.dumps(figures, indent=1))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
