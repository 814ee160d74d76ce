"""Windows: a page of memory without a name that a child process can share."""

from __future__ import annotations

import mmap
import sys

assert sys.platform == "win32"

import ctypes
from ctypes import wintypes

_KERNEL = ctypes.WinDLL("kernel32", use_last_error=True)
_KERNEL.CreateFileMappingW.restype = wintypes.HANDLE
_KERNEL.CreateFileMappingW.argtypes = [
    wintypes.HANDLE,
    wintypes.LPVOID,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.LPCWSTR,
]
_KERNEL.MapViewOfFile.restype = wintypes.LPVOID
_KERNEL.MapViewOfFile.argtypes = [
    wintypes.HANDLE,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.DWORD,
    ctypes.c_size_t,
]
_KERNEL.UnmapViewOfFile.argtypes = [wintypes.LPVOID]
_KERNEL.CloseHandle.argtypes = [wintypes.HANDLE]

_PAGING_FILE = wintypes.HANDLE(-1)
_PAGE_READWRITE = 0x04  # winnt.h
_FILE_MAP_WRITE = 0x0002  # memoryapi.h; it may be read too


def create(size: int = mmap.PAGESIZE) -> int:
    """Make the memory, zeros; returns its handle.

    Raises:
        OSError: the system gives none.
    """
    handle = _KERNEL.CreateFileMappingW(_PAGING_FILE, None, _PAGE_READWRITE, 0, size, None)
    if not handle:
        raise ctypes.WinError(ctypes.get_last_error())
    return int(handle)


def release(handle: int) -> None:
    """Close a handle; what has been mapped stays."""
    _KERNEL.CloseHandle(handle)


class View:
    """The memory, mapped.

    Attributes:
        bytes: all of it, writable.

    Raises:
        OSError: the handle is none, or there is no room.
    """

    def __init__(self, handle: int, size: int = mmap.PAGESIZE) -> None:
        self._address = _KERNEL.MapViewOfFile(handle, _FILE_MAP_WRITE, 0, 0, size)
        if not self._address:
            raise ctypes.WinError(ctypes.get_last_error())
        self.bytes = memoryview((ctypes.c_ubyte * size).from_address(self._address)).cast("B")

    def close(self) -> None:
        """Give it back; nothing may use it any more."""
        self.bytes.release()
        _KERNEL.UnmapViewOfFile(self._address)
