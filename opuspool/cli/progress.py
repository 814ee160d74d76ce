"""A progress bar on stderr, where one is of use."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from opuspool.cli.targets import STANDARD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opuspool.cli.targets import Job

__all__ = ["progress", "steps"]

_LONG_BYTES = 2_000_000
"""A file of this size takes a second or more."""


@contextmanager
def progress(jobs: list[Job]) -> Iterator[Callable[[Job], None]]:
    """Show a bar for many or long files on a terminal; call the result after each job."""
    sizes = {job: _size(job.source) for job in jobs}
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    if not on_terminal or (len(jobs) == 1 and sizes[jobs[0]] < _LONG_BYTES):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        # How far one file has got is not known, so a single one has a bar without end.
        task = bars.add_task("decode", total=len(jobs) if len(jobs) > 1 else None)
        yield lambda _: bars.advance(task)


@contextmanager
def steps(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """Show how far work of known steps has got; call the result before each, with its name."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=total, completed=-1)
        yield lambda name: bars.update(task, advance=1, description=name)


def _size(source: str) -> int:
    if source == STANDARD:
        return 0
    try:
        return Path(source).stat().st_size
    except OSError:
        return 0
