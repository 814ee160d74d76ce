"""How the system shares the cores between a worker and whoever gives it work."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

__all__ = ["give_way"]


def give_way() -> None:
    """See to it that a worker that is woken does not interrupt whoever woke it.

    That is a client on the worker's core, which has more to send: to the worker that would have
    the other core. Linux does so by SCHED_BATCH (sched(7)), which takes no share of the cores
    away. What somebody has chosen instead of the usual policy stays.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
