"""What the dispatcher keeps: clients, streams, requests, leases; pure data."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from opuspool import wire
from opuspool.wire import Step
from opuspool_supervisor.journal import Journal, Trust

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opuspool.recorder import Position
    from opuspool.streamformat import StreamFormat
    from opuspool.wire import Row
    from opuspool_supervisor.slots import Slot


@dataclass(slots=True, eq=False)
class Client:
    """A connected client.

    Attributes:
        key: its address on the front socket.
        seen: monotonic time of its last sign of life.
        kills: monotonic times of the latest deaths that its packets have caused.
        penalty_until: until then, requests of its streams that kill are held back.
        told: serial numbers of the workers that it has been told of.
        lanes: those of them that it reaches.
    """

    key: bytes
    seen: float
    streams: dict[int, Stream] = field(default_factory=dict)
    kills: deque[float] = field(default_factory=deque)
    penalty_until: float = 0.0
    told: set[int] = field(default_factory=set)
    lanes: set[int] = field(default_factory=set)


class Fatal(NamedTuple):
    """What a lent stream's worker was running for its client when it died.

    Attributes:
        request, op: the request's id, and the operation in it.
        weight: the blame (0 to 1).
    """

    request: int
    op: int
    weight: float


@dataclass(slots=True, eq=False)
class Stream:
    """One decoder state.

    Attributes:
        key: its number among all streams of this supervisor.
        resident: its decoder lives in its slot's present worker.
        unsaved: operations leased since the last checkpoint was asked for.
        pending: its requests that are not settled.
        closing: to be dropped when nothing is pending.
        deaths: workers that died at the same place of its work, since it last decoded anything.
        trust: how much of its journal the next rebuild uses.
        died_at: where in its work the last of them died.
        gave_up: a packet was given up at that death.
        suspect: it has killed a worker, and decoded nothing since.
        bulk: not live: may wait behind live streams; as its first request says.
        handing_over: its log is still coming from its client.
        held: its requests that are held back.
        held_until: monotonic; until when the last of them is; inf: it waits for the retry budget.
        token: under which it is offered to its client, where it is.
        lent: its client has taken it: that sends its packets to its worker, and has its journal.
        unseen: an operation was executed of which its client has been told that it was not.
        recalled: it is to be handed back.
        fatal: while lent, its worker died with this in hand.
        gone: monotonic time at which its last worker died; 0: it has not, or was replaced.
    """

    key: int
    client: Client
    id: int
    format: StreamFormat
    journal: Journal = field(default_factory=Journal)
    slot: Slot | None = None
    resident: bool = False
    unsaved: int = 0
    pending: int = 0
    closing: bool = False
    deaths: int = 0
    trust: Trust = Trust.ALL
    died_at: tuple[int, ...] = ()
    gave_up: bool = False
    suspect: bool = False
    bulk: bool = False
    handing_over: bool = False
    held: int = 0
    held_until: float = 0.0
    token: int = 0
    lent: bool = False
    unseen: bool = False
    recalled: bool = False
    fatal: Fatal | None = None
    gone: float = 0.0


@dataclass(slots=True, eq=False)
class Request:
    """An accepted request until it is settled.

    Attributes:
        deadline: monotonic, seconds.
        blame: deaths by operation, where it has caused any; not of operations given up since.
        answered: its client has had its answer (by timeout; the packet may still be in hand).
        size: bytes of its blob as it came, for the queue's limit.
        output_bytes: PCM that it may come to, at most.
        alone: it may be what killed a worker, now or with a delay: it gets a lease of its own.
        garbled: leases of its own that a worker answered with garbage.
    """

    id: int
    stream: Stream
    count: int
    blob: bytes
    deadline: float
    leased: bool = False
    answered: bool = False
    alone: bool = False
    garbled: int = 0
    blame: dict[int, float] | None = None
    size: int = field(init=False)
    output_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.blob)
        self.output_bytes = self.count * self.stream.format.max_packet_pcm_bytes

    def kind(self, index: int) -> int:
        """The kind of one of its operations."""
        return self.blob[4 * index + 3]


@dataclass(slots=True)
class Lease:
    """Requests bound to a slot's worker until reply, exit or deadline.

    Attributes:
        rows: what the worker is to do, each a `Step` without names.
        payloads: what belongs to each.
        expects: of which steps a result must come, and for whom.
        canary: no client's, but a known packet.
        offers: streams that its worker is told to lend, and their tokens.
        made: monotonic time at which it was made.
    """

    id: int
    made: float
    rows: list[Row] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    expects: list[tuple[int, Request | Stream]] = field(default_factory=list)
    canary: bool = False
    offers: list[tuple[Stream, int]] = field(default_factory=list)

    def add(self, steps: Iterable[tuple[Row, bytes]]) -> None:
        """Append steps, with or without names."""
        for row, payload in steps:
            self.rows.append(row)
            self.payloads.append(payload)

    @property
    def steps(self) -> list[tuple[Step, bytes]]:
        """Its steps, with names for their numbers; made anew: of a single one, ask `step`."""
        return list(zip(map(Step._make, self.rows), self.payloads, strict=True))

    def step(self, record: int) -> tuple[Step, bytes]:
        """One of its steps, and its payload."""
        return Step._make(self.rows[record]), self.payloads[record]

    def requests(self) -> list[Request]:
        """The requests in it, in their order."""
        return [what for _, what in self.expects if isinstance(what, Request)]

    @property
    def isolated(self) -> bool:
        """Whether it holds a request that must be alone; then it holds no other."""
        first = self.expects[0][1] if self.expects else None
        return isinstance(first, Request) and first.alone

    def frames(self) -> wire.Frames:
        """The lease as it goes to the worker."""
        return wire.pack(wire.Kind.LEASE, self.rows, self.payloads, self.id)


@dataclass(frozen=True, slots=True)
class Loss:
    """How a slot lost its worker.

    Attributes:
        now: monotonic, seconds.
        position: where its flight recorder says it was; None or lease 0: not decoding.
        weight: how surely the packet in hand, and not something outside, killed it (0 to 1).
        fresh: that lease was the worker's first.
        garbage: it was killed for what it sent, which its flight recorder does not explain.
    """

    now: float
    position: Position | None = None
    weight: float = 0.0
    fresh: bool = False
    garbage: bool = False
