"""The incident's way and opuspool's, under the same load: what became of the requests.

    python examples/incident/before_after.py --requests 10000

"before" is a service process that decodes as the incident did; it is started again each time that
it dies. "after" is the same service with opuspool's drop-in, while its workers are killed from
outside. A request that gets no answer is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent))

from keeper import GoneError
from load import Load, Score, requests

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from keeper import Keeper

if sys.platform == "win32":
    _SIGNALS = [signal.SIGTERM]  # TerminateProcess
else:
    _SIGNALS = [signal.SIGSEGV, signal.SIGKILL]


def before(utterances: list[list[bytes]], expected: list[str], hang_seconds: float) -> Score:
    """The incident's way; with a libopus that is not told to fault."""
    return Load("incident", utterances, expected, hang_seconds).run()


def after(
    utterances: list[list[bytes]], expected: list[str], hang_seconds: float, pause: float
) -> Score:
    """The way of opuspool, while a worker is killed every `pause` seconds."""
    return Load("opuspool", utterances, expected, hang_seconds).run(killing(pause))


def killing(pause: float) -> Callable[[Keeper, threading.Event], int]:
    """Make what kills a random worker every `pause` seconds, with each signal in turn."""

    def kill(keeper: Keeper, done: threading.Event) -> int:
        kills, rng, signals = 0, random.Random(0), itertools.cycle(_SIGNALS)
        while not done.wait(pause):
            try:
                workers = keeper.ask(None)["status"]["workers"]
            except GoneError:  # a death of the service, which its score tells
                continue
            pids = [worker["pid"] for worker in workers if worker["state"] in {"IDLE", "BUSY"}]
            if pids:
                kills += _kill(rng.choice(pids), next(signals))
        return kills

    return kill


def _kill(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except OSError:  # it has just ended
        return False
    return True


def table(scores: dict[str, Score]) -> str:
    """The scores side by side, as Markdown."""
    rows = [f"| | {' | '.join(scores)} |", f"|---|{'---|' * len(scores)}"]
    columns = [asdict(score) for score in scores.values()]
    for name in columns[0]:
        cells = [_cell(column[name]) for column in columns]
        rows.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        told = ", ".join(f"{count} x {name}" for name, count in value.items())
        return f"{sum(value.values())} ({told})" if value else "0"
    return f"{value:,}"


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--packets", type=int, default=12, help="of 20 ms, in each request")
    parser.add_argument("--only", choices=["before", "after"])
    parser.add_argument("--kill-every", type=float, default=1.0, metavar="SECONDS")
    parser.add_argument("--hang", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    # Each death of a worker is a warning; here they are on purpose.
    os.environ.setdefault("OPUSPOOL_SUPERVISOR_EMBEDDED_LOG_LEVEL", "error")
    utterances, digests = requests(options.requests, options.packets)
    scores = {}
    if options.only != "after":
        scores["before"] = before(utterances, digests, options.hang)
    if options.only != "before":
        scores["after"] = after(utterances, digests, options.hang, options.kill_every)
    if options.json:
        print(json.dumps({name: asdict(score) for name, score in scores.items()}))
    else:
        print(table(scores))


if __name__ == "__main__":
    main()
