"""The flight recorder: what a worker was decoding, readable after its death.

Shared memory without a name (it vanishes with its last user). The worker writes it with plain
stores; the supervisor reads it when the worker is gone, or to see whether it still moves.

    word 0   lease      id of the lease in hand, 0 while idle, `LANE`: a client's batch is in hand
    word 1   record     index of the lease's or batch's record in hand
    word 2   op         index of the packet within that record
    word 3   progress   grows with every packet; a hung worker's stands still

Of work that came by a lane the supervisor knows nothing but what is written here:

    word 4   batch      number of the batch in hand
    word 5   token      of its stream
    word 6   request    id of its request
    word 7   word       of its operation, as in ops.py
    word 8   written    packets written to the ring
    word 16  counts     what has been done by lanes, `LaneCounts`; each only grows
    1024     ring       the latest packets, each as an operation: behind its word
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from bisect import bisect_left
from typing import NamedTuple

from opuspool import unnamedfile

if sys.platform == "win32":
    from opuspool import winmemory

LEASE, RECORD, OP, PROGRESS, BATCH, TOKEN, REQUEST, WORD, WRITTEN = range(9)

LANE = (1 << 64) - 1
"""In place of a lease's id: what is in hand came by a lane."""

DECODE_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Seconds, bounds of a histogram: from one packet to `[workers] hang_seconds` and beyond."""

TICKS_PER_SECOND = 48_000
"""Audio is counted in the sample rate that all others divide."""

_COUNTS = 16
_RING = 1024
_RING_PACKETS = 31
_RING_BYTES = 1024
"""Of a packet and the word before it; of a longer one only the word is kept."""

_OPERATION_WORD = struct.Struct("<I")
_IN_HAND = struct.Struct("<7Q")
_IN_HAND_PACKET = struct.Struct("<8Q")

SIZE = _RING + _RING_PACKETS * _RING_BYTES  # whole pages


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

    def begin_batch(self, batch: int) -> None:
        """A client's batch is in hand."""
        words = self.words
        words[RECORD] = words[OP] = words[TOKEN] = 0
        words[BATCH] = batch
        words[PROGRESS] += 1  # first: whoever looks must not take this for the batch before
        words[LEASE] = LANE

    def begin(self, record: int, batch: int, token: int, request: int, word: int) -> None:
        """A record of a batch is in hand, at its first operation; as one store."""
        progress = self.words[PROGRESS] + 1
        _IN_HAND.pack_into(self._bytes, 8, record, 0, progress, batch, token, request, word)

    def begin_packet(self, record: int, batch: int, token: int, request: int, blob: bytes) -> None:
        """As `begin` and `keep`, of a record that is one packet; `blob` is its operation."""
        words, shared, size = self.words, self._bytes, len(blob)
        written, progress = words[WRITTEN] + 1, words[PROGRESS] + 1
        _write(shared, written, blob)
        _IN_HAND_PACKET.pack_into(
            shared, 8, record, 0, progress, batch, token, request, size - 4, written
        )

    def keep(self, packet: bytes) -> None:
        """Write a packet to the ring, before it is run."""
        written = self.words[WRITTEN] + 1
        _write(self._bytes, written, _OPERATION_WORD.pack(len(packet)) + packet)
        self.words[WRITTEN] = written

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
        return Position(*self.words[: WORD + 1].tolist())

    def counts(self) -> LaneCounts:
        """Read what has been done by lanes."""
        found = self.words[_COUNTS:_END].tolist()
        return LaneCounts._make([*found[:_PLAIN], tuple(found[_PLAIN:])])

    def kept(self) -> list[bytes | None]:
        """The packets in the ring, the newest last; None: it was too long to be kept."""
        written = self.words[WRITTEN]
        return [self._kept(n) for n in range(max(0, written - _RING_PACKETS) + 1, written + 1)]

    def _kept(self, number: int) -> bytes | None:
        at = _RING + number % _RING_PACKETS * _RING_BYTES
        (size,) = _OPERATION_WORD.unpack_from(self._bytes, at)
        begin = at + _OPERATION_WORD.size
        return (
            bytes(self._bytes[begin : begin + size]) if begin + size <= at + _RING_BYTES else None
        )

    def close(self) -> None:
        """Give the memory back."""
        self.words.release()
        self._bytes.release()
        self._map.close()


def _write(shared: memoryview, number: int, blob: bytes) -> None:
    """Write an operation with a packet to the ring, as its `number`th."""
    at = _RING + number % _RING_PACKETS * _RING_BYTES
    if len(blob) > _RING_BYTES:
        blob = blob[: _OPERATION_WORD.size]
    shared[at : at + len(blob)] = blob


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
