"""A bad client of the soak: packets that kill, hang, leak and lie, among good ones.

`python vandal.py ENDPOINT LOG SEED`: goes on until standard input ends.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from pathlib import Path

import faults
from recordings import speech_packets
from speaker import TIMEOUT, Score, stop_at_end_of_input

import opuspool

KINDS = ["segv", "abort", "bus", "ill", "fpe", "stack", "overrun", "exit", "badreturn", "negative"]
KINDS += ["slow", "leak", "stderr", "loop", "sleep", "after", "segv-once", "abort-once", "smash"]


def main() -> None:
    """Send what kills until told to stop."""
    endpoint, log, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    packets = speech_packets(20.0, seed=seed)
    score = Score(log)
    stop = threading.Event()
    stop_at_end_of_input(stop)
    with opuspool.Pool(endpoint) as pool:
        while not stop.wait(rng.uniform(0.1, 0.6)):
            with pool.stream() as stream:
                for packet in rng.sample(packets, 5):
                    _send(stream, packet, "good", score)
                kind = rng.choice(KINDS)
                _send(stream, faults.marker(kind, like=rng.choice(packets)), kind, score)
                for packet in rng.sample(packets, 5):
                    _send(stream, packet, "good", score)
            score.write()
    score.write()


def _send(stream: opuspool.Stream, packet: bytes, kind: str, score: Score) -> None:
    began = time.monotonic()
    try:
        stream.decode(packet, timeout=TIMEOUT)
        outcome = "ok"
    except opuspool.PacketError as error:
        outcome = type(error).__name__
    except opuspool.OpusPoolError as error:
        score.note(type(error).__name__, time.monotonic() - began, f"{kind}: {error}")
        return
    score.note(f"{kind}: {outcome}", time.monotonic() - began)


if __name__ == "__main__":
    main()
