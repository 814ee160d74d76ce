"""A lane: this client's own connection to a worker, for the packets of streams lent to it.

Calls gather here while earlier ones are under way, as they do in the exchange; each message is a
batch, and its worker answers it as a whole.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

import zmq

from opuspool import wire
from opuspool.errors import WireError
from opuspool.frames import Port
from opuspool.wire import Kind

if TYPE_CHECKING:
    import itertools
    from collections.abc import Collection, Iterator

    from opuspool.calls import Call, StreamState

BATCHES = 4
"""Batches under way at a time; their worker need never wait for the next one."""

BATCH_PACKETS = 64
"""Operations in a batch, unless its first call alone has more: a worker has other clients too."""


class Lane:
    """A connection to one worker.

    Args:
        context: makes the socket.
        serial: the worker's number.
        endpoint: where it listens.
        numbers: gives each batch a number; no two of a client's have the same.

    Raises:
        zmq.ZMQError: there is no room for a socket.

    Attributes:
        open: the worker has answered.
        streams: those that this client has taken there, by token.
        waiting: calls for the next batches; all of streams that are taken here.
        silent_seconds: it is given up where it owes an answer for so long.
        heard: monotonic time at which it last answered, or was first asked since.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        serial: int,
        endpoint: str,
        numbers: itertools.count[int],
    ) -> None:
        self.serial = serial
        self.open = False
        self.streams: dict[int, StreamState] = {}
        self.waiting: deque[Call] = deque()
        self.silent_seconds = 0.0
        self.heard = 0.0
        self.socket = context.socket(zmq.DEALER)
        self._port = Port(self.socket)
        self._numbers = numbers
        self._under_way: dict[int, int] = {}
        try:
            self.socket.setsockopt(zmq.LINGER, 0)
            self.socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_DATA_BYTES)
            self.socket.connect(endpoint)
            self._port.send(wire.pack_plain(Kind.PING))
        except zmq.ZMQError:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """Readable when there may be messages; again only after `receive` has found none."""
        return int(self.socket.getsockopt(zmq.FD))

    @property
    def busy(self) -> bool:
        """Whether it owes an answer."""
        return bool(self._under_way)

    def send(self, now: float) -> None:
        """Send what waits, as far as there is room."""
        while self.waiting and len(self._under_way) < BATCHES:
            if not self._send(now):
                return

    def receive(self, most: int) -> Iterator[wire.Message]:
        """The messages that have arrived, at most so many.

        Raises:
            WireError: what has arrived cannot be: this worker is not to be trusted.
        """
        port = self._port
        for _ in range(most):
            if not port.waits():
                return
            message = wire.parse(port.take())
            if message.kind is Kind.ANSWERS:
                due = self._under_way.pop(message.tag, 0)
                if due != len(message.rows):
                    raise WireError(f"{len(message.rows)} answers where {due} are due")
            yield message

    def drop(self, call: Call) -> None:
        """Forget a call, if it has not been sent."""
        with suppress(ValueError):
            self.waiting.remove(call)

    def drop_streams(self, numbers: Collection[int]) -> None:
        """Forget those calls of these streams that have not been sent."""
        if self.waiting:
            self.waiting = deque(c for c in self.waiting if c.stream.id not in numbers)

    def close(self) -> None:
        """Close the socket; what is under way is not answered."""
        self.socket.close(linger=0)

    def _send(self, now: float) -> bool:
        """Send a batch of what waits; False where the socket takes no more."""
        waiting, number = self.waiting, next(self._numbers)
        batch: list[Call] = []
        rows: list[wire.Row] = []
        blobs: list[bytes] = []
        room = BATCH_PACKETS
        while waiting and (room >= waiting[0].count or not batch):
            call = waiting.popleft()
            batch.append(call)
            stream, blob, count = call.stream, call.blob, call.count
            call.batch, call.record = number, len(rows)
            token, code = stream.token, stream.format.code
            rows.append((call.number, token, 0, len(blob), count, code, 0))
            blobs.append(blob)
            room -= count
            stream.unsaved += count
            if 0 < stream.checkpoint_packets <= stream.unsaved:
                stream.unsaved = 0
                rows.append((0, token, 0, 0, 0, code, 0))
                blobs.append(b"")
        try:
            self._port.send(wire.pack(Kind.REQUESTS, rows, blobs, number))
        except zmq.Again:
            for call in reversed(batch):
                call.batch = 0
                waiting.appendleft(call)
            return False
        if not self._under_way:
            self.heard = now
        self._under_way[number] = len(rows)
        return True
