"""Has this process been forked since? Cheaper to ask than the system for a process id."""

from __future__ import annotations

import os

__all__ = ["generation"]

_generation = 0


def generation() -> int:
    """A number that is another one in a forked child than in its parent."""
    return _generation


def _count() -> None:
    global _generation  # noqa: PLW0603  it is this process's own, and written here only
    _generation += 1


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_count)
