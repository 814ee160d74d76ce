"""A drop-in for opuslib 3.0.1, of which it has the decoder and the names around it.

    import opuspool.compat.opuslib as opuslib     # was: import opuslib

Encoders are the original's own, if it is installed. What differs: docs/compat.md.
"""

from __future__ import annotations

from typing import Any

from opuspool.compat.encoders import encoder
from opuspool.compat.opuslib.classes import Decoder
from opuspool.compat.opuslib.constants import *  # noqa: F403  as the original does
from opuspool.compat.opuslib.exceptions import OpusError

__all__ = ["Decoder", "OpusError"]

_ENCODERS = frozenset({"Encoder"})


def __getattr__(name: str) -> Any:
    return encoder(__name__, "opuslib", _ENCODERS, name)
