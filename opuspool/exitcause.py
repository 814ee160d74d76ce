"""Exit causes by name: why a process ended, as a restart reason and in words."""

from __future__ import annotations

import re
import signal
import sys

from opuspool.exitcodes import ExitCode

_SIGNALS = {
    "SIGSEGV": "segv",
    "SIGABRT": "abort",
    "SIGBUS": "bus",
    "SIGILL": "ill",
    "SIGFPE": "fpe",
}

_NTSTATUS = {
    0xC0000005: ("access_violation", "access violation"),
    0xC0000006: ("bus", "in-page error"),
    0xC0000017: ("killed", "no memory"),
    0xC000001D: ("ill", "illegal instruction"),
    0xC0000094: ("fpe", "integer divide by zero"),
    0xC0000096: ("ill", "privileged instruction"),
    0xC00000FD: ("stack_overflow", "stack overflow"),
    0xC0000135: ("exit", "a DLL was not found"),
    0xC000013A: ("killed", "ended by Ctrl-C or by its console"),
    0xC0000142: ("exit", "a DLL did not start"),
    0xC0000374: ("heap_corruption", "heap corruption"),
    0xC0000409: ("abort", "fail-fast"),
    0xC0000602: ("abort", "fail-fast"),
}

_NO_MEMORY = "cannot allocate memory"
"""The C library's last words, as `strerror(ENOMEM)` and where it has none for a thread."""

_WINDOWS_CODES = {
    1: ("killed", "ended from outside, as by Task Manager or taskkill"),
    3: ("abort", "abort()"),  # of a C runtime without fail-fast
    9: ("killed", "ended from outside"),  # Python's os.kill(pid, 9)
    15: ("killed", "ended from outside"),  # its SIGTERM, and psutil
}

_CAUGHT = re.compile("|".join(re.escape(words) for _, words in _NTSTATUS.values()))

_HINTS = {"SIGKILL": "killed from outside, or by the kernel: is the memory out?"}


def name_exit(code: int, stderr_tail: str = "") -> tuple[str, str]:
    """Name a process's end: (reason, words for a reader).

    Args:
        code: as in `Popen.returncode`: minus the signal, or the exit code.
        stderr_tail: what it wrote last; its last line explains a boot failure.
    """
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = _HINTS.get(name)
        return _SIGNALS.get(name, "killed"), f"{name} ({hint})" if hint else name
    if code in _NTSTATUS:
        reason, words = _NTSTATUS[code]
        return reason, f"{words} (0x{code:08X})"
    said = stderr_tail.strip().rpartition("\n")[2].removeprefix("opuspool-worker: ").rstrip()
    if code == ExitCode.FAULT:
        return _reason_of(said), said
    if code == ExitCode.NO_MEMORY or _NO_MEMORY in said.lower():
        return "killed", "out of memory: give it more, or run fewer workers"
    if sys.platform == "win32" and code in _WINDOWS_CODES and "Traceback" not in stderr_tail:
        reason, words = _WINDOWS_CODES[code]
        return reason, f"exit code {code} ({words})"
    if code in {ExitCode.NO_LIBOPUS, ExitCode.SELF_TEST} and said:
        return "exit", said
    return "exit", f"exit code {code}" + (f": {said}" if said else "")


def is_fault(error: OSError) -> bool:
    """Whether this is what ctypes makes of a fault in C (Windows), and no error of the system."""
    status = getattr(error, "winerror", None) or 0
    return status < 0 or (error.errno is None and str(error).startswith("exception: "))


def caught(error: OSError) -> str:
    """What ctypes has caught on Windows (`ExitCode.FAULT`), in words that `name_exit` knows.

    Of an access violation ctypes tells the address; of what it does not know, the status alone.
    """
    status = (getattr(error, "winerror", None) or 0) & 0xFFFFFFFF
    if status in _NTSTATUS:
        return f"exception: {_NTSTATUS[status][1]} (0x{status:08X})"
    return str(error)


def _reason_of(said: str) -> str:
    found = _CAUGHT.search(said)
    names = {words: reason for reason, words in _NTSTATUS.values()}
    return names[found[0]] if found else "access_violation"
