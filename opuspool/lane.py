"""A lane: this client's own connection to a worker, for the packets of streams lent to it.

Calls gather here while earlier ones are under way, as they do in the exchange; each message is a
batch, and its worker answers it as a whole.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from opuspool import wire
from opuspool.errors import WireError
from opuspool.lanesocket import LaneSocket, unix_socket
from opuspool.wire import Kind

if TYPE_CHECKING:
    import itertools
    import socket
    from collections.abc import Collection

    from opuspool.calls import Call, StreamState

BATCHES = 4
"""Batches under way at a time; their worker need never wait for the next one."""

BATCH_PACKETS = 64
"""Operations in a batch, unless its first call alone has more: a worker has other clients too."""


_row = wire.row_packer(Kind.REQUESTS)


class _Batch(NamedTuple):
    """What is under way: its calls, and how many rows its answer must have."""

    calls: list[Call]
    rows: int


_NO_BATCH = _Batch([], 0)


class Lane:
    """A connection to one worker.

    Args:
        serial: the worker's number.
        path: of its socket.
        numbers: gives each batch a number; no two of a client's have the same.

    Raises:
        OSError: there is no room for a socket, or nobody there.

    Attributes:
        open: the worker has answered.
        streams: those that this client has taken there, by token.
        waiting: calls for the next batches; all of streams that are taken here.
        unsaved: streams whose checkpoint the next batches ask for, behind their calls.
        silent_seconds: it is given up where it owes an answer for so long.
        heard: monotonic time at which it last answered, or was first asked since.
        ready: it may be read.
        lost: the worker has closed it. Its supervisor will tell why; until then nothing is sent.
        watched: whether its owner waits until it may be written, too; None: it does not wait.
    """

    def __init__(
        self,
        serial: int,
        path: str,
        numbers: itertools.count[int],
    ) -> None:
        self.serial = serial
        self.open = False
        self.streams: dict[int, StreamState] = {}
        self.waiting: deque[Call] = deque()
        self.unsaved: deque[StreamState] = deque()
        self.silent_seconds = 0.0
        self.heard = 0.0
        self.ready = self.lost = False
        self.watched: bool | None = None
        self._numbers = numbers
        self._under_way: dict[int, _Batch] = {}
        self._socket = LaneSocket(_connected(path), wire.MAX_DATA_BYTES, writable=True)
        try:
            self._socket.send(wire.pack_plain(Kind.PING))
        except OSError:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The socket's descriptor."""
        return self._socket.fd

    @property
    def idle(self) -> bool:
        """Whether nothing is to be waited for: it is open, has sent all, and owes no answer."""
        return self.open and not self._under_way and not self._socket.blocked

    def wait(self, seconds: float) -> bool:
        """Wait until it may be read, at most so long; whether it may."""
        self.ready = seconds > 0 and self._socket.wait(seconds)
        return self.ready

    @property
    def blocked(self) -> bool:
        """Whether it has something to send and waits until the socket takes it."""
        return self._socket.blocked and not self.lost

    @property
    def owes(self) -> bool:
        """Whether an answer is to come."""
        return bool(self._under_way) and not self.lost

    @property
    def busy(self) -> bool:
        """Whether it owes an answer, or will not give any more."""
        return self.lost or bool(self._under_way)

    def may_be_read(self) -> None:
        """Whoever waits for it has found something."""
        self.ready = True

    def send(self, now: float) -> None:
        """Send what waits, as far as there is room."""
        if self.lost:
            return
        try:
            if self._socket.blocked:
                self._socket.flush()
            while self.waiting and len(self._under_way) < BATCHES and not self._socket.blocked:
                self._send(now)
        except OSError:
            self._lose(now)

    def receive(self, now: float) -> list[tuple[wire.Message, list[Call]]]:
        """The messages that have arrived, each with the calls whose answers come first in it.

        Raises:
            WireError: what has arrived cannot be: this worker is not to be trusted.
        """
        ready, self.ready = self.ready, False
        if not ready or self.lost:
            return []
        try:
            messages = self._socket.receive()
        except EOFError:
            self._lose(now)
            return []
        return [(message, self._calls_of(message)) for message in messages]

    def calls_of(self, number: int) -> list[Call]:
        """The calls of a batch that is under way, by its number; none where there is no such."""
        return self._under_way.get(number, _NO_BATCH).calls

    def _calls_of(self, message: wire.Message) -> list[Call]:
        if message.kind is not Kind.ANSWERS:
            return []
        batch = self._under_way.pop(message.tag, _NO_BATCH)
        if batch.rows != len(message.rows):
            raise WireError(f"{len(message.rows)} answers where {batch.rows} are due")
        return batch.calls

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
        self.lost = True
        self._socket.close()

    def _lose(self, now: float) -> None:
        self.lost = True
        self.heard = now

    def _send(self, now: float) -> None:
        """Send a batch of what waits.

        Raises:
            OSError: the worker is gone.
        """
        number = next(self._numbers)
        calls = self._next_calls()
        rows: list[bytes] = []
        for call in calls:
            stream = call.stream
            call.batch, code = number, stream.format.code
            rows.append(_row(call.number, stream.token, 0, len(call.blob), call.count, code, 0))
        for _ in range(min(len(self.unsaved), BATCH_PACKETS)):
            stream = self.unsaved.popleft()
            if stream.lane is self:
                rows.append(_row(0, stream.token, 0, 0, 0, stream.format.code, 0))
        if not self._under_way:
            self.heard = now
        self._under_way[number] = _Batch(calls, len(rows))
        blobs = [call.blob for call in calls]
        self._socket.send(wire.pack_rows(Kind.REQUESTS, rows, blobs, number))

    def _next_calls(self) -> list[Call]:
        """Take calls for a batch."""
        waiting = self.waiting
        calls = [waiting.popleft()]
        room = BATCH_PACKETS - calls[0].count
        while waiting and waiting[0].count <= room:
            call = waiting.popleft()
            room -= call.count
            calls.append(call)
        return calls


def _connected(path: str) -> socket.socket:
    """A socket with a worker at its other end, which may not have taken it yet.

    Raises:
        OSError: there is none.
    """
    found = unix_socket()
    try:
        found.setblocking(False)
        found.connect(path)
    except OSError:
        found.close()
        raise
    return found
