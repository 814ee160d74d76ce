"""opuspool itself: called from threads, and from asyncio tasks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from opuspool.aio import AsyncPool
from opuspool.bench import speech
from opuspool.bench.drivers import TaskRival, ThreadRival
from opuspool.bench.loads import Kind
from opuspool.bench.rival import Processes
from opuspool.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AsyncExitStack, ExitStack

    from opuspool.bench.drivers import Call
    from opuspool.bench.rival import Setup
    from opuspool.pcm import Pcm

__all__ = ["Async", "Sync"]


def _arguments(setup: Setup) -> dict[str, Any]:
    if setup.endpoint is not None:
        return {"endpoint": setup.endpoint, "config": setup.config}
    return {"workers": setup.own_workers, "config": setup.config}


def _processes(status: dict[str, Any]) -> Processes:
    workers = [slot["pid"] for slot in status["workers"] + status["spares"] if slot["pid"]]
    return Processes([status["supervisor"]["pid"]], workers)


class Sync(ThreadRival):
    """`opuspool.Pool`, a thread a stream."""

    name: ClassVar[str] = "opuspool"
    title: ClassVar[str] = "opuspool.Pool, a thread a stream"
    most: ClassVar[int] = 100

    def open(self) -> None:
        """Start the pool, or connect to the daemon."""
        self._pool = Pool(**_arguments(self.setup))
        self._pool.decode(speech.packets()[:1])

    def job(self, kind: Kind, caller: int, ends: ExitStack) -> Call:
        """Calls of one caller."""
        if kind is Kind.FILE:
            return lambda: self._pool.decode_file(speech.file())
        if kind is Kind.UTTERANCE:
            return lambda: self._pool.decode(speech.utterance(caller))
        stream = ends.enter_context(self._pool.stream())
        packets = speech.endless(caller)
        return lambda: stream.decode(next(packets))

    def processes(self) -> Processes:
        """As the pool's status names them."""
        return _processes(self._pool.status())

    def close(self) -> None:
        """End the pool."""
        self._pool.close()


class Async(TaskRival):
    """`opuspool.AsyncPool`, a task a stream."""

    name: ClassVar[str] = "opuspool-async"
    title: ClassVar[str] = "opuspool.AsyncPool, a task a stream"

    def open(self) -> None:
        """Start the pool, or connect to the daemon."""
        self.loop = asyncio.Runner()
        self._pool = AsyncPool(**_arguments(self.setup))
        self.loop.run(self._open())

    async def _open(self) -> None:
        await self._pool.open()
        await self._pool.decode(speech.packets()[:1])

    def job(self, kind: Kind, caller: int, ends: AsyncExitStack) -> Callable[[], Awaitable[Pcm]]:
        """Calls of one caller."""
        if kind is Kind.FILE:
            return lambda: self._pool.decode_file(speech.file())
        if kind is Kind.UTTERANCE:
            return lambda: self._pool.decode(speech.utterance(caller))
        stream = self._pool.stream()
        ends.push_async_exit(stream)
        packets = speech.endless(caller)
        return lambda: stream.decode(next(packets))

    def processes(self) -> Processes:
        """As the pool's status names them."""
        return _processes(self.loop.run(self._pool.status()))

    def close(self) -> None:
        """End the pool and the loop."""
        self.loop.run(self._pool.close())
        self.loop.close()
