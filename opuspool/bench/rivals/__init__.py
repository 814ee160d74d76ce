"""The rivals, by name; loading a file of these imports nothing that may be missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool.bench.rivals import cloop, ffmpeg, inprocess, own, pools, pooltasks, rayactors

if TYPE_CHECKING:
    from opuspool.bench.rival import Rival

__all__ = ["RIVALS"]

RIVALS: dict[str, type[Rival]] = {
    kind.name: kind
    for kind in (
        cloop.CLoop,
        inprocess.Locked,
        inprocess.Unlocked,
        pools.Multiprocessing,
        pools.Executor,
        pools.Pebble,
        rayactors.RayActors,
        pooltasks.MultiprocessingTasks,
        pooltasks.ExecutorTasks,
        pooltasks.PebbleTasks,
        ffmpeg.Ffmpeg,
        own.Sync,
        own.Async,
    )
}
"""All rivals, in the order of the tables."""
