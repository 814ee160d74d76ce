"""Part of a flight recorder: the batches of clients that a worker has begun last.

    0      begun     u64, how many it has been
    16     entries   where the latest are: u64 place | u32 header | u32 data
    1024   frames    theirs (wire.py), one after another, over the oldest

Places only grow; they lie at their remainder by the room, and no batch is cut in two. Nothing that
is read is trusted: the worker may have gone wild.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from opuspool import ops, wire
from opuspool.errors import WireError
from opuspool.ops import OpKind
from opuspool.wire import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

NO_RECORD = (1 << 64) - 1
"""In place of a record's index: a batch is in hand, and none of its records yet."""

_BEGUN = struct.Struct("<Q")
_ENTRY = struct.Struct("<QII")
_ENTRIES = 63
_FRAMES = _ENTRY.size * (1 + _ENTRIES)
_UNKNOWN_WORD = 0xFF << 24
"""In place of an operation's word: it was not kept. No kind of operation has this number."""


class Batch(NamedTuple):
    """A client's batch, as it is in the log.

    Attributes:
        message: its rows and, where it is not too long, its data.
        whole: whether that is there.
    """

    message: wire.Message
    whole: bool

    @classmethod
    def read(cls, header: bytes, data: bytes) -> Batch:
        """Read its frames.

        Raises:
            WireError: they are none.
        """
        try:
            message, whole = wire.parse((header, data)), True
        except WireError:
            if data:
                raise
            message, whole = wire.parse_header(header), False
        if message.kind is not Kind.REQUESTS:
            raise WireError(f"{message.kind.name} in place of a client's batch")
        return cls(message, whole)

    def word(self, record: int, op: int) -> int:
        """The word of one of its operations (ops.py)."""
        count = self.message.rows[record][4]
        if self.whole and op < count:
            with suppress(WireError):
                return ops.words_of(self.message.payloads()[record], count)[op]
        return _UNKNOWN_WORD

    def packets(self, record: int | None = None, op: int = 0) -> list[bytes | None]:
        """Its packets, in their order.

        Args:
            record: only those up to this record; `NO_RECORD`: none.
            op: of that record, only those up to this operation.
        """
        if record == NO_RECORD:
            return []
        if not self.whole:
            return [None]
        packets: list[bytes | None] = []
        rows, payloads = self.message.rows, self.message.payloads()
        for index, (row, payload) in enumerate(zip(rows, payloads, strict=True)):
            with suppress(WireError):  # it was refused
                operations = ops.unpack(payload, row[4]) if row[4] else []
                last = op + 1 if index == record else None
                packets += [
                    operation.packet
                    for operation in operations[:last]
                    if operation.packet and operation.kind is not OpKind.POISONED
                ]
            if index == record:
                break
        return packets


class BatchLog:
    """The log, seen from either side.

    Args:
        shared: its memory.
    """

    def __init__(self, shared: memoryview) -> None:
        self._entries = shared[:_FRAMES]
        self._frames = shared[_FRAMES:]
        self._room = len(self._frames)
        self._begun = 0
        self._end = 0
        self._newest = 0, 0, False

    def append(self, header: bytes, data: bytes | bytearray) -> None:
        """Write a batch, before it is run; of one that is too long, only its header."""
        head, body, room = len(header), len(data), self._room
        if head + body > room:
            body = 0
        place = self._end
        at = place % room
        if at + head + body > room:
            place += room - at
            at = 0
        frames = self._frames
        frames[at : at + head] = header
        frames[at + head : at + head + body] = data[:body]
        self._end = place + head + body
        self._newest = at, at + head, len(data) == body
        self._begun += 1
        _ENTRY.pack_into(self._entries, _entry_at(self._begun), place, head, body)
        _BEGUN.pack_into(self._entries, 0, self._begun)

    def batches(self) -> Iterator[Batch]:
        """The batches that are still there, the newest first."""
        (begun,) = _BEGUN.unpack_from(self._entries)
        end: int | None = None
        for number in range(begun, max(0, begun - _ENTRIES), -1):
            place, head, body = _ENTRY.unpack_from(self._entries, _entry_at(number))
            end = place + head + body if end is None else end
            at = place % self._room
            middle = at + head
            if end - place > self._room or middle + body > self._room:
                return
            header, data = self._frames[at:middle], self._frames[middle : middle + body]
            try:
                yield Batch.read(bytes(header), bytes(data))
            except WireError:
                return

    def strike_out(self, record: int, op: int | None = None) -> None:
        """A record of the batch that was written last is not run, or one operation of it."""
        begin, end, whole = self._newest
        header = self._frames[begin:end]
        if op is None:
            wire.take_operations(header, record)
        elif whole:
            before = sum([row[3] for row in wire.parse_header(bytes(header)).rows[:record]])
            self._frames[end + before + 4 * op + 3] = OpKind.POISONED

    def close(self) -> None:
        """Let go of the memory."""
        self._entries.release()
        self._frames.release()


def _entry_at(number: int) -> int:
    return _ENTRY.size * (1 + number % _ENTRIES)
