"""What the tests of the Windows lane share: settings, daemons, streams that are compared."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
import psutil
import recordings
import reference
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pytest

    import opuspool

SETTINGS = """
[workers]
{workers}
start_seconds = 60.0
hang_seconds = {hang}
[restart]
backoff_seconds = 0.01
backoff_max_seconds = 0.1
intensity = 1000
[crashes]
directory = {crashes}
"""
"""Wine on a busy machine is slow; and deaths on purpose are not to be waited for."""


def settings(folder: Path, *, hang: float = 20.0, supervisor: str = "", workers: str = "") -> Path:
    """Write settings into a folder; its crash reports go to `crashes` there."""
    path = folder / "config.toml"
    crashes = json.dumps(str(folder / "crashes"), ensure_ascii=False)
    body = SETTINGS.format(hang=hang, workers=workers, crashes=crashes)
    path.write_text(f"[supervisor]\n{supervisor}\n{body}", encoding="utf-8")
    return path


def daemon_settings(folder: Path, *, port: int = 0, workers: str = "") -> tuple[Path, str]:
    """The same for a daemon, with keys of its own; returns its address too."""
    address = f"tcp://127.0.0.1:{port or free_port()}"
    keys = json.dumps(str(folder / "keys.json"), ensure_ascii=False)
    supervisor = f'endpoint = "{address}"\nkeys = {keys}'
    return settings(folder, supervisor=supervisor, workers=workers), address


def use_faulting(patch: pytest.MonkeyPatch, tokens: Path | None = None) -> None:
    """Let what is started from now on decode with the faulting opus.dll.

    Args:
        patch: undoes it.
        tokens: where faults that happen once note that they have happened.
    """
    patch.setenv("OPUSPOOL_LIBOPUS", os.environ["FAULTOPUS_DLL"])
    patch.setenv("OPUSPOOL_FAULT_REAL", str(reference.real_libopus()))
    if tokens is not None:
        patch.setenv("OPUSPOOL_FAULT_TOKENS", str(tokens))


class Speaker:
    """A live stream whose every sample is compared with opus.dll, called directly."""

    def __init__(self, pool: opuspool.Pool, seed: int = 0) -> None:
        self._stream = pool.stream(sample_rate=16000)
        self._reference = reference.ReferenceDecoder()
        self._packets = recordings.speech_packets(20.0, seed=seed)
        self._at = 0

    def say(self, count: int) -> None:
        """Decode the next packets, one at a time."""
        for _ in range(count):
            packet = self._packets[self._at % len(self._packets)]
            self._at += 1
            pcm = self._stream.decode(packet, timeout=120)
            assert np.array_equal(pcm, self._reference.decode(packet))

    def hear_fault(self, name: str, expected: type[Exception]) -> None:
        """Decode a packet that kills: it fails as expected, and is a loss to the stream."""
        try:
            self._stream.decode(faults.marked(name, self._packets[self._at]), timeout=120)
        except expected:
            return
        raise AssertionError(f"{name} was decoded")

    def close(self) -> None:
        self._stream.close()


def pids(pool: opuspool.Pool) -> list[int]:
    """Of all workers that run."""
    status = pool.status()
    return [slot["pid"] for slot in status["workers"] + status["spares"] if slot["pid"]]


def gone(old: list[int], seconds: float = 60) -> None:
    """Wait until none of these processes is there."""
    wait_until(lambda: not any(map(psutil.pid_exists, old)), seconds, "they are gone")


def restarts(pool: opuspool.Pool) -> dict[str, int]:
    """Deaths by reason, without those that have not happened."""
    counted: dict[str, int] = pool.status()["counters"]["worker_restarts"]
    return {reason: count for reason, count in counted.items() if count}


def reports(folder: Path, count: int) -> list[dict[str, Any]]:
    """The crash reports, the oldest first, when there are so many."""
    crashes = folder / "crashes"
    wait_until(lambda: len(list(crashes.glob("*.json"))) >= count, 30, "reports")
    return [json.loads(p.read_text(encoding="utf-8")) for p in sorted(crashes.glob("*.json"))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Daemon:
    """A running daemon and what it logs."""

    def __init__(self, command: list[str], flags: int) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
            creationflags=flags,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def logged(self, event: str) -> Callable[[], bool]:
        return lambda: any(f'"{event}"' in line for line in list(self.lines))

    def events(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """What it has logged under this name, each with the number of its line."""
        found = [
            (number, json.loads(line))
            for number, line in enumerate(list(self.lines))
            if line.startswith("{")
        ]
        return [(number, event) for number, event in found if event["event"] == name]

    def wait(self, seconds: float = 60) -> int:
        """Its exit code, when it has ended and all of its log is there."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code


@contextmanager
def daemon(command: list[str], flags: int = 0) -> Iterator[Daemon]:
    """A daemon with a worker that is ready; killed at the end, if it is there still."""
    running = Daemon(command, flags)
    try:
        ready = running.logged("worker_ready")
        wait_until(lambda: ready() or running.process.poll() is not None, 300, "a worker is ready")
        assert running.process.poll() is None, running.lines
        yield running
    finally:
        running.process.kill()
        running.wait()
        for pipe in (running.process.stdin, running.process.stderr):
            if pipe is not None:
                pipe.close()


def supervise(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "opuspool_supervisor", *map(str, arguments)]
