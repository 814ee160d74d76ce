"""A buffer that ends at a guard page: a write past its end faults at once, and corrupts nothing."""

from __future__ import annotations

import ctypes
import mmap
import sys


class GuardedBuffer:
    """Memory that ends at a page which may not be touched.

    Args:
        size: bytes that are needed, at least.

    Attributes:
        end: address of the first byte that must not be touched.
        view: the writable bytes; `view[-n:]` are the last n before `end`.

    Raises:
        OSError: the system gives no memory, or no guard page.
    """

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        usable = (size + page - 1) // page * page
        self._map = mmap.mmap(-1, usable + page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.end = start + usable
        _forbid(self.end, page)
        self.view = memoryview(self._map)[:usable]

    def close(self) -> None:
        """Give the memory back; a second time does nothing.

        Raises:
            BufferError: somebody still has a part of `view`.
        """
        self.view.release()
        self._map.close()


def _forbid(address: int, size: int) -> None:
    """Take away every access to a page."""
    if sys.platform == "win32":
        old = ctypes.c_ulong()
        no_access = 0x01  # memoryapi.h, PAGE_NOACCESS
        done = ctypes.windll.kernel32.VirtualProtect(
            ctypes.c_void_p(address), ctypes.c_size_t(size), no_access, ctypes.byref(old)
        )
        if not done:
            raise ctypes.WinError()
    else:
        libc = ctypes.CDLL(None, use_errno=True)
        none = 0  # sys/mman.h, PROT_NONE
        if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), none):
            raise OSError(ctypes.get_errno(), "mprotect of the guard page failed")
