"""Live streams, a packet every 20 ms each, and packets that hang beside them."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
from recordings import speech_packets
from reference import golden
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

PACKET_SECONDS = 0.02

BUSY_LOOKS = 10
"""A worker that is busy at so many looks in a row has more in hand than live packets."""


class LiveStream(threading.Thread):
    """Speaks at the pace of speech, and checks every sample.

    Attributes:
        calls: packets decoded.
        worst: the longest call since `beside` last looked, seconds.
        failure: the first call that did not return the right PCM.
    """

    def __init__(self, pool: opuspool.Pool, seed: int) -> None:
        super().__init__(name=f"live stream {seed}")
        self.calls = 0
        self.worst = 0.0
        self.failure: BaseException | None = None
        self._pool = pool
        self._packets = speech_packets(20.0, seed=seed)
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        """End after the packet in hand."""
        self._stop_asked.set()

    def run(self) -> None:
        """Speak, from the beginning again when all is said."""
        right = np.split(golden(self._packets), len(self._packets))
        try:
            while not self._stop_asked.is_set():
                self._speak(right)
        except BaseException as error:  # noqa: BLE001  told by the test's thread
            self.failure = error

    def _speak(self, right: list[npt.NDArray[Any]]) -> None:
        with self._pool.stream() as stream:
            due = time.monotonic()
            for packet, expected in zip(self._packets, right, strict=True):
                due = max(due + PACKET_SECONDS, time.monotonic())
                if self._stop_asked.wait(max(0.0, due - time.monotonic())):
                    return
                began = time.monotonic()
                pcm = stream.decode(packet)
                self.worst = max(self.worst, time.monotonic() - began)
                assert np.array_equal(pcm, expected), f"{self.name}: wrong PCM"
                self.calls += 1


@contextmanager
def live(pool: opuspool.Pool, count: int) -> Iterator[list[LiveStream]]:
    """So many live streams, all speaking; stopped at the end."""
    streams = [LiveStream(pool, seed) for seed in range(count)]
    for stream in streams:
        stream.start()
    try:
        go_on(streams)
        yield streams
    finally:
        for stream in streams:
            stream.stop()
        for stream in streams:
            stream.join(60)


def go_on(streams: list[LiveStream]) -> None:
    """Wait until every stream has decoded ten packets more."""
    before = [stream.calls for stream in streams]
    wait_until(
        lambda: all(
            stream.failure or stream.calls >= calls + 10
            for stream, calls in zip(streams, before, strict=True)
        ),
        what="every live stream goes on",
    )


def endless_loop(pool: opuspool.Pool, _tokens: Path) -> str:
    """Decode a packet that loops in C; returns how that ended."""
    return _ends(pool, faults.marker("loop"))


def sleep(pool: opuspool.Pool, _tokens: Path) -> str:
    """Decode a packet that sleeps in C."""
    return _ends(pool, faults.marker("sleep"))


def stopped(pool: opuspool.Pool, tokens: Path) -> str:
    """SIGSTOP to the worker that has a packet in hand; another worker decodes it."""
    before = set(tokens.iterdir())
    ends: list[str] = []
    marker = faults.marker("sleep-once", speech_packets(20.0, seed=99)[len(before) + 10])
    thread = threading.Thread(target=lambda: ends.append(_ends(pool, marker)))
    thread.start()
    wait_until(lambda: set(tokens.iterdir()) - before, what="the packet is in hand")
    os.kill(wait_until(lambda: _busy(pool), what="a worker is busy"), signal.SIGSTOP)
    thread.join()
    return ends[0]


def all_at_once(pool: opuspool.Pool, tokens: Path) -> str:
    """The three of them, each on a thread; how each ended."""
    with ThreadPoolExecutor(3) as threads:
        ends = [threads.submit(hang, pool, tokens) for hang in (endless_loop, sleep, stopped)]
        return ", ".join(end.result() for end in ends)


HANGS: dict[str, Callable[[opuspool.Pool, Path], str]] = {
    "endless loop in C": endless_loop,
    "sleep in C": sleep,
    "SIGSTOP, busy": stopped,
    "all three at once": all_at_once,
}
"""Ways to hang, with the function that has one hang and says how its call ended."""


@dataclass(frozen=True)
class Beside:
    """A hang, and the live streams beside it.

    Attributes:
        ended: how its call ended: PCM and its shape, or the error's name.
        hang_seconds: how long that took.
        quiet_seconds: the slowest live packet before.
        worst_seconds: the slowest live packet meanwhile.
        best_seconds: the slowest packet of the stream that waited least.
    """

    ended: str
    hang_seconds: float
    quiet_seconds: float
    worst_seconds: float
    best_seconds: float


def beside(pool: opuspool.Pool, streams: list[LiveStream], kind: str, tokens: Path) -> Beside:
    """Have one hang (a key of HANGS) as soon as all workers and spares are there."""
    wait_until(lambda: _staffed(pool), what="all workers are there")
    go_on(streams)
    quiet = _worst(streams)
    began = time.monotonic()
    ended = HANGS[kind](pool, tokens)
    seconds = time.monotonic() - began
    go_on(streams)
    worst = _worst(streams)
    return Beside(ended, seconds, quiet[-1], worst[-1], worst[0])


def _worst(streams: list[LiveStream]) -> list[float]:
    """The longest call of each stream, the least first; begins anew."""
    worst = sorted(stream.worst for stream in streams)
    for stream in streams:
        stream.worst = 0.0
    return worst


def _staffed(pool: opuspool.Pool) -> bool:
    status = pool.status()
    return all(s["state"] in {"IDLE", "BUSY"} for s in status["workers"] + status["spares"])


def _ends(pool: opuspool.Pool, packet: bytes) -> str:
    with pool.stream() as stream:
        try:
            return f"PCM {stream.decode(packet).shape}"
        except opuspool.OpusPoolError as error:
            return type(error).__name__


def _busy(pool: opuspool.Pool) -> int:
    busy = {w["pid"] for w in pool.status()["workers"]}
    for _ in range(BUSY_LOOKS):
        busy &= {w["pid"] for w in pool.status()["workers"] if w["state"] == "BUSY"}
    return next(iter(busy), 0)
