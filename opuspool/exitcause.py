"""Exit causes by name: why a process ended, as a restart reason and in words."""

from __future__ import annotations

import signal

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
    0xC0000374: ("heap_corruption", "heap corruption"),
    0xC0000409: ("abort", "fail-fast"),
    0xC00000FD: ("stack_overflow", "stack overflow"),
    0xC000001D: ("ill", "illegal instruction"),
}

_NO_MEMORY = "cannot allocate memory"
"""The C library's last words, as `strerror(ENOMEM)` and where it has none for a thread."""

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
    said = stderr_tail.strip().rpartition("\n")[2].removeprefix("opuspool-worker: ")
    if code == ExitCode.FAULT:
        return "access_violation", said
    if code == ExitCode.NO_MEMORY or _NO_MEMORY in said.lower():
        return "killed", "out of memory: give it more, or run fewer workers"
    if code in {ExitCode.NO_LIBOPUS, ExitCode.SELF_TEST} and said:
        return "exit", said
    return "exit", f"exit code {code}" + (f": {said}" if said else "")
