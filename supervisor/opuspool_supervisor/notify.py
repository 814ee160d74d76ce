"""What systemd is told over its notification socket (sd_notify(3)); nothing where there is none.

A library for it would be a C extension or one that nobody keeps; the protocol is one datagram.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping


class Notifier:
    """Sends states to the service manager; never blocks, never fails.

    Attributes:
        watchdog_seconds: how often the manager wants to hear WATCHDOG=1, halved; None: it does not.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        """Read, and take out of the environment, what is meant for this process alone."""
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        meant = environ.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self.watchdog_seconds: float | None = None
        if self._address and sys.platform != "win32":
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            if meant and microseconds.isdecimal():
                self.watchdog_seconds = int(microseconds) / 2e6

    def send(self, *states: str) -> bool:
        """Send states such as "READY=1"; False where the manager did not take them."""
        if self._socket is None:
            return True
        with suppress(OSError):  # its queue is full, or it is restarting: told again later
            self._socket.sendto("\n".join(states).encode(), self._address)
            return True
        return False

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
