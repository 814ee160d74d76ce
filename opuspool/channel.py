"""One ZeroMQ socket to a supervisor, and what ZeroMQ says of its connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import zmq

from opuspool import sockevents, wire
from opuspool.errors import WireError
from opuspool.frames import Port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opuspool.curve import CurveKeys

_REFUSED = int(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
_BROKEN_OFF = int(zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
_LOST = int(zmq.EVENT_DISCONNECTED)

HANDSHAKES = 3
"""So many that are broken off mean wrong keys; once, it may be a supervisor that is too busy.

Who encrypts for another supervisor gets no answer: its messages cannot be read.
"""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a supervisor listens, and the keys it asks for (on tcp)."""

    endpoint: str
    keys: CurveKeys | None = None


class Channel:
    """A socket that connects to one supervisor, once: after a loss, make another.

    A lost connection's socket keeps what it had not sent, and would send it to whoever comes next.

    Attributes:
        unsure: there may be messages to receive.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: Address) -> None:
        self.address = address
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_DATA_BYTES)
        self.socket.setsockopt(zmq.RECONNECT_IVL, 10)
        self.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
        if address.keys is not None:
            address.keys.join(self.socket)
        self.monitor = self.socket.get_monitor_socket(_REFUSED | _BROKEN_OFF | _LOST)
        self._broken_off = 0
        self.unsure = True
        self._port = Port(self.socket)
        self.socket.connect(address.endpoint)

    @property
    def fd(self) -> int:
        """When it is readable, there may be messages: `may_be_read`."""
        return int(self.socket.getsockopt(zmq.FD))

    @property
    def monitor_fd(self) -> int:
        """When it is readable, there may be `events`."""
        return int(self.monitor.getsockopt(zmq.FD))

    def may_be_read(self) -> None:
        """Whoever waits for it has found something."""
        self.unsure = True

    def send(self, frames: wire.Frames) -> bool:
        """Send a message; False where the socket takes no more just now."""
        self.unsure = True  # ZeroMQ tells of a message once, perhaps while another one is sent
        try:
            self._port.send(frames)
        except zmq.Again:
            return False
        return True

    def receive(self, most: int) -> Iterator[wire.Message]:
        """The messages that have arrived, at most so many; what is not ours is passed over."""
        port = self._port
        for _ in range(most):
            if not self.unsure:
                return
            if not port.waits():
                self.unsure = False
                return
            try:
                message = wire.parse(port.take())
            except WireError:
                continue
            yield message

    def events(self) -> tuple[bool, bool]:
        """What has happened to the connection: (keys refused, connection lost)."""
        happened = 0
        for event in sockevents.events(self.monitor):
            happened |= event
            self._broken_off += bool(event & _BROKEN_OFF)
        refused = bool(happened & _REFUSED) or self._broken_off >= HANDSHAKES
        return refused, bool(happened & _LOST)

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what is not sent within the linger is dropped."""
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=linger_ms)
