"""What a test left behind: processes, temporary files, descriptors, threads."""

from __future__ import annotations

import gc
import os
import stat
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MARK = "PYTEST_OPUSPOOL_RUN"
"""Environment variable that all descendants of this test run inherit, orphans too.

Its name does not begin with OPUSPOOL_, which would make it a setting.
"""

SPARE_DESCRIPTORS = 4
"""Descriptors that may stay: what libraries open once, at first use."""

HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Processes that the standard library keeps until the interpreter exits."""


@dataclass(frozen=True)
class Snapshot:
    """What is there at one time."""

    processes: set[psutil.Process] = field(default_factory=set)
    files: set[Path] = field(default_factory=set)
    descriptors: dict[int, str] = field(default_factory=dict)
    threads: set[threading.Thread] = field(default_factory=set)


def snapshot() -> Snapshot:
    """Return what is there now."""
    return Snapshot(_processes(), _files(), _descriptors(), _threads())


@dataclass(frozen=True)
class Leaks:
    """What is there and was not before."""

    processes: list[psutil.Process]
    files: list[Path]
    descriptors: list[str]
    threads: list[threading.Thread]

    def __bool__(self) -> bool:
        return bool(self.processes or self.files or self.descriptors or self.threads)

    def __str__(self) -> str:
        lines = [f"process {_describe(process)}" for process in self.processes]
        lines += [f"file {file}" for file in self.files]
        lines += [f"descriptor {descriptor}" for descriptor in self.descriptors]
        lines += [f"thread {thread.name}" for thread in self.threads]
        return "\n  ".join(["left behind:", *lines])


def leaks_since(before: Snapshot, timeout: float = 15) -> Leaks:
    """Wait until all that came after `before` is gone, `timeout` s at most; return the rest."""
    end = time.monotonic() + timeout
    pause = 0.001
    while (leaks := _difference(before, snapshot())) and time.monotonic() < end:
        gc.collect()  # objects in reference cycles may hold descriptors
        time.sleep(pause)
        pause = min(pause * 2, 0.1)
    return leaks


def clean_up(leaks: Leaks) -> None:
    """Kill the processes that are left and delete the files, so that the next test starts clean."""
    for process in leaks.processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(leaks.processes, timeout=5)
    for path in leaks.files:
        _delete(path)


def alive(process: psutil.Process) -> bool:
    """Whether a process has not ended; a zombie has."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _difference(before: Snapshot, after: Snapshot) -> Leaks:
    descriptors = [
        f"{number} {target}"
        for number, target in after.descriptors.items()
        if before.descriptors.get(number) != target
    ]
    more = len(after.descriptors) - len(before.descriptors)
    return Leaks(
        processes=sorted(after.processes - before.processes, key=lambda process: process.pid),
        files=sorted(after.files - before.files),
        descriptors=descriptors if more > SPARE_DESCRIPTORS else [],
        threads=sorted(after.threads - before.threads, key=lambda thread: thread.name),
    )


def _processes() -> set[psutil.Process]:
    """Return the children of this process, theirs, and orphans of this run anywhere."""
    own = psutil.Process()
    descendants = set(own.children(recursive=True))
    orphans = {process for process in psutil.process_iter() if _is_marked(process)}
    return {
        process for process in descendants | orphans if process != own and not _is_helper(process)
    }


def _is_marked(process: psutil.Process) -> bool:
    try:
        return process.environ().get(MARK) == os.environ.get(MARK, "none")
    except (psutil.Error, OSError):
        return False  # gone, a zombie, or somebody else's


def _is_helper(process: psutil.Process) -> bool:
    try:
        return any(helper in " ".join(process.cmdline()) for helper in HELPERS)
    except psutil.Error:
        return False


def _describe(process: psutil.Process) -> str:
    with suppress(psutil.Error), process.oneshot():
        command = " ".join(process.cmdline())[:300]
        return f"{process.pid} ({process.status()}, parent {process.ppid()}) {command}"
    return f"{process.pid} (gone meanwhile)"


def _files() -> set[Path]:
    folders = {tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()}
    return {file for folder in folders for file in Path(folder).glob("opuspool*")}


def _descriptors() -> dict[int, str]:
    found: dict[int, str] = {}
    with suppress(FileNotFoundError):  # no /proc: not Linux
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):  # the descriptor of this listing is closed again
                found[int(entry.name)] = str(entry.readlink())
    return found


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if not thread.daemon}


def _delete(path: Path) -> None:
    """Delete a file or a folder with all in it; links are not followed."""
    with suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            for inner in path.iterdir():
                _delete(inner)
            path.rmdir()
        else:
            path.unlink()
