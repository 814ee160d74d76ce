"""The processes of this Wine prefix by name, which psutil cannot tell there."""

from __future__ import annotations

import sys

assert sys.platform == "win32"

import ctypes
from ctypes import wintypes

_SNAP_PROCESS = 2  # tlhelp32.h


class _Entry(ctypes.Structure):
    """`PROCESSENTRY32W` of tlhelp32.h."""

    _fields_ = (
        ("size", wintypes.DWORD),
        ("usage", wintypes.DWORD),
        ("pid", wintypes.DWORD),
        ("heap", ctypes.c_size_t),
        ("module", wintypes.DWORD),
        ("threads", wintypes.DWORD),
        ("parent", wintypes.DWORD),
        ("priority", wintypes.LONG),
        ("flags", wintypes.DWORD),
        ("name", wintypes.WCHAR * 260),
    )


def names() -> dict[int, str]:
    """Pid to the name of the program."""
    kernel = ctypes.WinDLL("kernel32")
    kernel.CreateToolhelp32Snapshot.restype = wintypes.HANDLE
    snapshot = wintypes.HANDLE(kernel.CreateToolhelp32Snapshot(_SNAP_PROCESS, 0))
    entry = _Entry(size=ctypes.sizeof(_Entry))
    found = {}
    more = kernel.Process32FirstW(snapshot, ctypes.byref(entry))
    while more:
        found[entry.pid] = entry.name
        more = kernel.Process32NextW(snapshot, ctypes.byref(entry))
    kernel.CloseHandle(snapshot)
    return found
