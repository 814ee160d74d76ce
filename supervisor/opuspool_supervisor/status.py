"""What `status()` tells: workers, counters, health."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil

from opuspool import version
from opuspool_supervisor import audit

if TYPE_CHECKING:
    from opuspool_supervisor.core import Core
    from opuspool_supervisor.slots import Slot


def report(core: Core, started: float, now: float) -> dict[str, Any]:
    """Build the status; times in seconds, sizes in bytes.

    Args:
        core: the supervisor's state.
        started: monotonic time of the supervisor's start.
        now: monotonic.
    """
    dispatcher = core.dispatcher
    return {
        "workers": [_slot(slot, now) for slot in core.slots if not slot.spare],
        "spares": [_slot(slot, now) for slot in core.slots if slot.spare],
        "counters": core.books.as_dict(),
        "streams": dispatcher.admission.streams,
        "queue_depth": dispatcher.admission.queued,
        "in_flight": dispatcher.in_flight,
        "clients": len(dispatcher.clients),
        "quarantine": len(dispatcher.quarantine),
        "retry_budget": dispatcher.retries.left(now),
        "timings": core.timings.as_dict(),
        "history": core.history.as_dict(now),
        "health": core.health,
        "draining": core.draining,
        "unbalanced": audit.discrepancies(core),
        "boot_error": core.boot_error,
        "libopus": _libopus(core),
        "supervisor": {
            "pid": os.getpid(),
            "uptime_seconds": now - started,
            "version": version.VERSION,
        },
    }


def _slot(slot: Slot, now: float) -> dict[str, Any]:
    worker = slot.worker
    return {
        "slot": slot.number,
        "pid": worker.pid if worker else None,
        "generation": slot.generation,
        "state": str(slot.state),
        "restarts": slot.restarts,
        "streams": len(slot.streams),
        "rss_bytes": (worker.rss_bytes or rss(worker.pid)) if worker else 0,
        "uptime_seconds": now - worker.started if worker else 0.0,
        "proved_ago_seconds": now - worker.proved if worker and worker.proved else None,
    }


def rss(pid: int) -> int:
    """A process's resident memory, bytes; 0 where it is gone or descriptors are out."""
    with suppress(psutil.Error, OSError):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def _libopus(core: Core) -> dict[str, str | None]:
    """Which libopus the workers loaded; nothing while none has started."""
    for slot in core.slots:
        if slot.worker is not None and "libopus" in slot.worker.info:
            return dict(slot.worker.info["libopus"])
    return {"path": None, "version": None}
