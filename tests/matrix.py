"""The fault matrix's shared fixture: a pool with three live streams beside the fault.

Every test of FAULTS.md's matrix injects its fault inside `scene()`. Meanwhile three bystanders
decode, packet by packet, and compare every sample with libopus called directly. At its end the
scene checks the promises P1, P2, P4, P5, P7 and P8; P6 (nothing left) is conftest.py's.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import psutil
from killing import all_idle, check_books
from recordings import speech_packets
from reference import ReferenceDecoder, golden
from waiting import wait_until

import opuspool
from opuspool import config as configs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opuspool.streamformat import SampleType

Status: TypeAlias = dict[str, Any]

PACKETS = speech_packets(6.0, bitrate=6000)
"""Speech at so low a rate that a decoder which lost its state never comes right again."""

UTTERANCE = PACKETS[:50]

FORMATS: list[tuple[int, int, SampleType]] = [
    (16000, 1, "float32"),
    (48000, 2, "float32"),
    (16000, 1, "int16"),
]
"""One for each bystander."""

PACE_SECONDS = 0.005
"""A bystander's pause between packets: four times as fast as live speech."""

AFTERWARDS = 20
"""Packets that each bystander decodes after the fault."""

LOST_EVERY = 17
"""Each so many packets, a bystander has one concealed."""

SPARE_DESCRIPTORS = 8
"""Descriptors that the supervisor may have more at the end."""

PATIENCE_SECONDS = 10.0
"""No bystander's packet may take longer: a death, a hang and a busy machine are in it."""

BUSY_LOOKS = 10
"""A worker that is busy at so many looks in a row has more to do than a bystander's packet."""

GROWTH_BYTES = 64 * 1024 * 1024
"""Memory that the supervisor may have more at the end."""


Settings: TypeAlias = "Mapping[str, Mapping[str, object]]"
"""Values by section and key of config.toml."""


class Bystander(threading.Thread):
    """A live stream that must notice nothing but, at most, a pause.

    Attributes:
        calls: packets decoded.
        worst: the longest call, seconds.
        failure: the first call that did not return the right PCM.
    """

    def __init__(self, pool: opuspool.Pool, fmt: tuple[int, int, SampleType]) -> None:
        super().__init__(name=f"bystander {fmt}")
        self.calls = 0
        self.worst = 0.0
        self.failure: BaseException | None = None
        self._pool = pool
        self._format = fmt
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        """End after the packet in hand."""
        self._stop_asked.set()

    def run(self) -> None:
        """Speak, from the beginning again when all is said."""
        try:
            while not self._stop_asked.is_set():
                self._speak()
        except BaseException as error:  # noqa: BLE001  told by the test's thread
            self.failure = error

    def _speak(self) -> None:
        decoder = ReferenceDecoder(*self._format)
        with self._pool.stream(*self._format) as stream:
            for index, packet in enumerate(PACKETS):
                if self._stop_asked.wait(PACE_SECONDS):
                    return
                lost = index % LOST_EVERY == LOST_EVERY - 1
                right = decoder.lost(decoder.last_samples) if lost else decoder.decode(packet)
                began = time.monotonic()
                pcm = stream.decode(None if lost else packet)
                self.worst = max(self.worst, time.monotonic() - began)
                assert np.array_equal(pcm, right), f"{self.name}: packet {index} is not right"
                self.calls += 1


class Scene:
    """A running pool, its bystanders, and what it was like before the fault.

    Attributes:
        pool: the bystanders' client.
        supervisor: its supervisor's process.
    """

    def __init__(self, pool: opuspool.Pool, bystanders: int) -> None:
        self.pool = pool
        wait_until(lambda: all_idle(pool.status()), 60, what="all workers have started")
        self.supervisor = psutil.Process(pool.status()["supervisor"]["pid"])
        self.bystanders = [Bystander(pool, fmt) for fmt in FORMATS[:bystanders]]
        self.before: Status = {}
        self.resources = (0, 0)

    # What tests ask for

    def status(self) -> Status:
        """The supervisor's status."""
        return self.pool.status(timeout=30)

    def counters(self) -> dict[str, Any]:
        """Its counters."""
        return dict(self.status()["counters"])

    @property
    def endpoint(self) -> str:
        """Where other clients connect."""
        backend = self.pool._backend
        assert backend is not None
        assert backend.connection is not None
        return backend.connection._address.endpoint

    def restarts(self) -> Counter[str]:
        """Workers that have ended since the scene began, by reason; none with 0."""
        ended = Counter(self.counters()["worker_restarts"])
        ended.subtract(self.before["counters"]["worker_restarts"])
        return +ended

    def pid(self, slot: int = 0) -> int:
        """The pid of a slot's worker; spares come last. Waits until there is one."""
        pid: int = wait_until(lambda: self._slot(slot)["pid"], what=f"slot {slot} has a worker")
        return pid

    def idle_pid(self) -> int:
        """The pid of a worker that serves no stream."""
        pid = wait_until(self._find_idle, what="a worker without streams")
        assert pid is not None
        return pid

    def busy_pid(self) -> int:
        """The pid of a worker that is busy for longer than a bystander's packet takes."""
        return wait_until(self._find_busy, what="a worker has long work in hand")

    def growth(self) -> int:
        """How much more memory the supervisor has had at its peak than before the fault, bytes."""
        status = Path(f"/proc/{self.supervisor.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 - self.resources[1]

    def await_restarts(self, timeout: float = 60, **reasons: int) -> None:
        """Wait until at least so many workers have ended for these reasons."""
        wanted = Counter(reasons)
        wait_until(lambda: self.restarts() >= wanted, timeout, f"{wanted} restarts")

    def decodes(self) -> None:
        """An utterance comes out right."""
        assert np.array_equal(self.pool.decode(UTTERANCE), golden(UTTERANCE))

    # The frame around a test

    def begin(self) -> None:
        """Start the bystanders; note how things are."""
        for bystander in self.bystanders:
            bystander.start()
        self.decodes()
        self._let_them_speak()
        self.before = self.status()
        self.resources = self._resources()
        for bystander in self.bystanders:
            bystander.worst = 0.0

    def await_health(self) -> None:
        """After the fault: the bystanders go on, all workers are there again (P5)."""
        self._let_them_speak()
        wait_until(lambda: self._healed(self.status()), 60, what="healthy again")
        self.decodes()

    def end(self) -> Status:
        """Stop the bystanders; the status, once nothing is open and all are well (P5).

        There is such a moment even where workers are replaced again and again, by plan.
        """
        self.stop()
        status = wait_until(self._find_quiet, what="nothing is open, all are idle and well")
        assert status is not None
        return status

    def stop(self) -> None:
        """Stop the bystanders."""
        for bystander in self.bystanders:
            bystander.stop()
        for bystander in self.bystanders:
            if bystander.ident is not None:
                bystander.join(60)

    def check(
        self, status: Status, deaths: Mapping[str, int] | None, patience: float, growth: int
    ) -> None:
        """Check the other promises; `status` is of the end, `deaths` None: any."""
        for bystander in self.bystanders:
            assert bystander.failure is None, f"P1, P2: {bystander.failure!r}"
            assert bystander.worst < patience, f"P2: {bystander.name} waited {bystander.worst:.1f}"
        if deaths is not None:
            assert self.restarts() == Counter(deaths), "P4: other deaths than those injected"
        same = status["supervisor"]["pid"] == self.before["supervisor"]["pid"]
        assert same, "the supervisor has died"
        check_books(status)  # P8
        (fds, rss), (fds_before, rss_before) = self._resources(), self.resources
        assert fds <= fds_before + SPARE_DESCRIPTORS, "P7: descriptors"
        assert rss <= rss_before + growth, f"P7: {rss - rss_before >> 20} MiB more"

    # Insides

    def _slot(self, number: int) -> dict[str, Any]:
        status = self.status()
        return dict([*status["workers"], *status["spares"]][number])

    def _find_idle(self) -> int | None:
        workers = self.status()["workers"]
        pids = [w["pid"] for w in workers if not w["streams"] and w["state"] == "IDLE"]
        return pids[0] if pids else None

    def _find_busy(self) -> int:
        """0: there is none."""
        busy = self._busy()
        for _ in range(BUSY_LOOKS):
            busy &= self._busy()
        return next(iter(busy), 0)

    def _busy(self) -> set[int]:
        return {w["pid"] for w in self.status()["workers"] if w["state"] == "BUSY"}

    def _let_them_speak(self) -> None:
        before = [bystander.calls for bystander in self.bystanders]

        def spoken() -> bool:
            return all(
                b.failure or b.calls >= calls + AFTERWARDS
                for b, calls in zip(self.bystanders, before, strict=True)
            )

        wait_until(spoken, 60, what="every bystander goes on")

    def _healed(self, status: Status) -> bool:
        slots = [*status["workers"], *status["spares"]]
        return status["health"] == "ok" and all(s["state"] in {"IDLE", "BUSY"} for s in slots)

    def _find_quiet(self) -> Status | None:
        status = self.status()
        still = not status["queue_depth"] and not status["in_flight"]
        return status if still and all_idle(status) and status["health"] == "ok" else None

    def _resources(self) -> tuple[int, int]:
        """Descriptors and resident bytes of the supervisor."""
        return self.supervisor.num_fds(), self.supervisor.memory_info().rss


@contextmanager
def scene(
    endpoint: str | None = None,
    *,
    deaths: Mapping[str, int] | None,
    patience: float = PATIENCE_SECONDS,
    growth: int = GROWTH_BYTES,
    bystanders: int = len(FORMATS),
    settings: Settings | None = None,
) -> Iterator[Scene]:
    """A pool with bystanders; the fault is injected inside, the promises are checked at the end.

    Args:
        endpoint: a running daemon's; None: a pool with a supervisor of its own.
        deaths: workers that end meanwhile, by restart reason: exactly these; None: any.
        patience: seconds that a bystander's packet may take.
        growth: bytes of memory that the supervisor may have more at the end.
        bystanders: 0 where no stream can be spared.
        settings: by section and key, of a pool with a supervisor of its own.
    """
    config = configs.load(overrides=settings)
    with ExitStack() as stack:
        pool = stack.enter_context(opuspool.Pool(endpoint, config=config))
        here = Scene(pool, bystanders)
        stack.callback(here.stop)
        here.begin()
        yield here
        here.await_health()
        here.check(here.end(), deaths, patience, growth)
