"""Reads crash reports back; what is damaged or not a report is told and passed over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from opuspool.cli import messages
from opuspool.errors import OpusPoolError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Crash", "NoSuchReportError", "find", "read_all"]

Crash = dict[str, Any]
"""A report; `opuspool_supervisor.crashes.Report` describes its fields."""


class NoSuchReportError(OpusPoolError):
    """No report, or more than one, has an id that begins so."""


def read_all(directory: Path) -> list[Crash]:
    """All reports of a directory, the newest first; none where there is no directory.

    Raises:
        OSError: the directory cannot be read.
    """
    crashes = [crash for path in _paths(directory) if (crash := _read(path)) is not None]
    return sorted(crashes, key=lambda crash: str(crash["id"]), reverse=True)


def find(directory: Path, prefix: str) -> Crash:
    """The report whose id begins so.

    Raises:
        NoSuchReportError: none does, or several do.
        OSError: the directory cannot be read.
    """
    paths = [path for path in _paths(directory) if path.stem.startswith(prefix)]
    exact = [path for path in paths if path.stem == prefix]
    if len(paths) > 1 and not exact:
        raise NoSuchReportError(f"{len(paths)} reports begin with {prefix}: give more of the id")
    crash = _read((exact or paths)[0]) if paths else None
    if crash is None:
        raise NoSuchReportError(
            f"no report in {directory} begins with {prefix}; `opuspool crashes list` shows them"
        )
    return crash


def _paths(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if _is_name(path.name)]
    except FileNotFoundError:
        return []


def _is_name(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _read(path: Path) -> Crash | None:
    try:
        crash = json.loads(path.read_bytes())
    except FileNotFoundError:  # pruned meanwhile
        return None
    except (OSError, ValueError, RecursionError) as error:
        messages.complain(f"{path}: cannot be read: {error}")
        return None
    if not isinstance(crash, dict) or crash.get("id") != path.stem:
        messages.complain(f"{path}: not a crash report")
        return None
    return crash
