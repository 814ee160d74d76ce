"""Checkpoints: a decoder's state that another process can take over, bit for bit.

libopus calls a decoder's state position independent, which is true within one process: some words
point into the loaded library (tables of constants). A checkpoint carries the addresses at which
its process had loaded the library; the process that takes it shifts those words by the difference.
The library is whatever loading libopus has brought in: one that only wraps another counts as both.

    magic "OCP1" | u32 number of modules | u32 bytes of state
    module: 16-byte identity (BLAKE2b of path, size, modification time) | u64 start | u64 end
    state
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

if sys.platform == "win32":
    from opuspool_workers import modules_windows

_HEAD = struct.Struct("<4sII")
_MODULE = struct.Struct("<16sQQ")
_MAGIC = b"OCP1"
_WORD = 8


@dataclass(frozen=True, slots=True)
class Module:
    """A library's place in a process's memory, from `start` up to `end`."""

    identity: bytes
    start: int
    end: int


class Relocator:
    """Packs and unpacks checkpoints in this process."""

    def __init__(self, modules: list[Module]) -> None:
        self._by_identity = {module.identity: module for module in modules}
        self._modules = b"".join([_MODULE.pack(m.identity, m.start, m.end) for m in modules])

    @staticmethod
    def snapshot() -> frozenset[str]:
        """Paths of the libraries that are loaded now; take it before libopus is loaded."""
        return frozenset(_mappings())

    @classmethod
    def create(cls, before: frozenset[str]) -> Relocator | None:
        """A relocator for what has been loaded since; None where that cannot be told.

        A libopus that was there before (LD_PRELOAD) is known by its name.
        """
        modules = [
            _module(path, start, end)
            for path, (start, end) in _mappings().items()
            if path not in before or "opus" in Path(path).name
        ]
        return cls(modules) if modules else None

    def pack(self, state: bytes) -> bytes:
        """Make a checkpoint of a decoder's state in this process."""
        count = len(self._by_identity)
        return _HEAD.pack(_MAGIC, count, len(state)) + self._modules + state

    def unpack(self, checkpoint: bytes) -> bytes:
        """Make a state that is valid in this process.

        Raises:
            ValueError: it is no checkpoint, or of another libopus.
        """
        there, state = _split(checkpoint)
        words = array("Q", state[: len(state) // _WORD * _WORD])
        for index, difference in self._shifts(words, there).items():
            words[index] += difference
        return words.tobytes() + state[len(words) * _WORD :]

    def _shifts(self, words: array[int], there: list[Module]) -> dict[int, int]:
        """Which words point into a library, and by how much it lies elsewhere here."""
        if sorted(module.identity for module in there) != sorted(self._by_identity):
            raise ValueError("the checkpoint is of another libopus than this worker's")
        shifts = {}
        for module in there:
            here = self._by_identity[module.identity]
            start, end = module.start, module.end
            difference = here.start - start
            if here.end - end != difference:
                raise ValueError("the checkpoint's libopus is of another size than this worker's")
            shifts.update({i: difference for i, word in enumerate(words) if start <= word < end})
        return shifts


def _split(checkpoint: bytes) -> tuple[list[Module], bytes]:
    if len(checkpoint) < _HEAD.size:
        raise ValueError("too short for a checkpoint")
    magic, count, size = _HEAD.unpack_from(checkpoint)
    at = _HEAD.size + count * _MODULE.size
    if magic != _MAGIC or len(checkpoint) != at + size:
        raise ValueError("not a checkpoint")
    modules = [Module(*row) for row in _MODULE.iter_unpack(checkpoint[_HEAD.size : at])]
    return modules, checkpoint[at:]


def _mappings() -> dict[str, tuple[int, int]]:
    """Loaded libraries and the addresses they span; nothing where the system cannot tell."""
    if sys.platform == "win32":
        return modules_windows.loaded()
    elif sys.platform == "linux":  # noqa: RET505  # mypy reads it
        return _from_proc()
    else:
        return {}


def _from_proc() -> dict[str, tuple[int, int]]:
    spans: dict[str, tuple[int, int]] = {}
    libraries = set()  # files with code: one may map others, and a library may have any name
    for line in Path("/proc/self/maps").read_bytes().splitlines():
        addresses, rights, *_, name = line.split(maxsplit=5)
        if name.startswith(b"/"):
            path = os.fsdecode(name)
            start, end = (int(part, 16) for part in addresses.split(b"-"))
            known = spans.get(path, (start, end))
            spans[path] = (min(known[0], start), max(known[1], end))
            if b"x" in rights:
                libraries.add(path)
    return {path: span for path, span in spans.items() if path in libraries}


def _module(path: str, start: int, end: int) -> Module:
    facts = os.fsencode(path)
    with suppress(OSError):  # it fails where the file was replaced since it was loaded
        info = Path(path).stat()
        facts += f"\0{info.st_size}\0{info.st_mtime_ns}".encode()
    return Module(blake2b(facts, digest_size=16).digest(), start, end)
