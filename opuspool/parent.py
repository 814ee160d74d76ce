"""Know when the process that started this one is gone, however it went."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ParentWatch:
    """Descriptors that become readable when the parent dies.

    The standard input is a pipe that only the parent holds: its end is the parent's end. A parent
    that forks children of its own lends them the pipe, so on Linux a pidfd watches as well.
    """

    def __init__(self, *, stdin: bool = True) -> None:
        """With `stdin` False its end means nothing: the parent has sent all that it has to say."""
        self._parent = os.getppid()
        self._stdin = stdin
        self._fds: list[int] = []
        self._keep: list[socket.socket] = []
        if sys.platform != "win32":
            self._fds.append(0)
            self._hangup = select.poll()
            self._hangup.register(0, 0)  # only what is always told: the pipe's other end is closed
        if sys.platform == "linux":
            with suppress(OSError, AttributeError):  # of the kernel's, or of Python's own build
                self._fds.append(os.pidfd_open(self._parent))

    def filenos(self) -> list[int]:
        """Descriptors for a poller; readable: the parent is gone or has let go.

        What the parent says on the standard input must have been read by then.
        """
        if sys.platform == "win32" and not self._fds:
            self._fds.append(self._stdin_by_thread())
        return list(self._fds)

    def dead(self) -> bool:
        """Tell whether it has died since this object was made; asked for every message."""
        return os.getppid() != self._parent

    def gone(self) -> bool:
        """Tell whether it has died or let go already, even before this object was made."""
        if self.dead():
            return True
        if sys.platform == "win32" or not self._stdin:
            return False
        else:  # noqa: RET505  # mypy reads it
            return bool(self._hangup.poll(0))

    def _stdin_by_thread(self) -> int:
        """ZeroMQ cannot poll a Windows pipe: a thread turns its end into a socket's end."""
        ours, theirs = socket.socketpair()
        self._keep.append(ours)

        def wait() -> None:
            with suppress(OSError):
                while os.read(0, 4096):
                    pass
            theirs.close()

        threading.Thread(target=wait, daemon=True, name="opuspool-parent").start()
        return ours.fileno()


class DeathSignal:
    """While armed, the kernel kills this process when its parent dies (Linux).

    A worker arms it while it loads libopus, and for the time of a lease: hung in C it could not see
    its parent go. While idle it sees that itself, and clears up what the parent left.
    """

    def __init__(self, watch: ParentWatch) -> None:
        self._watch = watch
        self._prctl: Callable[[int, int], int] = _nothing
        self._signal = 0
        if sys.platform == "linux":
            self._signal = signal.SIGKILL
            prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_ulong)
            self._prctl = prototype(("prctl", ctypes.CDLL(None)))

    def arm(self) -> bool:
        """Arm it; False where the parent has died since it is watched."""
        self._prctl(_PR_SET_PDEATHSIG, self._signal)
        return not self._watch.dead()

    def disarm(self) -> None:
        """Disarm it."""
        self._prctl(_PR_SET_PDEATHSIG, 0)


def _nothing(_option: int, _signal: int) -> int:
    """Other systems have no such signal: on Windows, the job object ends a worker."""
    return 0
