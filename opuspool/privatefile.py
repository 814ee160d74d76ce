"""New files that only this user can read."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if sys.platform == "win32":
    from opuspool import winfiles

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["create"]


def create(path: Path) -> int:
    """Make a file that is not there yet, and open it for writing; returns its descriptor.

    Raises:
        FileExistsError: it is there.
        OSError: it cannot be made.
    """
    if sys.platform == "win32":  # where a mode does nothing
        return winfiles.create(path)
    else:  # noqa: RET505  # mypy reads it
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
