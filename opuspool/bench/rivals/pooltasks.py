"""The process pools as an asyncio service uses them: tasks wait for their answers."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar

from opuspool.bench.drivers import TaskRival
from opuspool.bench.rivals import pools

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack

    from opuspool.bench.loads import Kind
    from opuspool.bench.rival import Processes
    from opuspool.pcm import Pcm

__all__ = ["ExecutorTasks", "MultiprocessingTasks", "PebbleTasks"]


class _PoolTasks(TaskRival):
    """A pool whose answer, on a thread of the pool's, wakes the loop, as `wrap_future` does."""

    of: ClassVar[type[pools.PoolRival]]
    pool: ClassVar[bool] = True

    @classmethod
    def missing(cls) -> str | None:
        """Whether the pool is installed."""
        return cls.of.missing()

    def open(self) -> None:
        """Start the pool's processes."""
        self.loop = asyncio.Runner()
        self._pool = self.of(self.setup)
        self._pool.open()

    def job(self, kind: Kind, caller: int, ends: AsyncExitStack) -> Callable[[], Awaitable[Pcm]]:
        """Calls of one caller."""
        start = self._pool.job(kind, caller, ends.enter_context(ExitStack()))
        loop = self.loop.get_loop()

        def call() -> Awaitable[Pcm]:
            future: asyncio.Future[Pcm] = loop.create_future()
            start(lambda answer: _tell(loop, future, answer))
            return future

        return call

    def processes(self) -> Processes:
        """The pool's."""
        return self._pool.processes()

    def close(self) -> None:
        """End the pool and the loop."""
        self._pool.close()
        self.loop.close()


def _tell(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Pcm], answer: Pcm | BaseException
) -> None:
    loop.call_soon_threadsafe(_settle, future, answer)


def _settle(future: asyncio.Future[Pcm], answer: Pcm | BaseException) -> None:
    if future.done():  # cancelled: the load was interrupted
        return
    if isinstance(answer, BaseException):
        future.set_exception(answer)
    else:
        future.set_result(answer)


class MultiprocessingTasks(_PoolTasks):
    """`multiprocessing.Pool`, from tasks."""

    name: ClassVar[str] = "multiprocessing-async"
    title: ClassVar[str] = "multiprocessing.Pool, from asyncio"
    of: ClassVar[type[pools.PoolRival]] = pools.Multiprocessing


class ExecutorTasks(_PoolTasks):
    """`ProcessPoolExecutor`, from tasks."""

    name: ClassVar[str] = "executor-async"
    title: ClassVar[str] = "ProcessPoolExecutor, from asyncio"
    of: ClassVar[type[pools.PoolRival]] = pools.Executor


class PebbleTasks(_PoolTasks):
    """`pebble.ProcessPool`, from tasks."""

    name: ClassVar[str] = "pebble-async"
    title: ClassVar[str] = "pebble, from asyncio"
    of: ClassVar[type[pools.PoolRival]] = pools.Pebble
