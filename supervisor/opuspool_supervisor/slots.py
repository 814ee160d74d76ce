"""Slots: numbered places for workers, and the table of their states.

    BACKOFF ──SPAWNED──▶ STARTING ──READY──▶ IDLE ◀──SETTLED── BUSY
       ▲                    │                 │ └───LEASED───▶  │
       ├──────EXITED────────┴────────┬────────┴─────────────────┤
       │                             │                          │
       ├──PROMOTED──▶ IDLE           └─ DRAIN ─▶ DRAINING ◀─────┘
       ├──GAVE_UP──▶ FAILED ──SPAWNED──▶ STARTING (one probe)
       └──EMPTIED──▶ DRAINED ──RESUMED──▶ BACKOFF

A worker slot serves streams. A spare slot holds a warm worker, which a worker slot takes over
(PROMOTED) when its own has died. A slot that an operator has drained stays empty until it is
resumed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from opuspool.recorder import LaneCounts

if TYPE_CHECKING:
    from opuspool_supervisor.records import Lease, Request, Stream


class SlotState(StrEnum):
    """What a slot's worker is doing."""

    STARTING = "STARTING"
    IDLE = "IDLE"
    BUSY = "BUSY"
    DRAINING = "DRAINING"
    BACKOFF = "BACKOFF"
    FAILED = "FAILED"
    DRAINED = "DRAINED"


class SlotEvent(StrEnum):
    """What can happen to a slot."""

    SPAWNED = "SPAWNED"
    READY = "READY"
    LEASED = "LEASED"
    SETTLED = "SETTLED"
    DRAIN = "DRAIN"
    EXITED = "EXITED"
    PROMOTED = "PROMOTED"
    GAVE_UP = "GAVE_UP"
    EMPTIED = "EMPTIED"
    RESUMED = "RESUMED"


SERVING = frozenset({SlotState.IDLE, SlotState.BUSY})
"""States in which a slot takes requests."""

HOPELESS = 3
"""With this much in every slot, no worker can start."""

RECENT_PACKETS = 16
"""So many of the packets that a worker has decoded are known: damage may show late."""

VACANT = frozenset({SlotState.BACKOFF, SlotState.FAILED})
"""States in which a slot waits for its next process."""

EMPTY = VACANT | {SlotState.DRAINED}
"""States in which a slot has no process."""

TABLE: dict[tuple[SlotState, SlotEvent], SlotState] = {
    (SlotState.BACKOFF, SlotEvent.SPAWNED): SlotState.STARTING,
    (SlotState.BACKOFF, SlotEvent.PROMOTED): SlotState.IDLE,
    (SlotState.BACKOFF, SlotEvent.GAVE_UP): SlotState.FAILED,
    (SlotState.BACKOFF, SlotEvent.EMPTIED): SlotState.DRAINED,
    (SlotState.FAILED, SlotEvent.SPAWNED): SlotState.STARTING,
    (SlotState.FAILED, SlotEvent.PROMOTED): SlotState.IDLE,
    (SlotState.FAILED, SlotEvent.EMPTIED): SlotState.DRAINED,
    (SlotState.DRAINED, SlotEvent.RESUMED): SlotState.BACKOFF,
    (SlotState.STARTING, SlotEvent.READY): SlotState.IDLE,
    (SlotState.STARTING, SlotEvent.DRAIN): SlotState.DRAINING,
    (SlotState.STARTING, SlotEvent.EXITED): SlotState.BACKOFF,
    (SlotState.IDLE, SlotEvent.LEASED): SlotState.BUSY,
    (SlotState.IDLE, SlotEvent.DRAIN): SlotState.DRAINING,
    (SlotState.IDLE, SlotEvent.EXITED): SlotState.BACKOFF,
    (SlotState.BUSY, SlotEvent.SETTLED): SlotState.IDLE,
    (SlotState.BUSY, SlotEvent.DRAIN): SlotState.DRAINING,
    (SlotState.BUSY, SlotEvent.EXITED): SlotState.BACKOFF,
    (SlotState.DRAINING, SlotEvent.READY): SlotState.DRAINING,
    (SlotState.DRAINING, SlotEvent.SETTLED): SlotState.DRAINING,
    (SlotState.DRAINING, SlotEvent.EXITED): SlotState.BACKOFF,
}
"""Every arrow there is; anything else is a bug and raises."""


@dataclass(slots=True)
class Watch:
    """Whether a busy worker moves, by its flight recorder.

    Attributes:
        moved: monotonic time at which it last moved.
        progress: what it had in hand, and how far it had counted, when last looked at.
        waited: seconds it had waited for a processor when it was first seen standing still.
    """

    moved: float
    progress: tuple[int, int] = (0, -1)
    waited: float | None = None


@dataclass(slots=True)
class Worker:
    """One process, as the pure core knows it.

    Attributes:
        serial: number of the process; no two of a supervisor's have the same.
        pid: its process id.
        started: monotonic time of its spawn, seconds.
        ready: monotonic time of its READY; None before.
        info: what it said of itself at READY.
        settled: leases it has settled.
        served: requests in them.
        packets: operations in them.
        recent: its last requests, as (blob, number of operations).
        proved: monotonic time of its last real decode.
        rss_bytes: its memory when last measured.
        recycle: the restart reason, where it is to be replaced when it is idle.
        killed_for: the restart reason, where the supervisor itself killed it.
        babbled: it was killed because it sent what cannot be.
        tainted: it has run what may have killed another with a delay, and no canary since.
        lane: where clients may connect to it; empty: they may not.
        by_lane: what it had done for clients by lanes when last looked at.
        watch: whether it moves.
    """

    serial: int
    pid: int
    started: float
    ready: float | None = None
    info: dict[str, Any] = field(default_factory=dict)
    settled: int = 0
    served: int = 0
    packets: int = 0
    recent: deque[tuple[bytes, int]] = field(default_factory=lambda: deque(maxlen=RECENT_PACKETS))
    proved: float = 0.0
    rss_bytes: int = 0
    recycle: str | None = None
    killed_for: str | None = None
    babbled: bool = False
    tainted: bool = False
    lane: str = ""
    by_lane: LaneCounts = field(default_factory=LaneCounts)
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(self.started)


@dataclass(slots=True, eq=False)
class Slot:
    """One slot.

    Attributes:
        number: its number; worker slots come first, spare slots behind them.
        spare: a spare slot; it serves no streams.
        generation: how many processes it has had.
        restarts: how many of them have ended.
        due: monotonic time of the next spawn, while BACKOFF or FAILED.
        lease: what its worker has in hand, while BUSY.
        live, bulk: requests that wait for it; live ones go first.
        load: packets that wait or are in hand.
        suspects: requests among them that have been blamed for a death.
        streams: the streams whose decoder lives here, or will.
        closes: keys of streams whose decoder its worker should destroy.
        deaths: monotonic times of the latest ends, for the restart intensity.
        boot_failures: exits before READY in a row.
        hopeless: how little hope there is that its worker can start: an exit of its own accord
            before READY counts `HOPELESS`, one by a signal 1; 0 again when one is READY.
        fruitless: exits after READY, but before any work was done, in a row.
        leaving: the settings have no place for it any more; it goes with its worker.
        drain: an operator wants it empty: it takes nothing new, and gets no next worker.
    """

    number: int
    spare: bool
    state: SlotState = SlotState.BACKOFF
    generation: int = 0
    restarts: int = 0
    due: float = 0.0
    worker: Worker | None = None
    lease: Lease | None = None
    live: deque[Request] = field(default_factory=deque)
    bulk: deque[Request] = field(default_factory=deque)
    load: int = 0
    suspects: int = 0
    streams: set[Stream] = field(default_factory=set)
    closes: list[int] = field(default_factory=list)
    deaths: deque[float] = field(default_factory=deque)
    boot_failures: int = 0
    hopeless: int = 0
    fruitless: int = 0
    leaving: bool = False
    drain: bool = False

    def advance(self, event: SlotEvent) -> None:
        """Follow the table.

        Raises:
            RuntimeError: the table has no such arrow.
        """
        try:
            self.state = TABLE[self.state, event]
        except KeyError:
            raise RuntimeError(
                f"slot {self.number} (generation {self.generation}): {event} while {self.state}"
            ) from None

    @property
    def serving(self) -> bool:
        """Whether streams may be placed here."""
        unwanted = self.spare or self.doomed or self.leaving or self.drain
        return self.state in SERVING and not unwanted

    @property
    def doomed(self) -> bool:
        """Whether its worker is being killed: what it still says does not count."""
        return self.worker is not None and self.worker.killed_for is not None

    def set_leaving(self, *, leaving: bool) -> None:
        """Note whether the slot is to go; its worker leaves with it, or stays after all."""
        self.leaving = leaving
        if leaving or self.drain:
            self.let_go()
        elif self.worker and not self.doomed and self.worker.recycle == "exit":
            self.worker.recycle = None

    def let_go(self) -> None:
        """Have the worker leave when it is idle."""
        worker = self.worker
        if worker is not None and not self.doomed and worker.recycle is None:
            worker.recycle = "exit"
