"""The autopsy: what a dead worker was doing, from its lease and its flight recorder; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from opuspool import ops, toc
from opuspool.digests import digest
from opuspool.streamformat import FORMATS
from opuspool.wire import Action
from opuspool_supervisor.journal import Trust
from opuspool_supervisor.records import Request
from opuspool_supervisor.slots import RECENT_PACKETS

if TYPE_CHECKING:
    from opuspool.ops import Op
    from opuspool.recorder import Position
    from opuspool.streamformat import StreamFormat
    from opuspool.wire import Step
    from opuspool_supervisor.death import Death
    from opuspool_supervisor.records import Lease, Stream
    from opuspool_supervisor.slots import Slot, Worker

Phase = Literal["boot", "idle", "decoding", "rebuilding"]

LARGE_BYTES = 64 * 1024
"""Of a settled request that is larger, only the last packets are kept."""

_DECODE = int(Action.DECODE)
_KINDS = frozenset(map(int, ops.OpKind))
_RUNNING = frozenset({int(Action.REPLAY), int(Action.DECODE)})
_REBUILDING = frozenset({int(Action.OPEN), int(Action.RESTORE), int(Action.REPLAY)})


@dataclass(frozen=True, slots=True)
class History:
    """What makes a decoder of the state in which it met the packet.

    Attributes:
        checkpoint: the decoder's state, to begin with; None: a fresh decoder.
        journal: operations to run then, as (blob, number of operations).
        exact: whether the two give that state bit for bit.
    """

    checkpoint: bytes | None
    journal: list[tuple[bytes, int]]
    exact: bool


@dataclass(frozen=True, slots=True)
class InHand:
    """The operation that a worker was running when it died.

    Attributes:
        attempts: its blame, this death included; below 1: only deaths by SIGKILL.
        history: None where its stream is gone.
    """

    op: Op
    attempts: float
    history: History | None

    @property
    def toc(self) -> str | None:
        """What its packet says of itself; None where it has none."""
        return toc.words(self.op.packet) if self.op.packet else None

    @property
    def digest(self) -> str | None:
        """Its packet's digest, hexadecimal; None where it has none."""
        return digest(self.op.packet).hex() if self.op.packet else None


@dataclass(frozen=True, slots=True)
class Autopsy:
    """What is known of a death, apart from its cause.

    Attributes:
        age_seconds: from the worker's spawn to its death.
        leases_settled, packets_served: what it had done; a batch by a lane counts as a lease.
        info: what it said of itself at READY; empty: it never got there.
        killed_for: the restart reason, where the supervisor itself ended it.
        phase: what it was doing.
        format: PCM format of the stream in hand; None while booting or idle.
        client: address of that stream's client; None where none was in hand, or it is gone.
        stream: that stream's number within its client.
        in_hand: the operation in hand; None: none was.
        suspects: digests of the packets that ran last before it, hexadecimal, the newest last;
            with none in hand, those of a lease whose results never came count as run.
    """

    slot: int
    generation: int
    pid: int | None
    age_seconds: float
    leases_settled: int
    packets_served: int
    phase: Phase
    info: dict[str, Any] = field(default_factory=dict)
    killed_for: str | None = None
    format: StreamFormat | None = None
    client: str | None = None
    stream: int | None = None
    in_hand: InHand | None = None
    suspects: tuple[str, ...] = ()


class _Place(NamedTuple):
    """Where in a lease a worker was: the step, and the operation in it."""

    record: int
    op: int


def remember(worker: Worker, lease: Lease) -> None:
    """Note what a worker has decoded in a lease that is settled; as cheap as can be."""
    rows = lease.rows
    worker.packets += sum([count for _, _, count, _, action in rows if action == _DECODE])
    last = zip(rows[-RECENT_PACKETS:], lease.payloads[-RECENT_PACKETS:], strict=True)
    for (_, length, count, _, action), payload in last:
        if action == _DECODE:
            large = length > LARGE_BYTES
            worker.recent.append(_tail(payload, count) if large else (payload, count))


def _tail(payload: bytes, count: int) -> tuple[bytes, int]:
    """The last packets of a request, so that the rest need not be kept."""
    packets = ops.last_packets(payload, count, RECENT_PACKETS)
    return ops.pack([ops.Op(ops.OpKind.PACKET, packet) for packet in packets]), len(packets)


def examine(
    slot: Slot, worker: Worker, death: Death, lent: Stream | None, *, weight: float, now: float
) -> Autopsy:
    """Find out what a worker was doing; to be called before its lease is taken back.

    Args:
        slot: the dead worker's slot.
        worker: the dead worker.
        death: how it ended.
        lent: the stream that it was decoding for its client, if it was.
        weight: the blame for this death (0 to 1).
        now: monotonic, seconds.
    """
    lease, position = slot.lease, death.position
    if lent is not None and position is not None:
        at = _by_lane(worker, death, lent, position, weight)
    else:
        at = _by_lease(worker, death, lease, _place(lease, position), weight)
    return Autopsy(
        slot=slot.number,
        generation=slot.generation,
        pid=worker.pid or None,
        age_seconds=now - worker.started,
        leases_settled=worker.settled + worker.by_lane.batches,
        packets_served=worker.packets,
        info=worker.info,
        killed_for=worker.killed_for,
        phase=at.phase,
        format=at.format,
        client=at.stream.client.key.hex() if at.stream else None,
        stream=at.stream.id if at.stream else None,
        in_hand=at.in_hand,
        suspects=at.suspects,
    )


class _At(NamedTuple):
    """What a worker was at when it died, as in `Autopsy`."""

    phase: Phase
    format: StreamFormat | None
    stream: Stream | None
    in_hand: InHand | None
    suspects: tuple[str, ...]


def _by_lease(
    worker: Worker, death: Death, lease: Lease | None, place: _Place | None, weight: float
) -> _At:
    """What it was at for its supervisor, if at anything."""
    phase = _phase(worker, lease, place)
    suspects = _ran_last(worker, death.kept, lease, place)
    if lease is None or place is None:
        return _At(phase, None, None, None, suspects)
    stream = _stream(lease, lease.step(place.record)[0].stream)
    in_hand = _in_hand(lease, place, stream, weight)
    return _At(phase, _format(lease, place, stream), stream, in_hand, suspects)


def _by_lane(
    worker: Worker, death: Death, stream: Stream, position: Position, weight: float
) -> _At:
    """What it was at for a client, whose journal is not here."""
    op, before = _op_by_lane(position, death.kept)
    in_hand = InHand(op, weight, None) if op is not None else None
    return _At("decoding", stream.format, stream, in_hand, _ran_last(worker, before))


def _op_by_lane(
    position: Position, kept: tuple[bytes | None, ...]
) -> tuple[Op | None, tuple[bytes | None, ...]]:
    """The operation in hand, and what was kept before it."""
    kind, size = position.word >> 24, position.word & 0xFFFF
    if kind not in _KINDS:
        return None, kept
    packet = kept[-1] if size and kept else b""
    if packet is None or len(packet) != size:  # too long to be kept, or the recorder is damaged
        return None, kept[:-1]
    op = ops.Op(ops.OpKind(kind), packet, position.word >> 16 & 0xFF)
    return op, kept[:-1] if size else kept


def _place(lease: Lease | None, position: Position | None) -> _Place | None:
    # The recorder is memory of a process that may have gone wild: nothing in it is trusted.
    if lease is None or position is None or position.lease != lease.id:
        return None
    if position.record >= len(lease.rows):
        return None
    return _Place(position.record, position.op)


def _phase(worker: Worker, lease: Lease | None, place: _Place | None) -> Phase:
    if worker.ready is None:
        return "boot"
    if lease is None or place is None:
        return "idle"
    step, _ = lease.step(place.record)
    return "rebuilding" if step.action in _REBUILDING else "decoding"


def _format(lease: Lease, place: _Place, stream: Stream | None) -> StreamFormat | None:
    step, _ = lease.step(place.record)
    if step.action in _REBUILDING or step.action == Action.DECODE:
        return FORMATS.get(step.format)
    return stream.format if stream else None  # other steps carry no format


def _stream(lease: Lease, key: int) -> Stream | None:
    for _, what in lease.expects:
        stream = what.stream if isinstance(what, Request) else what
        if stream.key == key:
            return stream
    return None


def _in_hand(lease: Lease, place: _Place, stream: Stream | None, weight: float) -> InHand | None:
    step, payload = lease.step(place.record)
    if step.action not in _RUNNING or place.op >= step.ops:
        return None
    return InHand(
        ops.unpack(payload, step.ops)[place.op],
        _blame(lease, place) + weight,
        _history(lease, place, stream) if stream else None,
    )


def _blame(lease: Lease, place: _Place) -> float:
    request = dict(lease.expects).get(place.record)
    if not isinstance(request, Request) or request.blame is None:
        return 0.0
    return request.blame.get(place.op, 0.0)


def _history(lease: Lease, place: _Place, stream: Stream) -> History:
    """What the stream's decoder had been through before the operation in hand."""
    checkpoint, journal = _settled(stream)
    for step, payload in lease.steps[: place.record]:
        if step.stream != stream.key:
            continue
        if step.action in {Action.OPEN, Action.RESTORE}:
            checkpoint, journal = payload or None, []
        elif step.action in _RUNNING:
            journal.append((payload, step.ops))
    journal += _ran_in(*lease.step(place.record), place.op)
    return History(checkpoint, journal, stream.journal.exact and stream.trust is Trust.ALL)


def _settled(stream: Stream) -> tuple[bytes | None, list[tuple[bytes, int]]]:
    """What a decoder that lives on since an earlier lease was made of."""
    journal = stream.journal
    checkpoint = journal.checkpoint if stream.trust is Trust.ALL else None
    return checkpoint, [] if stream.trust is Trust.NOTHING else list(journal.entries)


def _ran_last(
    worker: Worker,
    kept: tuple[bytes | None, ...],
    lease: Lease | None = None,
    place: _Place | None = None,
) -> tuple[str, ...]:
    """Digests of the packets that ran last: in leases before, by lanes, in this lease."""
    now: list[tuple[bytes, int]] = []
    if lease is not None and not lease.canary:
        steps = lease.steps if place is None else lease.steps[: place.record]
        now += [(payload, step.ops) for step, payload in steps if step.action in _RUNNING]
        if place is not None:
            now += _ran_in(*lease.step(place.record), place.op)
    by_lane = [packet for packet in kept if packet]
    packets = [*_packets(list(worker.recent)), *by_lane, *_packets(now)]
    return tuple([digest(packet).hex() for packet in packets[-RECENT_PACKETS:]])


def _packets(ran: list[tuple[bytes, int]]) -> list[bytes]:
    """The last packets of operations that ran."""
    packets: list[bytes] = []
    for blob, count in reversed(ran):
        packets = ops.last_packets(blob, count, RECENT_PACKETS) + packets
        if len(packets) >= RECENT_PACKETS:
            break
    return packets


def _ran_in(step: Step, payload: bytes, op: int) -> list[tuple[bytes, int]]:
    """Those operations of a step that had run, as a blob."""
    done = ops.unpack(payload, step.ops)[:op] if step.action in _RUNNING else []
    return [(ops.pack(done), len(done))] if done else []
