"""Starts a worker's process, which is not told anything yet; imports little.

A private supervisor imports this first (private.py).
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

from opuspool import recorder, unnamedfile

if sys.platform == "win32":
    from opuspool_supervisor.spawn_windows import Starter
else:
    from opuspool_supervisor.spawn_posix import Starter

if TYPE_CHECKING:
    from subprocess import Popen


class Launched(NamedTuple):
    """A worker's process that waits for its settings.

    Attributes:
        recorder_fd: of its flight recorder, as `recorder.create` gave it.
        fault_fd: of the file that faulthandler writes to.
        inherited: the two as the process knows them.
    """

    popen: Popen[bytes]
    recorder_fd: int
    fault_fd: int
    inherited: tuple[int, int]

    def discard(self) -> None:
        """End it, and give back what was held for it."""
        _discard(self.popen)
        recorder.release(self.recorder_fd)
        os.close(self.fault_fd)


class Launcher:
    """Starts the workers of one supervisor."""

    def __init__(self) -> None:
        self._starter = Starter()
        self._ahead: Launched | None = None

    @property
    def group(self) -> int:
        """The process group of all workers; 0: there is none."""
        return self._starter.group

    def start_ahead(self) -> None:
        """Start the one that `start` will return first; where that fails, `start` says so."""
        with suppress(OSError):
            self._ahead = self._start()

    def start(self) -> Launched:
        """Start a worker's process.

        Raises:
            OSError: the system has no room for another process or its descriptors.
        """
        ahead, self._ahead = self._ahead, None
        return ahead or self._start()

    def close(self) -> None:
        """End what was started ahead and is not wanted."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.discard()

    def _start(self) -> Launched:
        with ExitStack() as undo:
            recorder_fd = recorder.create()
            undo.callback(recorder.release, recorder_fd)
            fault_fd = unnamedfile.create("opuspool-fault")
            undo.callback(os.close, fault_fd)
            popen, *inherited = self._starter.start(recorder_fd, fault_fd)
            undo.callback(_discard, popen)
            self._starter.hold(popen)
            undo.pop_all()
        return Launched(popen, recorder_fd, fault_fd, (inherited[0], inherited[1]))


def _discard(popen: Popen[bytes]) -> None:
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stderr):
        if pipe is not None:
            pipe.close()
