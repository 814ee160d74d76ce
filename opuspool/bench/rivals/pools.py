"""The process pools that Python services use.

A decoder's state must stay in one process, so that each is used as several pools of one process,
and a stream belongs to one of them.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
from abc import abstractmethod
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import psutil

from opuspool.bench import speech
from opuspool.bench.drivers import CallbackRival, Done
from opuspool.bench.loads import Kind
from opuspool.bench.rival import Processes
from opuspool.bench.rivals import remote

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

__all__ = ["Executor", "Multiprocessing", "Pebble", "PoolRival"]


class PoolRival(CallbackRival):
    """Calls functions of `remote` in processes."""

    pool: ClassVar[bool] = True

    def open(self) -> None:
        """Start the processes, and wait until each has decoded."""
        self._context = multiprocessing.get_context("spawn")
        self._pools = [self._start() for _ in range(self.setup.workers)]
        for pool in self._pools:
            self._wait(pool, remote.decode_all, speech.packets()[:1])

    @abstractmethod
    def _start(self) -> Any:
        """A pool of one process in which `remote.start` was called."""

    @abstractmethod
    def _submit(self, pool: Any, done: Done, function: Callable[..., bytes], *args: Any) -> None:
        """Call a function there; `done` gets its PCM or what it raised."""

    def job(self, kind: Kind, caller: int, ends: ExitStack) -> Callable[[Done], None]:
        """Calls of one caller."""
        pool, submit = self._pools[caller % len(self._pools)], self._submit
        if kind is Kind.FILE:
            return lambda done: submit(pool, done, remote.decode_file, speech.file())
        if kind is Kind.UTTERANCE:
            return lambda done: submit(pool, done, remote.decode_all, speech.utterance(caller))
        packets = speech.endless(caller)
        ends.callback(self._wait, pool, remote.forget, caller)
        return lambda done: submit(pool, done, remote.decode, caller, next(packets))

    def processes(self) -> Processes:
        """All children are decoder processes, but for the standard library's tracker."""
        children = psutil.Process().children()
        return Processes(workers=[c.pid for c in children if not _is_tracker(c)])

    def _wait(self, pool: Any, function: Callable[..., bytes], *args: Any) -> None:
        future: Future[object] = Future()
        self._submit(pool, future.set_result, function, *args)
        answer = future.result(60)
        if isinstance(answer, BaseException):
            raise answer


def _is_tracker(process: psutil.Process) -> bool:
    return any("resource_tracker" in word for word in process.cmdline())


def _pcm(data: bytes) -> Any:
    return np.frombuffer(data, np.float32)


def _future_done(done: Done) -> Callable[[Any], None]:
    """What a future calls, so that `done` gets PCM or the error."""

    def call(future: Any) -> None:
        error = future.exception()
        done(error if error is not None else _pcm(future.result()))

    return call


class Multiprocessing(PoolRival):
    """`multiprocessing.Pool`."""

    name: ClassVar[str] = "multiprocessing"
    title: ClassVar[str] = "multiprocessing.Pool"

    def _start(self) -> Any:
        return self._context.Pool(1, remote.start, (self.setup.libopus,))

    def _submit(self, pool: Any, done: Done, function: Callable[..., bytes], *args: Any) -> None:
        pool.apply_async(
            function, args, callback=lambda data: done(_pcm(data)), error_callback=done
        )

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.terminate()
            pool.join()


class Executor(PoolRival):
    """`concurrent.futures.ProcessPoolExecutor`."""

    name: ClassVar[str] = "executor"
    title: ClassVar[str] = "ProcessPoolExecutor"

    def _start(self) -> Any:
        return ProcessPoolExecutor(1, self._context, remote.start, (self.setup.libopus,))

    def _submit(self, pool: Any, done: Done, function: Callable[..., bytes], *args: Any) -> None:
        pool.submit(function, *args).add_done_callback(_future_done(done))

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


class Pebble(PoolRival):
    """`pebble.ProcessPool`."""

    name: ClassVar[str] = "pebble"
    title: ClassVar[str] = "pebble"

    @classmethod
    def missing(cls) -> str | None:
        """Whether it is installed."""
        return None if importlib.util.find_spec("pebble") else "pip install pebble"

    def _start(self) -> Any:
        from pebble import ProcessPool

        context: Any = self._context  # pebble's type for it leaves out what it does not use
        return ProcessPool(
            max_workers=1,
            context=context,
            initializer=remote.start,
            initargs=(self.setup.libopus,),
        )

    def _submit(self, pool: Any, done: Done, function: Callable[..., bytes], *args: Any) -> None:
        pool.schedule(function, args=args).add_done_callback(_future_done(done))

    def close(self) -> None:
        """End the processes."""
        for pool in self._pools:
            pool.stop()
            pool.join()
