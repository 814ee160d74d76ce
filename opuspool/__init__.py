"""Decode Opus in processes of their own, so that no packet can take the service down.

    with opuspool.Pool(workers=2) as pool:
        pcm = pool.decode(packets, sample_rate=16000, channels=1)

Names are loaded when first used: a decoder process imports parts of this package, but never numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opuspool.aio import AsyncPool, AsyncStream
    from opuspool.config import Config
    from opuspool.errors import (
        AuthenticationError,
        ConfigError,
        DecodeTimeoutError,
        InvalidFileError,
        InvalidPacketError,
        OpusPoolError,
        OverloadedError,
        PacketError,
        PoisonPacketError,
        PoolClosedError,
        StreamClosedError,
        SupervisorLostError,
        WireError,
        WorkerBootError,
    )
    from opuspool.losses import LossCounts, Losses
    from opuspool.numbered import AsyncNumberedStream, NumberedStream
    from opuspool.pool import Pool, Stream
    from opuspool.version import VERSION as __version__  # noqa: N811  the usual name

__all__ = [
    "AsyncNumberedStream",
    "AsyncPool",
    "AsyncStream",
    "AuthenticationError",
    "Config",
    "ConfigError",
    "DecodeTimeoutError",
    "InvalidFileError",
    "InvalidPacketError",
    "LossCounts",
    "Losses",
    "NumberedStream",
    "OpusPoolError",
    "OverloadedError",
    "PacketError",
    "PoisonPacketError",
    "Pool",
    "PoolClosedError",
    "Stream",
    "StreamClosedError",
    "SupervisorLostError",
    "WireError",
    "WorkerBootError",
    "__version__",
]

_HOMES = {
    "AsyncNumberedStream": "numbered",
    "AsyncPool": "aio",
    "AsyncStream": "aio",
    "Config": "config",
    "LossCounts": "losses",
    "Losses": "losses",
    "NumberedStream": "numbered",
    "Pool": "pool",
    "Stream": "pool",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("opuspool.version").VERSION
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES.get(name, "errors")
    return getattr(importlib.import_module(f"opuspool.{home}"), name)


def __dir__() -> list[str]:
    return __all__
