"""A client's own supervisor: started with the pool, gone with it, however the process ends."""

from __future__ import annotations

import importlib
import json
import os
import queue
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opuspool import config as configs
from opuspool import endpoint, pychild, rundir
from opuspool.channel import Address
from opuspool.curve import CurveKeys
from opuspool.errors import ConfigError, SupervisorLostError
from opuspool.exitcause import name_exit

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool.config import Config

START_SECONDS = 60.0
"""A supervisor that has not said where it listens by then will not; where it ends, nobody waits."""

STOP_SECONDS = 5.0
"""A supervisor that has not left by then is killed."""


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


class PrivateSupervisor:
    """One private supervisor process.

    Args:
        config: settings, handed to it.
        lost: called, on a thread of its own, when it ends without having been asked to.

    Attributes:
        address: where it listens, and its keys, where that is on tcp.

    Raises:
        SupervisorLostError: it did not start; says why.
    """

    def __init__(self, config: Config, lost: Callable[[SupervisorLostError], None]) -> None:
        self._lost = lost
        self._stopping = False
        self._directory = str(rundir.new_private_directory()) if endpoint.has_ipc() else ""
        self._first_line: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        try:
            self._process = self._start(config)
            self._thread = threading.Thread(
                target=self._watch, daemon=True, name="opuspool-supervisor"
            )
            self._thread.start()
            importlib.import_module("opuspool.pcm")  # numpy takes about as long as it does
            self.address = self._listening()
        except BaseException:
            self._remove_directory()
            raise

    def stop(self) -> None:
        """End it and clear up."""
        self._stopping = True
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()  # its parent's end, to it
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)
        self._thread.join(STOP_SECONDS)
        self._remove_directory()

    def _start(self, config: Config) -> subprocess.Popen[bytes]:
        with pychild.deaf_to_ctrl_c():
            process = subprocess.Popen(  # noqa: S603  # this interpreter
                pychild.command("opuspool_supervisor.private"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=None if _is_open(2) else subprocess.DEVNULL,
                **pychild.options(),
            )
        settings = {
            "config": json.loads(configs.to_json(config)),
            "directory": self._directory,
        }
        if process.stdin is not None:
            with suppress(OSError):  # it died at once; `_listening` tells
                process.stdin.write(json.dumps(settings).encode() + b"\n")
                process.stdin.flush()
        return process

    def _watch(self) -> None:
        stdout = self._process.stdout
        if stdout is not None:
            self._first_line.put(stdout.readline())
            stdout.close()
        code = self._process.wait()
        if self._stopping:
            return
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()
        self._remove_directory()
        self._lost(
            SupervisorLostError(f"the pool's own supervisor has ended: {name_exit(code)[1]}")
        )

    def _listening(self) -> Address:
        try:
            line = self._first_line.get(timeout=START_SECONDS)
        except queue.Empty:
            line = b""
        if not line:
            self._process.kill()
            raise SupervisorLostError("the pool's own supervisor did not start; see its log above")
        value: dict[str, Any] = json.loads(line)
        if "error" in value:
            raise ConfigError(value["error"])
        keys = value["keys"]
        return Address(value["endpoint"], CurveKeys(**keys) if keys else None)

    def _remove_directory(self) -> None:
        if self._directory and Path(self._directory).exists():
            shutil.rmtree(self._directory, ignore_errors=True)
