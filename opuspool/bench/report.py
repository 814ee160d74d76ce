"""What a run came to, for programs and for readers."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING

import msgspec

from opuspool.bench.loads import LOADS
from opuspool.bench.match import Plan  # noqa: TC001  msgspec reads the annotation
from opuspool.bench.rivals import RIVALS
from opuspool.bench.summary import Row, Verdict, summarise, verdicts
from opuspool.version import VERSION

if TYPE_CHECKING:
    from opuspool.bench.match import Results

__all__ = ["HEADS", "Machine", "Report", "make", "words"]


class Machine(msgspec.Struct, frozen=True):
    """Where it was measured."""

    system: str
    cores: int
    python: str
    libopus: str
    opuspool: str


class Report(msgspec.Struct, frozen=True):
    """All of a run, as `--json` writes it.

    Attributes:
        skipped: rivals that are not here, and what to install.
        failed: rivals that have failed, and why.
    """

    machine: Machine
    plan: Plan
    rows: list[Row]
    claims: list[Verdict]
    skipped: dict[str, str]
    failed: dict[str, str]


def make(plan: Plan, results: Results, skipped: dict[str, str], libopus: str) -> Report:
    """Summarise a run."""
    machine = Machine(
        system=f"{platform.system()} {platform.machine()}",
        cores=os.cpu_count() or 1,
        python=platform.python_version(),
        libopus=libopus,
        opuspool=VERSION,
    )
    rows = summarise(results)
    return Report(machine, plan, rows, verdicts(rows), skipped, results.failed)


HEADS = (
    "rival",
    "packets/s",
    "rounds from-to",
    "p50 ms",
    "p99 ms",
    "CPU s/1,000",
    "client MB",
    "superv. MB",
    "worker MB",
    "x lock",
    "x pool",
)
"""The columns of a load's table."""


def words(row: Row) -> list[str]:
    """A row as `HEADS` has it."""
    return [
        RIVALS[row.rival].title,
        f"{row.packets_per_second:,.0f}",
        f"{row.slowest:,.0f}-{row.fastest:,.0f}",
        f"{row.p50_ms:.3f}",
        f"{row.p99_ms:.3f}",
        f"{row.cpu_seconds:.3f}",
        _or_dash(row.client_mb, ".0f"),
        _or_dash(row.supervisor_mb, ".0f"),
        _or_dash(row.worker_mb, ".0f"),
        _or_dash(row.to_lock, ".2f"),
        _or_dash(row.to_pool, ".2f"),
    ]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def sentence(verdict: Verdict) -> str:
    """A verdict in words."""
    load, rival = LOADS[verdict.load], RIVALS[verdict.rival]
    answer = "yes" if verdict.met else "NO"
    return f"{load.title}, {rival.title}: {verdict.claim}: {verdict.measured:.2f}, {answer}"
