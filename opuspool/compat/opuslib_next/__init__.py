"""A drop-in for opuslib_next 1.3.1, of which it has the decoder and the names around it.

    import opuspool.compat.opuslib_next as opuslib_next     # was: import opuslib_next

Encoders are the original's own, if it is installed. What differs: docs/compat.md.
"""

from __future__ import annotations

from typing import Any

from opuspool.compat.encoders import encoder
from opuspool.compat.opuslib_next.classes import Decoder
from opuspool.compat.opuslib_next.constants import *  # noqa: F403  as the original does
from opuspool.compat.opuslib_next.exceptions import OpusError

__all__ = ["Decoder", "OpusError"]

_ENCODERS = frozenset({"Encoder", "MultiStreamEncoder", "ProjectionEncoder"})


def __getattr__(name: str) -> Any:
    return encoder(__name__, "opuslib_next", _ENCODERS, name)
