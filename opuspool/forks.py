"""Has this process been forked since? Cheaper to ask than the system for a process id."""

from __future__ import annotations

import os

generation = 0
"""Another number in a forked child than in its parent."""


def _count() -> None:
    global generation  # noqa: PLW0603  it is this process's own, and written here only
    generation += 1


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_count)
