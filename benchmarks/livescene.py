"""What is around the streams of live.py: a daemon, and what goes on beside them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from liveload import PACKET_SAMPLES
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from collections.abc import Iterator

SPEECH = Path(__file__).parents[1] / "examples" / "speech.opus"


@contextmanager
def daemon(workers: int) -> Iterator[tuple[str, str]]:
    """A daemon of our own; yields its address and its settings' path."""
    with tempfile.TemporaryDirectory(prefix="opl-") as folder:
        address = f"ipc://{folder}/d/pool.sock"
        settings = Path(folder, "config.toml")
        settings.write_text(
            f'[supervisor]\nendpoint = "{address}"\nhttp = ""\nlog_level = "error"\n'
            f"[workers]\ncount = {workers}\n[crashes]\nenabled = false\n"
        )
        command = [sys.executable, "-m", "opuspool_supervisor", "--config", str(settings)]
        process = subprocess.Popen(command, start_new_session=True)  # Ctrl-C is ours
        try:
            with opuspool.Pool(address, config=str(settings)) as pool:
                wait_until(lambda: _is_warm(pool), timeout=30, what="all processes are ready")
            yield address, str(settings)
        finally:
            process.terminate()
            process.wait(30)


def _is_warm(pool: opuspool.Pool) -> bool:
    status = pool.status()
    slots = status["workers"] + status["spares"]
    return all(slot["state"] in {"IDLE", "BUSY"} for slot in slots)


class _Beside(threading.Thread):
    """Something that goes on while packets are sent.

    Attributes:
        count: of what it has done.
    """

    def __init__(self, pool: opuspool.Pool, begin: float, seconds: float) -> None:
        super().__init__()
        self.count = 0
        self._pool = pool
        self._begin = begin
        self._end = begin + seconds
        self._over = threading.Event()

    def stop(self) -> None:
        """End it, if it has begun."""
        self._over.set()
        if self.ident is not None:
            self.join()

    def _wait_until(self, moment: float) -> bool:
        """Wait; returns whether to go on then."""
        return not self._over.wait(max(0.0, moment - time.monotonic())) and moment < self._end


class Killer(_Beside):
    """Kills a worker each second, by SIGKILL and SIGSEGV in turn."""

    def run(self) -> None:
        """Kill until the time is over."""
        chance = random.Random(1)
        at = self._begin + 0.5
        while self._wait_until(at):
            workers = [w for w in self._pool.status()["workers"] if w["state"] in {"IDLE", "BUSY"}]
            if workers:
                kind = (signal.SIGKILL, signal.SIGSEGV)[self.count % 2]
                with suppress(ProcessLookupError):  # it has ended by itself
                    os.kill(chance.choice(workers)["pid"], kind)
                    self.count += 1
            at += 1.0


class Bulk(_Beside):
    """Decodes a file again and again; counts packets."""

    def run(self) -> None:
        """Decode until the time is over."""
        data = SPEECH.read_bytes()
        self._wait_until(self._begin)
        while self._wait_until(time.monotonic()):
            self.count += len(self._pool.decode_file(data)) // PACKET_SAMPLES
