"""Where opuspool keeps what is to outlive its processes: crash reports, lasting counters."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["crash_directory", "default_keys", "state_directory"]


def crash_directory(configured: str) -> Path:
    """The directory of the crash reports; it need not be there.

    Args:
        configured: `[crashes] directory`; "" is `opuspool/crashes` in the user's state directory
            (`$XDG_STATE_HOME`, else `~/.local/state`; `%LOCALAPPDATA%` on Windows).

    Raises:
        FileNotFoundError: it lies in the user's home, and the system knows of none.
    """
    if configured:
        return Path(configured)
    return state_directory() / "crashes"


def state_directory() -> Path:
    """`opuspool` in the user's state directory; it need not be there.

    Raises:
        FileNotFoundError: it lies in the user's home, and the system knows of none.
    """
    return _state_home() / "opuspool"


def default_keys() -> Path:
    """The key file of an endpoint that nobody has named, where that is on tcp.

    Raises:
        FileNotFoundError: as `crash_directory`.
    """
    return state_directory() / "keys.json"


def _state_home() -> Path:
    windows = sys.platform == "win32"
    named = Path(os.environ.get("LOCALAPPDATA" if windows else "XDG_STATE_HOME", ""))
    if named.is_absolute():  # others are to be ignored (XDG base directory specification)
        return named
    try:
        home = Path.home()
    except RuntimeError:
        raise FileNotFoundError(
            "this user has no home directory: set [crashes] directory, or XDG_STATE_HOME"
        ) from None
    return home.joinpath("AppData", "Local") if windows else home.joinpath(".local", "state")
