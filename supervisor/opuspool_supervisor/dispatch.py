"""Dispatch: streams to slots, requests to leases, results to answers; pure.

Promises: a stream's requests run in the order in which they came; each is answered once, with its
outcome or by its deadline with an error; a request whose worker died goes back to the head of the
queue; only the packet that was being decoded is blamed.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from opuspool import ops, wire
from opuspool.errors import WireError
from opuspool.ops import POISON
from opuspool.streamformat import FORMATS, StreamFormat
from opuspool.wire import Action, Answer, Flag, Result, Status, Step
from opuspool_supervisor.journal import Journal, Trust
from opuspool_supervisor.quarantine import Quarantine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opuspool.config import Config
    from opuspool.recorder import Position
    from opuspool_supervisor.books import Books
    from opuspool_supervisor.slots import Slot

_OUTCOMES = {
    Status.TIMEOUT: "timeout",
    Status.OVERLOADED: "overloaded",
    Status.STREAM_CLOSED: "closed",
    Status.BOOT: "boot",
    Status.SHUTDOWN: "shutdown",
    Status.BAD_REQUEST: "bad_request",
}

BULK_SHARE = 4
"""Of a lease, at least one part in this many is for bulk requests, if any wait."""

FREE_KILLS = 4
"""Deaths within the period for which a client is not slowed down."""

KILL_PERIOD_SECONDS = 10.0
FIRST_PENALTY_SECONDS = 0.05
MAX_PENALTY_SECONDS = 1.0

RETRY_AFTER_SECONDS = 0.1
"""What an overloaded client is told to wait."""


class ResultsError(Exception):
    """A worker's results do not fit its lease."""


@dataclass(slots=True, eq=False)
class Client:
    """A connected client.

    Attributes:
        key: its address on the front socket.
        seen: monotonic time of its last sign of life.
        kills: monotonic times of the latest deaths that its packets have caused.
        penalty_until: until then, requests of its streams that kill are held back.
    """

    key: bytes
    seen: float
    streams: dict[int, Stream] = field(default_factory=dict)
    kills: deque[float] = field(default_factory=deque)
    penalty_until: float = 0.0


@dataclass(slots=True, eq=False)
class Stream:
    """One decoder state.

    Attributes:
        key: its number among all streams of this supervisor.
        resident: its decoder lives in its slot's present worker.
        unsaved: operations leased since the last checkpoint was asked for.
        pending: its requests that are not settled.
        closing: to be dropped when nothing is pending.
        deaths: workers that died decoding or rebuilding it since it last decoded anything.
        trust: how much of its journal the next rebuild uses.
        suspect: it has killed a worker, and decoded nothing since.
        held: its requests that are held back.
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
    suspect: bool = False
    held: int = 0


@dataclass(slots=True, eq=False)
class Request:
    """An accepted request until it is settled.

    Attributes:
        deadline: monotonic, seconds.
        blame: deaths by operation, where it has caused any.
        answered: its client has had its answer (by timeout; the packet may still be in hand).
        alone: it may be what killed a worker, now or with a delay: it gets a lease of its own.
    """

    id: int
    stream: Stream
    count: int
    blob: bytes
    deadline: float
    bulk: bool
    leased: bool = False
    answered: bool = False
    alone: bool = False
    blame: dict[int, float] | None = None

    @property
    def output_bytes(self) -> int:
        """PCM that it may come to, at most."""
        return self.count * self.stream.format.max_packet_pcm_bytes


@dataclass(slots=True)
class Lease:
    """Requests bound to a slot's worker until reply, exit or deadline.

    Attributes:
        steps: what the worker is to do.
        expects: of which steps a result must come, and for whom.
        canary: no client's, but a known packet.
        progress: the flight recorder's progress when last looked at.
        moved: monotonic time at which it last moved.
    """

    id: int
    moved: float
    steps: list[tuple[Step, bytes]] = field(default_factory=list)
    expects: list[tuple[int, Request | Stream]] = field(default_factory=list)
    canary: bool = False
    progress: int = -1

    def requests(self) -> list[Request]:
        """The requests in it, in their order."""
        return [what for _, what in self.expects if isinstance(what, Request)]

    def frames(self) -> wire.Frames:
        """The lease as it goes to the worker."""
        steps, payloads = zip(*self.steps, strict=True)
        return wire.pack(wire.Kind.LEASE, steps, payloads, self.id)


@dataclass(frozen=True, slots=True)
class Loss:
    """How a slot lost its worker.

    Attributes:
        now: monotonic, seconds.
        position: where its flight recorder says it was; None or lease 0: not decoding.
        weight: how surely the packet in hand, and not something outside, killed it (0 to 1).
        fresh: that lease was the worker's first.
    """

    now: float
    position: Position | None = None
    weight: float = 0.0
    fresh: bool = False


class Dispatcher:
    """Keeps clients, streams and requests.

    Attributes:
        answers: answers to send, by client; the owner takes them out.
        refusal: what every new request is told while no work can be done; None otherwise.
        queued, in_flight: unanswered requests that wait, or are leased.
    """

    def __init__(self, config: Config, slots: list[Slot], books: Books) -> None:
        self._config = config
        self._slots = slots
        self._books = books
        self._keys = count(1)
        self._lease_ids = count(1)
        self._queued_bytes = 0
        self._queued_output = 0
        self._held: list[tuple[float, Request]] = []
        self._lease_packets = config.requests.lease_packets
        self._checkpoint_packets = config.recovery.checkpoint_packets
        self._journal_packets = config.recovery.journal_packets
        self.clients: dict[bytes, Client] = {}
        self.unplaced: deque[Request] = deque()
        self.answers: dict[bytes, list[tuple[Answer, bytes]]] = defaultdict(list)
        self.quarantine = Quarantine(config.quarantine.packets, config.quarantine.ttl_seconds)
        self.refusal: tuple[Status, str] | None = None
        self.queued = 0
        self.in_flight = 0
        self.streams = 0

    # Requests come in

    def client(self, key: bytes, now: float) -> Client:
        """The client of an address, new or known; notes that it lives."""
        client = self.clients.get(key)
        if client is None:
            client = self.clients[key] = Client(key, now)
        client.seen = now
        return client

    def accept(self, key: bytes, message: wire.Message, now: float) -> None:
        """Take a client's requests; each is queued, or answered at once with why not."""
        client = self.client(key, now)
        for record, blob in zip(message.records, message.payloads(), strict=True):
            if record.flags & (Flag.RESTORE | Flag.REPLAY):
                self._hand_over(client, record, blob)
            elif record.ops:
                self._accept(client, record, blob, now)
            elif record.flags & Flag.CLOSE and (stream := client.streams.get(record.stream)):
                stream.closing = True
                self._drop_if_done(stream)

    def _accept(self, client: Client, record: wire.Request, blob: bytes, now: float) -> None:
        self._books.accepted += 1
        stream = client.streams.get(record.stream)
        refusal = None if stream else self._refuse_stream(record)
        refusal = refusal or self._refuse(record, blob, stream)
        if refusal is not None:
            status, message = refusal
            self._books.requests[_OUTCOMES[status]] += 1
            self.answers[client.key].append(_error_answer(record.id, status, message))
            return
        stream = stream or self._open(client, record)
        if len(self.quarantine):
            blob = self._sift(blob, record.ops, now)
        bulk = bool(record.flags & Flag.BULK)
        deadline = now + record.timeout_ms / 1000
        request = Request(record.id, stream, record.ops, blob, deadline, bulk)
        stream.pending += 1
        if record.flags & Flag.CLOSE:
            stream.closing = True
        self.queued += 1
        self._queued_bytes += len(blob)
        self._queued_output += request.output_bytes
        if stream.held or (stream.suspect and client.penalty_until > now):
            stream.held += 1
            self._held.append((client.penalty_until, request))
            self._books.held_requests += 1
        else:
            self._place(request)

    def _sift(self, blob: bytes, count: int, now: float) -> bytes:
        """Mark the packets of a request that are in quarantine."""
        for index, op in enumerate(ops.unpack(blob, count)):
            if self.quarantine.holds(op.packet, now):
                blob = ops.poisoned(blob, count, index)
                self._books.quarantine_hits += 1
        return blob

    def _hand_over(self, client: Client, record: wire.Request, blob: bytes) -> None:
        """Take over a stream that another supervisor had: its checkpoint, then its log."""
        stream = client.streams.get(record.stream)
        if record.flags & Flag.RESTORE:
            fits = record.format in FORMATS and self.streams < self._config.limits.streams
            if stream is None and fits:
                stream = self._open(client, record)
                stream.journal.checkpoint = blob or None
                self._books.streams_handed_over += 1
        elif stream is not None:
            try:
                ops.words_of(blob, record.ops)
            except WireError:
                self._books.protocol_errors += 1
                return
            stream.journal.settle(blob, record.ops, self._journal_packets)

    def _open(self, client: Client, record: wire.Request) -> Stream:
        stream = Stream(next(self._keys), client, record.stream, FORMATS[record.format])
        client.streams[record.stream] = stream
        self.streams += 1
        return stream

    def _refuse_stream(self, record: wire.Request) -> tuple[Status, str] | None:
        if not record.flags & Flag.OPEN:
            return Status.STREAM_CLOSED, "the supervisor does not know this stream (any more)"
        if record.format not in FORMATS:
            return Status.BAD_REQUEST, f"format {record.format} is not one of ours"
        if self.streams >= self._config.limits.streams:
            return Status.OVERLOADED, f"{self.streams} streams are open: close some"
        return None

    def _refuse(
        self, record: wire.Request, blob: bytes, stream: Stream | None
    ) -> tuple[Status, str] | None:
        if self.refusal is not None:
            return self.refusal
        if stream is not None and stream.format.code != record.format:
            return Status.BAD_REQUEST, "a stream's format cannot change"
        limits = self._config.limits
        if self.queued >= limits.queued_requests:
            return Status.OVERLOADED, f"{self.queued} requests are queued: send less, or later"
        if self._queued_bytes + len(blob) > limits.queued_bytes:
            return Status.OVERLOADED, f"{self._queued_bytes} bytes are queued: send less, or later"
        output = record.ops * FORMATS[record.format].max_packet_pcm_bytes
        if self._queued_output + output > limits.queued_output_bytes:
            return Status.OVERLOADED, "what is queued may decode to too much: send less, or later"
        try:
            ops.words_of(blob, record.ops)
        except WireError as error:
            return Status.BAD_REQUEST, str(error)
        return None

    # Requests go to slots

    def _place(self, request: Request) -> None:
        stream = request.stream
        slot = stream.slot
        if slot is None:
            slot = self._choose()
            if slot is None:
                self.unplaced.append(request)
                return
            self._bind(stream, slot)
        (slot.bulk if request.bulk else slot.live).append(request)
        slot.load += request.count

    def _choose(self) -> Slot | None:
        serving = [slot for slot in self._slots if slot.serving]
        if not serving:
            return None
        return min(serving, key=lambda slot: (slot.load, len(slot.streams)))

    def _bind(self, stream: Stream, slot: Slot) -> None:
        if stream.slot is not None:
            self._unbind(stream)
        stream.slot = slot
        slot.streams.add(stream)

    def _unbind(self, stream: Stream) -> None:
        slot = stream.slot
        if slot is None:
            return
        slot.streams.discard(stream)
        if stream.resident:
            slot.closes.append(stream.key)
        stream.slot = None
        stream.resident = False

    def release_held(self, now: float) -> None:
        """Place the requests that have been held back for long enough."""
        due = [request for until, request in self._held if until <= now]
        if due:
            self._held = [pair for pair in self._held if pair[0] > now]
            for request in due:
                request.stream.held -= 1
                self._place(request)

    def place_unplaced(self) -> None:
        """A slot has begun to serve: place what has waited for one."""
        waiting, self.unplaced = self.unplaced, deque()
        for request in waiting:
            self._place(request)

    def rebalance(self) -> None:
        """Move quiet streams from the slot with the most to the one with the fewest."""
        serving = [slot for slot in self._slots if slot.serving]
        if len(serving) < 2:
            return
        most = max(serving, key=lambda slot: len(slot.streams))
        least = min(serving, key=lambda slot: len(slot.streams))
        surplus = (len(most.streams) - len(least.streams)) // 2
        quiet = [stream for stream in most.streams if not stream.pending]
        for stream in quiet[:surplus]:
            self._bind(stream, least)
            self._books.streams_moved += 1

    # Leases

    def next_lease_id(self) -> int:
        """A number for a lease; no two have the same."""
        return next(self._lease_ids)

    def lease(self, slot: Slot, now: float) -> Lease | None:
        """Make the slot's next lease of what waits for it; None where nothing does."""
        lease = Lease(self.next_lease_id(), now)
        for key in slot.closes:
            lease.steps.append((Step(key, 0, 0, 0, Action.CLOSE), b""))
        slot.closes.clear()
        queues = [slot.live, slot.bulk]
        if slot.bulk and slot.bulk[0].alone:
            queues.reverse()
        room = self._fill(lease, slot, queues[0], self._lease_packets, now)
        if not any(request.alone for request in lease.requests()):
            room = max(room, self._lease_packets // BULK_SHARE)
            self._fill(lease, slot, queues[1], room, now)
        return lease if lease.steps else None

    def _fill(self, lease: Lease, slot: Slot, queue: deque[Request], room: int, now: float) -> int:
        steps = lease.steps
        while queue and room > 0:
            request = queue[0]
            if request.alone and lease.expects:
                break
            queue.popleft()
            if not request.answered and request.deadline <= now:
                self._time_out(request)
            if request.answered:
                slot.load -= request.count
                self._forget(request)
                continue
            stream = request.stream
            if not stream.resident:
                self._rebuild(stream, steps)
            step = Step(
                stream.key, len(request.blob), request.count, stream.format.code, Action.DECODE
            )
            lease.expects.append((len(steps), request))
            steps.append((step, request.blob))
            request.leased = True
            self.queued -= 1
            self.in_flight += 1
            room = 0 if request.alone else room - request.count
            stream.unsaved += request.count
            if 0 < self._checkpoint_packets <= stream.unsaved and not stream.closing:
                stream.unsaved = 0
                lease.expects.append((len(steps), stream))
                steps.append((Step(stream.key, 0, 0, 0, Action.CHECKPOINT), b""))
        return room

    def _rebuild(self, stream: Stream, steps: list[tuple[Step, bytes]]) -> None:
        journal = stream.journal
        steps += journal.rebuild(stream, stream.trust)
        stream.resident = True
        if stream.trust is not Trust.NOTHING:
            self._books.replayed_packets += journal.packets
        if stream.trust is not Trust.ALL or not journal.exact:
            self._books.inexact_rebuilds += 1

    # Results

    def settle(self, slot: Slot, lease: Lease, message: wire.Message) -> None:
        """Take a lease's results: answer, append to the journals, keep the checkpoints.

        Raises:
            ResultsError: they do not fit the lease; nothing of them has been used.
        """
        payloads = message.payloads()
        _check_results(lease, message.records, payloads)
        for (_, what), result, payload in zip(
            lease.expects, message.records, payloads, strict=True
        ):
            if isinstance(what, Stream):
                self._save(what, payload)
            else:
                slot.load -= what.count
                self._settle(what, result, payload)

    def _settle(self, request: Request, result: Result, payload: bytes) -> None:
        stream = request.stream
        outcome = "ok"
        decoded = request.count
        if result.status:
            results = ops.unpack_outcome(payload, request.count, stream.format.frame_bytes).results
            decoded = sum(n >= 0 for n in results)
            outcome = "poison" if POISON in results else "invalid"
        if decoded:
            stream.suspect = False
        if decoded and stream.deaths:
            stream.journal.commit(stream.trust)
            stream.deaths = 0
            stream.trust = Trust.ALL
        stream.journal.settle(request.blob, request.count, self._journal_packets)
        self._books.packets_decoded += decoded
        if not request.answered:
            self._finish(request, outcome)
            answer = Answer(request.id, len(payload), request.count, result.status)
            self.answers[stream.client.key].append((answer, payload))
        self._forget(request)

    def _save(self, stream: Stream, checkpoint: bytes) -> None:
        if checkpoint:
            stream.journal.save(checkpoint)
            self._books.checkpoints += 1
            copy = Answer(stream.id, len(checkpoint), 0, Status.CHECKPOINT)
            self.answers[stream.client.key].append((copy, checkpoint))

    # A worker is lost

    def lost(self, slot: Slot, loss: Loss) -> None:
        """Take back all that a dead worker had: blame one packet, move the rest.

        The stream of that packet goes first: its second attempt should have a worker to itself.
        """
        lease = slot.lease
        blamed: Stream | None = None
        requests: list[Request] = []
        if lease is not None:
            blamed = self._blame(lease, loss)
            requests = lease.requests()
            for request in requests:
                request.leased = False
                if not request.answered:
                    self.in_flight -= 1
                    self.queued += 1
                    self._books.retries += 1
        requests += [*slot.live, *slot.bulk]
        requests.sort(key=lambda request: request.stream is not blamed)  # stable
        slot.lease = None
        slot.live.clear()
        slot.bulk.clear()
        slot.closes.clear()
        slot.load = 0
        for stream in slot.streams:
            stream.slot = None
            stream.resident = False
            stream.unsaved = stream.journal.packets
            self._books.streams_moved += 1
        slot.streams.clear()
        self.unplaced.extendleft(reversed(requests))

    def replace_lost(self) -> None:
        """Place what `lost` took back: at the heads of their new slots' queues, in order."""
        heads: dict[Slot, list[Request]] = defaultdict(list)
        waiting, self.unplaced = self.unplaced, deque()
        for request in waiting:
            stream = request.stream
            slot = stream.slot or self._choose()
            if slot is None:
                self.unplaced.append(request)
                continue
            if stream.slot is None:
                self._bind(stream, slot)
            slot.load += request.count
            heads[slot].append(request)
        for slot, requests in heads.items():
            slot.live.extendleft([r for r in reversed(requests) if not r.bulk])
            slot.bulk.extendleft([r for r in reversed(requests) if r.bulk])

    def _blame(self, lease: Lease, loss: Loss) -> Stream | None:
        """Blame the operation that the flight recorder names; returns its stream."""
        position = loss.position
        if position is None or position.lease != lease.id or position.record >= len(lease.steps):
            return None
        if loss.weight == 1:
            for step, what in lease.expects:
                if isinstance(what, Request) and step <= position.record:
                    what.alone = True
        expected = dict(lease.expects).get(position.record)
        if isinstance(expected, Request):
            stream = expected.stream
            fatal = self._blame_operation(expected, position.op, loss)
        else:
            found = self._stream_of(lease, lease.steps[position.record][0].stream)
            if found is None:
                return None
            stream, fatal = found, False
        if loss.weight == 1:
            stream.deaths += 1
            stream.trust = _trust(stream, fatal=fatal)
            stream.suspect = True
            _punish(stream.client, loss.now)
        return stream

    def _blame_operation(self, request: Request, index: int, loss: Loss) -> bool:
        """Note a death of one operation; True where its attempts are used up by it."""
        if index >= request.count:
            return False
        blame = request.blame = request.blame or {}
        blame[index] = blame.get(index, 0.0) + loss.weight
        if blame[index] < self._config.requests.max_attempts:
            return False
        packet = ops.unpack(request.blob, request.count)[index].packet
        if loss.fresh:  # nothing else can have damaged that worker: other streams are warned
            self.quarantine.add(packet, loss.now)
        self._queued_bytes -= len(request.blob)
        request.blob = ops.poisoned(request.blob, request.count, index)
        self._queued_bytes += len(request.blob)
        self._books.poison_packets += 1
        return True

    def _stream_of(self, lease: Lease, key: int) -> Stream | None:
        for _, what in lease.expects:
            stream = what if isinstance(what, Stream) else what.stream
            if stream.key == key:
                return stream
        return None

    # Ends

    def expire(self, now: float) -> None:
        """Answer every request whose deadline has passed."""
        for request in self.open_requests():
            if not request.answered and request.deadline <= now:
                self._time_out(request)

    def fail_waiting(self, status: Status, message: str) -> None:
        """Answer every request that waits for a slot with an error."""
        waiting, self.unplaced = self.unplaced, deque()
        for request in waiting:
            self._fail(request, status, message)
            self._forget(request)

    def fail_all(self, status: Status, message: str) -> None:
        """Answer every open request with an error; the supervisor is about to end."""
        for request in self.open_requests():
            self._fail(request, status, message)

    def drop_client(self, key: bytes) -> None:
        """Forget a client that has gone: its streams, its requests, its answers."""
        client = self.clients.pop(key, None)
        if client is None:
            return
        gone = [r for r in self.open_requests() if r.stream.client is client and not r.answered]
        for request in gone:
            self._finish(request, "abandoned")
        for request in [r for r in self.unplaced if r.stream.client is client]:
            self.unplaced.remove(request)
            self._forget(request)
        for pair in [pair for pair in self._held if pair[1].stream.client is client]:
            self._held.remove(pair)
            self._forget(pair[1])
        for stream in list(client.streams.values()):
            stream.closing = True
            self._drop_if_done(stream)
        self.answers.pop(key, None)

    def open_requests(self) -> Iterable[Request]:
        """All requests that are not settled, wherever they are."""
        yield from list(self.unplaced)
        yield from [request for _, request in self._held]
        for slot in self._slots:
            yield from list(slot.live)
            yield from list(slot.bulk)
            if slot.lease is not None:
                yield from slot.lease.requests()

    def _time_out(self, request: Request) -> None:
        where = "being decoded" if request.leased else "queued"
        self._fail(request, Status.TIMEOUT, f"the deadline passed while the request was {where}")

    def _fail(self, request: Request, status: Status, message: str) -> None:
        if request.answered:
            return
        self._finish(request, _OUTCOMES[status])
        answer = _error_answer(request.id, status, message)
        self.answers[request.stream.client.key].append(answer)

    def _finish(self, request: Request, outcome: str) -> None:
        request.answered = True
        if request.leased:
            self.in_flight -= 1
        else:
            self.queued -= 1
        self._books.requests[outcome] += 1

    def _forget(self, request: Request) -> None:
        """The request is settled or will never run: its stream need not wait for it."""
        self._queued_bytes -= len(request.blob)
        self._queued_output -= request.output_bytes
        stream = request.stream
        stream.pending -= 1
        if stream.closing:
            self._drop_if_done(stream)

    def _drop_if_done(self, stream: Stream) -> None:
        if stream.pending > 0 or stream.client.streams.get(stream.id) is not stream:
            return
        self._unbind(stream)
        del stream.client.streams[stream.id]
        self.streams -= 1


def _punish(client: Client, now: float) -> None:
    """Note a death that a client's packet has caused; when they come thick, slow it down."""
    kills = client.kills
    kills.append(now)
    while kills[0] <= now - KILL_PERIOD_SECONDS:
        kills.popleft()
    if len(kills) > FREE_KILLS:
        seconds = FIRST_PENALTY_SECONDS * 2 ** min(len(kills) - FREE_KILLS, 10)
        client.penalty_until = now + min(seconds, MAX_PENALTY_SECONDS)


def _trust(stream: Stream, *, fatal: bool) -> Trust:
    """How much of the journal to use after one more death of a stream's worker.

    Where the packet in hand has used up its attempts, it is guilty and the journal is not.
    """
    if fatal or stream.deaths < 2:
        return Trust.ALL
    if stream.deaths == 2 and stream.journal.checkpoint is not None:
        return Trust.LOG
    return Trust.NOTHING


def _check_results(lease: Lease, results: list[Result], payloads: list[bytes]) -> None:
    if len(results) != len(lease.expects):
        raise ResultsError(f"{len(results)} results where {len(lease.expects)} are due")
    for (step, what), result, payload in zip(lease.expects, results, payloads, strict=True):
        if result.step != step:
            raise ResultsError(f"a result of step {result.step} where step {step} is due")
        if isinstance(what, Request):
            if result.ops != what.count or result.status > Status.FAILED_OPS:
                raise ResultsError(f"step {step}: not the outcome of {what.count} operations")
            fmt = what.stream.format
            try:
                ops.check_outcome(payload, what.count, fmt.frame_bytes, fmt.capacity)
            except WireError as error:
                raise ResultsError(str(error)) from None


def _error_answer(request_id: int, status: Status, message: str) -> tuple[Answer, bytes]:
    value: dict[str, object] = {"message": message}
    if status is Status.OVERLOADED:
        value["retry_after"] = RETRY_AFTER_SECONDS
    payload = wire.write_json(value)
    return Answer(request_id, len(payload), 0, status), payload
