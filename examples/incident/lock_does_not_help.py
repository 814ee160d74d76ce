"""Threads under one lock, as in the incident, and one thread alone: both end in the same way.

The lock keeps two calls of libopus apart. The damage needs no two calls at a time: memory is freed
once by libopus, under the lock, and once by Python's garbage collector, at any later time, under no
lock of anybody's.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import throwaway

REQUESTS = 400
THREADS = (8, 1)
SECONDS = 60.0


def reproduce(requests: int = REQUESTS) -> dict[int, throwaway.End]:
    """Decode requests under the lock, with many threads and with one; returns how each ended."""
    ends = {}
    for threads in THREADS:
        print(f"lock_does_not_help: {requests} requests, {threads} threads, one lock", flush=True)
        here = ("lock_does_not_help.py", "here", str(threads), str(requests))
        ends[threads] = throwaway.run(*here, silence=SECONDS)
    return ends


class _Service:
    """Threads that take requests in turn, a decoder for each request."""

    def __init__(self, requests: int) -> None:
        import pattern
        import speech

        self._pattern = pattern
        self._requests = speech.utterances(requests)
        self._expected = [
            pattern.decoded(pattern.CorrectDecoder(), packets) for packets in self._requests
        ]
        self._numbers = iter(range(requests))
        self._lock = threading.Lock()
        self.seen: Counter[str] = Counter()

    def run(self, threads: int) -> None:
        """Decode all of them."""
        crew = [threading.Thread(target=self._work) for _ in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            outcome = self._decode(number)
            with self._lock:
                self.seen[outcome] += 1
                if self.seen[outcome] == 1:
                    print(f"request {number + 1}: {outcome}")

    def _decode(self, number: int) -> str:
        try:
            pcm = self._pattern.decoded(self._pattern.IncidentDecoder(), self._requests[number])
        except OSError as error:  # Windows
            return f"OSError: {error}"
        return "right" if pcm == self._expected[number] else "wrong PCM, and no error"


def _here(threads: int, requests: int) -> None:
    throwaway.quietly()
    service = _Service(requests)
    service.run(threads)
    print("all:", ", ".join(f"{count} x {what}" for what, count in service.seen.most_common()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["here"]:
        _here(int(sys.argv[2]), int(sys.argv[3]))
    else:
        reproduce()
