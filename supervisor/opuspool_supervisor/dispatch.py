"""Dispatch: streams to slots, requests to leases, results to answers; pure.

Promises: a stream's requests run in the order in which they came; each is answered once, with its
outcome or by its deadline with an error; a request whose worker died goes back to the head of the
queue; only the packet that was being decoded is blamed.
"""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import count
from math import inf
from typing import TYPE_CHECKING

from opuspool import ops, wire
from opuspool.errors import RETRY_AFTER_SECONDS, WireError
from opuspool.ops import AS_INT16, POISON
from opuspool.streamformat import FORMATS
from opuspool.wire import Action, Answer, Flag, Status, Step
from opuspool_supervisor import results
from opuspool_supervisor.admission import Admission
from opuspool_supervisor.answers import Answers
from opuspool_supervisor.blame import Blame
from opuspool_supervisor.held import Held
from opuspool_supervisor.journal import Trust
from opuspool_supervisor.lending import Lending
from opuspool_supervisor.quarantine import Quarantine
from opuspool_supervisor.records import Client, Lease, Loss, Request, Stream
from opuspool_supervisor.retrybudget import RetryBudget

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opuspool.config import Config
    from opuspool.recorder import Position
    from opuspool_supervisor.books import Books
    from opuspool_supervisor.slots import Slot
    from opuspool_supervisor.timings import Timings

_OUTCOMES = {
    Status.TIMEOUT: "timeout",
    Status.OVERLOADED: "overloaded",
    Status.STREAM_CLOSED: "closed",
    Status.BOOT: "boot",
    Status.SHUTDOWN: "shutdown",
    Status.BAD_REQUEST: "bad_request",
}

# As plain numbers: they are used for every packet, and members of an IntEnum are slow.
_CLOSE, _BULK = int(Flag.CLOSE), int(Flag.BULK)
_RETRIED, _SUSPECT = int(Flag.RETRIED), int(Flag.SUSPECT)
_NO_REQUEST = int(Flag.RESTORE | Flag.REPLAY | Flag.TAKE)
_DECODE = int(Action.DECODE)

BULK_SHARE = 4
"""Of a lease, at least one part in this many is for bulk requests, if any wait."""

BULK_ALONE = 8
"""With no live request waiting, a lease has so many times more: its worker waits for the next."""

BULK_BESIDE = 4
"""So many times more while streams are lent: their packets wait until their worker's lease ends."""

_KEPT = ("deaths", "trust", "died_at", "gave_up", "suspect", "fatal", "gone")
"""What stays known of a stream that its client hands back."""

MAX_CLOSES = 4096
"""Decoders that one lease destroys, at most."""


class Dispatcher:
    """Keeps clients, streams and requests.

    Attributes:
        answers: answers to send, by client; the owner takes them out.
        admission: what waits, and why no more may.
        retries: how often what has killed a worker is run again.
        lending: streams whose clients send their packets to their workers themselves.
        came_back: a request that has killed a worker waits for a place.
        in_flight: unanswered requests that are leased.
    """

    def __init__(self, config: Config, slots: list[Slot], books: Books, timings: Timings) -> None:
        self._timings = timings
        self._config = config
        self._slots = slots
        self._books = books
        self._keys = count(1)
        self._lease_ids = count(1)
        self._held = Held()
        self._take_sizes(config)
        self.admission = Admission(config.limits)
        self.clients: dict[bytes, Client] = {}
        self.unplaced: deque[Request] = deque()
        self.answers: dict[bytes, Answers] = defaultdict(Answers)
        self.quarantine = Quarantine(config.quarantine.packets, config.quarantine.ttl_seconds)
        self._blame = Blame(config.requests.max_attempts, self.quarantine, books)
        self.retries = RetryBudget(config.requests, books)
        self.lending = Lending(config, self.answers, books)
        self.came_back = False
        self.in_flight = 0

    def reconfigure(self, config: Config, now: float) -> None:
        """Go by other settings from now on; what has been accepted stays accepted."""
        self._config = config
        self._take_sizes(config)
        self.admission.limits = config.limits
        self.quarantine.resize(config.quarantine.packets, config.quarantine.ttl_seconds)
        self._blame.reconfigure(config.requests.max_attempts)
        self.retries.reconfigure(config.requests, now)
        self.lending.reconfigure(config)

    def _take_sizes(self, config: Config) -> None:
        self._lease_packets = config.requests.lease_packets
        self._checkpoint_packets = config.recovery.checkpoint_packets
        self._journal_packets = config.recovery.journal_packets

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
        streams = client.streams
        plain = not len(self.quarantine) and self.admission.has_room_for(message)
        # Done for every packet: what nothing can be said against is queued at once.
        for row, blob in zip(message.rows, message.payloads(), strict=True):
            number, stream_id, timeout_ms, _, count, code, flags = row
            stream = streams.get(stream_id)
            if (
                plain
                and stream is not None
                and not flags
                and not stream.lent
                and count == 1
                and code == stream.format.code
                and ops.is_one(blob)
            ):
                self._books.accepted += 1
                self._queue(Request(number, stream, 1, blob, now + timeout_ms / 1000), now)
            else:
                self._take(client, row, blob, now)

    def _take(self, client: Client, row: wire.Row, blob: bytes, now: float) -> None:
        number, stream_id, count, flags = row[0], row[1], row[4], row[6]
        if flags & Flag.TAKE:
            self.lending.take(client, stream_id, number)
        elif flags & _NO_REQUEST:
            self._hand_over(client, wire.Request._make(row), blob)
        elif count:
            self._accept(client, row, blob, now)
        elif flags & _CLOSE and (stream := client.streams.get(stream_id)):
            stream.closing = True
            self._drop_if_done(stream)

    def _accept(self, client: Client, row: wire.Row, blob: bytes, now: float) -> None:
        self._books.accepted += 1
        number, stream_id, timeout_ms, _, count, code, flags = row
        stream = client.streams.get(stream_id)
        if stream is not None:
            refusal = self.admission.refuse(stream, code, count, blob)
        else:
            refusal = self.admission.refuse_new(row, blob)
        if refusal is not None:
            self._answer_refused(client, stream, row, refusal)
            return
        stream = stream or self._open(client, stream_id, code, bulk=bool(flags & _BULK))
        if flags & _CLOSE:
            stream.closing = True
        if len(self.quarantine):
            blob = self._sift(blob, count, now)
        request = Request(number, stream, count, blob, now + timeout_ms / 1000)
        request.alone = bool(flags & _SUSPECT)
        if flags & _RETRIED:
            self._came_back(request, now)
        else:
            self._queue(request, now)

    def _came_back(self, request: Request, now: float) -> None:
        """Take a request that a worker had in hand for its client."""
        stream = request.stream
        if stream.gone:
            self._books.retries += 1
            self._timings.came_back(request, stream.gone)
        guilty = self._blame.came_back(request)
        delayed = guilty and not self.retries.take(stream, now)
        self._queue(request, now, until=inf if delayed else 0.0)

    def _queue(self, request: Request, now: float, until: float = 0.0) -> None:
        stream = request.stream
        stream.handing_over = False
        stream.pending += 1
        self.admission.add(request)
        if stream.suspect:
            until = max(until, stream.client.penalty_until)
        if stream.held or until > now:
            self._held.add(request, until)
            self._books.held_requests += 1
        else:
            self._place(request)

    def _answer_refused(
        self, client: Client, stream: Stream | None, row: wire.Row, refusal: tuple[Status, str]
    ) -> None:
        status, message = refusal
        self._books.requests[_OUTCOMES[status]] += 1
        self.answers[client.key].add(*_error_answer(row[0], status, message))
        if stream is not None and row[6] & _CLOSE:
            stream.closing = True
            self._drop_if_done(stream)

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
            fits = record.format in FORMATS and self.admission.has_room_for_a_stream()
            if stream is not None and stream.lent:
                self._take_back(stream, record, blob)
            elif stream is None and fits:
                bulk = bool(record.flags & Flag.BULK)
                stream = self._open(client, record.stream, record.format, bulk=bulk)
                self._restore(stream, record, blob)
                self._books.streams_handed_over += 1
        elif stream is not None and stream.handing_over:
            try:
                ops.words_of(blob, record.ops)
            except WireError:
                self._books.protocol_errors += 1
                return
            stream.journal.settle(blob, record.ops, self._journal_packets)

    def _restore(self, stream: Stream, record: wire.Request, checkpoint: bytes) -> None:
        """Begin a stream's journal where its client says; its log follows."""
        stream.journal.checkpoint = checkpoint or None
        stream.journal.exact = not record.ops
        stream.handing_over = True

    def _take_back(self, stream: Stream, record: wire.Request, checkpoint: bytes) -> None:
        """Go on with a lent stream, by what its client says of it; its decoder is made anew.

        In a record of its own: of the old one a request may be in hand whose deadline has passed.
        """
        client, number, bulk = stream.client, stream.id, stream.bulk
        self.admission.streams -= 1
        back = self._open(client, number, stream.format.code, bulk=bulk)
        self._restore(back, record, checkpoint)
        for name in _KEPT:
            setattr(back, name, getattr(stream, name))
        stream.closing = True
        self._drop_if_done(stream)
        self._books.streams_returned += 1

    def _open(self, client: Client, stream_id: int, code: int, *, bulk: bool) -> Stream:
        stream = Stream(next(self._keys), client, stream_id, FORMATS[code], bulk=bulk)
        if self._checkpoint_packets and not bulk:
            # Streams that began together would all be saved together, again and again.
            stream.unsaved = stream.key % self._checkpoint_packets
        client.streams[stream_id] = stream
        self.admission.streams += 1
        return stream

    # Requests go to slots

    def _place(self, request: Request) -> None:
        stream = request.stream
        slot = stream.slot
        if slot is None:
            slot = self._choose(request)
            self.came_back |= request.blame is not None
            waits = self.came_back or any(other.stream is stream for other in self.unplaced)
            if slot is None or waits:
                self.unplaced.append(request)
                return
            self._bind(stream, slot)
        (slot.bulk if stream.bulk else slot.live).append(request)
        slot.load += request.count
        slot.suspects += request.blame is not None

    def _choose(self, request: Request) -> Slot | None:
        """Where a stream that has no slot goes: suspects together, and nobody else with them."""
        serving = [slot for slot in self._slots if slot.serving]
        if not serving:
            return None
        suspected = request.blame is not None
        return min(
            serving,
            key=lambda slot: ((slot.suspects > 0) is not suspected, slot.load, len(slot.streams)),
        )

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
        self.lending.forget(stream)

    def release_held(self, now: float) -> None:
        """Place the requests that have been held back for long enough."""
        for stream in self.retries.freed(now):
            self._held.set_until(stream, now)
        for request in self._held.take_due(now):
            self._place(request)

    def rebalance(self) -> None:
        """Move quiet streams from the slot with the most to the one with the fewest."""
        serving = [slot for slot in self._slots if slot.serving and not slot.suspects]
        if len(serving) < 2:
            return
        most = max(serving, key=lambda slot: len(slot.streams))
        least = min(serving, key=lambda slot: len(slot.streams))
        surplus = (len(most.streams) - len(least.streams)) // 2
        quiet = [s for s in most.streams if not s.pending and s.journal.exact]
        for stream in quiet[:surplus]:
            if stream.lent:
                self.lending.recall(stream)
                continue
            self._bind(stream, least)
            self._books.streams_moved += 1

    # Leases

    def next_lease_id(self) -> int:
        """A number for a lease; no two have the same."""
        return next(self._lease_ids)

    def lease(self, slot: Slot, now: float) -> Lease | None:
        """Make the slot's next lease of what waits for it; None where nothing does."""
        lease = Lease(self.next_lease_id(), now)
        if slot.closes:
            lease.add([(Step(key, 0, 0, 0, Action.CLOSE), b"") for key in slot.closes[:MAX_CLOSES]])
            del slot.closes[:MAX_CLOSES]
            if slot.closes:
                return lease
        queues = [slot.live, slot.bulk]
        if slot.bulk and slot.bulk[0].alone:
            queues.reverse()
        room = self._fill(lease, slot, queues[0], self._lease_packets, now)
        if not lease.isolated:
            self._fill(lease, slot, queues[1], max(room, self._bulk_room(lease), 1), now)
        return lease if lease.rows else None

    def _bulk_room(self, lease: Lease) -> int:
        """Packets of bulk requests for which a lease that may have live ones has room."""
        if lease.expects:
            return self._lease_packets // BULK_SHARE
        return self._lease_packets * (BULK_BESIDE if self.lending else BULK_ALONE)

    def _fill(self, lease: Lease, slot: Slot, queue: deque[Request], room: int, now: float) -> int:
        rows, payloads, expects = lease.rows, lease.payloads, lease.expects
        while queue and room > 0:
            request = queue[0]
            if expects and (request.alone or not _fits(lease, request)):
                break
            queue.popleft()
            if not request.answered and request.deadline <= now:
                self._time_out(request)
            if request.answered:
                slot.load -= request.count
                self._forget(request)
                continue
            stream = request.stream
            if len(self.quarantine):
                request.blob = self._sift(request.blob, request.count, now)
            if not stream.resident:
                self._rebuild(stream, lease)
            blob, count = request.blob, request.count
            expects.append((len(rows), request))
            rows.append((stream.key, len(blob), count, stream.format.code, _DECODE))
            payloads.append(blob)
            request.leased = True
            self.admission.queued -= 1
            self.in_flight += 1
            room = 0 if request.alone else room - count
            self.lending.offer(stream, slot, lease)
            stream.unsaved += count
            if 0 < self._checkpoint_packets <= stream.unsaved and not stream.closing:
                stream.unsaved = 0
                expects.append((len(rows), stream))
                lease.add([(Step(stream.key, 0, 0, 0, Action.CHECKPOINT), b"")])
        return room

    def _rebuild(self, stream: Stream, lease: Lease) -> None:
        journal = stream.journal
        lease.add(journal.rebuild(stream, stream.trust))
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
        rows, data = message.rows, message.data
        results.check(lease, rows, data)
        client: Client | None = None  # whose answers lie back to back from `start` on
        answers: list[wire.Row] = []
        start = at = 0
        for (_, what), (_, size, packets, status) in zip(lease.expects, rows, strict=True):
            end = at + size
            if isinstance(what, Request):
                slot.load -= packets
                answer = self._settle(what, status, size, data[at:end] if status else b"")
                stream = what.stream
            else:
                answer = self._save(what, data[at:end])
                stream = what
            to = stream.client if answer is not None else None
            if to is not client:
                self._answer(client, answers, data[start:at])
                client, answers, start = to, [], at
            if answer is not None:
                answers.append(answer)
            at = end
        self._answer(client, answers, data[start:])
        if slot.worker is not None and lease.offers:
            self.lending.settled(lease, slot.worker)

    def _answer(self, client: Client | None, answers: list[wire.Row], data: bytes) -> None:
        if client is not None:
            self.answers[client.key].extend(answers, data)

    def _settle(self, request: Request, status: int, size: int, failed: bytes) -> wire.Row | None:
        """Take a request's result, whose payload has so many bytes; returns its answer, if any.

        Args:
            request: the request.
            status: `wire.Status`.
            size: bytes of its outcome.
            failed: the outcome, where not all went well.
        """
        stream, blob, count = request.stream, request.blob, request.count
        books = self._books
        decoded, outcome = (count, "ok") if not status else _judge(request, failed)
        if decoded:
            stream.suspect = False
            if stream.deaths:
                self._recovered(stream)
        stream.journal.settle(blob, count, self._journal_packets)
        books.packets_decoded += decoded
        pcm_bytes = size - 4 * count  # behind a word an operation
        if blob[2] & AS_INT16 and stream.format.dtype == "float32":
            pcm_bytes *= 2  # as it would be in the stream's own type
        books.audio_seconds += pcm_bytes / stream.format.bytes_per_second
        if stream.fatal is not None and decoded and request.id > stream.fatal.request:
            stream.fatal = None  # that was not sent again
        wanted = not request.answered
        if wanted:
            self._finish(request, outcome)
        else:
            stream.unseen = True
            stream.unsaved = self._checkpoint_packets
        self._forget(request)
        return (request.id, size, count, status) if wanted else None

    def _recovered(self, stream: Stream) -> None:
        """A stream whose workers had died has decoded something."""
        stream.journal.commit(stream.trust)
        stream.deaths = 0
        stream.died_at = ()
        stream.gave_up = False
        stream.trust = Trust.ALL

    def _save(self, stream: Stream, checkpoint: bytes) -> wire.Row | None:
        """Keep a checkpoint; returns the copy for its client, if that still has the stream."""
        if not checkpoint:
            return None
        stream.journal.save(checkpoint)
        stream.unseen = False
        self._books.checkpoints += 1
        if stream.client.streams.get(stream.id) is not stream:
            return None
        return Answer(stream.id, len(checkpoint), 0, Status.CHECKPOINT)

    # A worker is lost

    def lost(self, slot: Slot, loss: Loss) -> None:
        """Take back all that a dead worker had: blame one packet, move the rest.

        The stream of that packet goes first: its second attempt should have a worker to itself.
        """
        lease = slot.lease
        blamed, retried = None, False
        requests: list[Request] = []
        if lease is not None:
            blamed, retried = self._blame.lay(lease, loss)
            requests = lease.requests()
            for request in requests:
                request.leased = False
                if not request.answered:
                    self.in_flight -= 1
                    self.admission.queued += 1
                    self._books.retries += 1
        lent = self.lending.in_hand(loss.position)
        if lent is not None and loss.position is not None:
            self._blame_by_lane(lent, loss.position, loss)
        requests += [*slot.live, *slot.bulk]
        requests.sort(key=lambda request: request.stream is not blamed)  # stable
        slot.lease = None
        slot.live.clear()
        slot.bulk.clear()
        slot.closes.clear()
        slot.load = slot.suspects = 0
        for stream in slot.streams:
            stream.slot = None
            stream.resident = False
            stream.unsaved = stream.journal.packets
            stream.gone = loss.now if loss.weight else 0.0
            self.lending.forget(stream)
            self._books.streams_moved += 1
        slot.streams.clear()
        if blamed is not None and retried and not self.retries.take(blamed, loss.now):
            self._held.put_back(blamed, [r for r in requests if r.stream is blamed])
            requests = [r for r in requests if r.stream is not blamed]
        self.unplaced.extendleft(reversed(requests))

    def _blame_by_lane(self, stream: Stream, position: Position, loss: Loss) -> None:
        """Blame what a worker was running for a client, also where that has sent it again."""
        open_ = [request for request in self.open_requests() if request.stream is stream]
        again = next((request for request in open_ if request.id == position.request), None)
        suspected = again is not None and again.blame is not None
        self._blame.lay_by_lane(stream, again, loss)
        if again is not None and again.blame is not None and not suspected and stream.slot:
            stream.slot.suspects += 1

    def replace_lost(self, *, another_comes: bool) -> None:
        """Place what `lost` took back: at the heads of their new slots' queues, in order.

        Args:
            another_comes: a slot that does not serve yet soon will; suspects wait for it rather
                than that all others wait for them.
        """
        self.came_back = False
        wait = another_comes and sum(slot.serving for slot in self._slots) == 1
        waiting_streams: set[int] = set()
        heads: dict[Slot, list[Request]] = defaultdict(list)
        waiting, self.unplaced = self.unplaced, deque()
        for request in waiting:
            stream = request.stream
            if wait and request.blame is not None and stream.slot is None:
                waiting_streams.add(stream.key)
            slot = stream.slot or self._choose(request)
            if slot is None or stream.key in waiting_streams:
                self.unplaced.append(request)
                continue
            if stream.slot is None:
                self._bind(stream, slot)
            slot.load += request.count
            slot.suspects += request.blame is not None
            heads[slot].append(request)
        for slot, requests in heads.items():
            slot.live.extendleft([r for r in reversed(requests) if not r.stream.bulk])
            slot.bulk.extendleft([r for r in reversed(requests) if r.stream.bulk])

    # Ends

    def expire(self, now: float) -> None:
        """Answer every request whose deadline has passed; forget those that wait."""
        for request in self.open_requests():
            if not request.answered and request.deadline <= now:
                self._time_out(request)
        self._forget_answered()

    def fail_waiting(self, status: Status, message: str) -> None:
        """Answer every request that waits for a slot with an error."""
        for request in (*self.unplaced, *self._held):
            self._fail(request, status, message)
        self._forget_answered()

    def fail_all(self, status: Status, message: str) -> None:
        """Answer every open request with an error; the supervisor is about to end."""
        for request in self.open_requests():
            self._fail(request, status, message)

    def drop_client(self, key: bytes) -> None:
        """Forget a client that has gone: its streams, its requests, its answers."""
        client = self.clients.pop(key, None)
        if client is None:
            return
        for request in self.open_requests():
            if request.stream.client is client and not request.answered:
                self._finish(request, "abandoned")
        streams = list(client.streams.values())
        client.streams.clear()
        self.admission.streams -= len(streams)
        for stream in streams:
            stream.closing = True
            self._drop_if_done(stream)
        self._forget_answered()
        self.answers.pop(key, None)

    def _forget_answered(self) -> None:
        """Take requests that have had their answer out of where they wait."""
        self.unplaced = self._without_answered(self.unplaced)
        for slot in self._slots:
            before = [*slot.live, *slot.bulk]
            slot.live = self._without_answered(slot.live)
            slot.bulk = self._without_answered(slot.bulk)
            kept = {id(request) for request in (*slot.live, *slot.bulk)}
            slot.load -= sum(request.count for request in before if id(request) not in kept)
        for request in self._held.take_answered():
            self._forget(request)

    def _without_answered(self, queue: deque[Request]) -> deque[Request]:
        answered = [request for request in queue if request.answered]
        if not answered:
            return queue
        for request in answered:
            self._forget(request)
        return deque(request for request in queue if not request.answered)

    def open_requests(self) -> Iterable[Request]:
        """All requests that are not settled, wherever they are."""
        yield from list(self.unplaced)
        yield from list(self._held)
        for slot in self._slots:
            yield from list(slot.live)
            yield from list(slot.bulk)
            if slot.lease is not None:
                yield from slot.lease.requests()

    def _time_out(self, request: Request) -> None:
        where = "being decoded" if request.leased else "queued"
        if not request.stream.lent:
            self.lending.forget(request.stream)
        self._fail(request, Status.TIMEOUT, f"the deadline passed while the request was {where}")

    def _fail(self, request: Request, status: Status, message: str) -> None:
        if request.answered:
            return
        self._finish(request, _OUTCOMES[status])
        answer = _error_answer(request.id, status, message)
        self.answers[request.stream.client.key].add(*answer)

    def _finish(self, request: Request, outcome: str) -> None:
        request.answered = True
        if request.leased:
            self.in_flight -= 1
        else:
            self.admission.queued -= 1
        self._books.requests[outcome] += 1

    def _forget(self, request: Request) -> None:
        """The request is settled or will never run: its stream need not wait for it."""
        self.admission.forget(request)
        stream = request.stream
        stream.pending -= 1
        if request.blame is not None and stream.slot is not None:
            stream.slot.suspects -= 1
        if stream.closing:
            self._drop_if_done(stream)

    def _drop_if_done(self, stream: Stream) -> None:
        if stream.pending > 0:
            return
        self._unbind(stream)
        if stream.client.streams.get(stream.id) is stream:
            del stream.client.streams[stream.id]
            self.admission.streams -= 1


def _fits(lease: Lease, request: Request) -> bool:
    """Whether a request, with the rebuild that it may need, fits into a lease's message."""
    if request.stream.resident:
        return len(lease.rows) + 3 <= wire.MAX_RECORDS
    journal = request.stream.journal
    size = sum(len(blob) for blob, _ in journal.entries) + len(journal.checkpoint or b"")
    size += sum(map(len, lease.payloads)) + len(request.blob)
    steps = len(lease.rows) + len(journal.entries) + 5
    return steps <= wire.MAX_RECORDS and size <= wire.MAX_DATA_BYTES


def _judge(request: Request, payload: bytes) -> tuple[int, str]:
    """Of a request that did not go well all through: operations that did, and how it has ended."""
    fmt = request.stream.format
    results = ops.unpack_outcome(payload, request.count, fmt.frame_bytes).results
    return sum(n >= 0 for n in results), "poison" if POISON in results else "invalid"


def _error_answer(request_id: int, status: Status, message: str) -> tuple[wire.Row, bytes]:
    value: dict[str, object] = {"message": message}
    if status is Status.OVERLOADED:
        value["retry_after"] = RETRY_AFTER_SECONDS
    payload = wire.write_json(value)
    return Answer(request_id, len(payload), 0, status), payload
