"""One clear line for each thing that went wrong."""

from __future__ import annotations

import sys

__all__ = ["complain", "count", "describe", "duration", "shown"]

_ADVICE: dict[type[OSError], str] = {
    FileNotFoundError: "check the path",
    PermissionError: "check who may read and write there",
    IsADirectoryError: "name the files in it",
    NotADirectoryError: "check the path",
}


def complain(message: str) -> None:
    """Write a message to stderr, after our name."""
    if sys.stderr is None:  # closed; print would take stdout
        return
    # Not click.echo: a progress bar puts its own stderr in place while it is shown.
    print(f"opuspool: {message}", file=sys.stderr, flush=True)


def describe(error: BaseException) -> str:
    """What an expected error says, and for errors of the system what to do."""
    if not isinstance(error, OSError):
        return str(error) or type(error).__name__
    what = error.strerror or str(error) or type(error).__name__
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), None)
    where = f"{shown(str(error.filename))}: " if error.filename is not None else ""
    return f"{where}{what}; {advice}" if advice else f"{where}{what}"


def shown(name: str) -> str:
    """A file's name without characters that would change the terminal or begin a new line."""
    return name if name.isprintable() else ascii(name)[1:-1]


def count(number: int, noun: str) -> str:
    """Such as "1 file" or "3 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Such as "12 s", "3 min", "5 h" or "2 d"."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
