"""What a supervisor tells a new worker: one line of JSON on its standard input."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from typing import Any

if sys.platform == "win32":
    import msvcrt


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """A worker's settings.

    Attributes:
        endpoint: where the supervisor listens for workers.
        identity: this worker's ZeroMQ identity, hexadecimal.
        recorder_fd: descriptor (Windows: handle) of the flight recorder.
        fault_fd: descriptor (Windows: handle) of the file for faulthandler.
        libopus: path of the library to load; empty: search.
        socket: path of the supervisor's socket, to sweep when it is gone; empty on tcp.
        own_directory: whether the socket's directory is the supervisor's own.
        lanes: where clients may connect to this worker; empty: nowhere.
        group: the process group of this supervisor's workers, 0: none; an orphan ends it.
        curve: CURVE keys for tcp, as `curve.CurveKeys.for_peer` gives them; empty on ipc.
    """

    endpoint: str
    identity: str
    recorder_fd: int
    fault_fd: int
    libopus: str
    socket: str
    own_directory: bool
    curve: dict[str, str]
    group: int = 0
    lanes: str = ""


def read() -> WorkerSettings:
    """Read the settings from standard input.

    Raises:
        ValueError, TypeError: the line is not a worker's settings.
    """
    line = _read_line()
    values: dict[str, Any] = json.loads(line)
    return WorkerSettings(**values)


def descriptor(inherited: int) -> int:
    """The descriptor of an inherited file; on Windows what is inherited is its handle."""
    if sys.platform == "win32":
        return msvcrt.open_osfhandle(inherited, os.O_RDWR)
    else:  # noqa: RET505  # mypy reads it
        return inherited


def _read_line() -> bytes:
    # Byte by byte from the descriptor, so that nothing behind the line is taken from the pipe.
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise ValueError("standard input ended before the settings; start the supervisor")
        line += byte
    return line
