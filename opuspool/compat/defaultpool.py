"""The one pool that all drop-ins of a process share."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from opuspool.base import settings
from opuspool.errors import PoolClosedError, StreamClosedError, SupervisorLostError
from opuspool.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool.config import Config

STREAM_LOST = (StreamClosedError, PoolClosedError, SupervisorLostError)
"""After these a stream of the shared pool is of no use any more; another one is."""


@dataclass(slots=True)
class _Shared:
    """What this process has of the shared pool.

    Attributes:
        pool: None until it is first used.
        make: starts it.
        lock: held while it is started, which takes up to seconds, or closed.
        inherited: pools of the parent processes, kept so that nothing of them is torn down here.
    """

    pool: Pool | None = None
    make: Callable[[], Pool] = Pool
    lock: threading.Lock = field(default_factory=threading.Lock)
    inherited: list[Pool] = field(default_factory=list)


_shared = _Shared()


def configure(
    endpoint: str | None = None,
    *,
    workers: int | None = None,
    spares: int | None = None,
    libopus: str | os.PathLike[str] | None = None,
    config: Config | str | os.PathLike[str] | None = None,
) -> None:
    """Say what the shared pool is to be; before anything is decoded with it.

    Args:
        endpoint: as `opuspool.Pool` takes it, like all others; None: a private supervisor.
        workers: decoder processes.
        spares: warm workers.
        libopus: the library to load.
        config: a TOML file or a `Config`.

    Raises:
        RuntimeError: the pool is in use already.
        ConfigError: a setting is wrong.
    """
    chosen = settings(config, workers, spares, libopus)
    with _shared.lock:
        if _shared.pool is not None:
            raise RuntimeError(
                "opuspool.compat.configure() came too late: the shared pool is in use already; "
                "call it before the first decoder is made, or after opuspool.compat.close()"
            )
        _shared.make = lambda: Pool(endpoint, config=chosen)


def default_pool() -> Pool:
    """The shared pool, ready for use; started where there is none, or none that works any more.

    Raises:
        SupervisorLostError, AuthenticationError, ConfigError: it cannot be started. The next call
            tries again.
    """
    pool = _shared.pool
    if pool is None or not pool.usable:
        with _shared.lock:
            pool = _shared.pool
            if pool is None or not pool.usable:
                if pool is not None:
                    pool.close()
                pool = _shared.pool = _shared.make()
    return pool


def close() -> None:
    """End the shared pool, if it was started; at interpreter exit that happens by itself.

    Decoders that were made with it are of no use any more. What decodes next starts another.
    """
    with _shared.lock:
        pool, _shared.pool = _shared.pool, None
        if pool is not None:
            pool.close()


def _after_fork() -> None:
    """A forked child makes a pool of its own, configured as its parent's."""
    if _shared.pool is not None:
        _shared.inherited.append(_shared.pool)
    _shared.pool = None
    _shared.lock = threading.Lock()  # a thread that is not here may have held the old one


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
