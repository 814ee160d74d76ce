"""The clients' door: the front socket, who was turned away at it, and whether there is room."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from opuspool import sockevents
from opuspool.errors import ConfigError

if sys.platform == "linux":
    import resource

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool.rundir import RunFiles

_COMES = int(zmq.EVENT_ACCEPTED)
_GOES = int(zmq.EVENT_DISCONNECTED)
_REFUSED = int(zmq.EVENT_ACCEPT_FAILED)

_COUNTS_DESCRIPTORS = sys.platform == "linux"

BACKLOG = 64
"""Connections that the system holds until libzmq takes them."""

RESERVED_DESCRIPTORS = 4096
"""With fewer left no new client is taken, or with less than half of them where there are few.

libzmq aborts where accept() on ipc finds none; so many can be used up between two looks.
"""

REOPEN_SECONDS = 2.0
"""The old socket has this long to give back its address."""


class Door:
    """The socket that clients connect to.

    Args:
        open_: makes the socket, bound to an address.
        address: the address.
        files: where it lies on ipc; None on tcp.

    Attributes:
        socket: a ROUTER.
        endpoint: its address, as ZeroMQ writes it.
        monitor: readable when somebody has come, gone or been turned away.
        refused: peers of another user that were turned away.
    """

    def __init__(
        self, open_: Callable[[str], zmq.Socket[bytes]], address: str, files: RunFiles | None
    ) -> None:
        self._open = open_
        self._files = files
        self._hidden = False
        self.refused = 0
        self.socket = open_(address)
        self.endpoint = bound(self.socket)
        self.monitor = self._watch()

    def look(self) -> bool:
        """Read what has happened; True where somebody has come or gone."""
        happened = 0
        for event in sockevents.events(self.monitor):
            self.refused += event == _REFUSED
            happened |= event
        return bool(happened & (_COMES | _GOES))

    def keep_room(self) -> bool:
        """Take new clients only while there are descriptors for them; True where that changed.

        A client that is connected goes on; a new one finds no socket, and tries again.
        """
        if self._files is None or not _COUNTS_DESCRIPTORS:
            return False
        left, limit = _descriptors()
        short = left < min(RESERVED_DESCRIPTORS, limit // 2)
        if short == self._hidden:
            return False
        old, new = self._files.socket, self._files.hidden
        try:
            old.rename(new) if short else new.rename(old)
        except OSError:  # somebody has removed it
            return False
        self._hidden = short
        return True

    @property
    def takes_clients(self) -> bool:
        """Whether new clients find the socket."""
        return not self._hidden

    def reopen(self) -> None:
        """Drop every connection, and all that was received but not finished; clients come back.

        Raises:
            ConfigError: the address could not be had again.
        """
        if self._files is not None and self._hidden:
            with suppress(OSError):
                self._files.hidden.rename(self._files.socket)
            self._hidden = False
        self._close()
        end = time.monotonic() + REOPEN_SECONDS
        while not self._try_open(late=time.monotonic() > end):
            time.sleep(0.002)

    def _try_open(self, *, late: bool) -> bool:
        """Libzmq gives the address back, and removes the file, when its thread gets to it."""
        if self._files is not None and self._files.socket.exists() and not late:
            return False
        try:
            self.socket = self._open(self.endpoint)
        except ConfigError:
            if late:
                raise
            return False
        self.monitor = self._watch()
        return True

    def _watch(self) -> zmq.Socket[bytes]:
        return self.socket.get_monitor_socket(_COMES | _GOES | _REFUSED)

    def _close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)


def bound(socket: zmq.Socket[bytes]) -> str:
    """The address that a socket is bound to, as ZeroMQ writes it."""
    name = socket.getsockopt(zmq.LAST_ENDPOINT)
    return name.rstrip(b"\0").decode() if isinstance(name, bytes) else str(name)


def _descriptors() -> tuple[int, int]:
    """How many are left, and how many there may be."""
    if sys.platform != "linux":
        return 0, 0
    else:  # noqa: RET505  # mypy reads it
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            used = sum(1 for _ in Path("/proc/self/fd").iterdir())
        except OSError:  # there is not even one for this look
            used = limit
        return limit - used, limit
