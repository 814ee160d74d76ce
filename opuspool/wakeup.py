"""A pair of sockets that wakes a thread out of its poller."""

from __future__ import annotations

import socket

__all__ = ["pair"]


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, not blocking: a byte into the first makes the second readable."""
    first, second = socket.socketpair()
    for end in (first, second):
        end.setblocking(False)
        if end.family != getattr(socket, "AF_UNIX", None):
            # Windows makes the pair of TCP, where a byte would wait for the last one's
            # acknowledgement: tens of milliseconds.
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return first, second
