"""Sockets that others connect to: private to this user, sizes bounded."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import zmq

from opuspool import privatefile, wire

if TYPE_CHECKING:
    from opuspool.curve import CurveKeys

HANDSHAKE_MS = 5000
"""A peer that does not finish ZeroMQ's handshake in this time is dropped."""


def make(context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys | None) -> zmq.Socket[bytes]:
    """A ROUTER that is not yet bound; with keys it asks its peers for them."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_DATA_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    if keys is not None:
        keys.serve(socket)
    elif sys.platform == "linux":
        socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
    return socket


def bind(socket: zmq.Socket[bytes], address: str) -> None:
    """Bind it; a socket file that is made for that can be used by this user only.

    Raises:
        zmq.ZMQError: the address cannot be had; the socket is closed.
    """
    try:
        with privatefile.masked():
            socket.bind(address)
    except zmq.ZMQError:
        socket.close(linger=0)
        raise
