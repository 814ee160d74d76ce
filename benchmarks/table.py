"""Figures as a table, and in a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def show(rows: list[dict[str, Any]], file: Path | None) -> None:
    """Print rows that have the same names; write them to a file, if there is one."""
    print(*(f"{name:>18}" for name in rows[0]), sep="")
    for row in rows:
        print(*(f"{value!s:>18}" for value in row.values()), sep="")
    if file is not None:
        file.write_text(json.dumps(rows, indent=1))
