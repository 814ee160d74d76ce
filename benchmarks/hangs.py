"""What a hang costs others: the slowest packet of six live streams while a packet hangs.

.venv/bin/python benchmarks/hangs.py --rounds 5
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import faults
import table
from livestreams import HANGS, Beside, beside, live

import opuspool
from opuspool import config as configs

STREAMS = 6


def measure(rounds: int, hang_seconds: float | None) -> list[dict[str, Any]]:
    """Have each kind of hang so many times; returns one row a hang, in milliseconds.

    Args:
        rounds: hangs of each kind.
        hang_seconds: the setting `[workers] hang_seconds`; None: the default.
    """
    overrides = {} if hang_seconds is None else {"workers": {"hang_seconds": hang_seconds}}
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(faults.environment(Path(folder)))  # part of the settings
        # No quarantine: the same packet hangs again in the next round.
        config = configs.load(overrides={**overrides, "quarantine": {"packets": 0}})
        with opuspool.Pool(config=config) as pool, live(pool, STREAMS) as streams:
            rows = [
                _row(number, kind, beside(pool, streams, kind, Path(folder)))
                for number in range(rounds)
                for kind in HANGS
            ]
        failures = [stream.failure for stream in streams if stream.failure]
    if failures:
        raise failures[0]
    return rows


def _row(number: int, kind: str, found: Beside) -> dict[str, Any]:
    figures = {
        name.replace("_seconds", "_ms"): round(1000 * value, 1) if name != "ended" else value
        for name, value in asdict(found).items()
    }
    return {"round": number, "kind": kind, **figures}


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description="What a hang costs the streams beside it.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hang-seconds", type=float, help="[workers] hang_seconds")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    os.environ.setdefault("OPUSPOOL_SUPERVISOR_EMBEDDED_LOG_LEVEL", "error")
    rows = measure(arguments.rounds, arguments.hang_seconds)
    table.show(rows, arguments.json)


if __name__ == "__main__":
    main()
