"""Starts worker processes on POSIX: descriptors are inherited, a process group holds them all."""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from opuspool import pychild

assert sys.platform != "win32"


class Starter:
    """Starts the workers of one supervisor.

    Attributes:
        group: the process group of all workers, which an orphan can kill as one; 0 at first.
    """

    def __init__(self) -> None:
        self.group = 0

    def start(self, recorder: int, fault_fd: int) -> tuple[subprocess.Popen[bytes], int, int]:
        """Start a worker; returns it, and as what it inherits the two descriptors."""
        fds = recorder, fault_fd
        if self.group:
            with suppress(PermissionError, ProcessLookupError):  # the group has died out
                return _popen(fds, self.group), *fds
        popen = _popen(fds, 0)
        self.group = popen.pid
        return popen, *fds

    def hold(self, popen: subprocess.Popen[bytes]) -> None:
        """Nothing to do: a worker watches its supervisor, and is in the group already."""


def _popen(fds: tuple[int, int], group: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  # this interpreter
        pychild.command("opuspool_workers"),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=fds,
        process_group=group,
    )
