"""Frames through a ZeroMQ socket, never waiting; what is done for every message, cheaply.

pyzmq's own `send_multipart` and `recv_multipart` combine enumeration members for every frame, which
costs more than to send it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import zmq

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["receive", "send"]

_NOBLOCK = int(zmq.NOBLOCK)
_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_RCVMORE, _EVENTS, _POLLIN = int(zmq.RCVMORE), int(zmq.EVENTS), int(zmq.POLLIN)


def send(socket: zmq.Socket[bytes], frames: Sequence[bytes | bytearray]) -> None:
    """Send a message.

    Raises:
        zmq.Again: the socket takes no more just now.
        zmq.ZMQError: it cannot be sent.
    """
    put = socket.send
    last = len(frames) - 1
    for index, frame in enumerate(frames):
        put(frame, _MORE if index < last else _NOBLOCK)


def receive(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """The next message; None where none has arrived.

    Raises:
        zmq.ZMQError: the socket is closed.
    """
    get = socket.getsockopt
    if not int(get(_EVENTS)) & _POLLIN:
        return None
    frames = [socket.recv(_NOBLOCK)]
    while get(_RCVMORE):
        frames.append(socket.recv(_NOBLOCK))
    return frames
