"""`opuslib_next.exceptions`."""

from __future__ import annotations

from opuspool.compat.opuslibdecoder import OpusLibError


class OpusError(OpusLibError):
    """Libopus refuses a call, or the pool has failed; `code` says how.

    Its text is libopus's, such as "corrupted stream"; the pool's follows where it has failed.
    """
