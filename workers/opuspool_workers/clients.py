"""Clients that are connected to this worker by lanes: who they are, what they send, what they get.

None is waited for: whoever does not read its answers is not read either.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections import deque
from contextlib import suppress
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING

from opuspool import privatefile
from opuspool.errors import WireError
from opuspool.lanesocket import READ_BYTES, LaneSocket, unix_socket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from selectors import BaseSelector

    from opuspool import wire

MAX_CLIENTS = 500
"""More are turned away: each costs a descriptor, of which there may be a thousand."""

MESSAGE_BYTES = 64 * 1024 * 1024
"""Of a message from a client; the largest call has `MAX_OPS` packets of `MAX_PACKET_BYTES`."""

LAST_SECONDS = 0.1
"""A worker that leaves has this long to hand out the last answers."""

_BACKLOG = 128
_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PEER = struct.Struct("3i")  # struct ucred, socket(7): pid, uid, gid


class Client:
    """One client's lane.

    Attributes:
        lane: its socket.
        messages: what it has sent and nobody has taken yet.
    """

    def __init__(self, connected: socket.socket, scratch: bytearray) -> None:
        self.lane = LaneSocket(connected, MESSAGE_BYTES, scratch)
        self.messages: deque[wire.Message] = deque()


class Clients:
    """All of them, and where they connect.

    Args:
        path: of the socket that is made for that.
        selector: where this worker waits; it is to call the data of what is found.

    Raises:
        OSError: there can be no such socket.
    """

    def __init__(self, path: Path, selector: BaseSelector) -> None:
        self._selector = selector
        self._scratch = bytearray(READ_BYTES)
        self._clients: set[Client] = set()
        self._asking: dict[Client, None] = {}
        self._shut = False
        self._socket = unix_socket()
        self._socket.setblocking(False)
        try:
            path.unlink(missing_ok=True)
            with privatefile.masked():
                self._socket.bind(str(path))
            self._socket.listen(_BACKLOG)
        except OSError:
            self._socket.close()
            raise
        selector.register(self._socket, EVENT_READ, self._let_in)

    @property
    def waiting(self) -> bool:
        """Whether a message waits to be taken."""
        return bool(self._asking)

    def take(self) -> Iterator[tuple[Client, wire.Message]]:
        """One message of each client that has sent any, and takes its answers."""
        for client in list(self._asking):
            message = client.messages.popleft()
            if not client.messages:
                del self._asking[client]
            yield client, message

    def answer(self, client: Client, frames: wire.Frames) -> None:
        """Send a client a message, if it is still there."""
        lane = client.lane
        if client not in self._clients:
            return
        try:
            lane.send(frames)
        except OSError:
            self._drop(client)
            return
        if lane.blocked:
            self._asking.pop(client, None)
            self._wait_for(client, EVENT_WRITE)

    def close(self) -> None:
        """Hand out the last answers and let all go."""
        end = time.monotonic() + LAST_SECONDS
        for client in self._clients:
            with suppress(OSError):
                client.lane.finish(max(0.0, end - time.monotonic()))
            client.lane.close()
        self._socket.close()

    def _serve(self, client: Client) -> None:
        lane = client.lane
        try:
            if lane.blocked:
                if not lane.flush():
                    return
                self._wait_for(client, EVENT_READ)
            elif not client.messages:  # what it has sent comes first
                client.messages.extend(lane.receive())
            if client.messages:
                self._asking[client] = None
        except (EOFError, OSError, WireError):  # whoever sent nonsense learns nothing
            self._drop(client)

    def _let_in(self) -> None:
        try:
            connected, _ = self._socket.accept()
        except OSError as error:
            if error.errno in _NO_ROOM:  # nobody else gets in until one has left
                self._selector.unregister(self._socket)
                self._shut = True
            return  # else it has changed its mind
        if len(self._clients) >= MAX_CLIENTS or not _is_ours(connected):
            connected.close()
            return
        client = Client(connected, self._scratch)
        self._clients.add(client)
        self._selector.register(client.lane.fd, EVENT_READ, partial(self._serve, client))

    def _wait_for(self, client: Client, events: int) -> None:
        self._selector.modify(client.lane.fd, events, partial(self._serve, client))

    def _drop(self, client: Client) -> None:
        self._clients.discard(client)
        self._asking.pop(client, None)
        self._selector.unregister(client.lane.fd)
        client.lane.close()
        if self._shut:
            self._shut = False
            self._selector.register(self._socket, EVENT_READ, self._let_in)


def _is_ours(connected: socket.socket) -> bool:
    """Whether the peer is this user's; where the system cannot tell, the directory has decided."""
    if sys.platform == "linux":
        peer = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        if _PEER.unpack(peer)[1] != os.getuid():
            return False
    return True
