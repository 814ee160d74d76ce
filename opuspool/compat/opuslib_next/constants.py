"""`opuslib_next.constants`: the numbers of `opus_defines.h`."""

from __future__ import annotations

from opuspool.compat.opusdefines import *  # noqa: F403  all of them, and nothing else
