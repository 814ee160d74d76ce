"""Ray: an actor a worker."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
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

__all__ = ["RayActors"]


class _Actor:
    """One decoder process."""

    def __init__(self, libopus: str) -> None:
        remote.start(libopus)

    def pid(self) -> int:
        """Its process id."""
        return os.getpid()

    def call(self, function: str, *args: Any) -> bytes:
        """Call a function of `remote`."""
        data: bytes = getattr(remote, function)(*args)
        return data


class RayActors(CallbackRival):
    """Ray actors; Ray's own processes count as its supervisor."""

    name: ClassVar[str] = "ray"
    title: ClassVar[str] = "Ray actors"
    pool: ClassVar[bool] = True
    noisy: ClassVar[bool] = True

    @classmethod
    def missing(cls) -> str | None:
        """Whether it is installed."""
        return None if importlib.util.find_spec("ray") else "pip install ray"

    def open(self) -> None:
        """Start Ray and its actors."""
        ray: Any = importlib.import_module("ray")  # untyped: its decorators say too little
        self._ray = ray
        ray.init(
            num_cpus=self.setup.workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=100_000_000,
        )
        kind = ray.remote(_Actor)
        self._actors = [kind.remote(self.setup.libopus) for _ in range(self.setup.workers)]
        self._pids = ray.get([actor.pid.remote() for actor in self._actors], timeout=60)

    def job(self, kind: Kind, caller: int, ends: ExitStack) -> Callable[[Done], None]:
        """Calls of one caller."""
        actor = self._actors[caller % len(self._actors)]
        if kind is Kind.FILE:
            return lambda done: _call(actor, done, "decode_file", speech.file())
        if kind is Kind.UTTERANCE:
            return lambda done: _call(actor, done, "decode_all", speech.utterance(caller))
        packets = speech.endless(caller)
        ends.callback(lambda: self._ray.get(actor.call.remote("forget", caller), timeout=60))
        return lambda done: _call(actor, done, "decode", caller, next(packets))

    def processes(self) -> Processes:
        """Its actors, and all else that it has started."""
        others = [c.pid for c in psutil.Process().children(recursive=True)]
        return Processes([pid for pid in others if pid not in self._pids], self._pids)

    def close(self) -> None:
        """End Ray."""
        self._ray.shutdown()


def _call(actor: Any, done: Done, function: str, *args: Any) -> None:
    def answer(future: Any) -> None:
        error = future.exception()
        done(error if error is not None else np.frombuffer(future.result(), np.float32))

    actor.call.remote(function, *args).future().add_done_callback(answer)
