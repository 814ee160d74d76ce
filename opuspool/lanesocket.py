"""One end of a lane: wire messages over a connected Unix stream socket, never waiting.

A ZeroMQ socket has a thread between its user and the system; a message to a worker and its answer
would wake four of them. Here whoever has a message writes it, and whoever waits for one is woken.

A message is the lengths of its two frames, `<II>`, then the frames as wire.py builds them.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, cast

from opuspool import wire
from opuspool.errors import WireError

_LENGTHS = struct.Struct("<II")

_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)
"""A peer that is gone is an error: SIGPIPE would end a process that has not said otherwise."""

_SO_NOSIGPIPE = 0x1022  # macOS's way to say so, sys/socket.h

READ_BYTES = 1 << 17
"""Read at a time."""


def unix_socket() -> socket.socket:
    """A new stream socket of the Unix kind.

    Raises:
        OSError: this system has none (Windows), or no descriptor is left.
    """
    if sys.platform == "win32":
        raise OSError(errno.EAFNOSUPPORT, "Python has no Unix sockets on Windows")
    else:  # noqa: RET506  # mypy reads it
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


class LaneSocket:
    """Messages to and from one peer.

    Args:
        connected: a stream socket, which is closed with this object.
        most_bytes: of data in a message from the peer.
        scratch: where it reads into, `READ_BYTES`; those of one thread may share it.
        writable: the payloads of what it receives are bytearrays, over which arrays can be made.

    Attributes:
        fd: the socket's descriptor.
        blocked: part of what was sent waits until the socket takes more: `flush` it then.
    """

    def __init__(
        self,
        connected: socket.socket,
        most_bytes: int,
        scratch: bytearray | None = None,
        *,
        writable: bool = False,
    ) -> None:
        connected.setblocking(False)
        if sys.platform == "darwin":
            connected.setsockopt(socket.SOL_SOCKET, _SO_NOSIGPIPE, 1)
        self.fd = connected.fileno()
        self.blocked = False
        self._socket = connected
        self._most_bytes = most_bytes
        self._data = cast("type[bytes]", bytearray) if writable else bytes
        self._scratch = memoryview(scratch if scratch is not None else bytearray(READ_BYTES))
        self._begun = bytearray()
        self._unsent = bytearray()
        self._sent = 0
        self._poll: Any = None

    def send(self, frames: wire.Frames) -> None:
        """Send a message; what is not taken now is kept for `flush`.

        Raises:
            OSError: the peer is gone.
        """
        header, data = frames
        lengths = _LENGTHS.pack(len(header), len(data))
        if self.blocked:
            for piece in (lengths, header, data):
                self._unsent += piece
            return
        try:
            sent = self._write(lengths, header, data)
        except BlockingIOError:
            sent = 0
        if sent < len(lengths) + len(header) + len(data):
            self._unsent += b"".join((lengths, header, data))
            self._sent = sent
            self.blocked = True

    def flush(self) -> bool:
        """Send what is left of messages sent before, as far as it is taken; whether that is all.

        Raises:
            OSError: the peer is gone.
        """
        with memoryview(self._unsent) as unsent, suppress(BlockingIOError):
            self._sent += self._socket.send(unsent[self._sent :], _FLAGS)
        if self._sent == len(self._unsent):
            self._unsent.clear()
            self._sent = 0
            self.blocked = False
        return not self.blocked

    def receive(self) -> list[wire.Message]:
        """The messages that are there after one look; call it when the socket is readable.

        Raises:
            EOFError: the peer is gone.
            WireError: what it sends is no message of ours; nothing after it can be read.
        """
        try:
            size = self._socket.recv_into(self._scratch)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError(f"{error.strerror}") from None
        if not size:
            raise EOFError("the peer has closed the lane")
        arrived = self._scratch[:size]
        if not self._begun:
            used, messages = self._cut(arrived)
            if used < size:
                self._begun += arrived[used:]
            return messages
        self._begun += arrived
        with memoryview(self._begun) as whole:
            used, messages = self._cut(whole)
        del self._begun[:used]
        return messages

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to receive, at most so long; whether there is."""
        if sys.platform == "win32":
            return bool(select.select([self.fd], [], [], seconds)[0])
        else:  # noqa: RET505  # mypy reads it
            if self._poll is None:
                self._poll = select.poll()  # select() cannot have descriptors over 1023
                self._poll.register(self.fd, select.POLLIN)
            return bool(self._poll.poll(seconds * 1000))

    def finish(self, seconds: float) -> None:
        """Send what is left, waiting so long; nothing can be sent after it.

        Raises:
            OSError: the peer is gone, or does not read.
        """
        if self.blocked:
            self._socket.settimeout(seconds)
            self._socket.sendall(memoryview(self._unsent)[self._sent :], _FLAGS)

    def close(self) -> None:
        """Close it; what is not sent is dropped."""
        self._socket.close()

    def _write(self, lengths: bytes, header: bytes, data: bytes) -> int:
        if sys.platform == "win32":
            return self._socket.send(b"".join((lengths, header, data)))
        else:  # noqa: RET505  # mypy reads it
            return self._socket.sendmsg((lengths, header, data), (), _FLAGS)

    def _cut(self, data: memoryview) -> tuple[int, list[wire.Message]]:
        """Cut whole messages off the front; returns how many bytes they are."""
        at = 0
        messages: list[wire.Message] = []
        while len(data) - at >= _LENGTHS.size:
            head, body = _LENGTHS.unpack_from(data, at)
            if head > wire.MAX_HEADER_BYTES or body > self._most_bytes:
                raise WireError(f"frames of {head} and {body} bytes are too long")
            middle = at + _LENGTHS.size + head
            end = middle + body
            if end > len(data):
                break
            header = bytes(data[at + _LENGTHS.size : middle])
            messages.append(wire.parse((header, self._data(data[middle:end]))))
            at = end
        return at, messages
