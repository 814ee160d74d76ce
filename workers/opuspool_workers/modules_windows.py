"""Windows: the loaded libraries of this process and where they are."""

from __future__ import annotations

import sys

assert sys.platform == "win32"

import ctypes
from ctypes import wintypes

_KERNEL = ctypes.WinDLL("kernel32", use_last_error=True)
_KERNEL.GetCurrentProcess.restype = wintypes.HANDLE
_KERNEL.K32EnumProcessModules.argtypes = [
    wintypes.HANDLE,
    wintypes.LPVOID,
    wintypes.DWORD,
    wintypes.LPVOID,
]
_KERNEL.K32GetModuleInformation.argtypes = [
    wintypes.HANDLE,
    wintypes.HMODULE,
    wintypes.LPVOID,
    wintypes.DWORD,
]
_KERNEL.GetModuleFileNameW.argtypes = [wintypes.HMODULE, wintypes.LPWSTR, wintypes.DWORD]

_MOST = 1024
_LONGEST_PATH = 32768


class _ModuleInfo(ctypes.Structure):
    """`MODULEINFO` of psapi.h."""

    _fields_ = (
        ("base", wintypes.LPVOID),
        ("size", wintypes.DWORD),
        ("entry", wintypes.LPVOID),
    )


def loaded() -> dict[str, tuple[int, int]]:
    """Paths of all loaded libraries to the first address of each, and the first behind it."""
    process = _KERNEL.GetCurrentProcess()
    handles = (wintypes.HMODULE * _MOST)()
    needed = wintypes.DWORD()
    if not _KERNEL.K32EnumProcessModules(
        process, handles, ctypes.sizeof(handles), ctypes.byref(needed)
    ):
        return {}
    spans = {}
    for handle in handles[: needed.value // ctypes.sizeof(wintypes.HMODULE)]:
        info = _ModuleInfo()
        path = ctypes.create_unicode_buffer(_LONGEST_PATH)
        if _KERNEL.K32GetModuleInformation(
            process, handle, ctypes.byref(info), ctypes.sizeof(info)
        ) and _KERNEL.GetModuleFileNameW(handle, path, _LONGEST_PATH):
            spans[path.value] = (info.base or 0, (info.base or 0) + info.size)
    return spans
