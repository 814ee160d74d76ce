"""`opuslib.exceptions`."""

from __future__ import annotations

from opuspool.compat.opuslibdecoder import OpusLibError


class OpusError(OpusLibError):
    """Libopus refuses a call, or the pool has failed; `code` says how.

    Its text is as the original's, "b'corrupted stream'", quotes and all.
    """

    def _words(self, text: str) -> str:
        return str(text.encode())
