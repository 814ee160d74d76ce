"""Events of a console, sent to what runs in it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SENDER = """
import ctypes, sys
kernel = ctypes.WinDLL("kernel32", use_last_error=True)
kernel.FreeConsole()
assert kernel.AttachConsole(int(sys.argv[1])), ctypes.get_last_error()
assert kernel.SetConsoleCtrlHandler(None, True)
print("ready", flush=True)
sys.stdin.readline()
assert kernel.GenerateConsoleCtrlEvent(0, 0), ctypes.get_last_error()
"""


@contextmanager
def ctrl_c(pid: int) -> Iterator[Callable[[], None]]:
    """What presses Ctrl-C in the console of a process, at once: all is ready before."""
    with subprocess.Popen(
        [sys.executable, "-c", _SENDER, str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as sender:
        assert sender.stdin is not None
        assert sender.stdout is not None
        stdin = sender.stdin
        assert sender.stdout.readline() == "ready\n"

        def press() -> None:
            stdin.write("\n")
            stdin.flush()

        yield press
    assert sender.returncode == 0
