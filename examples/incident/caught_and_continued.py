"""Windows: an access violation is caught like any error, and the process goes on with what it left.

A C function that faults half-way has written the first half. Whoever catches the error and goes on
reads, writes and frees memory that somebody else believes to be his.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import throwaway

SECONDS = 60.0
PAGE = 4096
NEIGHBOUR = 512
"""Bytes of the buffer that is somebody else's."""
SHORT = 64
"""Samples that the PCM buffer really holds; the packet has 320."""
TIMES = 278
"""As in the incident's log."""


def reproduce() -> throwaway.End | None:
    """Fault, catch it and go on, in a throw-away process; None where there is no Windows."""
    if sys.platform == "win32":
        print(f"caught_and_continued: except OSError, and on; {TIMES} times", flush=True)
        return throwaway.run("caught_and_continued.py", "here", silence=SECONDS)
    else:  # noqa: RET505  # mypy reads it
        print("caught_and_continued: needs Windows; here the signal ends the process", flush=True)
        return None


def _here() -> None:
    throwaway.quietly()
    import pattern
    import speech

    decoder = pattern.OPUS.opus_decoder_create(pattern.SAMPLE_RATE, 1, None)
    packet = speech.packets()[100]
    pcm, neighbour = _buffers()
    ctypes.memset(neighbour, 0x11, NEIGHBOUR)
    caught, message = 0, ""
    for _ in range(TIMES):
        try:
            pattern.OPUS.opus_decode_float(
                decoder, packet, len(packet), pcm, pattern.MAX_SAMPLES, 0
            )
        except OSError as error:
            caught, message = caught + 1, str(error)
    print(f"caught {caught} times: {message}")
    damaged = sum(byte != 0x11 for byte in ctypes.string_at(neighbour, NEIGHBOUR))
    print(f"the process goes on; {damaged} of {NEIGHBOUR} bytes of another buffer are overwritten")


if sys.platform == "win32":
    from ctypes import wintypes

    def _buffers() -> tuple[int, int]:
        """A PCM buffer that is too short, another one behind it, which ends at a page of nobody.

        Returns:
            Their addresses.
        """
        kernel = ctypes.WinDLL("kernel32")
        kernel.VirtualAlloc.restype = ctypes.c_void_p
        kernel.VirtualAlloc.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            wintypes.DWORD,
            wintypes.DWORD,
        ]
        reserve, commit, none, read_write = 0x2000, 0x1000, 0x01, 0x04  # winnt.h, MEM_*, PAGE_*
        start = kernel.VirtualAlloc(None, 2 * PAGE, reserve, none)
        kernel.VirtualAlloc(start, PAGE, commit, read_write)
        neighbour = start + PAGE - NEIGHBOUR
        return neighbour - SHORT * ctypes.sizeof(ctypes.c_float), neighbour

else:

    def _buffers() -> tuple[int, int]:
        raise NotImplementedError


if __name__ == "__main__":
    if sys.argv[1:2] == ["here"]:
        _here()
    else:
        reproduce()
