"""A runner seen from the process that compares: started, told, asked, ended."""

from __future__ import annotations

import queue
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import psutil

from opuspool.bench.drivers import CALL_SECONDS
from opuspool.bench.messages import Answer, Cell, Order, Start

if TYPE_CHECKING:
    from opuspool.bench.rival import Setup

__all__ = ["Runner", "RunnerError"]

START_SECONDS = 120.0
"""Ray may take long on a busy machine."""

CLOSE_SECONDS = 20.0
"""A runner that has not left by then is killed, with all that it has started."""


class RunnerError(Exception):
    """A rival has failed; says why."""


class Runner:
    """The process of one rival.

    Args:
        rival: its name.
        setup: what it is told.
        check: whether its PCM is checked first.

    Raises:
        RunnerError: it does not start, or its PCM is wrong.
    """

    def __init__(self, rival: str, setup: Setup, *, check: bool) -> None:
        self.rival = rival
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  open as long as the process
        # In a session of its own: Ctrl-C is for the process that compares, which ends the others.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "opuspool.bench.runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        try:
            self._ask(Start(rival, setup, check), START_SECONDS)
        except BaseException:
            self.close()
            raise

    def measure(self, load: str, seconds: float) -> Cell:
        """Do a load.

        Raises:
            RunnerError: it has failed.
        """
        cell = self._ask(Order(load, seconds), 2 * seconds + 2 * CALL_SECONDS).cell
        if cell is None:
            raise RunnerError(f"{self.rival} has measured nothing")
        return cell

    def close(self) -> None:
        """End it, and whatever it leaves."""
        family: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _, alive = psutil.wait_procs(family, timeout=2.0)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._thread.join(CLOSE_SECONDS)
        self._log.close()

    def _read(self) -> None:
        stdout = self._process.stdout
        if stdout is not None:
            for line in stdout:
                self._answers.put(line)
            stdout.close()
        self._answers.put(b"")

    def _ask(self, message: Start | Order, seconds: float) -> Answer:
        if self._process.stdin is not None:
            with suppress(OSError):  # it has ended; no answer tells
                self._process.stdin.write(msgspec.json.encode(message) + b"\n")
                self._process.stdin.flush()
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise RunnerError(f"{self.rival}: no answer in {seconds:.0f} s") from None
        if not line:
            raise RunnerError(f"{self.rival}: its process has ended: {self._last_words()}")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error is not None:
            raise RunnerError(f"{self.rival}: {answer.error}")
        return answer

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
