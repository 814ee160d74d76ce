"""The flight recorder: what a worker was decoding, readable after its death.

A page of shared memory without a name (it vanishes with its last user). The
worker writes it with plain stores, one a packet; the supervisor reads it when the worker is gone,
or to see whether it still moves.

    word 0  lease      id of the lease in hand, 0 while idle
    word 1  record     index of the lease's record in hand
    word 2  op         index of the packet within that record
    word 3  progress   grows with every packet; a hung worker's stands still
"""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

if sys.platform == "win32":
    from opuspool import winmemory

SIZE = mmap.PAGESIZE
LEASE, RECORD, OP, PROGRESS = range(4)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a worker was: the lease (0: idle), the record in it, the packet in that."""

    lease: int
    record: int
    op: int
    progress: int


class FlightRecorder:
    """One worker's recorder, seen from either side.

    Args:
        fd: from `create`; it may be released afterwards.

    Attributes:
        words: the shared memory as unsigned 64-bit words; the worker stores into it directly.
    """

    def __init__(self, fd: int) -> None:
        if sys.platform == "win32":
            self._map = winmemory.View(fd, SIZE)
            self.words = self._map.bytes.cast("Q")
        else:
            self._map = mmap.mmap(fd, SIZE)
            self.words = memoryview(self._map).cast("Q")

    def position(self) -> Position:
        """Read where the worker is, or was when it died."""
        words = self.words
        return Position(words[LEASE], words[RECORD], words[OP], words[PROGRESS])

    def close(self) -> None:
        """Give the memory back."""
        self.words.release()
        self._map.close()


def create() -> int:
    """Make a recorder's memory; returns a descriptor (Windows: handle) for a child to inherit."""
    if sys.platform == "win32":
        return winmemory.create(SIZE)
    else:  # noqa: RET505  # mypy reads it
        fd, path = tempfile.mkstemp(prefix="opuspool-recorder-")
        Path(path).unlink()
        os.ftruncate(fd, SIZE)
        return fd


def release(fd: int) -> None:
    """Close what `create` has returned; what has been mapped stays."""
    if sys.platform == "win32":
        winmemory.release(fd)
    else:
        os.close(fd)
