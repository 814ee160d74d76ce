"""Crash reports on disk: one JSON file a death, private, bounded in number and bytes."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from opuspool import privatefile

if TYPE_CHECKING:
    from pathlib import Path

STALE_SECONDS = 60.0
"""A report that is not finished after this time never will be: its supervisor has died."""

_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-\d+-\d+\.json")
_UNFINISHED = re.compile(rf"\.{_NAME.pattern}\.tmp")


class Versions(Struct, frozen=True):
    """Versions of what ran; `libopus` is None where the worker never got READY."""

    opuspool: str
    python: str
    libopus: str | None = None
    libopus_path: str | None = None


class StreamParameters(Struct, frozen=True):
    """The stream in hand.

    Attributes:
        sample_rate, channels, dtype: what it decodes to; Hz.
        client: address of its client, as in the log; None where the client is gone.
        number: its number within that client.
    """

    sample_rate: int
    channels: int
    dtype: str
    client: str | None = None
    number: int | None = None


class Replay(Struct, frozen=True):
    """The packet in hand, and what brings a decoder to where it met it; all in hexadecimal.

    Attributes:
        packet: "" where the operation has none.
        checkpoint: None: begin with a fresh decoder.
        journal: operations to run then, as (number of operations, blob as in opuspool/ops.py).
        exact: whether these give the decoder's state bit for bit.
        frame: how much PCM was wanted, and of which type, as in opuspool/ops.py.
    """

    packet: str
    checkpoint: str | None
    journal: list[tuple[int, str]]
    exact: bool
    frame: int = 0


class Report(Struct, frozen=True, kw_only=True):
    """One death of a worker, as it is written.

    Attributes:
        id: UTC time, slot, generation; the order of ids is the order of deaths.
        time: UTC, RFC 3339.
        reason: one of `books.RESTART_REASONS`.
        cause: the same in words.
        phase: "boot", "idle", "decoding" or "rebuilding".
        pid: None: the system would not start a process.
        attempts: blame of the operation in hand, this death included (SIGKILL counts half).
        operation: kind of the operation in hand, such as "packet" or "fec"; None: none was.
        toc: what its packet says of itself.
        digest: of its packet, BLAKE2b of 128 bits, hexadecimal.
        packet_bytes: length of its packet.
        faulthandler: what faulthandler wrote.
        stderr: the end of the worker's standard error.
        suspects: digests of the packets that ran last before it, the newest last.
        replay: only with `[crashes] keep_packets`.
    """

    id: str
    time: str
    versions: Versions
    reason: str
    cause: str
    phase: str
    slot: int
    generation: int
    pid: int | None
    age_seconds: float
    leases_settled: int
    packets_served: int
    stream: StreamParameters | None
    attempts: float | None
    operation: str | None
    toc: str | None
    digest: str | None
    packet_bytes: int | None
    faulthandler: str
    stderr: str
    suspects: tuple[str, ...]
    replay: Replay | None


class CrashStore:
    """Writes reports into a directory and removes the oldest.

    Args:
        directory: made where it is missing, for this user only.
        reports: so many are kept.
        bytes_: they hold so much together.

    Attributes:
        errors: reports that could not be written.
        last_error: why not, the last time.
    """

    def __init__(self, directory: Path, *, reports: int, bytes_: int) -> None:
        self.errors = 0
        self.last_error = ""
        self._directory = directory
        self._reports = reports
        self._bytes = bytes_

    def write(self, report: Report) -> str | None:
        """Write a report; returns its id, or None where that failed or none is wanted."""
        if not self._reports:
            return None
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            privatefile.write(self._directory / f"{report.id}.json", self._encode(report))
            self._prune()
        except (OSError, ValueError) as error:  # ValueError: a path that cannot be
            self.errors += 1
            self.last_error = str(error)
            return None
        return report.id

    def _encode(self, report: Report) -> bytes:
        """The report, without its largest parts where all of it has no room."""
        smaller = replace(report, replay=None)
        smallest = replace(smaller, faulthandler="", stderr="")
        for form in (report, smaller, smallest):
            data = msgspec.json.format(msgspec.json.encode(form), indent=2)
            if len(data) <= self._bytes:
                return data
        raise ValueError(f"the report has {len(data)} bytes, more than all may have")

    def _prune(self) -> None:
        sizes: dict[str, int] = {}
        stale = time.time() - STALE_SECONDS
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(OSError):  # another supervisor prunes too
                    if _NAME.fullmatch(entry.name):
                        sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
                    elif _UNFINISHED.fullmatch(entry.name) and _written(entry) < stale:
                        self._remove(entry.name)
        total = sum(sizes.values())
        for name in sorted(sizes):
            if len(sizes) <= self._reports and total <= self._bytes:
                break
            self._remove(name)
            total -= sizes.pop(name)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            (self._directory / name).unlink()


def _written(entry: os.DirEntry[str]) -> float:
    """When a file was written last; wall clock, seconds."""
    return entry.stat(follow_symlinks=False).st_mtime
