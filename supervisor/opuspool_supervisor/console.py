"""Windows: the end of the console, of the session or of the system gives time to drain."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

if TYPE_CHECKING:
    from collections.abc import Iterator

_BREAK = 1
"""wincon.h: CTRL_BREAK_EVENT."""

_ENDS = {2, 5, 6}
"""wincon.h: CTRL_CLOSE_EVENT, CTRL_LOGOFF_EVENT, CTRL_SHUTDOWN_EVENT."""

DRAIN_SECONDS = 3.0
"""Windows ends a process 5 s after such an event; so long it may drain."""

LEAVE_SECONDS = 1.5
"""And so long it may clear up, what is left being given up."""


def held(*, drain: bool) -> AbstractContextManager[None]:
    """While this runs, such an event waits for its end instead of ending the process at once.

    Args:
        drain: the event is a stop signal (SIGBREAK), and a second one when time runs out. Where
            not, another process says when to stop: the client, whose console it is.
    """
    if sys.platform == "win32":
        return _held(drain)
    else:  # noqa: RET505  # mypy reads it
        return nullcontext()


if sys.platform == "win32":

    @contextmanager
    def _held(drain: bool) -> Iterator[None]:
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        done = threading.Event()

        def handle(event: int) -> bool:  # on a thread that Windows makes
            if event != _BREAK and event not in _ENDS:
                return False
            if drain:
                signal.raise_signal(signal.SIGBREAK)
            if event == _BREAK:
                return True
            if not done.wait(DRAIN_SECONDS) and drain:
                signal.raise_signal(signal.SIGBREAK)
            done.wait(LEAVE_SECONDS)
            return True

        handler = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)(handle)
        if not kernel.SetConsoleCtrlHandler(handler, True):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            yield
        finally:
            done.set()
            kernel.SetConsoleCtrlHandler(handler, False)
