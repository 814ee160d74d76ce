"""Files that only this user can read."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if sys.platform == "win32":
    from opuspool import winfiles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["create", "masked", "write"]


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


def write(path: Path, data: bytes, *, sync: bool = False) -> None:
    """Make or replace a file as one step: it is never there by half.

    Args:
        path: the file; meanwhile `.name.tmp` beside it is ours.
        data: all that it is to hold.
        sync: have the disk take it before it replaces what is there.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.tmp")
    with suppress(FileNotFoundError):
        draft.unlink()
    try:
        with os.fdopen(create(draft), "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


@contextmanager
def masked() -> Iterator[None]:
    """Whatever file is made meanwhile, as a socket's, only this user can use."""
    old = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(old)
