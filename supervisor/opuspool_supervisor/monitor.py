"""What the daemon shows of itself: the loop's beat, snapshots for HTTP, lasting counters, systemd.

The loop calls `beat` every turn. It swaps in a new snapshot now and then; other threads read the
reference and never hold up the loop. A pool's private supervisor has no monitor.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opuspool_supervisor import status

if TYPE_CHECKING:
    from opuspool_supervisor.core import Core
    from opuspool_supervisor.lasting import LastingCounters
    from opuspool_supervisor.notify import Notifier
    from opuspool_supervisor.web import WebServer

PUBLISH_SECONDS = 0.5
"""Time between two snapshots."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The status at one moment (monotonic seconds)."""

    at: float
    report: dict[str, Any]


class Monitor:
    """Keeps the newest snapshot, and tells systemd what it wants to know.

    Attributes:
        snapshot: the newest; None before the loop's first beat.
        web: the HTTP server to be closed with the daemon, where there is one.
    """

    def __init__(self, lasting: LastingCounters, notifier: Notifier) -> None:
        self.snapshot: Snapshot | None = None
        self.web: WebServer | None = None
        self._lasting = lasting
        self._notifier = notifier
        self._next_publish = 0.0
        self._next_watchdog = 0.0
        self._is_ready = False
        self._told = ""
        self._reload_ok = True
        self._reloaded_at = time.time()

    def beat(self, core: Core, started: float, now: float) -> None:
        """One turn of the loop has been done."""
        every = self._notifier.watchdog_seconds
        if every is not None and self._next_watchdog <= now:
            self._next_watchdog = now + every
            self._notifier.send("WATCHDOG=1")
        if self._next_publish <= now:
            self._next_publish = now + PUBLISH_SECONDS
            report = self.report(core, started, now)
            self.snapshot = Snapshot(now, report)
            self._lasting.update(report["counters"]["worker_restarts"])
            self._tell_systemd(report)

    def report(self, core: Core, started: float, now: float) -> dict[str, Any]:
        """The status, with what only a daemon knows: `ever`, `reload`."""
        return {
            **status.report(core, started, now),
            "ever": self._lasting.as_dict(),
            "reload": {"ok": self._reload_ok, "time": self._reloaded_at},
        }

    def reloading(self, now: float) -> None:
        """The settings are about to be read again; `now` is monotonic."""
        self._is_ready = False
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={int(now * 1e6)}")

    def reloaded(self, *, ok: bool) -> None:
        """They have been taken, or refused."""
        self._reload_ok = ok
        if ok:
            self._reloaded_at = time.time()
        self._is_ready = self._notifier.send("READY=1")

    def stopping(self) -> None:
        """The daemon drains, and will leave."""
        self._notifier.send("STOPPING=1", "STATUS=draining")

    def close(self) -> None:
        """The daemon leaves."""
        if self.web is not None:
            self.web.close()
        self._lasting.close()
        self._notifier.close()

    def _tell_systemd(self, report: dict[str, Any]) -> None:
        if report["draining"]:
            return
        if not self._is_ready and report["health"] != "down":
            self._is_ready = self._notifier.send("READY=1")
        serving = sum(worker["state"] in ("IDLE", "BUSY") for worker in report["workers"])
        restarts = sum(report["counters"]["worker_restarts"].values())
        words = f"{report['health']}: {serving} of {len(report['workers'])} workers serve, "
        words += f"{restarts} restarts, {report['streams']} streams"
        if report["boot_error"]:
            words += f"; no worker can start: {' '.join(report['boot_error'].split())}"
        if words != self._told and self._notifier.send(f"STATUS={words}"):
            self._told = words
