"""Answers on their way to clients: what a client does not take waits here, within a limit."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from collections.abc import Collection

    from opuspool import wire
    from opuspool.frames import Port
    from opuspool_supervisor.answers import Answers

WAITING_BYTES = 64 << 20
"""A client for which more than this waits does not read: it is dropped."""

MESSAGE_COST = 1024
"""What a waiting message costs beside its payload, bytes."""


class Outbox:
    """Sends each client its answers, in their order, as fast as it takes them.

    ZeroMQ's own queue is short (`listen.UNREAD_MESSAGES`), since it counts messages, not bytes.
    """

    def __init__(self, port: Port) -> None:
        self._port = port
        self._waiting: dict[bytes, deque[wire.Frames]] = {}
        self._bytes: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, address: bytes, answers: Answers) -> None:
        """Add a client's answers to what waits for it."""
        queue = self._waiting.setdefault(address, deque())
        for message in answers.messages():
            queue.append(message)
            self._bytes[address] = self._bytes.get(address, 0) + _cost(message)

    def send(self) -> dict[bytes, str]:
        """Send what the clients take; returns those that have to be dropped, and why."""
        lost: dict[bytes, str] = {}
        for address in list(self._waiting):
            reason = self._send(address)
            if reason is None and self._bytes.get(address, 0) > WAITING_BYTES:
                reason = "it does not read its answers"
            if reason is not None:
                self.forget(address)
                lost[address] = reason
        return lost

    def forget(self, address: bytes) -> None:
        """Throw away what waits for a client."""
        self._waiting.pop(address, None)
        self._bytes.pop(address, None)

    def keep(self, clients: Collection[bytes]) -> None:
        """Throw away what waits for others than these clients."""
        for address in [address for address in self._waiting if address not in clients]:
            self.forget(address)

    def _send(self, address: bytes) -> str | None:
        queue = self._waiting[address]
        while queue:
            try:
                self._port.send([address, *queue[0]])
            except zmq.Again:
                return None
            except zmq.ZMQError as error:  # it is gone
                return error.strerror
            self._bytes[address] -= _cost(queue.popleft())
        self.forget(address)
        return None


def _cost(message: wire.Frames) -> int:
    return sum(map(len, message)) + MESSAGE_COST
