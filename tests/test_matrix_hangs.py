"""Rows 6 and 7: what a packet that hangs costs the live streams beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from livestreams import HANGS, beside, live

import opuspool
from opuspool import config as configs

if TYPE_CHECKING:
    from pathlib import Path

    from matrix import Settings

STREAMS = 6

LONGEST_SECONDS = 1.0
"""No live packet takes longer, where the machine has time for it."""

LONGEST_BESIDE_THREE_SECONDS = 2.0
"""Beside three hangs at once it is a second too (benchmarks/README.md), on an idle machine.

On a busy one their loops keep each other from running, and a worker that is not let run has longer.
"""

TRIES = 4
"""A busy machine may spoil some; what the product itself adds is in every one of them."""

SETTINGS: Settings = {"quarantine": {"packets": 0}}
"""A hang costs its neighbours one deadline: it is tried again where nobody waits for it."""

ENDS = {
    "endless loop in C": "PoisonPacketError",
    "sleep in C": "PoisonPacketError",
    "SIGSTOP, busy": "PCM (320,)",
    "all three at once": "PoisonPacketError, PoisonPacketError, PCM (320,)",
}


@pytest.mark.parametrize("kind", HANGS)
@pytest.mark.usefixtures("faulty")
def test_live_streams_do_not_wait_a_second_for_a_hang(tokens: Path, kind: str) -> None:
    """Six of them, a packet every 20 ms each; the packet that hangs ends typed, or decoded."""
    config = configs.load(overrides=SETTINGS)
    longest = LONGEST_BESIDE_THREE_SECONDS if kind == "all three at once" else LONGEST_SECONDS
    worst = []
    with opuspool.Pool(config=config) as pool, live(pool, STREAMS) as streams:
        for _ in range(TRIES):
            found = beside(pool, streams, kind, tokens)
            assert found.ended == ENDS[kind]
            worst.append(found.worst_seconds)
            if worst[-1] < longest:
                break
        assert pool.status()["counters"]["worker_restarts"]["hang"] > 0
    assert [stream.failure for stream in streams] == [None] * STREAMS
    assert min(worst) < longest, f"seconds: {worst}"
