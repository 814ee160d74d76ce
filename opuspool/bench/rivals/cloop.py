"""libopus in a C loop: what a decode costs without Python. Compiled where there is a compiler."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from opuspool.bench import speech
from opuspool.bench.drivers import CALL_SECONDS
from opuspool.bench.loads import Kind, Load
from opuspool.bench.rival import Rival

if TYPE_CHECKING:
    from opuspool.bench.window import Window
    from opuspool.pcm import Pcm

__all__ = ["CLoop"]

_SOURCE = Path(__file__).with_name("loop.c")


class CLoop(Rival):
    """One thread in C; several streams take turns."""

    name: ClassVar[str] = "c"
    title: ClassVar[str] = "libopus in a C loop, 1 thread"
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.PACKET, Kind.UTTERANCE})

    @classmethod
    def missing(cls) -> str | None:
        """Whether there is a compiler."""
        if sys.platform == "win32":
            return "not on Windows"  # it uses dlopen
        else:  # noqa: RET505  # mypy reads it
            return None if _compiler() else "apt install gcc"

    def open(self) -> None:
        """Compile it."""
        self._folder = tempfile.TemporaryDirectory(prefix="opuspool-bench-")
        self._program = Path(self._folder.name, "loop")
        command = [str(_compiler()), "-O2", "-o", str(self._program), str(_SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, check=False, text=True)  # noqa: S603
        if done.returncode != 0:
            raise RuntimeError(f"the C loop does not compile: {done.stderr.strip()}")

    def run(self, load: Load, window: Window) -> None:
        """Let it decode for as long as the window."""
        seconds = window.stop - time.perf_counter()
        data = self._call(load.kind, load.at_once, seconds)
        window.calls += [(began, ended) for began, ended in np.frombuffer(data).reshape(-1, 2)]

    def decode_once(self, kind: Kind) -> Pcm:
        """All of `speech`."""
        return np.frombuffer(self._call(kind, 1, 0.0), np.float32)

    def close(self) -> None:
        """Remove it."""
        self._folder.cleanup()

    def _call(self, kind: Kind, at_once: int, seconds: float) -> bytes:
        packets = speech.utterance() if kind is Kind.UTTERANCE else speech.packets()
        path = Path(self._folder.name, "packets")
        path.write_bytes(b"".join(struct.pack("=I", len(p)) + p for p in packets))
        words = [self.setup.libopus, path, kind.value, at_once, speech.APART, seconds]
        done = subprocess.run(  # noqa: S603  what was just compiled
            [str(self._program), *map(str, words)],
            capture_output=True,
            check=False,
            timeout=seconds + CALL_SECONDS,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the C loop has failed: {done.stderr.decode().strip()}")
        return done.stdout


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")
