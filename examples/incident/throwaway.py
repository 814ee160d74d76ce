"""Runs what may crash or hang in a process of its own, and says how that ended."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from opuspool import exitcause, pychild

HUNG = "hung"
START_SECONDS = 120.0
"""Before its first line; on a busy machine under Wine a start takes that long."""


@dataclass(frozen=True)
class End:
    """How a process ended.

    Attributes:
        reason: as in `opuspool_worker_restarts_total`; "exit" also for a good end.
        words: the same for a reader, such as "SIGABRT".
        lines: what it wrote, both outputs together.
    """

    reason: str
    words: str
    lines: list[str]


def run(*command: str, silence: float) -> End:
    """Run `python COMMAND...`, print what it writes as it comes, and name its end.

    Args:
        command: a script of this folder and its arguments.
        silence: seconds without output after which it is killed, once it has written a line; its
            reason is then `HUNG`. Before, it has `START_SECONDS`.
    """
    process = subprocess.Popen(
        python(*command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    assert process.stdout is not None  # for mypy: it is a pipe
    watchdog = Watchdog(process, silence)
    lines = []
    with process.stdout as output:
        for line in output:
            watchdog.heard()
            lines.append(line.rstrip())
            print("  |", lines[-1], flush=True)
    code = process.wait()
    if watchdog.stop():
        end = End(HUNG, f"it hung; killed after {watchdog.seconds:g} s", lines)
    else:
        end = End(*exitcause.name_exit(code), lines)
    print(f"  the process ended: {end.words}", flush=True)
    return end


def python(*command: str) -> list[str]:
    """The command that runs a script of this folder: its file name, and arguments."""
    script = Path(__file__).with_name(command[0])
    return [sys.executable, "-X", "utf8", "-u", str(script), *command[1:]]


class Watchdog:
    """Kills a process from which nothing is heard for some seconds.

    Attributes:
        seconds: that count just now: `START_SECONDS`, then `silence`.
    """

    def __init__(self, process: subprocess.Popen[str], silence: float) -> None:
        self.seconds = START_SECONDS
        self._process = process
        self._silence = silence
        self._killed = False
        self._timer = self._start()

    def heard(self) -> None:
        """It has shown that it lives."""
        self._timer.cancel()
        self.seconds = self._silence
        self._timer = self._start()

    def stop(self) -> bool:
        """End the watch; whether the process was killed."""
        self._timer.cancel()
        self._timer.join()
        return self._killed

    def _start(self) -> threading.Timer:
        timer = threading.Timer(self.seconds, self._kill)
        timer.start()
        return timer

    def _kill(self) -> None:
        self._killed = True
        self._process.kill()


def quietly() -> None:
    """In the throw-away process itself: end at once, without a dialog or a debugger (Windows)."""
    pychild.no_dialogs()
    if sys.platform == "win32" and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version"):
        _no_wine_debugger(ctypes.WinDLL("kernel32"))


def _no_wine_debugger(kernel: ctypes.CDLL) -> None:
    """Wine does not heed the error mode, and its debugger takes a minute: answer before it."""
    commit, executable = 0x1000, 0x40  # winnt.h, MEM_COMMIT, PAGE_EXECUTE_READWRITE
    end_the_process = b"\xb8\x01\0\0\0\xc3"  # return EXCEPTION_EXECUTE_HANDLER
    kernel.VirtualAlloc.restype = ctypes.c_void_p
    code = kernel.VirtualAlloc(None, ctypes.c_size_t(len(end_the_process)), commit, executable)
    ctypes.memmove(code, end_the_process, len(end_the_process))
    kernel.SetUnhandledExceptionFilter(ctypes.c_void_p(code))
