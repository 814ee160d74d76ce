"""A world around `Core`: model workers that really run leases, clients that remember all they sent.

The toy decoder's state is a hash of every operation it has ever run, and its PCM is that state: a
lost, doubled or swapped operation, or a wrong recovery, shows in all that comes after it. The
world holds what it sees against a reference decoder of each stream, and recounts the books,
after every turn.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from hashlib import blake2b
from random import Random
from typing import TYPE_CHECKING

from opuspool_supervisor import canary
from opuspool_supervisor.core import SWEEP_SECONDS, Core
from opuspool_supervisor.death import Death
from opuspool_supervisor.instructions import (
    Kill,
    Report,
    Retire,
    SendLease,
    Spawn,
    Tell,
)
from opuspool_supervisor.journal import Trust
from opuspool_supervisor.slots import HOPELESS

from opuspool import config, knownpacket, ops, wire
from opuspool.ops import INVALID_PACKET, POISON, Op, OpKind
from opuspool.recorder import Position
from opuspool.streamformat import StreamFormat
from opuspool.wire import Action, Flag, Kind, Status, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opuspool_supervisor.answers import Answers
    from opuspool_supervisor.instructions import Instruction
    from opuspool_supervisor.records import Lease, Request, Stream
    from opuspool_supervisor.slots import Slot

FORMAT = StreamFormat(16000, 1, "float32")
FRESH = b"\0" * 8
SAMPLES = len(FRESH) // FORMAT.frame_bytes

KILLER = b"kill"
"""A packet that begins like this kills its worker whenever it is run."""

OUTSIDE = b"oom"
"""A packet that begins like this has its worker killed from outside whenever it is run."""

HANG = b"hang"
"""A packet that begins like this never ends."""

BAD = b"bad"
"""A packet that begins like this is refused and leaves the decoder as it was."""

SMASHING = b"smash"
"""A packet that begins like this is decoded, and whatever its decoder decodes next kills."""

DAMAGED = b"damaged"
"""A checkpoint that kills whoever restores it."""

LONGEST_STEP = 1.0
"""Seconds; the supervisor's loop never sleeps for longer."""


def packet(data: bytes) -> Op:
    """A packet to decode."""
    return Op(OpKind.PACKET, data)


def packets(text: str) -> list[Op]:
    """Packets of one letter each."""
    return [packet(letter.encode()) for letter in text]


class MisuseError(AssertionError):
    """The core asked of a worker what cannot be."""


class FatalError(Exception):
    """The worker dies of what it is doing."""


class EndlessError(Exception):
    """The worker never comes back from what it is doing."""


@dataclass
class ToyDecoder:
    """A decoder whose state remembers everything, in order."""

    state: bytes = FRESH
    smashed: bool = False

    def run(self, op: Op) -> tuple[int, bytes]:
        """Samples or a code, and the PCM."""
        if op.kind is OpKind.POISONED:
            return POISON, b""
        if op.packet.startswith(BAD):
            return INVALID_PACKET, b""
        self.smashed = self.smashed or op.packet.startswith(SMASHING)
        self.state = blake2b(self.state + bytes([op.kind]) + op.packet, digest_size=8).digest()
        return SAMPLES, self.state

    def dies_of(self, op: Op) -> bool:
        """Whether to decode this kills, because of what was decoded before."""
        return self.smashed and op.kind is not OpKind.POISONED

    def outcome(self, operations: list[Op]) -> tuple[Status, bytes]:
        """What a worker answers to these operations."""
        results, pcm = zip(*map(self.run, operations), strict=True)
        status = Status.OK if min(results) >= 0 else Status.FAILED_OPS
        return status, struct.pack(f"<{len(results)}i", *results) + b"".join(pcm)


class ModelWorker:
    """Runs leases on toy decoders, and raises `MisuseError` where a lease cannot be run.

    Attributes:
        decoders: by stream key.
        lease: what it has been given and has not answered.
        reply: the results, before they are delivered.
        position: what its flight recorder says.
        damages: its checkpoints kill whoever restores them.
        saves: it can make checkpoints.
        leaves: it has been asked to leave.
        waited: seconds it has waited for a processor.
        unseen: its lease is still on its way to it, or the results are on their way back.
    """

    def __init__(self, serial: int, *, saves: bool = True) -> None:
        self.serial = serial
        self.saves = saves
        self.damages = False
        self.ready = False
        self.hung = False
        self.waited = 0.0
        self.unseen = False
        self.leaves = False
        self.decoders: dict[int, ToyDecoder] = {}
        self.lease: wire.Message | None = None
        self.reply: wire.Frames | None = None
        self.position = Position(0, 0, 0, 0)

    def __repr__(self) -> str:
        return f"worker {self.serial}"

    @property
    def can_run(self) -> bool:
        """It has a lease that it has not run."""
        return self.lease is not None and self.reply is None and not self.hung

    def take(self, frames: wire.Frames) -> None:
        """A lease arrives."""
        if not self.ready or self.lease is not None:
            raise MisuseError(f"{self} is not idle, and gets a lease")
        self.lease = wire.parse(frames)

    def run(self) -> None:
        """Run the lease; its results are then in `reply`.

        Raises:
            FatalError, EndlessError: as its operations want it; `position` says where.
            MisuseError: the lease makes no sense.
        """
        assert self.lease is not None
        lease = self.lease
        results: list[wire.Result] = []
        parts: list[bytes] = []
        for index, (step, payload) in enumerate(zip(lease.records, lease.payloads(), strict=True)):
            self._note(index, 0)
            answer = self._step(index, step, payload)
            if answer is not None:
                status, part = answer
                results.append(wire.Result(index, len(part), step.ops, status))
                parts.append(part)
        self.position = Position(0, len(lease.records), 0, self.position.progress + 1)
        self.reply = wire.pack(Kind.RESULTS, results, parts, lease.tag)

    def _note(self, record: int, op: int) -> None:
        assert self.lease is not None
        self.position = Position(self.lease.tag, record, op, self.position.progress + 1)

    def _step(self, index: int, step: Step, payload: bytes) -> tuple[Status, bytes] | None:
        action = Action(step.action)
        if step.stream == canary.STREAM:
            pcm = struct.pack("<i", knownpacket.SAMPLES) + b"\1" * (2 * knownpacket.SAMPLES)
            return (Status.OK, pcm) if action is Action.DECODE else None
        if action in {Action.OPEN, Action.RESTORE}:
            self._make(step, payload)
            return None
        if step.stream not in self.decoders:
            raise MisuseError(f"{self}: {action.name} of stream {step.stream}, which is not here")
        decoder = self.decoders[step.stream]
        if action is Action.DECODE:
            return self._run(index, decoder, ops.unpack(payload, step.ops))
        if action is Action.CHECKPOINT:
            state = DAMAGED if self.damages else decoder.state
            return Status.OK, state if self.saves else b""
        if action is Action.CLOSE:
            del self.decoders[step.stream]
        else:
            self._replay(step, decoder, payload)
        return None

    def _make(self, step: Step, payload: bytes) -> None:
        if step.stream in self.decoders:
            raise MisuseError(f"{self}: stream {step.stream} lives here already")
        if step.format != FORMAT.code:
            raise MisuseError(f"{self}: stream {step.stream} in format {step.format}")
        if payload.startswith(DAMAGED):
            raise FatalError("segv")
        self.decoders[step.stream] = ToyDecoder(payload or FRESH)

    def _replay(self, step: Step, decoder: ToyDecoder, payload: bytes) -> None:
        operations = ops.unpack(payload, step.ops)
        if any(op.packet.startswith((KILLER, OUTSIDE, HANG)) for op in operations):
            raise MisuseError(f"{self}: a killer in the journal of stream {step.stream}")
        for op in operations:
            if decoder.dies_of(op):
                raise FatalError("segv")
            decoder.run(op)

    def _run(self, index: int, decoder: ToyDecoder, operations: list[Op]) -> tuple[Status, bytes]:
        for number, op in enumerate(operations):
            self._note(index, number)
            if op.packet.startswith(KILLER) or decoder.dies_of(op):
                raise FatalError("segv")
            if op.packet.startswith(OUTSIDE):
                raise FatalError("killed")
            if op.packet.startswith(HANG):
                raise EndlessError
        return decoder.outcome(operations)


@dataclass(eq=False)
class Sent:
    """A request as its client remembers it.

    Attributes:
        blame: deaths by operation, by the world's own count.
        expected: the outcome blob that the reference decoder gave, where it is known.
        settled: results with its outcome have been taken by the core.
        garbled: leases of its own that ended in garbage, by the world's own count.
        status: of its answer; None before.
    """

    id: int
    track: Track
    operations: list[Op]
    deadline: float
    blame: dict[int, float] = field(default_factory=dict)
    expected: bytes | None = None
    settled: bool = False
    garbled: int = 0
    status: Status | None = None
    payload: bytes = b""

    def __repr__(self) -> str:
        return f"request {self.id} of {self.track}"

    @property
    def results(self) -> tuple[int, ...]:
        """Samples or code of each operation."""
        return ops.unpack_outcome(self.payload, len(self.operations), FORMAT.frame_bytes).results


@dataclass(eq=False)
class Track:
    """A stream as its client sees it, with its reference decoder.

    Attributes:
        exact: the core must know the decoder's state bit for bit.
        deaths: workers that died of it since it last decoded anything, by the world's own count.
    """

    client: bytes
    id: int
    bulk: bool = False
    decoder: ToyDecoder = field(default_factory=ToyDecoder)
    exact: bool = True
    deaths: int = 0
    last_settled: int = 0
    opened: bool = False
    closed: bool = False

    def __repr__(self) -> str:
        return f"stream {self.id} of client {self.client.decode()}"


def taken_apart(answers: Answers) -> Iterator[tuple[wire.Answer, bytes]]:
    """A client's answers and their payloads, as it gets them."""
    for frames in answers.messages():
        message = wire.parse(frames)
        yield from zip(message.records, message.payloads(), strict=True)


class World:
    """A core, its workers and its clients; checks everything after every turn.

    Attributes:
        now: the time, seconds.
        workers: those that live, by serial.
        sent: every request ever sent, by id.
        gone: clients that went away; their requests get no answers.
        kills: Kill instructions, in order.
        told: events for the log, in order.
        spawn_error: while not empty, no process can be started.
    """

    def __init__(self, overrides: Mapping[str, Mapping[str, object]], seed: int = 0) -> None:
        self.config = config.load(environ={}, overrides=overrides)
        self.core = Core(self.config, Random(seed))
        self.dispatcher = self.core.dispatcher
        self.books = self.core.books
        self.now = 100.0
        self.workers: dict[int, ModelWorker] = {}
        self.sent: dict[int, Sent] = {}
        self.open: dict[int, Sent] = {}
        self.tracks: dict[tuple[bytes, int], Track] = {}
        self.gone: set[bytes] = set()
        self.kills: list[Kill] = []
        self.told: list[Tell] = []
        self.reports: list[Report] = []
        self.starts: list[float] = []
        self.hopeless = {slot.number: 0 for slot in self.core.slots}
        self.spawn_error = ""
        self.saves = True
        self.drained = False
        self._stream_ids = 0
        self._do: dict[type[Instruction], Callable[..., None]] = {
            Spawn: self._spawn,
            SendLease: self._send_lease,
            Kill: self.kills.append,
            Tell: self.told.append,
            Report: self.reports.append,
            Retire: self._retire,
        }

    # Clients

    def stream(self, client: bytes = b"anna", *, bulk: bool = False) -> Track:
        """A stream that its client has not used yet."""
        self._stream_ids += 1
        self.gone.discard(client)
        track = Track(client, self._stream_ids, bulk)
        self.tracks[client, track.id] = track
        return track

    def send(
        self,
        track: Track,
        operations: list[Op],
        timeout: float = 10_000.0,
        *,
        close: bool = False,
        flags: int | None = None,
    ) -> Sent:
        """Send a request; no turn is taken."""
        sent = Sent(len(self.sent) + 1, track, operations, self.now + timeout)
        self.sent[sent.id] = self.open[sent.id] = sent
        if flags is None:
            flags = 0 if track.opened else Flag.OPEN
            flags |= Flag.BULK if track.bulk else 0
        flags |= Flag.CLOSE if close else 0
        track.closed = track.closed or close
        blob = ops.pack(operations)
        record = wire.Request(
            sent.id, track.id, round(timeout * 1000), len(blob), len(operations), FORMAT.code, flags
        )
        frames = wire.pack(Kind.REQUESTS, [record], [blob])
        self.dispatcher.accept(track.client, wire.parse(frames), self.now)
        return sent

    def close(self, track: Track) -> None:
        """Close a stream with a message of its own; no turn is taken."""
        track.closed = True
        record = wire.Request(0, track.id, 60_000, 0, 0, FORMAT.code, Flag.CLOSE)
        frames = wire.pack(Kind.REQUESTS, [record], [b""])
        self.dispatcher.accept(track.client, wire.parse(frames), self.now)

    def client_goes(self, client: bytes) -> None:
        """A client is gone: nothing more may be sent to it."""
        self.dispatcher.drop_client(client)
        self.gone.add(client)
        for sent in [sent for sent in self.open.values() if sent.track.client == client]:
            del self.open[sent.id]
        for track in self.tracks.values():
            track.closed = track.closed or track.client == client

    # Workers

    def slot_of(self, worker: ModelWorker) -> Slot | None:
        """The slot that a worker is in."""
        for slot in self.core.slots:
            if slot.worker is not None and slot.worker.serial == worker.serial:
                return slot
        return None

    def worker_of(self, track: Track) -> ModelWorker:
        """The worker in the slot that a stream is bound to."""
        slot = self.core_stream(track).slot
        assert slot is not None
        assert slot.worker is not None
        return self.workers[slot.worker.serial]

    def core_stream(self, track: Track) -> Stream:
        """A stream as the core sees it."""
        return self.dispatcher.clients[track.client].streams[track.id]

    def ready(self, worker: ModelWorker) -> None:
        """A worker has booted; no turn is taken."""
        self._take_answers()  # what was refused before is judged by what was known then
        worker.ready = True
        slot = self.slot_of(worker)
        assert slot is not None
        assert slot.worker is not None
        if not slot.worker.killed_for:
            self.hopeless[slot.number] = 0
        self.core.ready(worker.serial, {"pid": worker.serial}, self.now)

    def resume(self, slot: Slot) -> None:
        """A slot's drain is ended; no turn is taken."""
        self._take_answers()  # what was refused before is judged by what was wanted then
        assert self.core.restart(slot.number, self.now) is None

    def boot(self) -> None:
        """Start all workers that may be started, and let them all get ready."""
        self.turn()
        for worker in list(self.workers.values()):
            if not worker.ready:
                self.ready(worker)
        self.turn()

    def run(self, worker: ModelWorker) -> None:
        """Let a worker run its lease: it has a reply then, or hangs, or is dead."""
        try:
            worker.run()
        except FatalError as cause:
            self.die(worker, str(cause))
        except EndlessError:
            worker.hung = True

    def deliver(self, worker: ModelWorker) -> None:
        """The results of a worker arrive; no turn is taken."""
        frames, worker.reply, worker.lease = worker.reply, None, None
        assert frames is not None
        slot = self.slot_of(worker)
        assert slot is not None
        assert slot.worker is not None
        lease = slot.lease
        late = slot.worker.killed_for
        self.core.results(worker.serial, wire.parse(frames), self.now)
        if not late:
            assert lease is not None
            assert slot.lease is None, f"{worker}: right results were not taken"
            self._settled(worker, lease)

    def finish(self, worker: ModelWorker) -> None:
        """Run a lease and deliver its results, if the worker lives to do it."""
        self.run(worker)
        if worker.reply is not None:
            self.deliver(worker)

    def die(
        self, worker: ModelWorker, reason: str = "segv", position: Position | None = None
    ) -> None:
        """A worker's process has ended; without a position, where its own recorder says."""
        position = position or worker.position
        del self.workers[worker.serial]
        slot = self.slot_of(worker)
        assert slot is not None
        assert slot.worker is not None
        cause = slot.worker.killed_for or reason
        if slot.worker.ready is None:
            self.hopeless[slot.number] += HOPELESS if cause in {"exit", "boot"} else 1
        if slot.lease is not None and slot.worker.babbled:
            self._garbled(slot.lease)
        elif slot.lease is not None and position.lease == slot.lease.id:
            self._blame(slot.lease, position, 0.5 if cause == "killed" else 1.0)
        self.core.exited(worker.serial, Death(reason, f"died of {reason}", position), self.now)

    # Time

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, do as the supervisor's loop does meanwhile, and check everything."""
        while seconds > LONGEST_STEP:
            seconds -= LONGEST_STEP
            self.stall(LONGEST_STEP)
        self.stall(seconds)

    def stall(self, seconds: float) -> None:
        """One turn after a pause; a long one means that the supervisor itself had been stopped."""
        self.now += seconds
        for slot in self.core.slots:
            if slot.lease is not None and slot.worker is not None:
                worker = self.workers[slot.worker.serial]
                place = worker.position
                if self.core.progress(worker.serial, (place.lease, place.progress), self.now):
                    waited, unseen = worker.waited, worker.unseen
                    self.core.stands_still(worker.serial, waited, self.now, unseen=unseen)
        self.core.tick(self.now)
        while instructions := self.core.take_instructions():
            for instruction in instructions:
                self._do[type(instruction)](instruction)
        self._take_answers()
        self.check()

    def work(self, turns: int = 1, seconds: float = 0.0) -> None:
        """Take turns in which every worker boots, works, hangs or dies as it would by itself."""
        for _ in range(turns):
            self.turn(seconds)
            for worker in list(self.workers.values()):
                slot = self.slot_of(worker)
                if worker.leaves:
                    self.die(worker, "exit")
                elif slot is not None and slot.worker is not None and slot.worker.killed_for:
                    self.die(worker, "killed")
                elif not worker.ready:
                    self.ready(worker)
                elif worker.can_run:
                    self.finish(worker)
                elif worker.reply is not None:
                    self.deliver(worker)
        self.turn()

    def drain(self) -> None:
        """The supervisor is told to stop; no turn is taken."""
        self.drained = True
        self.core.drain(self.now)

    # Instructions

    def _spawn(self, instruction: Spawn) -> None:
        if self.spawn_error:
            self.hopeless[instruction.slot.number] += HOPELESS
            self.core.spawn_failed(instruction.slot, self.spawn_error, self.now)
            return
        self.starts.append(self.now)
        worker = ModelWorker(instruction.serial, saves=self.saves)
        assert worker.serial not in self.workers
        self.workers[worker.serial] = worker
        self.core.spawned(instruction.slot, worker.serial, 1000 + worker.serial, self.now)

    def _retire(self, instruction: Retire) -> None:
        worker = self.workers.get(instruction.serial)
        if worker is None:  # it has ended before the instruction was carried out
            return
        assert worker.lease is None, f"{worker} is asked to leave with a lease in hand"
        worker.leaves = True

    def _send_lease(self, instruction: SendLease) -> None:
        self._note_rebuilds(instruction.lease)
        self._check_attempts(instruction.lease)
        worker = self.workers[instruction.serial]
        slot = self.slot_of(worker)
        assert slot is not None
        assert self.drained or not slot.drain, f"slot {slot.number} drains, and gets a lease"
        worker.take(instruction.lease.frames())

    def _check_attempts(self, lease: Lease) -> None:
        """No operation is run again when its attempts are used up."""
        for request in lease.requests():
            sent = self.sent[request.id]
            for index, op in enumerate(ops.unpack(request.blob, request.count)):
                spent = sent.blame.get(index, 0.0) >= self.config.requests.max_attempts
                assert not spent or op.kind is OpKind.POISONED, f"{sent}: {index} is tried again"

    def _note_rebuilds(self, lease: Lease) -> None:
        """Which streams may be inexact from now on, and whether that is right."""
        rebuilt = {s.stream for s, _ in lease.steps if s.action in {Action.OPEN, Action.RESTORE}}
        for request in lease.requests():
            stream = request.stream
            track = self.sent[request.id].track
            if stream.key not in rebuilt:
                continue
            if stream.trust is not Trust.ALL:
                assert track.deaths >= 2, f"{track}: distrusted after {track.deaths} deaths"
                track.exact = False
            elif stream.journal.exact:
                track.exact = True  # whatever was tried before has died

    # Results and answers

    def _settled(self, worker: ModelWorker, lease: Lease) -> None:
        healed = []
        for request in lease.requests():
            sent = self.sent[request.id]
            track = sent.track
            assert sent.id > track.last_settled, f"{sent} after {track.last_settled}: order broken"
            assert not sent.settled, f"{sent} was run twice"
            sent.settled = True
            track.last_settled = sent.id
            attempts = self.config.requests.max_attempts
            operations = [
                Op(OpKind.POISONED, b"") if sent.blame.get(index, 0) >= attempts else op
                for index, op in enumerate(sent.operations)
            ]
            _, expected = track.decoder.outcome(operations)
            if track.exact:
                sent.expected = expected
            if any(op.kind is not OpKind.POISONED and op.packet[:3] != BAD for op in operations):
                track.deaths = 0
                healed.append((track, request.stream.key))
        for track, key in healed:
            if not track.exact:
                track.decoder.state = worker.decoders[key].state
                track.exact = True

    def _blame(self, lease: Lease, position: Position, weight: float) -> None:
        what = dict(lease.expects).get(position.record)
        step = lease.steps[position.record][0]
        tracks = {request.stream.key: self.sent[request.id].track for request in lease.requests()}
        if step.action == Action.DECODE and what is not None:
            sent = self.sent[what.id]
            sent.blame[position.op] = sent.blame.get(position.op, 0.0) + weight
        if step.stream in tracks and weight == 1 and step.action != Action.CLOSE:
            tracks[step.stream].deaths += 1

    def _garbled(self, lease: Lease) -> None:
        """A request by itself, of which workers keep sending garbage, is given up as a whole."""
        requests = lease.requests()
        if len(requests) == 1 and requests[0].alone:
            sent = self.sent[requests[0].id]
            sent.garbled += 1
            attempts = self.config.requests.max_attempts
            if sent.garbled >= attempts:
                sent.blame = dict.fromkeys(range(len(sent.operations)), float(attempts))

    def _take_answers(self) -> None:
        answers = self.dispatcher.answers
        while answers:
            client, gathered = answers.popitem()
            assert client not in self.gone, f"answers for {client!r}, which is gone"
            for answer, payload in taken_apart(gathered):
                assert answer.length == len(payload)
                if answer.status == Status.CHECKPOINT:
                    assert (client, answer.id) in self.tracks
                else:
                    self._take_answer(client, answer, payload)

    def _take_answer(self, client: bytes, answer: wire.Answer, payload: bytes) -> None:
        sent = self.sent[answer.id]
        status = Status(answer.status)
        assert sent.track.client == client, f"{sent}: answered to {client!r}"
        assert sent.status is None, f"{sent}: answered {sent.status!r}, then {status!r}"
        del self.open[sent.id]
        sent.status, sent.payload = status, payload
        if status <= Status.TIMEOUT:
            sent.track.opened = True
        if status <= Status.FAILED_OPS:
            assert sent.settled, f"{sent}: answered {status!r}, but never run"
            if sent.expected is not None:
                count = len(sent.operations)
                results = ops.unpack_outcome(sent.expected, count, FORMAT.frame_bytes).results
                assert sent.results == results, f"{sent}: outcome"
                assert payload == sent.expected, f"{sent}: PCM is not the reference's"
                assert (status is Status.OK) == (min(results) >= 0)
        else:
            assert wire.read_json(payload)["message"]
            self._check_refusal(sent, status)

    def _check_refusal(self, sent: Sent, status: Status) -> None:
        if status is Status.TIMEOUT:
            assert sent.deadline <= self.now, f"{sent}: timed out too early"
        elif status is Status.BOOT:
            wanted = [slot.number for slot in self.core.slots if not slot.drain]
            hopeless = min(self.hopeless[number] for number in wanted) >= HOPELESS
            assert hopeless, f"{sent}: refused, but a worker may start"
        elif status is Status.SHUTDOWN:
            assert self.drained, f"{sent}: refused, but there was no drain"
        elif status is Status.STREAM_CLOSED:
            assert sent.track.closed, f"{sent}: the stream was not closed"

    # Checks

    def check(self) -> None:
        """Everything that must hold between two turns."""
        for sent in self.open.values():
            assert self.now <= sent.deadline + SWEEP_SECONDS + 1e-6, f"{sent}: overdue"
            assert not sent.settled, f"{sent}: run, but not answered"
        self._check_books()
        self._check_counts()
        self._check_places()

    def _check_books(self) -> None:
        books = self.books
        unanswered = self.dispatcher.admission.queued + self.dispatcher.in_flight
        assert books.accepted == sum(books.requests.values()) + unanswered, "requests"
        alive = sum(slot.worker is not None for slot in self.core.slots)
        ended = sum(books.worker_restarts.values())
        assert books.spawns == alive + ended, f"{books.spawns} spawns, {alive} alive, {ended} ended"
        assert alive == len(self.workers)
        assert len(self.open) == self.core.open_requests

    def _check_counts(self) -> None:
        back = list(self.dispatcher._held)
        held: list[Request] = [*self.dispatcher.unplaced, *back]
        leased: list[Request] = []
        for slot in self.core.slots:
            waiting = [*slot.live, *slot.bulk]
            running = slot.lease.requests() if slot.lease else []
            assert slot.load == sum(r.count for r in waiting + running), f"slot {slot.number}: load"
            held += waiting
            leased += running
        assert self.dispatcher.admission.queued == sum(not r.answered for r in held), "queued"
        assert self.dispatcher.in_flight == sum(not r.answered for r in leased), "in flight"
        pending: dict[Stream, int] = {}
        for request in held + leased:
            pending[request.stream] = pending.get(request.stream, 0) + 1
        for client in self.dispatcher.clients.values():
            for stream in client.streams.values():
                pending.setdefault(stream, 0)
        for stream, count in pending.items():
            assert stream.pending == count, f"stream {stream.key}: pending"
            assert stream.held == sum(r.stream is stream for r in back), f"{stream.key}: held"
        living = [s for s in pending if s.client.streams.get(s.id) is s]
        assert self.dispatcher.admission.streams == len(living), "streams"
        size = sum(r.size for r in held + leased)
        assert self.dispatcher.admission.queued_bytes == size, "queued bytes"
        output = sum(r.output_bytes for r in held + leased)
        assert self.dispatcher.admission.queued_output == output, "queued output"

    def _check_places(self) -> None:
        for slot in self.core.slots:
            for stream in slot.streams:
                assert stream.slot is slot, f"stream {stream.key} is in two slots"
            for request in [*slot.live, *slot.bulk]:
                assert request.stream.slot is slot, "a request waits where its stream is not"
            if slot.worker is None:
                left = [*slot.streams, *slot.live, *slot.bulk, *slot.closes]
                assert not left, f"slot {slot.number} is empty, and has {left}"
                continue
            worker = self.workers[slot.worker.serial]
            if slot.lease is None and not slot.worker.killed_for:
                resident = {stream.key for stream in slot.streams if stream.resident}
                assert not resident & set(slot.closes)
                there = set(worker.decoders)
                assert there == resident | set(slot.closes), f"{worker}: decoders {there}"
