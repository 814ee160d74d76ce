"""The flight recorder: what a worker was decoding, readable after its death.

Shared memory without a name (it vanishes with its last user). The worker writes it with plain
stores; the supervisor reads it when the worker is gone, or to see whether it still moves.

    word 0   lease      id of the lease in hand, 0 while idle, `LANE`: a client's batch is in hand
    word 1   record     index of the lease's or batch's record in hand; `NO_RECORD`: of none yet
    word 2   op         index of the packet within that record
    word 3   progress   grows with every packet; a hung worker's stands still
    word 16  counts     what has been done by lanes, `LaneCounts`; each only grows
    1024     log        the latest batches of clients (batchlog.py), which only they and it know
"""

from __future__ import annotations

import mmap
import os
import sys
from bisect import bisect_left
from collections import deque
from typing import NamedTuple

from opuspool import unnamedfile
from opuspool.batchlog import NO_RECORD, BatchLog

if sys.platform == "win32":
    from opuspool import winmemory

LEASE, RECORD, OP, PROGRESS = range(4)

LANE = (1 << 64) - 1
"""In place of a lease's id: what is in hand came by a lane."""

DECODE_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds, bounds of a histogram: from one packet to `[workers] hang_seconds` and beyond."""

TICKS_PER_SECOND = 48_000
"""Audio is counted in the sample rate that all others divide."""

_COUNTS = 16
_LOG = 1024

KEPT_PACKETS = 31
"""So many of the latest packets can be had, where the log still has their batches."""

SIZE = 256 * 1024  # whole pages; those that nobody touches take no memory


class Position(NamedTuple):
    """Where a worker was: the lease (0: idle), the record in it, the packet in that.

    With `LANE` for the lease, `batch`, `token`, `request` and `word` tell what came by the lane.
    """

    lease: int
    record: int
    op: int
    progress: int
    batch: int = 0
    token: int = 0
    request: int = 0
    word: int = 0


class LaneCounts(NamedTuple):
    """What a worker has done for clients by lanes, since its start, in batches that it has ended.

    Attributes:
        batches: messages of requests.
        ok, invalid, poison: requests by outcome.
        packets: operations that gave PCM.
        ticks: audio that they gave, in 1/48000 s.
        refused: packets that were known as poison.
        checkpoints: copies of decoders' states.
        microseconds: time spent on batches.
        times: how many batches took how long, by `DECODE_BOUNDS`, and above all of them.
    """

    batches: int = 0
    ok: int = 0
    invalid: int = 0
    poison: int = 0
    packets: int = 0
    ticks: int = 0
    refused: int = 0
    checkpoints: int = 0
    microseconds: int = 0
    times: tuple[int, ...] = (0,) * (len(DECODE_BOUNDS) + 1)

    @property
    def requests(self) -> int:
        """All requests."""
        return self.ok + self.invalid + self.poison

    def since(self, before: LaneCounts) -> LaneCounts | None:
        """What has come since; None where that cannot be: a wild process has written here."""
        plain = [new - old for new, old in zip(self[:-1], before[:-1], strict=True)]
        times = [new - old for new, old in zip(self.times, before.times, strict=True)]
        if min(*plain, *times) < 0 or max(*plain, *times) > _MOST:
            return None
        return LaneCounts._make([*plain, tuple(times)])


_MOST = 1 << 40
"""More than this cannot have come between two looks."""

_PLAIN = len(LaneCounts._fields) - 1
_TIMES = _COUNTS + _PLAIN
_END = _TIMES + len(DECODE_BOUNDS) + 1
BATCHES, OK = _COUNTS, _COUNTS + 1
MICROSECONDS = _TIMES - 1


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
            self._bytes = self._map.bytes
        else:
            self._map = mmap.mmap(fd, SIZE)
            self._bytes = memoryview(self._map)
        self.words = self._bytes.cast("Q")
        self._log = BatchLog(self._bytes[_LOG:])

    def begin_batch(self, header: bytes, data: bytes | bytearray) -> None:
        """A client's batch, by its two frames, is in hand."""
        words = self.words
        self._log.append(header, data)
        words[RECORD] = NO_RECORD
        words[OP] = 0
        words[PROGRESS] += 1  # first: whoever looks must not take this for the batch before
        words[LEASE] = LANE

    def begin(self, record: int) -> None:
        """A record of a batch is in hand, at its first operation."""
        words = self.words
        words[OP] = 0
        words[RECORD] = record
        words[PROGRESS] += 1

    def pass_over(self, record: int) -> None:
        """A record of the batch is not run: its stream is not here."""
        self._log.strike_out(record)

    def refuse(self) -> None:
        """The operation in hand is not run: its packet is known as poison."""
        self._log.strike_out(self.words[RECORD], self.words[OP])

    def end_batch(self, done: list[int], seconds: float) -> None:
        """The batch is done, took so long, and has done that: `ok` to `checkpoints`."""
        words = self.words
        for index, number in enumerate(done, start=OK):
            if number:
                words[index] += number
        words[BATCHES] += 1
        words[MICROSECONDS] += int(seconds * 1e6)
        words[_TIMES + bisect_left(DECODE_BOUNDS, seconds)] += 1
        words[LEASE] = 0

    def position(self) -> Position:
        """Read where the worker is, or was when it died."""
        lease, record, op, progress = self.words[: PROGRESS + 1].tolist()
        newest = next(self._log.batches(), None) if lease == LANE else None
        if newest is None:
            return Position(lease, record, op, progress)
        rows, batch = newest.message.rows, newest.message.tag
        if record >= len(rows):
            return Position(lease, record, op, progress, batch)
        request, token, _, _, count, _, _ = rows[record]
        if not count:  # a checkpoint is made
            return Position(lease, record, op, progress, batch, token)
        return Position(lease, record, op, progress, batch, token, request, newest.word(record, op))

    def counts(self) -> LaneCounts:
        """Read what has been done by lanes."""
        found = self.words[_COUNTS:_END].tolist()
        return LaneCounts._make([*found[:_PLAIN], tuple(found[_PLAIN:])])

    def kept(self) -> list[bytes | None]:
        """The latest packets that came by lanes, the newest last; None: those of a batch too long.

        The newest is the one in hand, where one is.
        """
        lease, record, op = self.words[: OP + 1].tolist()
        found: deque[bytes | None] = deque(maxlen=KEPT_PACKETS)
        for batch in self._log.batches():
            packets = batch.packets(record, op) if lease == LANE else batch.packets()
            lease = 0  # only the newest can be in hand
            found.extendleft(reversed(packets[len(found) - KEPT_PACKETS :]))
            if len(found) == KEPT_PACKETS:
                break
        return list(found)

    def close(self) -> None:
        """Give the memory back."""
        self._log.close()
        self.words.release()
        self._bytes.release()
        self._map.close()


def create() -> int:
    """Make a recorder's memory; returns a descriptor (Windows: handle) for a child to inherit."""
    if sys.platform == "win32":
        return winmemory.create(SIZE)
    else:  # noqa: RET505  # mypy reads it
        fd = unnamedfile.create("opuspool-recorder")
        os.ftruncate(fd, SIZE)
        return fd


def release(fd: int) -> None:
    """Close what `create` has returned; what has been mapped stays."""
    if sys.platform == "win32":
        winmemory.release(fd)
    else:
        os.close(fd)
