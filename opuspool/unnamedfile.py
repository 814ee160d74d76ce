"""Files that nobody can open by name, and that vanish with their last descriptor."""

from __future__ import annotations

import os
import sys

__all__ = ["create"]


def create(name: str) -> int:
    """Make an empty file; returns its descriptor, which no child inherits unasked.

    Args:
        name: for whoever looks at the process's descriptors.

    Raises:
        OSError: there is no room for it.
    """
    if sys.platform == "linux":
        return os.memfd_create(name)  # never written back to a disk, as the temporary folder may be
    else:  # noqa: RET505  # mypy reads it
        import tempfile

        with tempfile.TemporaryFile(prefix=f"{name}-") as file:
            return os.dup(file.fileno())
