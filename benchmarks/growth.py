"""How the cost of a packet grows: with open streams, with workers, with the length of an utterance.

.venv/bin/python benchmarks/growth.py
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import table

import opuspool
from opuspool.bench import speech, usage
from opuspool.bench.rival import Processes

STREAMS = (1, 10, 50, 100, 200, 500, 1000)
WORKERS = (1, 2, 3, 4)
LENGTHS = (1, 5, 20, 50, 100, 500, 2000)

AT_ONCE = 8
"""Utterances under way at a time."""

USUAL_STREAMS, USUAL_WORKERS = 100, 2
"""What does not grow."""

Work = Callable[[], Awaitable[int]]
"""Decodes something; returns how many packets it was."""


def speakers(pool: opuspool.AsyncPool, count: int) -> Iterator[Work]:
    """Streams, a packet a call each."""
    for _ in range(count):
        stream, packets = pool.stream(), cycle(speech.packets())

        async def one(
            stream: opuspool.AsyncStream = stream, packets: Iterator[bytes] = packets
        ) -> int:
            await stream.decode(next(packets))
            return 1

        yield one


def utterances(pool: opuspool.AsyncPool, length: int) -> Iterator[Work]:
    """Callers, each with one utterance of so many packets after the other."""
    packets = list(islice(cycle(speech.packets()), length))

    async def one() -> int:
        await pool.decode(packets)
        return length

    return iter([one] * AT_ONCE)


async def measure(
    workers: int, seconds: float, work: Callable[[opuspool.AsyncPool], Iterator[Work]]
) -> dict[str, Any]:
    """Packets a second, and microseconds of CPU time for a packet, by role."""
    async with opuspool.AsyncPool(workers=workers) as pool:
        status = await pool.status()
        slots = [slot["pid"] for slot in status["workers"]]
        processes = Processes([status["supervisor"]["pid"]], slots)
        counted, ends = 0, time.perf_counter() + 0.5 + seconds

        async def repeat(one: Work) -> None:
            nonlocal counted
            while time.perf_counter() < ends:
                packets = await one()
                counted += packets  # not in one: what was counted meanwhile would be lost

        tasks = [asyncio.create_task(repeat(one)) for one in work(pool)]
        await asyncio.sleep(0.5)  # until all streams are open
        began, first, before = time.perf_counter(), counted, usage.cpu_seconds(processes)
        await asyncio.sleep(ends - began)
        packets, took = counted - first, time.perf_counter() - began
        after = usage.cpu_seconds(processes)
        await asyncio.gather(*tasks)
    if not packets:
        raise SystemExit(f"no call ended in {seconds} s: raise --seconds")
    costs = {f"{role}_us": 1e6 * (after[role] - before[role]) / packets for role in after}
    return {"packets_a_second": packets / took, **costs}


async def grow(rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Everything that grows, by turns; returns the medians, a row each."""
    cases = [
        *(("streams", n, USUAL_WORKERS, lambda pool, n=n: speakers(pool, n)) for n in STREAMS),
        *(("workers", n, n, lambda pool: speakers(pool, USUAL_STREAMS)) for n in WORKERS),
        *(("length", n, USUAL_WORKERS, lambda pool, n=n: utterances(pool, n)) for n in LENGTHS),
    ]
    found: list[list[dict[str, Any]]] = [[] for _ in cases]
    for _ in range(rounds):
        for (_, _, workers, work), figures in zip(cases, found, strict=True):
            figures.append(await measure(workers, seconds, work))
    return [
        {"grows": what, "to": size} | {key: _median(figures, key) for key in figures[0]}
        for (what, size, _, _), figures in zip(cases, found, strict=True)
    ]


def _median(figures: list[dict[str, Any]], key: str) -> float:
    return round(float(sorted(row[key] for row in figures)[len(figures) // 2]), 1)


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description="How the cost of a packet grows.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    rows = asyncio.run(grow(arguments.rounds, arguments.seconds))
    table.show(rows, arguments.json)


if __name__ == "__main__":
    main()
