"""What processes cost: CPU time and memory."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opuspool.bench.rival import Processes

__all__ = ["cpu_seconds", "memory_mb"]


def cpu_seconds(processes: Processes) -> dict[str, float]:
    """CPU seconds so far, user and system, by role; what the client has waited for is its own."""
    return {
        role: sum(_cpu_seconds(pid) for pid in pids) for role, pids in processes.by_role().items()
    }


def _cpu_seconds(pid: int) -> float:
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    own: float = times.user + times.system
    if pid != os.getpid() or not hasattr(times, "children_user"):
        return own
    return own + float(times.children_user + times.children_system)


def memory_mb(processes: Processes) -> dict[str, list[float]]:
    """Memory that a process has to itself (USS), MB, by role; only of those that we may look at."""
    return {role: list(_memory_mb(pids)) for role, pids in processes.by_role().items()}


def _memory_mb(pids: Iterable[int]) -> Iterable[float]:
    for pid in pids:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            yield psutil.Process(pid).memory_full_info().uss / 1e6
