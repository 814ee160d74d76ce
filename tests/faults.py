"""The faulting libopus (faultopus.c): compiled here, and the packets that make it fault."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import recordings
import reference

SOURCE = Path(__file__).with_name("faultopus.c")
HEADER = SOURCE.with_suffix(".h")
FOLDER = Path(__file__).parents[1] / ".pytest_cache" / "faultopus"
FLAGS = ["-O1", "-fPIC", "-shared", "-Wall", "-Werror", "-pthread"]

FAULTS: dict[str, str | None] = {
    "segv": "segv",
    "abort": "abort",
    "bus": "bus",
    "ill": "ill",
    "fpe": "fpe",
    "kill": "killed",
    "stack": "segv",  # Linux shows a stack overflow as SIGSEGV
    "loop": "hang",
    "sleep": "hang",
    "slow": None,  # 50 ms, then it decodes
    "smash": "abort",  # it decodes; the next decode or destroy aborts
    "overrun": "segv",  # where the PCM buffer ends at a guard page
    "badreturn": "exit",  # says 100,000 samples
    "negative": None,  # OPUS_INTERNAL_ERROR
    "exit": "exit",  # code 3
    "exit0": "exit",  # code 0
    "leak": None,  # 1 MB, then it decodes
    "stderr": None,  # 1 MB of text, then it decodes
    "after": "killed",  # it decodes; 1 ms later SIGKILL
    "stateful": "segv",  # but a decoder that has decoded nothing before decodes it
}
"""Fault to the reason that `worker_restarts_total` names on Linux; None: the worker lives on."""

ONCE = "-once"
"""Suffix of a fault's name: the first attempt at that packet faults, later ones decode it."""


def faulting_libopus() -> Path:
    """Return the faulting libopus, compiled where needed; skips the test without a compiler."""
    if os.name != "posix":
        pytest.skip("the faulting libopus needs signals and dlopen")
    compiler = _compiler()
    if compiler is None:
        pytest.skip("no C compiler: install gcc, or pip install ziglang")
    return _compiled(tuple(compiler))


def _compiler() -> list[str] | None:
    for name in ("gcc", "cc"):
        if path := shutil.which(name):
            return [path]
    if importlib.util.find_spec("ziglang"):
        # zig turns undefined behaviour into SIGILL; here it is there on purpose
        return [sys.executable, "-m", "ziglang", "cc", "-fno-sanitize=undefined"]
    return None


@cache
def _compiled(compiler: tuple[str, ...]) -> Path:
    command = [*compiler, *FLAGS, str(SOURCE), "-ldl", "-o"]
    key = hashlib.sha256(
        SOURCE.read_bytes() + HEADER.read_bytes() + repr(command).encode()
    ).hexdigest()[:16]
    library = FOLDER / f"faultopus-{key}.so"
    if not library.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        # Test runs may compile side by side: each its own file, the last one stays.
        unfinished = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, str(unfinished)], check=True)
        unfinished.replace(library)
    return library


def environment(tokens: Path | None = None, *, real: Path | None = None) -> dict[str, str]:
    """Return the variables that make a process decode with the faulting libopus.

    Args:
        tokens: directory where "-once" faults note that they happened.
        real: the libopus behind it, default `reference.real_libopus()`.
    """
    variables = {
        "OPUSPOOL_LIBOPUS": str(faulting_libopus()),
        "OPUSPOOL_FAULT_REAL": str(real or reference.real_libopus()),
    }
    if tokens is not None:
        variables["OPUSPOOL_FAULT_TOKENS"] = str(tokens)
    return variables


def marker(fault: str, like: bytes | None = None) -> bytes:
    """Return a valid packet that the faulting libopus faults on.

    Args:
        fault: a key of FAULTS, with or without "-once".
        like: the packet whose audio it carries; default 20 ms of 16 kHz mono speech.
    """
    if fault.removesuffix(ONCE) not in FAULTS:
        raise ValueError(f"no fault is called {fault!r}")
    return marked(fault, like)


def marked(name: str, like: bytes | None = None) -> bytes:
    """Return a valid packet with this name in its padding; see `marker`."""
    # libopus from 1.5 on reads padding as extensions; a zero says that nothing follows.
    mark = b"\0OPFAULT:" + name.encode() + b"\0"
    packet = like if like is not None else recordings.speech_packets(0.5)[10]
    # Two of the bytes that are added may go to the header of the padding.
    padded = reference.pad(packet, len(packet) + len(mark) + 2)
    return padded[: -len(mark)] + mark
