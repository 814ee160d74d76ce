"""How a module of ours is started as a child process, on any system."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    from opuspool import winprocess

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["command", "deaf_to_ctrl_c", "leave_ctrl_c", "no_dialogs", "options"]


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module with this process's interpreter."""
    python = sys.executable
    if sys.platform == "win32":
        python = winprocess.python()
    return [python, "-P", "-m", module, *arguments]


def options() -> dict[str, Any]:
    """What `Popen` is to be told for a child that shares this process's terminal."""
    if sys.platform == "win32":
        return {"env": winprocess.environment(), "creationflags": winprocess.console_flags()}
    else:  # noqa: RET505  # mypy reads it
        return {}


@contextmanager
def deaf_to_ctrl_c() -> Iterator[None]:
    """POSIX: Ctrl-C waits for a child that is started in here until it calls `leave_ctrl_c`.

    A terminal sends it to parent and child alike, and Python that begins ends with a traceback.
    """
    if sys.platform == "win32":
        yield
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_ctrl_c() -> None:
    """Ctrl-C is the parent's to handle, from now on and if it has come before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)
    else:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def no_dialogs() -> None:
    """Windows: let faults of this process and its children open no window."""
    if sys.platform == "win32":
        winprocess.no_dialogs()
