"""A write past the end of the PCM buffer kills the process at once, and one before it does not."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import subprocess
import sys
from pathlib import Path

import faults
import pytest
from opuspool_workers.guard import GuardedBuffer

from opuspool.streamformat import FORMATS

PAGE = mmap.PAGESIZE

posix = pytest.mark.skipif(os.name != "posix", reason="faults show as signals")

WRITE = """
import ctypes, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from opuspool_workers.guard import GuardedBuffer
size, offset = map(int, sys.argv[1:])
buffer = GuardedBuffer(size)
ctypes.memset(buffer.end + offset, 1, 1)
print("alive")
"""

READ = WRITE.replace("ctypes.memset(buffer.end + offset, 1, 1)", "ctypes.string_at(buffer.end)")

DECODE = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from opuspool.ops import OpKind
from opuspool.streamformat import FORMATS
from opuspool_workers import libopus
from opuspool_workers.decoder import Decoder
from opuspool_workers.guard import GuardedBuffer
lib = libopus.load(os.environ["OPUSPOOL_LIBOPUS"])
buffer = GuardedBuffer(48000 * 12 // 100 * 8)
decoder = Decoder(lib, FORMATS[int(sys.argv[1])], buffer)
decoder.run(OpKind.PACKET, bytes.fromhex(sys.argv[2]))
print("alive")
"""


def run(program: str, *arguments: object) -> tuple[int, str]:
    """Exit code and output of a process."""
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


@posix
@pytest.mark.parametrize("size", [1, PAGE - 1, PAGE, 46080])
def test_one_byte_past_the_end_is_deadly_and_the_last_byte_is_not(size: int) -> None:
    assert run(WRITE, size, -1) == (0, "alive\n")
    assert run(WRITE, size, 0) == (-signal.SIGSEGV, "")


@posix
@pytest.mark.parametrize("offset", [1, PAGE - 1])
def test_the_whole_page_behind_the_buffer_is_deadly(offset: int) -> None:
    assert run(WRITE, 100, offset) == (-signal.SIGSEGV, "")


@posix
def test_reading_past_the_end_is_deadly_too() -> None:
    assert run(READ, 100, 0) == (-signal.SIGSEGV, "")


@posix
@pytest.mark.parametrize("code", FORMATS, ids=hex)
def test_a_decoder_that_writes_too_much_dies_at_once_in_every_format(
    code: int, faulty: Path
) -> None:
    """Its PCM ends where the buffer ends, however little of it the format needs."""
    assert run(DECODE, code, faults.marker("overrun").hex()) == (-signal.SIGSEGV, "")


@pytest.mark.parametrize("size", [1, 100, PAGE, PAGE + 1, 46080])
def test_view_and_end_speak_of_the_same_bytes(size: int) -> None:
    buffer = GuardedBuffer(size)
    assert len(buffer.view) >= size
    assert buffer.end % PAGE == 0
    ctypes.memset(buffer.end - 1, 7, 1)
    ctypes.memset(buffer.end - len(buffer.view), 5, 1)
    assert buffer.view[-1] == (7 if len(buffer.view) > 1 else 5)
    assert buffer.view[0] == 5
    buffer.view[-1] = 9
    assert ctypes.string_at(buffer.end - 1, 1) == b"\x09"


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_buffer_gives_its_memory_back() -> None:
    def mappings() -> int:
        return len(Path("/proc/self/maps").read_text().splitlines())

    before = mappings()
    buffers = [GuardedBuffer(PAGE) for _ in range(50)]
    assert mappings() >= before + 50
    del buffers
    assert mappings() < before + 10
