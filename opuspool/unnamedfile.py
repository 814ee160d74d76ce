"""Files that nobody can open by name, and that vanish with their last descriptor."""

from __future__ import annotations

import os
from contextlib import suppress

__all__ = ["create"]


def create(name: str) -> int:
    """Make an empty file; returns its descriptor, which no child inherits unasked.

    Args:
        name: for whoever looks at the process's descriptors.

    Raises:
        OSError: there is no room for it.
    """
    # Linux, where Python was built with a libc that has it.
    make = getattr(os, "memfd_create", None)
    if make is not None:
        with suppress(OSError):  # a sandbox may forbid it
            return int(make(name))  # never written back to a disk, as the temporary folder may be
    import tempfile

    with tempfile.TemporaryFile(prefix=f"{name}-") as file:
        return os.dup(file.fileno())
