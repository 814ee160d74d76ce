"""libopus in the service's own process: with a global lock, and without."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from opuspool.bench import speech
from opuspool.bench.direct import Decoder, Library
from opuspool.bench.drivers import ThreadRival
from opuspool.bench.loads import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager, ExitStack

    from opuspool.bench.drivers import Call
    from opuspool.bench.rival import Setup
    from opuspool.pcm import Pcm

__all__ = ["Locked", "Unlocked"]


class _InProcess(ThreadRival):
    """Calls as PyOgg's wrappers make them: each lets go of the GIL."""

    kinds = frozenset(Kind)
    _lock: AbstractContextManager[object]

    def open(self) -> None:
        """Load libopus."""
        self._library = Library(self.setup.libopus, keep_gil=False)

    def close(self) -> None:
        """Nothing was started."""

    def job(self, kind: Kind, caller: int, ends: ExitStack) -> Call:
        """Calls of one caller."""
        if kind is Kind.FILE:
            return self._file
        if kind is Kind.UTTERANCE:
            return partial(self._decode_all, speech.utterance(caller))
        decoder = ends.enter_context(Decoder(self._library))
        return self._packets(decoder, speech.endless(caller))

    def _packets(self, decoder: Decoder, packets: Iterator[bytes]) -> Call:
        pcm = np.ctypeslib.as_array(decoder.buffer)
        lock = self._lock

        def call() -> Pcm:
            packet = next(packets)
            with lock:
                count = decoder.decode(packet)
            return pcm[:count].copy()

        return call

    def _decode_all(self, packets: list[bytes]) -> Pcm:
        with Decoder(self._library) as decoder:
            pcm = np.ctypeslib.as_array(decoder.buffer)
            parts = []
            for packet in packets:
                with self._lock:
                    count = decoder.decode(packet)
                parts.append(pcm[:count].copy())
            return np.concatenate(parts)

    def _file(self) -> Pcm:
        from opuspool import oggopus

        (link,) = oggopus.read(speech.file())
        return oggopus.cut(self._decode_all(link.packets), link, speech.SAMPLE_RATE)


class Locked(_InProcess):
    """What services do that have seen a memory fault: one lock around every call."""

    name: ClassVar[str] = "lock"
    title: ClassVar[str] = "in-process, global lock, 8 threads"
    threads: int = 8

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._lock = threading.Lock()


class Unlocked(_InProcess):
    """A decoder for each stream, a thread for each core, nothing shared: one Python's limit."""

    name: ClassVar[str] = "unlocked"
    title: ClassVar[str] = "in-process, no lock, a thread a core"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.threads = setup.workers
        self._lock = nullcontext()
