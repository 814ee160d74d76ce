"""Arrays of C values, in the heap that the incident's were in."""

from __future__ import annotations

import ctypes
import sys
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

if sys.platform == "win32":
    from ctypes import wintypes

    _KERNEL = ctypes.WinDLL("kernel32")
    _KERNEL.GetProcessHeap.restype = wintypes.HANDLE
    _KERNEL.GetCurrentProcess.restype = wintypes.HANDLE
    _KERNEL.TerminateProcess.argtypes = [wintypes.HANDLE, wintypes.UINT]
    _KERNEL.HeapAlloc.restype = ctypes.c_void_p
    _KERNEL.HeapAlloc.argtypes = [wintypes.HANDLE, wintypes.DWORD, ctypes.c_size_t]
    _KERNEL.HeapFree.argtypes = [wintypes.HANDLE, wintypes.DWORD, ctypes.c_void_p]
    _HEAP = _KERNEL.GetProcessHeap()
    _ZEROED = 8  # winnt.h, HEAP_ZERO_MEMORY
    _ACCESS_VIOLATION = 0xC0000005

    def array(kind: Any, count: int) -> Any:
        """Make `(kind * count)()` in the process heap, given back with the last reference.

        On Windows it would be there anyway: Python's C runtime takes more than 512 bytes from the
        process heap, and the C runtime inside PyOgg's opus.dll gives back to the same heap.
        Wine's C runtime has a heap of its own, in which Wine refuses the wrong free.
        """
        size = count * ctypes.sizeof(kind)
        address = _as_python_would(_KERNEL.HeapAlloc, _HEAP, _ZEROED, size)
        if not address:
            raise MemoryError
        made = (kind * count).from_address(address)
        finalizer = weakref.finalize(made, _as_python_would, _KERNEL.HeapFree, _HEAP, 0, address)
        finalizer.atexit = False
        return made

    def _as_python_would(call: Callable[..., Any], *arguments: Any) -> Any:
        """Call the heap; a fault in there is the end. Python's own calls are not ctypes', and
        nothing catches their faults.
        """  # noqa: D205  # one thought
        try:
            return call(*arguments)
        except OSError as error:
            print(f"not caught, since not in a call of ctypes: {error}", file=sys.stderr)
            _KERNEL.TerminateProcess(_KERNEL.GetCurrentProcess(), _ACCESS_VIOLATION)

else:

    def array(kind: Any, count: int) -> Any:
        """Make `(kind * count)()`: Python and libopus have one C library, and so one heap."""
        return (kind * count)()
