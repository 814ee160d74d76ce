"""The three ways in which rivals are called: from threads, by callbacks, from asyncio tasks.

Each caller makes its next call when the last one has ended, as a service does that waits for its
PCM. A rival is driven in the cheapest way that its interface has.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from itertools import cycle
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from opuspool.bench import speech
from opuspool.bench.loads import Kind
from opuspool.bench.rival import Rival

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from opuspool.bench.loads import Load
    from opuspool.bench.window import Window
    from opuspool.pcm import Pcm

__all__ = ["CallbackRival", "TaskRival", "ThreadRival"]

Call: TypeAlias = "Callable[[], Pcm]"
"""Makes one call; each one of a stream decodes its next packet."""

Done: TypeAlias = "Callable[[Pcm | BaseException], None]"

CALL_SECONDS = 60.0
"""A call that takes longer has failed."""


def calls_of(kind: Kind) -> int:
    """How many calls decode `speech` once."""
    return len(speech.packets()) if kind is Kind.PACKET else 1


class ThreadRival(Rival):
    """Called from threads.

    Attributes:
        threads: the most that it is called from; with more streams, each thread has several.
    """

    threads: int = 100

    @abstractmethod
    def job(self, kind: Kind, caller: int, ends: ExitStack) -> Call:
        """A caller's calls, by its number; what they need is closed by `ends`."""

    def run(self, load: Load, window: Window) -> None:
        """Do a load on threads."""
        threads = min(load.at_once, self.threads)
        with ExitStack() as ends, ThreadPoolExecutor(threads) as executor:
            jobs = [self.job(load.kind, number, ends) for number in range(load.at_once)]
            futures = [
                executor.submit(_repeat, jobs[number::threads], window) for number in range(threads)
            ]
            try:
                for future in futures:
                    future.result()
            finally:
                window.cancel()  # after Ctrl-C or an error: else the executor would wait for them

    def decode_once(self, kind: Kind) -> Pcm:
        """All of `speech`."""
        with ExitStack() as ends:
            call = self.job(kind, 0, ends)
            return np.concatenate([call() for _ in range(calls_of(kind))])


def _repeat(jobs: list[Call], window: Window) -> None:
    now, note = time.perf_counter, window.calls.append
    for call in cycle(jobs):
        began = now()
        call()
        ended = now()
        note((began, ended))
        if ended > window.stop:
            return


class CallbackRival(Rival):
    """Told to call back: each answer makes its stream's next call."""

    @abstractmethod
    def job(self, kind: Kind, caller: int, ends: ExitStack) -> Callable[[Done], None]:
        """A caller's calls, by its number; what they need is closed by `ends`."""

    def run(self, load: Load, window: Window) -> None:
        """Do a load by callbacks."""
        with ExitStack() as ends:
            jobs = [self.job(load.kind, number, ends) for number in range(load.at_once)]
            chains = [_Chain(job, window) for job in jobs]
            ends.callback(_await_all, chains, window)
            for chain in chains:
                chain.call()

    def decode_once(self, kind: Kind) -> Pcm:
        """All of `speech`."""
        with ExitStack() as ends:
            job = self.job(kind, 0, ends)
            return np.concatenate([_wait(job) for _ in range(calls_of(kind))])


class _Chain:
    """One caller: an answer makes the next call."""

    def __init__(self, job: Callable[[Done], None], window: Window) -> None:
        self._job = job
        self._window = window
        self._began = 0.0
        self.ended = threading.Event()
        self.error: BaseException | None = None

    def call(self) -> None:
        self._began = time.perf_counter()
        self._job(self._answer)

    def _answer(self, answer: Pcm | BaseException) -> None:
        now = time.perf_counter()
        if isinstance(answer, BaseException):
            self.error = answer
            self.ended.set()
            return
        self._window.calls.append((self._began, now))
        if now > self._window.stop:
            self.ended.set()
            return
        try:
            self.call()
        except BaseException as error:  # noqa: BLE001  told to the thread that waits
            self.error = error
            self.ended.set()


def _await_all(chains: list[_Chain], window: Window) -> None:
    try:
        deadline = time.perf_counter() + max(0.0, window.stop - time.perf_counter()) + CALL_SECONDS
        for chain in chains:
            if not chain.ended.wait(max(0.0, deadline - time.perf_counter())):
                raise RuntimeError(f"a call has had no answer for {CALL_SECONDS:.0f} s")
            if chain.error is not None:
                raise chain.error
    finally:
        window.cancel()


def _wait(job: Callable[[Done], None]) -> Pcm:
    answers: list[Pcm | BaseException] = []
    ended = threading.Event()

    def done(answer: Pcm | BaseException) -> None:
        answers.append(answer)
        ended.set()

    job(done)
    if not ended.wait(CALL_SECONDS):
        raise RuntimeError(f"a call has had no answer for {CALL_SECONDS:.0f} s")
    answer = answers[0]
    if isinstance(answer, BaseException):
        raise answer
    return answer


class TaskRival(Rival):
    """Called from asyncio tasks.

    Attributes:
        loop: runs all that it does.
    """

    tasks: ClassVar[bool] = True
    loop: asyncio.Runner

    @abstractmethod
    def job(self, kind: Kind, caller: int, ends: AsyncExitStack) -> Callable[[], Awaitable[Pcm]]:
        """A caller's calls, by its number; what they need is closed by `ends`."""

    def run(self, load: Load, window: Window) -> None:
        """Do a load on tasks."""
        self.loop.run(self._tasks(load, window))

    async def _tasks(self, load: Load, window: Window) -> None:
        async with AsyncExitStack() as ends:
            jobs = [self.job(load.kind, number, ends) for number in range(load.at_once)]
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    group.create_task(_repeat_task(job, window))

    def decode_once(self, kind: Kind) -> Pcm:
        """All of `speech`."""
        return self.loop.run(self._decode_once(kind))

    async def _decode_once(self, kind: Kind) -> Pcm:
        async with AsyncExitStack() as ends:
            call = self.job(kind, 0, ends)
            return np.concatenate([await call() for _ in range(calls_of(kind))])


async def _repeat_task(call: Callable[[], Awaitable[Pcm]], window: Window) -> None:
    now, note = time.perf_counter, window.calls.append
    while True:
        began = now()
        await call()
        ended = now()
        note((began, ended))
        if ended > window.stop:
            return
