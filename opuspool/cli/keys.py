"""Waiting for a key of the terminal, with its echo and line editing off meanwhile."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["keys"]


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Give a function that waits so many seconds for a key; "" where none comes.

    Standard input must be a terminal on POSIX, else no key comes; Ctrl-C raises as ever.
    """
    if sys.platform == "win32" or sys.stdin is None or not sys.stdin.isatty():
        yield _no_key
    else:
        import select
        import termios
        import tty

        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)

        def key(seconds: float) -> str:
            ready, _, _ = select.select([fd], [], [], seconds)
            return sys.stdin.read(1) if ready else ""

        try:
            tty.setcbreak(fd)
            yield key
        finally:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""
