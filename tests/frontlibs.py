"""Libraries in front of the real libopus, each with a fault that a file switches on."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from reference import real_libopus

if TYPE_CHECKING:
    from pathlib import Path

DEADLY = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <unistd.h>

/* The self-test decodes twice; what comes after it is deadly, while the file is there. */
static void maybe_die(void)
{
    static int calls;
    if (++calls > 2 && access(SWITCH, F_OK) == 0)
        *(volatile char *)0 = 1;
}

#define DECODE(name, sample) \\
    int name(void *st, const unsigned char *p, int32_t n, sample *pcm, int size, int fec) \\
    { \\
        int (*real)(void *, const unsigned char *, int32_t, sample *, int, int) = \\
            dlsym(RTLD_NEXT, #name); \\
        maybe_die(); \\
        return real(st, p, n, pcm, size, fec); \\
    }

DECODE(opus_decode, int16_t)
DECODE(opus_decode_float, float)
"""
"""Workers pass their self-test and die of whatever they decode then."""

SLOW = """
#include <unistd.h>

__attribute__((constructor)) static void load(void)
{
    while (access(SWITCH, F_OK) == 0)
        usleep(10000);
}
"""
"""Workers do not get READY: loading the library does not end."""


def front(folder: Path, source: str) -> tuple[Path, Path]:
    """Return a compiled library, and the file whose presence switches its fault on."""
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler: install gcc")
    code, library, file = folder / "front.c", folder / "libfront.so", folder / "switch"
    code.write_text(source)
    flags = ["-O1", "-fPIC", "-shared", f'-DSWITCH="{file}"', "-Wl,--no-as-needed"]
    command = ["gcc", *flags, str(code), str(real_libopus()), "-ldl", "-o", str(library)]
    subprocess.run(command, check=True)
    return library, file
