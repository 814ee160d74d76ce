"""What glibc does with memory that a worker has freed.

Not for the supervisor: what its peers have sent and never finished, it has to give back.
"""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

__all__ = ["keep"]

KEPT_BYTES = 4 * 1024 * 1024
"""Freed memory that is not given back: a lease's results, several times, are less."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep() -> None:
    """Keep what a message took for the next one.

    Else the system takes the pages away after each, and has to clear new ones.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # another libc
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
            mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES)
