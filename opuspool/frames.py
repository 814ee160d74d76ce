"""Frames through a ZeroMQ socket, never waiting; what is done for every message, cheaply.

pyzmq's own `send_multipart` and `recv_multipart` combine enumeration members for every frame, which
costs more than to send it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)


class Port:
    """One socket's messages, each all of its frames.

    Its methods are looked up once: every look-up goes through a `__getattr__` of pyzmq's.
    """

    __slots__ = ("_get", "_recv", "_send")

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._get = socket.getsockopt
        self._recv = socket.recv
        self._send = socket.send

    def send(self, frames: Sequence[bytes | bytearray]) -> None:
        """Send a message.

        Raises:
            zmq.Again: the socket takes no more just now.
            zmq.ZMQError: it cannot be sent.
        """
        send = self._send
        last = len(frames) - 1
        for index, frame in enumerate(frames):
            send(frame, _MORE if index < last else _NOBLOCK)

    def waits(self) -> bool:
        """Whether a message waits to be taken.

        Raises:
            zmq.ZMQError: the socket is closed.
        """
        return bool(int(self._get(_EVENTS)) & _POLLIN)

    def take(self) -> list[bytes]:
        """The next message.

        Raises:
            zmq.Again: none waits.
            zmq.ZMQError: the socket is closed.
        """
        recv = self._recv
        frames: list[bytes] = []
        while True:
            # A frame that knows whether it is the last: to ask the socket costs more.
            frame = recv(_NOBLOCK, copy=False)
            frames.append(frame.bytes)
            if not frame.more:
                return frames
