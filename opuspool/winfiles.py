"""Windows: files with rights of their own, instead of those that their folder hands down."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

assert sys.platform == "win32"

import ctypes
import msvcrt
from ctypes import wintypes

if TYPE_CHECKING:
    from pathlib import Path

# Nothing inherited from the folder; all rights to system, administrators and owner, as
# os.mkdir(mode=0o700) has it from Python 3.13 on.
_SDDL = "D:P(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;OW)"
_SDDL_REVISION_1 = 1  # sddl.h
_GENERIC_WRITE = 0x40000000  # winnt.h
_CREATE_NEW = 1  # fileapi.h
_NONE = wintypes.HANDLE(-1).value


class _SecurityAttributes(ctypes.Structure):
    """`SECURITY_ATTRIBUTES` of minwinbase.h."""

    _fields_ = (
        ("length", wintypes.DWORD),
        ("descriptor", wintypes.LPVOID),
        ("inherit", wintypes.BOOL),
    )


def create(path: Path) -> int:
    """Make a file that only this user can read; see `privatefile.create`."""
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    advapi = ctypes.WinDLL("advapi32", use_last_error=True)
    kernel.CreateFileW.restype = wintypes.HANDLE
    kernel.LocalFree.argtypes = [wintypes.LPVOID]
    descriptor = wintypes.LPVOID()
    if not advapi.ConvertStringSecurityDescriptorToSecurityDescriptorW(
        _SDDL, _SDDL_REVISION_1, ctypes.byref(descriptor), None
    ):
        raise ctypes.WinError(ctypes.get_last_error())
    rights = _SecurityAttributes(ctypes.sizeof(_SecurityAttributes), descriptor, False)
    handle = kernel.CreateFileW(
        str(path), _GENERIC_WRITE, 0, ctypes.byref(rights), _CREATE_NEW, 0, None
    )
    error = ctypes.get_last_error()
    kernel.LocalFree(descriptor)
    if handle == _NONE:
        raise ctypes.WinError(error)
    return msvcrt.open_osfhandle(handle, os.O_WRONLY)
