"""Starts a service process, sends it requests, and starts it again whenever it is gone."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import threading
from collections import Counter
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from contextlib import suppress
from typing import Any

import throwaway
from service import frame

from opuspool import exitcause

START_SECONDS = 120.0
"""A service that is not ready by then is broken; under Wine a start takes up to 10 s."""


class GoneError(Exception):
    """The service died, or hung, before it answered."""


class Keeper:
    """A service that is there whenever it is asked, for any number of threads.

    Args:
        kind: as `service.py` takes it.
        hang_seconds: a request that takes longer has met a hang; the service is killed.

    Attributes:
        starts: how often it was started.
        deaths: ends of the service that nobody had asked for, by name.
    """

    def __init__(self, kind: str, hang_seconds: float) -> None:
        self.starts = 0
        self.deaths: Counter[str] = Counter()
        self._kind = kind
        self._hang_seconds = hang_seconds
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def ask(self, packets: list[bytes] | None) -> dict[str, Any]:
        """Have packets decoded; None: ask for the pool's status.

        Raises:
            GoneError: there was no answer.
        """
        audio = None if packets is None else base64.b64encode(frame(packets)).decode()
        running = self._ready()
        answer = running.send({} if audio is None else {"audio": audio})
        try:
            return answer.result(self._hang_seconds)
        except LateError:
            running.hung = True
            running.process.kill()
            raise GoneError from None

    def close(self) -> None:
        """End the service; where it does not end by itself, that is a death too."""
        running, self._running = self._running, None
        if running is not None:
            running.end(self._hang_seconds)
            self._bury(running, asked=True)

    def _ready(self) -> _Running:
        with self._lock:
            if self._running is not None and self._running.gone.is_set():
                self._bury(self._running)
                self._running = None
            if self._running is None:
                self._running = _Running(self._kind)
                self.starts += 1
            return self._running

    def _bury(self, running: _Running, *, asked: bool = False) -> None:
        code = running.process.wait()
        if running.hung:
            self.deaths["hung, killed"] += 1
        elif code or not asked:
            self.deaths[exitcause.name_exit(code)[1]] += 1


class _Running:
    """One service process."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            throwaway.python("service.py", kind),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if kind == "incident" else None,
            text=True,
            encoding="utf-8",
        )
        self.gone = threading.Event()
        self.hung = False
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._open: dict[int, Future[dict[str, Any]]] = {}
        self._started = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._started.wait(START_SECONDS):
            self.hung = True
            self.process.kill()

    def send(self, request: dict[str, Any]) -> Future[dict[str, Any]]:
        answer: Future[dict[str, Any]] = Future()
        with self._lock:
            if self.gone.is_set():
                raise GoneError
            number = next(self._ids)
            self._open[number] = answer
            assert self.process.stdin is not None  # for mypy: it is a pipe
            with suppress(OSError):  # it is dead; the reader is about to say so
                self.process.stdin.write(json.dumps({"id": number, **request}) + "\n")
                self.process.stdin.flush()
        return answer

    def end(self, seconds: float) -> None:
        """Close its input, and wait."""
        self._close_input()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.hung = True
            self.process.kill()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None  # for mypy: it is a pipe
        with self.process.stdout as output:
            for line in output:
                self._take(line)
        self._end()

    def _take(self, line: str) -> None:
        try:
            answer = json.loads(line)
        except ValueError:  # cut off: it died while it wrote
            return
        if "id" not in answer:
            self._started.set()
            return
        with self._lock:
            future = self._open.pop(answer["id"])
        future.set_result(answer)

    def _end(self) -> None:
        self.process.wait()
        with self._lock:
            self.gone.set()
            left, self._open = self._open, {}
        self._close_input()
        self._started.set()
        for future in left.values():
            future.set_exception(GoneError())

    def _close_input(self) -> None:
        assert self.process.stdin is not None  # for mypy: it is a pipe
        with suppress(OSError):  # what was not sent yet has nobody to read it any more
            self.process.stdin.close()
