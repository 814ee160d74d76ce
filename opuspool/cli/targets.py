"""Which input goes to which output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import click

from opuspool.cli.messages import shown

__all__ = ["STANDARD", "Job", "plan"]

STANDARD = "-"
"""stdin as an input, stdout as an output."""

_ENDINGS = {".opus", ".ogg", ".oga"}


class Job(NamedTuple):
    """One file to decode: a path, or `STANDARD`, on either side."""

    source: str
    target: str

    @property
    def name(self) -> str:
        """The source's name as messages show it."""
        return "stdin" if self.source == STANDARD else shown(self.source)


def plan(sources: tuple[str, ...], output: str | None) -> list[Job]:
    """Find a target for each source; the folders are not made yet.

    Raises:
        click.UsageError: two sources have the same target, a target is a source, or the
            arguments do not go together.
    """
    if STANDARD in sources and len(sources) > 1:
        raise click.UsageError("- (stdin) cannot be decoded together with other files.")
    if len(sources) > 1 and output is not None:
        _check_folder(output)
    jobs = [Job(source, _target(source, output, len(sources))) for source in sources]
    _check_targets(jobs)
    return jobs


def _target(source: str, output: str | None, sources: int) -> str:
    if output is None:
        return STANDARD if source == STANDARD else str(_wav_path(Path(source)))
    if output != STANDARD and (sources > 1 or _is_folder(output)):
        name = "stdin" if source == STANDARD else Path(source).name
        return str(Path(output) / _wav_path(Path(name)))
    return output


def _wav_path(path: Path) -> Path:
    if path.suffix.lower() in _ENDINGS:
        return path.with_suffix(".wav")
    return path.with_name(f"{path.name}.wav")


def _is_folder(output: str) -> bool:
    return output.endswith(("/", os.sep)) or Path(output).is_dir()


def _check_folder(output: str) -> None:
    if output == STANDARD:
        raise click.UsageError("-o - (stdout) takes one FILE; name a folder for several.")
    if Path(output).exists() and not Path(output).is_dir():
        raise click.UsageError(f"several FILEs need a folder, and {shown(output)} is none.")


def _check_targets(jobs: list[Job]) -> None:
    by_target: dict[str, Job] = {}
    inputs = {_identity(job.source): job for job in jobs if job.source != STANDARD}
    for job in jobs:
        if job.target == STANDARD:
            continue
        key = _identity(job.target)
        if key in inputs:
            raise click.UsageError(
                f"{shown(job.target)} is read and would be overwritten; choose another -o."
            )
        if key in by_target:
            raise click.UsageError(
                f"{by_target[key].name} and {job.name} would both become {shown(job.target)}; "
                "decode them one by one, each with its own -o."
            )
        by_target[key] = job


def _identity(path: str) -> str:
    """The same text for two names of one file, hard links too."""
    try:
        found = Path(path).stat()
    except OSError:
        return os.path.realpath(path)
    return f"{found.st_dev}:{found.st_ino}"
