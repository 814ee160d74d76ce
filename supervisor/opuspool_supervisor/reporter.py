"""Makes crash reports of the core's findings and writes them, on a thread of its own.

A disk may be slow, or hang for ever: recovery does not wait for it.
"""

from __future__ import annotations

import platform
import queue
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opuspool import statedir, version
from opuspool_supervisor import crashes
from opuspool_supervisor.crashes import CrashStore, Replay, StreamParameters, Versions

if TYPE_CHECKING:
    from opuspool.config import CrashesConfig
    from opuspool_supervisor.autopsy import Autopsy, InHand
    from opuspool_supervisor.books import Books
    from opuspool_supervisor.instructions import Report
    from opuspool_supervisor.log import Log

BACKLOG = 100
"""So many reports may wait for the disk; what comes then is not written, and counted."""

CLOSE_SECONDS = 2.0
"""At the end, the reports that wait have this long to be written."""

FAULTHANDLER_CHARACTERS = 64 * 1024
STDERR_CHARACTERS = 16 * 1024


class Reporter:
    """Writes the reports of a supervisor; nothing here blocks its loop or fails.

    Args:
        config: `[crashes]`.
        books: `crash_reports` and `crash_report_errors` are counted there.
        log: what is written.
    """

    def __init__(self, config: CrashesConfig, books: Books, log: Log) -> None:
        self._config = config
        self._books = books
        self._log = log
        self._waiting: queue.Queue[tuple[Report, datetime] | None] = queue.Queue(BACKLOG)
        self._counting = threading.Lock()
        self._thread: threading.Thread | None = None

    def reconfigure(self, config: CrashesConfig) -> None:
        """Write by other settings from now on; the directory and its limits stay."""
        self._config = config

    def report(self, death: Report) -> None:
        """Have a death written down."""
        if not (self._config.enabled and self._config.reports):
            return
        if self._thread is None and not self._start():
            return
        try:
            self._waiting.put_nowait((death, datetime.now(UTC)))
        except queue.Full:
            self._failed("the disk does not keep up")

    def _start(self) -> bool:
        thread = threading.Thread(target=self._run, daemon=True, name="crash-reports")
        try:
            thread.start()
        except (
            RuntimeError
        ) as error:  # no memory, or too many processes: the next death tries again
            self._failed(str(error))
            return False
        self._thread = thread
        return True

    def close(self) -> None:
        """Wait for what is under way, but not for ever."""
        if self._thread is None:
            return
        try:
            self._waiting.put(None, timeout=CLOSE_SECONDS)
        except queue.Full:
            return
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        store: CrashStore | None = None
        while (item := self._waiting.get()) is not None:
            death, when = item
            try:
                store = store or self._open()
            except OSError as error:
                self._failed(str(error))
                continue
            report = build(death, when, self._config)
            if store.write(report) is None:
                self._failed(store.last_error)
            else:
                with self._counting:
                    self._books.crash_reports += 1
                self._log.info("crash_report", id=report.id, slot=report.slot, reason=report.reason)

    def _open(self) -> CrashStore:
        directory = statedir.crash_directory(self._config.directory)
        return CrashStore(directory, reports=self._config.reports, bytes_=self._config.bytes)

    def _failed(self, why: str) -> None:
        with self._counting:
            self._books.crash_report_errors += 1
        self._log.info("crash_report_failed", why=why)


def build(death: Report, when: datetime, config: CrashesConfig) -> crashes.Report:
    """Put a report together.

    Args:
        death: what the core has found.
        when: wall-clock time of the death, UTC.
        config: whether packets are kept, and how much room there is.
    """
    found = death.autopsy
    in_hand = found.in_hand
    packet = in_hand.op.packet if in_hand else b""
    return crashes.Report(
        id=f"{when:%Y%m%dT%H%M%S.%f}Z-{found.slot}-{found.generation}",
        time=when.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        versions=_versions(found.info),
        reason=death.reason,
        cause=_cause(death),
        phase=found.phase,
        slot=found.slot,
        generation=found.generation,
        pid=found.pid,
        age_seconds=round(found.age_seconds, 6),
        leases_settled=found.leases_settled,
        packets_served=found.packets_served,
        stream=_stream(found),
        attempts=in_hand.attempts if in_hand else None,
        operation=in_hand.op.kind.name.lower() if in_hand else None,
        toc=in_hand.toc if in_hand else None,
        digest=in_hand.digest if in_hand else None,
        packet_bytes=len(packet) if in_hand else None,
        faulthandler=death.death.fault_text[:FAULTHANDLER_CHARACTERS],
        stderr=death.death.stderr_tail[-STDERR_CHARACTERS:],
        suspects=found.suspects,
        replay=_replay(in_hand, config.bytes) if in_hand and config.keep_packets else None,
    )


def _cause(death: Report) -> str:
    words = death.death.words
    killed_for = death.autopsy.killed_for
    return f"ended by the supervisor ({killed_for}): {words}" if killed_for else words


def _versions(info: dict[str, Any]) -> Versions:
    """A worker's own words where it has spoken; its Python is the supervisor's."""
    libopus = info.get("libopus") or {}
    return Versions(
        version.VERSION,
        str(info.get("python", platform.python_version())),
        libopus.get("version"),
        libopus.get("path"),
    )


def _stream(found: Autopsy) -> StreamParameters | None:
    fmt = found.format
    if fmt is None:
        return None
    return StreamParameters(fmt.sample_rate, fmt.channels, fmt.dtype, found.client, found.stream)


def _replay(in_hand: InHand, room: int) -> Replay:
    """What a replay needs; the packet alone where the rest has no room."""
    history = in_hand.history
    packet, frame = in_hand.op.packet.hex(), in_hand.op.frame
    if history is None:
        return Replay(packet, None, [], exact=False, frame=frame)
    checkpoint = history.checkpoint
    size = len(checkpoint or b"") + sum(len(blob) for blob, _ in history.journal)
    if 2 * size > room:  # hexadecimal
        return Replay(packet, None, [], exact=False, frame=frame)
    return Replay(
        packet,
        checkpoint.hex() if checkpoint is not None else None,
        [(count, blob.hex()) for blob, count in history.journal],
        exact=history.exact,
        frame=frame,
    )
