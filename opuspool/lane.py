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

    Attributes:
        open: the worker has answered.
        streams: those that this client has taken there, by token.
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
        self.heard = 0.0
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_DATA_BYTES)
        self.socket.connect(endpoint)
        self._port = Port(self.socket)
        self._numbers = numbers
        self._waiting: deque[Call] = deque()
        self._under_way: set[int] = set()
        self._port.send(wire.pack_plain(Kind.PING))

    @property
    def fd(self) -> int:
        """Readable when there may be messages; again only after `receive` has found none."""
        return int(self.socket.getsockopt(zmq.FD))

    @property
    def busy(self) -> bool:
        """Whether it owes an answer."""
        return bool(self._under_way)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, call: Call) -> None:
        """Have a call sent with the next batch; it is one of a stream taken here."""
        self._waiting.append(call)

    def send(self, now: float) -> None:
        """Send what waits, as far as there is room."""
        while self._waiting and len(self._under_way) < BATCHES:
            if not self._send(self._next_batch(), now):
                return

    def receive(self, most: int) -> Iterator[wire.Message]:
        """The messages that have arrived, at most so many.

        Raises:
            WireError: what has arrived is no message: this worker is not to be trusted.
        """
        port = self._port
        for _ in range(most):
            if not port.waits():
                return
            message = wire.parse(port.take())
            self._under_way.discard(message.tag)
            yield message

    def drop(self, call: Call) -> None:
        """Forget a call, if it has not been sent."""
        with suppress(ValueError):
            self._waiting.remove(call)

    def drop_streams(self, numbers: Collection[int]) -> None:
        """Forget those calls of these streams that have not been sent."""
        if self._waiting:
            self._waiting = deque(c for c in self._waiting if c.stream.id not in numbers)

    def drop_all(self) -> None:
        """Forget all calls that have not been sent."""
        self._waiting.clear()

    def close(self) -> None:
        """Close the socket; what is under way is not answered."""
        self.socket.close(linger=0)

    def _next_batch(self) -> list[Call]:
        waiting = self._waiting
        batch: list[Call] = []
        room = BATCH_PACKETS
        while waiting and len(batch) < wire.MAX_RECORDS // 2:
            room -= waiting[0].count
            if batch and room < 0:
                break
            batch.append(waiting.popleft())
        return batch

    def _send(self, batch: list[Call], now: float) -> bool:
        number = next(self._numbers)
        rows: list[wire.Row] = []
        blobs: list[bytes] = []
        for call in batch:
            stream, blob, count = call.stream, call.blob, call.count
            call.batch, call.record = number, len(rows)
            token, code = stream.token, stream.format.code
            rows.append((call.number, token, 0, len(blob), count, code, 0))
            blobs.append(blob)
            stream.unsaved += count
            if 0 < stream.checkpoint_packets <= stream.unsaved:
                stream.unsaved = 0
                rows.append((0, token, 0, 0, 0, code, 0))
                blobs.append(b"")
        try:
            self._port.send(wire.pack(Kind.REQUESTS, rows, blobs, number))
        except zmq.Again:
            self._waiting.extendleft(reversed(batch))
            return False
        if not self._under_way:
            self.heard = now
        self._under_way.add(number)
        return True
