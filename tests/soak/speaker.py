"""A good client of the soak: live streams and utterances, every sample compared.

`python speaker.py ENDPOINT LOG SEED`: speaks until standard input ends; LOG always holds the score.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from recordings import generated_streams, real_streams
from reference import golden

import opuspool

TIMEOUT = 60.0
"""Seconds; longer than any pause that the soak makes."""

LIVE_STREAMS = 4


class Score:
    """What has come of this client's requests."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures: list[str] = []
        self._worst = 0.0

    def note(self, outcome: str, seconds: float, failure: str = "") -> None:
        """Count one request."""
        with self._lock:
            self._counts[outcome] += 1
            self._worst = max(self._worst, seconds)
            if failure:
                self._failures.append(failure)

    def write(self) -> None:
        """Put the score where the soak finds it, whole."""
        with self._lock:
            value = {
                "counts": self._counts,
                "failures": self._failures[:50],
                "worst_seconds": self._worst,
            }
            text = json.dumps(value)
        draft = self._path.with_suffix(".new")
        draft.write_text(text)
        draft.replace(self._path)


def main() -> None:
    """Speak until told to stop."""
    endpoint, log, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    recordings = [r for r in (*real_streams(), *generated_streams()) if len(r.packets) < 400]
    spoken = [(r.packets, golden(r.packets)) for r in rng.sample(recordings, LIVE_STREAMS + 1)]
    score = Score(log)
    score.write()
    stop = threading.Event()
    with opuspool.Pool(endpoint) as pool:
        jobs = [(speak_live, pair) for pair in spoken[:LIVE_STREAMS]]
        jobs += [(speak_whole, spoken[-1])]
        threads = [
            threading.Thread(target=job, args=(pool, *pair, score, stop)) for job, pair in jobs
        ]
        for thread in threads:
            thread.start()
        stop_at_end_of_input(stop)
        while not stop.wait(0.5):
            score.write()
        for thread in threads:
            thread.join()
    score.write()


def stop_at_end_of_input(stop: threading.Event) -> None:
    """Set an event when standard input ends."""

    def wait() -> None:
        sys.stdin.read()
        stop.set()

    threading.Thread(target=wait, daemon=True).start()


def speak_live(
    pool: opuspool.Pool,
    packets: list[bytes],
    expected: opuspool.pcm.Pcm,
    score: Score,
    stop: threading.Event,
) -> None:
    """A live stream, packet by packet, again and again."""
    while not stop.is_set():
        at = 0
        with pool.stream() as stream:
            for packet in packets:
                began = time.monotonic()
                try:
                    pcm = stream.decode(packet, timeout=TIMEOUT)
                except opuspool.OpusPoolError as error:
                    score.note(type(error).__name__, time.monotonic() - began, str(error))
                    break
                right = np.array_equal(pcm, expected[at : at + len(pcm)])
                at += len(pcm)
                score.note("ok" if right else "wrong", time.monotonic() - began)
                if stop.wait(0.002):
                    break


def speak_whole(
    pool: opuspool.Pool,
    packets: list[bytes],
    expected: opuspool.pcm.Pcm,
    score: Score,
    stop: threading.Event,
) -> None:
    """A whole utterance, again and again."""
    while not stop.is_set():
        began = time.monotonic()
        try:
            right = np.array_equal(pool.decode(packets, timeout=TIMEOUT), expected)
        except opuspool.OpusPoolError as error:
            score.note(type(error).__name__, time.monotonic() - began, str(error))
        else:
            score.note("ok" if right else "wrong", time.monotonic() - began)
        stop.wait(0.05)


if __name__ == "__main__":
    main()
