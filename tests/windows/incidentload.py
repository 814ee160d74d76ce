"""The incident's requests on Windows, while workers are ended and opus.dll faults.

    tests/windows/run --python tests/windows/incidentload.py --requests 10000

The faulting opus.dll faults for real (an access violation that ctypes catches) in the first packet
of some requests, the first time; TerminateProcess ends a worker now and then. Prints the score.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "incident"))

import faults
import load
import pytest
from before_after import killing
from windows import lane

PACKETS = 4
"""In a request; a round trip takes tens of ms under Wine."""
HANG_SECONDS = 300.0
"""Of a request; longer than `timeout_seconds`, which ends it with an error."""
SETTINGS = {
    "OPUSPOOL_SUPERVISOR_EMBEDDED_LOG_LEVEL": "error",  # deaths are on purpose
    "OPUSPOOL_WORKERS_START_SECONDS": "120",
    "OPUSPOOL_WORKERS_HANG_SECONDS": "20",
    "OPUSPOOL_REQUESTS_TIMEOUT_SECONDS": "240",
}
"""Wine on a busy machine is slow."""


def prepare(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Set what the service needs in its environment; reports and notes of faults go to a folder."""
    lane.use_faulting(patch, folder)
    patch.setenv("OPUSPOOL_CRASHES_DIRECTORY", str(folder / "crashes"))
    for name, value in SETTINGS.items():
        patch.setenv(name, value)


def survive(requests: int, *, fault_every: int, kill_every: float) -> load.Score:
    """Make requests of the service that decodes with opuspool, after `prepare`.

    Args:
        requests: how many.
        fault_every: the first of so many requests has a packet that faults once; not a multiple of
            5 or 7, or few packets differ.
        kill_every: seconds between two TerminateProcess.
    """
    utterances, expected = load.requests(requests, PACKETS)
    for number in range(0, requests, fault_every):
        first, *rest = utterances[number]
        utterances[number] = [faults.marked("segv-once", first), *rest]
    return load.Load("opuspool", utterances, expected, HANG_SECONDS).run(killing(kill_every))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--fault-every", type=int, default=101)
    parser.add_argument("--kill-every", type=float, default=10.0, metavar="SECONDS")
    options = parser.parse_args()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        prepare(patch, Path(folder))
        score = survive(
            options.requests, fault_every=options.fault_every, kill_every=options.kill_every
        )
    print(json.dumps(asdict(score), indent=1))


if __name__ == "__main__":
    main()
