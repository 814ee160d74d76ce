"""The load of before and after: requests from several callers at once, and the score."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import speech
from keeper import GoneError, Keeper

if TYPE_CHECKING:
    from collections.abc import Callable

CALLERS = 8
NOTICED_SECONDS = 10.0


@dataclass
class Score:
    """What became of the requests; `right + wrong + failed + lost == requests`.

    Attributes:
        requests: how many were made; none is made twice.
        right: answered with the PCM that libopus makes of these packets, bit for bit.
        wrong: answered with other PCM, and no error.
        failed: answered, but with packets that gave no PCM.
        lost: not answered: the service died or hung.
        faults: access violations and the like that the service caught (Windows).
        deaths: of the service, by name.
        restarts: starts of the service after the first.
        kills: worker processes killed meanwhile, from outside.
        worker_restarts: by reason, as the pool counts them.
        seconds: how long it took.
    """

    requests: int = 0
    right: int = 0
    wrong: int = 0
    failed: int = 0
    lost: int = 0
    faults: int = 0
    deaths: dict[str, int] = field(default_factory=dict)
    restarts: int = 0
    kills: int = 0
    worker_restarts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Load:
    """Requests to one service.

    Args:
        kind: of service, as `service.py` takes it.
        utterances: the packets of each request.
        expected: the digest of each request's PCM.
        hang_seconds: a request that takes longer has met a hang.
    """

    def __init__(
        self, kind: str, utterances: list[list[bytes]], expected: list[str], hang_seconds: float
    ) -> None:
        self._requests = list(zip(utterances, expected, strict=True))
        self._keeper = Keeper(kind, hang_seconds)
        self._next = iter(self._requests)
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._failure: BaseException | None = None

    def run(self, meanwhile: Callable[[Keeper, threading.Event], int] | None = None) -> Score:
        """Make all requests; returns the score.

        Args:
            meanwhile: runs beside them till the event is set; returns how many workers it killed.
        """
        start, done, kills = time.monotonic(), threading.Event(), [0]

        def disturb() -> None:
            if meanwhile is not None:
                kills[0] = meanwhile(self._keeper, done)

        vandal = threading.Thread(target=disturb)
        callers = [threading.Thread(target=self._call_all) for _ in range(CALLERS)]
        for thread in (vandal, *callers):
            thread.start()
        for thread in callers:
            thread.join()
        seconds = time.monotonic() - start
        done.set()
        vandal.join()
        restarts = {} if meanwhile is None else self._worker_restarts(kills[0])
        self._keeper.close()
        if self._failure is not None:
            raise self._failure
        return Score(
            requests=len(self._requests),
            **{name: self._seen[name] for name in ("right", "wrong", "failed", "lost", "faults")},
            deaths=dict(self._keeper.deaths),
            restarts=self._keeper.starts - 1,
            kills=kills[0],
            worker_restarts=restarts,
            seconds=round(seconds, 1),
        )

    def _worker_restarts(self, kills: int) -> dict[str, int]:
        """By reason, when the pool has noticed so many; it needs milliseconds."""
        end = time.monotonic() + NOTICED_SECONDS
        while True:
            counted = self._keeper.ask(None)["status"]["counters"]["worker_restarts"]
            if sum(counted.values()) >= kills or time.monotonic() > end:
                return {reason: count for reason, count in counted.items() if count}
            time.sleep(0.05)

    def _call_all(self) -> None:
        try:
            while True:
                with self._lock:
                    request = next(self._next, None)
                if request is None:
                    return
                self._call(*request)
        except BaseException as error:  # noqa: BLE001  # told by `run`
            self._failure = error

    def _call(self, packets: list[bytes], expected: str) -> None:
        try:
            answer = self._keeper.ask(packets)
        except GoneError:
            outcome, faults = "lost", 0
        else:
            outcome, faults = _judged(answer, expected), answer["faults"]
        with self._lock:
            self._seen[outcome] += 1
            self._seen["faults"] += faults


def _judged(answer: dict[str, Any], expected: str) -> str:
    if answer["failed"]:
        return "failed"
    return "right" if answer["pcm"] == expected else "wrong"


def expected(utterances: list[list[bytes]]) -> list[str]:
    """The digests of what libopus makes of utterances, used as it should be."""
    known: dict[tuple[bytes, ...], str] = {}
    keeper = Keeper("correct", 60.0)
    try:
        for packets in utterances:
            if (key := tuple(packets)) not in known:
                known[key] = keeper.ask(packets)["pcm"]
    finally:
        keeper.close()
    return [known[tuple(packets)] for packets in utterances]


def requests(count: int, length: int) -> tuple[list[list[bytes]], list[str]]:
    """Make requests of speech, and the digests of their PCM."""
    utterances = speech.utterances(count, length)
    return utterances, expected(utterances)
