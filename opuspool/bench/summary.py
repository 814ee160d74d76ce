"""Many rounds to one row: medians, spread, ratios; and what is claimed of opuspool."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from opuspool.bench.rivals import RIVALS

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool.bench.match import Results
    from opuspool.bench.messages import Cell

__all__ = ["CLAIMS", "Claim", "Row", "Verdict", "summarise", "verdicts"]


class Row(msgspec.Struct, frozen=True):
    """What one rival did with one load: medians over the rounds.

    Attributes:
        packets_per_second, slowest, fastest: the median round, and the two ends.
        p50_ms, p99_ms: latencies of a call.
        cpu_seconds: for 1,000 packets: client, supervisor and workers together.
        client_mb, supervisor_mb, worker_mb: USS; of the median worker; None where there is none.
        to_lock, to_unlocked, to_pool: the median of each round's ratio of packets a second to the
            global lock, to no lock, and to the best process pool of those that are called
            from tasks, or not, as it is; None where that was not measured.
    """

    load: str
    rival: str
    rounds: int
    packets_per_second: float
    slowest: float
    fastest: float
    p50_ms: float
    p99_ms: float
    cpu_seconds: float
    client_mb: float | None
    supervisor_mb: float | None
    worker_mb: float | None
    to_lock: float | None
    to_unlocked: float | None
    to_pool: float | None


def summarise(results: Results) -> list[Row]:
    """The rows of all loads, in the order of loads and rivals."""
    return [
        _row(load, rival, cells[rival], cells)
        for load, cells in results.cells.items()
        for rival in RIVALS
        if rival in cells
    ]


def _row(load: str, rival: str, own: dict[int, Cell], all_: dict[str, dict[int, Cell]]) -> Row:
    rates = [cell.timings.packets_per_second for cell in own.values()]
    best = _best_pool(rival, all_)

    def middle(value: Callable[[Cell], float]) -> float:
        return median(value(cell) for cell in own.values())

    def memory(role: str, join: Callable[[list[float]], float]) -> float | None:
        seen = [join(cell.memory_mb[role]) for cell in own.values() if cell.memory_mb[role]]
        return median(seen) if seen else None

    return Row(
        load=load,
        rival=rival,
        rounds=len(own),
        packets_per_second=median(rates),
        slowest=min(rates),
        fastest=max(rates),
        p50_ms=middle(lambda cell: cell.timings.p50_ms),
        p99_ms=middle(lambda cell: cell.timings.p99_ms),
        cpu_seconds=middle(lambda cell: sum(cell.cpu_seconds.values())),
        client_mb=memory("client", sum),
        supervisor_mb=memory("supervisor", sum),
        worker_mb=memory("workers", median),
        to_lock=_ratio(own, all_.get("lock")),
        to_unlocked=_ratio(own, all_.get("unlocked")),
        to_pool=_ratio(own, all_[best]) if best else None,
    )


def _best_pool(rival: str, cells: dict[str, dict[int, Cell]]) -> str | None:
    """The fastest of those that are called as the rival is."""
    tasks = RIVALS[rival].tasks
    pools = [name for name in cells if RIVALS[name].pool and RIVALS[name].tasks == tasks]

    def rate(name: str) -> float:
        return median(cell.timings.packets_per_second for cell in cells[name].values())

    return max(pools, key=rate, default=None)


def _ratio(own: dict[int, Cell], other: dict[int, Cell] | None) -> float | None:
    """Of rounds, not of medians: both of a round met the same machine."""
    ratios = [
        own[number].timings.packets_per_second / other[number].timings.packets_per_second
        for number in own.keys() & (other or {}).keys()
        if other
    ]
    return median(ratios) if ratios else None


class Claim(NamedTuple):
    """What is claimed of a row: a figure, and the least or, where `most`, the most it may be."""

    text: str
    load: str
    rival: str
    figure: str
    limit: float
    most: bool = False


CLAIMS = (
    Claim("at least 1.0 x the global lock", "100-streams", "opuspool-async", "to_lock", 1.0),
    Claim("at least 5 x the best process pool", "100-streams", "opuspool-async", "to_pool", 5.0),
    Claim("at least 2.0 x the global lock", "utterances", "opuspool", "to_lock", 2.0),
    Claim("at least 0.8 x no lock", "utterances", "opuspool", "to_unlocked", 0.8),
    Claim("p50 under 0.3 ms", "stream", "opuspool", "p50_ms", 0.3, most=True),
)
"""The figures that opuspool is meant to reach."""


class Verdict(msgspec.Struct, frozen=True):
    """A claim, what was measured, and whether that is enough."""

    claim: str
    load: str
    rival: str
    measured: float
    met: bool


def verdicts(rows: list[Row]) -> list[Verdict]:
    """All claims whose rows were measured."""
    by_name = {(row.load, row.rival): row for row in rows}
    found = []
    for claim in CLAIMS:
        row = by_name.get((claim.load, claim.rival))
        value = getattr(row, claim.figure) if row is not None else None
        if value is not None:
            met = value < claim.limit if claim.most else value >= claim.limit
            found.append(Verdict(claim.text, claim.load, claim.rival, value, met))
    return found
