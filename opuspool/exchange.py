"""Requests out and answers in, without a thread or a wait; its owner lets one thread in at a time.

Callers append to the outbox, from any thread; a turn takes all that has gathered and sends it as
one message. While that is under way the next batch gathers: nothing waits for a batch to fill.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from typing import TYPE_CHECKING

from opuspool import wire
from opuspool.wire import Flag, Kind, Status

if TYPE_CHECKING:
    from opuspool.calls import Call, StreamState
    from opuspool.channel import Channel

_CHECKPOINT = int(Status.CHECKPOINT)
_SHUTDOWN = int(Status.SHUTDOWN)

_MOST_MS = 0xFFFFFFFF


class Exchange:
    """The calls of one client that are not complete, and its streams.

    Attributes:
        outbox: calls to send.
    """

    def __init__(self) -> None:
        self.outbox: deque[Call] = deque()
        self._ids = itertools.count(1)
        self._pending: dict[int, Call] = {}
        self._streams: dict[int, StreamState] = {}

    def __len__(self) -> int:
        return len(self._pending) + len(self.outbox)

    def send(self, channel: Channel) -> None:
        """Send what has gathered; it stays where the socket takes no more."""
        outbox = self.outbox
        if not outbox:
            return
        calls = [outbox.popleft() for _ in range(min(len(outbox), wire.MAX_RECORDS))]
        now = time.monotonic()
        numbers, pending, streams = self._ids, self._pending, self._streams
        rows = []
        for call in calls:
            number = next(numbers)
            rows.append(_row(number, call, now))
            stream = call.stream
            if call.count:
                pending[number] = call
                if not stream.opened:
                    streams[stream.id] = stream
            else:
                streams.pop(stream.id, None)
        if channel.send(wire.pack(Kind.REQUESTS, rows, [call.blob for call in calls])):
            return
        for row in rows:
            pending.pop(row[0], None)
        outbox.extendleft(reversed(calls))

    def take(self, message: wire.Message) -> list[Call]:
        """Take a message of answers; returns the calls that are complete by it."""
        complete = []
        pending = self._pending
        for (number, _, _, status), payload in zip(message.rows, message.payloads(), strict=True):
            if status == _CHECKPOINT:
                stream = self._streams.get(number)
                if stream is not None:
                    stream.log.save(payload)
                continue
            if status == _SHUTDOWN:
                continue  # not done here: the successor, if one comes in time, is handed the call
            call = pending.pop(number, None)
            if call is not None:
                call.answered(status, payload)
                complete.append(call)
        return complete

    def hand_over(self, channel: Channel) -> None:
        """Give a new supervisor all streams, then the calls that have no answer."""
        now = time.monotonic()
        rows: list[wire.Row] = []
        payloads: list[bytes] = []
        needed = {call.stream.id for call in self._pending.values()}
        for stream in self._streams.values():
            if stream.opened and (not stream.closed or stream.id in needed):
                _add_stream(stream, rows, payloads)
        for number, call in self._pending.items():
            rows.append(_row(number, call, now))
            payloads.append(call.blob)
        for at in range(0, len(rows), wire.MAX_RECORDS):
            to = at + wire.MAX_RECORDS
            channel.send(wire.pack(Kind.REQUESTS, rows[at:to], payloads[at:to]))

    def expired(self, before: float) -> list[Call]:
        """Take out the calls whose deadline (monotonic) lies before this time."""
        numbers = [n for n, call in self._pending.items() if call.deadline < before]
        calls = [self._pending.pop(number) for number in numbers]
        while self.outbox and self.outbox[0].deadline < before:
            calls.append(self.outbox.popleft())
        return calls

    def take_all(self) -> list[Call]:
        """Take out every call."""
        calls = list(self._pending.values())
        self._pending.clear()
        while self.outbox:
            calls.append(self.outbox.popleft())
        return calls


def _row(number: int, call: Call, now: float) -> tuple[int, ...]:
    """A call as a `wire.Request`."""
    left = int((call.deadline - now) * 1000)
    stream = call.stream
    return (
        number,
        stream.id,
        left if 0 < left < _MOST_MS else max(1, min(left, _MOST_MS)),
        len(call.blob),
        call.count,
        stream.format.code,
        call.flags,
    )


def _add_stream(stream: StreamState, rows: list[wire.Row], payloads: list[bytes]) -> None:
    """Append what makes another supervisor know a stream."""
    code = stream.format.code
    checkpoint = stream.log.checkpoint or b""
    rows.append(wire.Request(0, stream.id, 0, len(checkpoint), 0, code, Flag.RESTORE))
    payloads.append(checkpoint)
    for blob, count in stream.log.entries:
        rows.append(wire.Request(0, stream.id, 0, len(blob), count, code, Flag.REPLAY))
        payloads.append(blob)
