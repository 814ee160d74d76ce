"""Starts worker processes on Windows: handles are inherited, a job object holds them all."""

from __future__ import annotations

import os
import subprocess
import sys

assert sys.platform == "win32"

import msvcrt

from opuspool import pychild, winprocess


class Starter:
    """Starts the workers of one supervisor.

    Attributes:
        group: 0: there are no process groups, the job object ends them with the supervisor.
    """

    def __init__(self) -> None:
        self.group = 0
        self._job = winprocess.Job()

    def start(self, recorder: int, fault_fd: int) -> tuple[subprocess.Popen[bytes], int, int]:
        """Start a worker; returns it, and as what it inherits the two handles."""
        handles = recorder, msvcrt.get_osfhandle(fault_fd)
        for handle in handles:
            os.set_handle_inheritable(handle, True)  # by the one that lists them
        # Without a console: Ctrl-C and the console's close are the supervisor's, which drains.
        popen = subprocess.Popen(  # noqa: S603  # this interpreter
            pychild.command("opuspool_workers"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=winprocess.environment(),
            creationflags=subprocess.DETACHED_PROCESS,
            startupinfo=subprocess.STARTUPINFO(lpAttributeList={"handle_list": list(handles)}),
        )
        return popen, *handles

    def hold(self, popen: subprocess.Popen[bytes]) -> None:
        """Let a worker end with this process; before, it is to be told nothing.

        Raises:
            OSError: Windows refuses.
        """
        try:
            self._job.add(popen)
        except OSError:
            if popen.poll() is None:  # one that has ended cannot be put there, and need not be
                raise
