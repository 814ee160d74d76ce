"""Counters that outlive the daemon: starts, and restarts of workers by cause, in one small file.

A thread of its own writes it; no disk, however slow, holds up the loop. Within a second of a death
the file knows of it; what a `kill -9` of the daemon loses is that second.
"""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opuspool import privatefile, statedir
from opuspool_supervisor.books import RESTART_REASONS

if TYPE_CHECKING:
    from pathlib import Path

    from opuspool_supervisor.log import Log

FORMAT = 1

MAX_BYTES = 64 * 1024
"""No file of ours is larger."""

CLOSE_SECONDS = 2.0
"""At the end, the disk has this long to take the last state."""


class DamagedError(Exception):
    """The file is not one that we wrote."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What is kept.

    Attributes:
        since: when counting began, ISO 8601, UTC.
        starts: starts of the daemon.
        restarts: ends of workers by reason.
    """

    since: str
    starts: int = 0
    restarts: dict[str, int] = field(default_factory=dict)


def path_for(endpoint: str) -> Path:
    """The file of the daemon at an endpoint.

    Raises:
        FileNotFoundError: the system knows of no state directory.
    """
    name = hashlib.blake2s(endpoint.encode(), digest_size=4).hexdigest()
    return statedir.state_directory() / f"counters-{name}.json"


def read(path: Path) -> Totals:
    """What a file holds; zeros where there is none.

    Raises:
        DamagedError: it holds something else.
        OSError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return Totals(datetime.now(UTC).isoformat(timespec="seconds"))
    try:
        value = json.loads(data) if len(data) <= MAX_BYTES else None
        if not isinstance(value, dict) or value["format"] != FORMAT:
            raise DamagedError(f"{path} is not a file of counters")
        restarts = {name: _number(n) for name, n in value["restarts"].items()}
        datetime.fromisoformat(value["since"])
        return Totals(value["since"], _number(value["starts"]), restarts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{path} is not a file of counters: {error!r}") from None


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value


def write(path: Path, totals: Totals) -> None:
    """Replace the file as one step; only this user may read it.

    Raises:
        OSError: it cannot be written.
    """
    value = {
        "format": FORMAT,
        "since": totals.since,
        "starts": totals.starts,
        "restarts": totals.restarts,
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    privatefile.write(path, json.dumps(value, indent=1).encode(), sync=True)


class LastingCounters:
    """The totals before this start, and the thread that adds what has come since.

    Args:
        path: the file; None: nothing is kept beyond this process.
        log: what is written.
    """

    def __init__(self, path: Path | None, log: Log) -> None:
        self._path = path
        self._log = log
        self._before = self._load()
        self._starts = self._before.starts + 1
        self._latest: dict[str, int] | None = {}
        self._changed = threading.Event()
        self._changed.set()
        self._failing = False
        self._closing = False
        self._thread: threading.Thread | None = None
        if self._path is not None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="lasting-counters")
            self._thread.start()

    def update(self, restarts: dict[str, int]) -> None:
        """Take the counters since this start; never blocks."""
        counts = {reason: n for reason, n in restarts.items() if n}
        if counts != self._latest:
            self._latest = counts
            self._changed.set()

    def as_dict(self) -> dict[str, Any]:
        """`since`, `supervisor_starts` and `worker_restarts` over all starts."""
        return {
            "since": self._before.since,
            "supervisor_starts": self._starts,
            "worker_restarts": self._sum(self._latest or {}),
        }

    def close(self) -> None:
        """Have the last state written, but do not wait for ever."""
        self._closing = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _load(self) -> Totals:
        fresh = Totals(datetime.now(UTC).isoformat(timespec="seconds"))
        if self._path is None:
            return fresh
        try:
            return read(self._path)
        except DamagedError as error:
            aside = self._path.with_suffix(".damaged")
            with suppress(OSError):
                self._path.replace(aside)
            self._log.error("counters_damaged", why=str(error), moved_to=str(aside))
        except OSError as error:
            self._log.error("counters_not_kept", why=str(error))
            self._path = None  # what is there may be good: it is not overwritten
        return fresh

    def _sum(self, counts: dict[str, int]) -> dict[str, int]:
        before = self._before.restarts
        return {name: before.get(name, 0) + counts.get(name, 0) for name in RESTART_REASONS}

    def _run(self) -> None:
        while not self._closing:
            self._changed.wait()
            self._changed.clear()
            self._write()
        self._write()  # what came during the last one

    def _write(self) -> None:
        if self._path is None:
            return
        totals = Totals(self._before.since, self._starts, self._sum(self._latest or {}))
        try:
            write(self._path, totals)
        except OSError as error:
            if not self._failing:  # once, not with every death
                self._log.error("counters_not_kept", why=str(error))
            self._failing = True
        else:
            self._failing = False
