"""How steady is this machine? A loop on each core counts, and nothing else; the share of slow time.

A virtual machine may lend its cores only part of their speed while others want them. Where that
happens, latencies near the machine's limit are its own, whatever is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import table

from opuspool import pychild

SLICE_SECONDS = 0.01
SLOW = 0.6
"""Of the median speed; a slice with less is slow."""

TURNS = 1000
"""Of the loop, between two looks at the clock: some 50 µs."""

_DEADLINE = 30.0


class Steadiness(NamedTuple):
    """What one core did.

    Attributes:
        slow_share: of the time, in slices under `SLOW` of the median speed.
        spells: runs of slow slices, with at most one other between two of them.
        longest_ms: of a spell.
        p1_speed: of slices, one in a hundred is slower; percent of the median.
    """

    core: int
    slow_share: float
    spells: int
    longest_ms: float
    p1_speed: float


def count(seconds: float) -> list[int]:
    """How often the loop has run in each slice."""
    now = time.perf_counter
    counts, end = [], now() + seconds
    while now() < end:
        turns, slice_end = 0, now() + SLICE_SECONDS
        while now() < slice_end:
            for _ in range(TURNS):
                pass
            turns += 1
        counts.append(turns)
    return counts


def judge(core: int, counts: list[int]) -> Steadiness:
    """Find the slow slices and their spells."""
    median = statistics.median(counts)
    slow = [at for at, turns in enumerate(counts) if turns < SLOW * median]
    spells: list[list[int]] = []
    for at in slow:
        if spells and at - spells[-1][1] <= 2:
            spells[-1][1] = at
        else:
            spells.append([at, at])
    longest = max((last - first + 1 for first, last in spells), default=0)
    p1 = sorted(counts)[len(counts) // 100]
    return Steadiness(
        core,
        round(len(slow) / len(counts), 3),
        len(spells),
        round(longest * SLICE_SECONDS * 1000, 1),
        round(100 * p1 / median, 1),
    )


def measure(cores: list[int], seconds: float) -> list[Steadiness]:
    """Count on these cores at once."""
    command = [sys.executable, __file__, "--seconds", str(seconds), "--count-on"]
    with pychild.deaf_to_ctrl_c():  # this process ends them
        counters = [
            subprocess.Popen([*command, str(core)], stdout=subprocess.PIPE) for core in cores
        ]
    try:
        outputs = [counter.communicate(timeout=seconds + _DEADLINE)[0] for counter in counters]
    finally:
        for counter in counters:
            counter.kill()
            counter.wait()
    return [judge(core, json.loads(output)) for core, output in zip(cores, outputs, strict=True)]


def main() -> int:
    """Parse arguments, measure, print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--count-on", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.count_on is not None:
        os.sched_setaffinity(0, {asked.count_on})
        print(json.dumps(count(asked.seconds)))
        return 0
    try:
        found = measure(sorted(os.sched_getaffinity(0)), asked.seconds)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    table.show([row._asdict() for row in found], asked.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
