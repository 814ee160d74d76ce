"""How a module of ours is started as a child process, on any system."""

from __future__ import annotations

import sys
from typing import Any

if sys.platform == "win32":
    from opuspool import winprocess

__all__ = ["command", "no_dialogs", "options"]


def command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module with this process's interpreter."""
    python = sys.executable
    if sys.platform == "win32":
        python = winprocess.python()
    return [python, "-P", "-m", module, *arguments]


def options() -> dict[str, Any]:
    """What `Popen` is to be told for a child that shares this process's terminal."""
    if sys.platform == "win32":
        return {"env": winprocess.environment(), "creationflags": winprocess.console_flags()}
    else:  # noqa: RET505  # mypy reads it
        return {}


def no_dialogs() -> None:
    """Windows: let faults of this process and its children open no window."""
    if sys.platform == "win32":
        winprocess.no_dialogs()
