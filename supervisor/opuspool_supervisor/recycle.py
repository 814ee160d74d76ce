"""Recycling: when a healthy worker is replaced before it can do harm by growing old; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opuspool.config import RecycleConfig
    from opuspool_supervisor.slots import Worker

SPREAD = 0.2
"""Limits on age and requests differ by this part between workers: not all go at once."""


def reason(worker: Worker, config: RecycleConfig, now: float) -> str | None:
    """The restart reason for which a worker is to be recycled; None where it is not."""
    spread = 1 + SPREAD * (worker.serial % 8) / 8
    if config.memory_bytes and worker.rss_bytes > config.memory_bytes:
        return "recycled_memory"
    if config.requests and worker.served >= config.requests * spread:
        return "recycled_requests"
    if config.age_seconds and now - worker.started > config.age_seconds * spread:
        return "recycled_age"
    return None
