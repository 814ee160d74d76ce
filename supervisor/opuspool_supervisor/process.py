"""Worker processes: spawn, kill, wait; only this and launch.py touch processes."""

from __future__ import annotations

import errno
import json
import os
import queue
import signal
import sys
import threading
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from opuspool import recorder
from opuspool.exitcause import name_exit
from opuspool_supervisor.death import Death

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool.recorder import LaneCounts
    from opuspool_supervisor.launch import Launched, Launcher

STDERR_TAIL_BYTES = 64 * 1024
"""Of a worker's standard error, this much is kept."""

FAULT_TEXT_BYTES = 64 * 1024
"""Of faulthandler's text, this much is read."""

LOOK_SECONDS = 1.0
"""Between two looks that are further apart, a worker may have slept."""


@dataclass(frozen=True, slots=True)
class WorkerLaunch:
    """What every worker of a supervisor is started with; see `opuspool_workers.settings`."""

    endpoint: str
    libopus: str
    socket: str
    own_directory: bool
    curve: dict[str, str]
    identity: str = ""
    group: int = 0
    recorder_fd: int = -1
    fault_fd: int = -1
    lanes: str = ""


@dataclass(frozen=True, slots=True)
class Exit:
    """A worker's process has ended."""

    serial: int
    death: Death


class WorkerProcess:
    """One running worker."""

    def __init__(self, serial: int, launched: Launched) -> None:
        self.serial = serial
        self.pid = launched.popen.pid
        self._popen = launched.popen
        self._fault_fd = launched.fault_fd
        self._recorder = recorder.FlightRecorder(launched.recorder_fd)
        self._tail = bytearray()
        self._ran = ""
        self._waits_since = self._looked = 0.0

    def progress(self) -> tuple[int, int]:
        """The lease in hand, `recorder.LANE` for a client's batch, or 0; how far it has counted."""
        words = self._recorder.words
        return words[recorder.LEASE], words[recorder.PROGRESS]

    def by_lane(self) -> LaneCounts:
        """What it has done for clients by lanes."""
        return self._recorder.counts()

    def waited_seconds(self, now: float) -> float:
        """How long in its life it was ready to run and another process ran; 0: cannot be told.

        The kernel counts a wait when it is over. One that goes on counts from the first look at it.

        Args:
            now: monotonic, seconds.
        """
        try:
            ran, waited, _ = Path(f"/proc/{self.pid}/schedstat").read_text().split()
        except (OSError, ValueError):  # not Linux
            return 0.0
        if ran == "0":  # a kernel that does not count it
            return 0.0
        looked, self._looked = self._looked, now
        runnable = self._status() == psutil.STATUS_RUNNING  # running, or ready to
        if ran != self._ran or now - looked > LOOK_SECONDS or not runnable:
            self._ran, self._waits_since = ran, now
        return int(waited) / 1e9 + now - self._waits_since  # proc(5) of Linux: nanoseconds

    def kill(self, *, dump: bool) -> None:
        """End it: SIGABRT, which lets faulthandler write, or SIGKILL. Windows terminates it."""
        with suppress(OSError):
            if dump and sys.platform != "win32" and not self.is_stopped():
                self._popen.send_signal(signal.SIGABRT)
            else:
                self._popen.kill()

    def is_stopped(self) -> bool:
        """Whether it was stopped by a signal: then it cannot write anything."""
        return self._status() == psutil.STATUS_STOPPED

    def _status(self) -> str:
        """As psutil calls it; empty: it is gone."""
        with suppress(psutil.Error):
            return str(psutil.Process(self.pid).status())
        return ""

    def wait(self) -> Exit:
        """Keep its standard error's tail until it ends; blocks, for a thread of its own."""
        stderr = self._popen.stderr
        while stderr is not None and (chunk := os.read(stderr.fileno(), 65536)):
            self._tail += chunk
            del self._tail[:-STDERR_TAIL_BYTES]
        code = self._popen.wait()
        tail = self._tail.decode(errors="replace")
        reason, words = name_exit(code, tail)
        os.lseek(self._fault_fd, 0, os.SEEK_SET)
        fault_text = os.read(self._fault_fd, FAULT_TEXT_BYTES).decode(errors="replace")
        record = self._recorder
        kept = tuple(record.kept())
        death = Death(
            reason, words, record.position(), fault_text, tail, by_lane=record.counts(), kept=kept
        )
        return Exit(self.serial, death)

    def close(self) -> None:
        """Give back what the supervisor held for it; it has ended."""
        for pipe in (self._popen.stdin, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        self._recorder.close()
        os.close(self._fault_fd)


class Processes:
    """All running workers of a supervisor.

    Attributes:
        exits: ends of processes, noted by a thread a worker; `wake` is called after each.
    """

    def __init__(self, launch: WorkerLaunch, launcher: Launcher, wake: Callable[[], None]) -> None:
        self.exits: queue.SimpleQueue[Exit] = queue.SimpleQueue()
        self._launch = launch
        self._launcher = launcher
        self._wake = wake
        self._running: dict[int, WorkerProcess] = {}

    def spawn(self, serial: int, identity: bytes, lanes: str) -> WorkerProcess:
        """Start a worker; clients may connect to it at `lanes`, if that is not empty.

        Raises:
            OSError: the system has no room for another process or its descriptors.
        """
        with ExitStack() as undo:
            launched = self._launcher.start()
            undo.callback(launched.discard)
            self._launch_line(launched, identity, lanes)
            process = WorkerProcess(serial, launched)
            watch = threading.Thread(
                target=self._watch, args=(process,), daemon=True, name=f"worker-{serial}"
            )
            try:
                watch.start()
            except (RuntimeError, MemoryError) as error:
                raise OSError(errno.EAGAIN, f"{error}") from None
            undo.pop_all()
        recorder.release(launched.recorder_fd)
        self._running[serial] = process
        return process

    def get(self, serial: int) -> WorkerProcess | None:
        """The running worker with this serial number."""
        return self._running.get(serial)

    def running(self) -> list[WorkerProcess]:
        """All of them."""
        return list(self._running.values())

    def reap(self, serial: int) -> None:
        """Forget a worker that has ended."""
        self._running.pop(serial).close()

    def kill_all(self, seconds: float) -> None:
        """Kill every worker and wait for their ends, at most `seconds` for each."""
        self._launcher.close()
        for process in self._running.values():
            process.kill(dump=False)
        while self._running:
            try:
                self.reap(self.exits.get(timeout=seconds).serial)
            except queue.Empty:
                return

    def _launch_line(self, launched: Launched, identity: bytes, lanes: str) -> None:
        recorder_fd, fault_fd = launched.inherited
        launch = replace(
            self._launch,
            identity=identity.hex(),
            group=self._launcher.group,
            recorder_fd=recorder_fd,
            fault_fd=fault_fd,
            lanes=lanes,
        )
        stdin = launched.popen.stdin
        if stdin is not None:
            # BrokenPipeError, on Windows EINVAL: it died at once; its exit tells why
            with suppress(OSError):
                stdin.write(_line(asdict(launch)))
                stdin.flush()

    def _watch(self, process: WorkerProcess) -> None:
        self.exits.put(process.wait())
        self._wake()


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
