"""Drop-ins: other Opus libraries' classes, over a pool that all of them share in a process.

    import opuspool.compat.opuslib_next as opuslib_next     # was: import opuslib_next

The pool starts with the first decoder and ends with the process; `configure()` says what it is to
be. docs/compat.md has a table for each drop-in.
"""

from __future__ import annotations

from opuspool.compat.defaultpool import close, configure

__all__ = ["close", "configure"]
