"""Windows: children that end with this process, show no dialogs, and are no launchers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

assert sys.platform == "win32"

import ctypes
from ctypes import wintypes

_KERNEL = ctypes.WinDLL("kernel32", use_last_error=True)
_KERNEL.CreateJobObjectW.restype = wintypes.HANDLE
_KERNEL.CreateJobObjectW.argtypes = [wintypes.LPVOID, wintypes.LPCWSTR]
_KERNEL.SetInformationJobObject.argtypes = [
    wintypes.HANDLE,
    ctypes.c_int,
    wintypes.LPVOID,
    wintypes.DWORD,
]
_KERNEL.AssignProcessToJobObject.argtypes = [wintypes.HANDLE, wintypes.HANDLE]
_KERNEL.CloseHandle.argtypes = [wintypes.HANDLE]

# errhandlingapi.h: FAILCRITICALERRORS, NOGPFAULTERRORBOX, NOOPENFILEERRORBOX
_NO_DIALOGS = 0x0001 | 0x0002 | 0x8000

_EXTENDED_LIMITS = 9  # winnt.h, JobObjectExtendedLimitInformation
_KILL_ON_JOB_CLOSE = 0x2000  # winnt.h, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE


class _ExtendedLimits(ctypes.Structure):
    """`JOBOBJECT_EXTENDED_LIMIT_INFORMATION` of winnt.h."""

    _fields_ = (
        ("process_user_time", wintypes.LARGE_INTEGER),
        ("job_user_time", wintypes.LARGE_INTEGER),
        ("limit_flags", wintypes.DWORD),
        ("smallest_working_set", ctypes.c_size_t),
        ("largest_working_set", ctypes.c_size_t),
        ("active_processes", wintypes.DWORD),
        ("affinity", ctypes.c_size_t),
        ("priority_class", wintypes.DWORD),
        ("scheduling_class", wintypes.DWORD),
        ("io_counters", ctypes.c_uint64 * 6),
        ("process_memory", ctypes.c_size_t),
        ("job_memory", ctypes.c_size_t),
        ("peak_process_memory", ctypes.c_size_t),
        ("peak_job_memory", ctypes.c_size_t),
    )


class Job:
    """A job object: when this process ends, however, Windows ends what is in it.

    Nobody else has its handle, which is never closed: Windows closes it with the process.

    Raises:
        OSError: the system gives none.
    """

    def __init__(self) -> None:
        self._handle = _KERNEL.CreateJobObjectW(None, None)
        limits = _ExtendedLimits(limit_flags=_KILL_ON_JOB_CLOSE)
        if not self._handle or not _KERNEL.SetInformationJobObject(
            self._handle, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
        ):
            raise ctypes.WinError(ctypes.get_last_error())

    def add(self, popen: subprocess.Popen[bytes]) -> None:
        """Put a child, and the children that it will have, into the job.

        Raises:
            OSError: Windows refuses, as where the child has ended.
        """
        if not _KERNEL.AssignProcessToJobObject(self._handle, int(popen._handle)):  # type: ignore[attr-defined]  # noqa: SLF001  # opening it by its pid could hit another
            raise ctypes.WinError(ctypes.get_last_error())


def no_dialogs() -> None:
    """Let a fault end this process and its children without a window that waits for a click."""
    _KERNEL.SetErrorMode(_NO_DIALOGS)


def python() -> str:
    """The interpreter: not a virtual environment's launcher, whose child would be the real one."""
    base: str = getattr(sys, "_base_executable", sys.executable)
    return base if Path(base).exists() else sys.executable


def environment() -> dict[str, str]:
    """The environment in which `python()` belongs to this one's virtual environment."""
    variables = dict(os.environ)
    if python() != sys.executable:
        variables["__PYVENV_LAUNCHER__"] = sys.executable  # as the launcher does
    return variables


def console_flags() -> int:
    """How to start a child that writes to this process's console, where there is one.

    It is not told of Ctrl-C. Without a console (a window program, a service) it gets no window.
    """
    if _KERNEL.GetConsoleCP():
        return subprocess.CREATE_NEW_PROCESS_GROUP
    return subprocess.CREATE_NO_WINDOW
