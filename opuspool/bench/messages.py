"""What a runner is told and what it answers: one line of JSON each."""

from __future__ import annotations

import msgspec

from opuspool.bench.rival import Setup  # noqa: TC001  msgspec reads the annotation
from opuspool.bench.window import Timings  # noqa: TC001  msgspec reads the annotation

__all__ = ["Answer", "Cell", "Order", "Start"]


class Start(msgspec.Struct, frozen=True, tag=True):
    """The first message: open this rival, and check its PCM."""

    rival: str
    setup: Setup
    check: bool


class Order(msgspec.Struct, frozen=True, tag=True):
    """Do a load, for so many seconds."""

    load: str
    seconds: float


class Cell(msgspec.Struct, frozen=True):
    """What one rival did with one load in one round.

    Attributes:
        timings: rate and latencies.
        cpu_seconds: for 1,000 packets, by role: "client", "supervisor", "workers".
        memory_mb: USS, by role, a number for each process.
    """

    timings: Timings
    cpu_seconds: dict[str, float]
    memory_mb: dict[str, list[float]]


class Answer(msgspec.Struct, frozen=True):
    """What came of a message; a start has no cell."""

    error: str | None = None
    cell: Cell | None = None
