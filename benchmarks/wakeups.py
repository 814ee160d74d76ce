"""What it costs on this machine to wake a process: the floor under every latency (Linux).

Two processes send one byte to and fro, each at work for a while before; pinned to one core, and to
two. A round is two wake-ups; the work is taken off.

.venv/bin/python benchmarks/wakeups.py
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path
from typing import Any

import table

FIRST_ROUNDS = 200
"""Rounds that do not count."""


def _work(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _echo(end: socket.socket, core: int, work: float) -> None:
    os.sched_setaffinity(0, {core})
    while data := end.recv(1):
        _work(work)
        end.send(data)


def _rounds(core: int, other: int, work: float, count: int) -> list[float]:
    """Seconds of each round beside the work."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        _echo(theirs, other, work)
        os._exit(0)
    theirs.close()
    os.sched_setaffinity(0, {core})
    taken = []
    for _ in range(FIRST_ROUNDS + count):
        _work(work)
        start = time.perf_counter()
        ours.send(b".")
        ours.recv(1)
        taken.append(time.perf_counter() - start - work)
    ours.close()
    os.waitpid(child, 0)
    return sorted(taken[FIRST_ROUNDS:])


def measure(rounds: int, work_us: float) -> list[dict[str, Any]]:
    """Returns a row for one core and one for two, in microseconds."""
    cores = sorted(os.sched_getaffinity(0))
    rows = []
    for name, other in (("one", cores[0]), ("two", cores[-1])):
        taken = [1e6 * seconds for seconds in _rounds(cores[0], other, work_us / 1e6, rounds)]
        figures = {"mean_us": sum(taken) / rounds, "p50_us": taken[rounds // 2]}
        figures["p99_us"] = taken[rounds * 99 // 100]
        rows.append({"cores": name} | {key: round(value) for key, value in figures.items()})
    return rows


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description="What it costs to wake a process and be woken.")
    parser.add_argument("--rounds", type=int, default=3000, help="of each row (3000)")
    parser.add_argument("--work-us", type=float, default=100.0, help="before each byte (100)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    table.show(measure(arguments.rounds, arguments.work_us), arguments.json)


if __name__ == "__main__":
    main()
