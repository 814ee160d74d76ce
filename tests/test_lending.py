"""Lending in the pure core: who is told what, who has the journal, and who is blamed."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
from coremodel import FORMAT, KILLER, FatalError, ModelWorker, ToyDecoder, packets, taken_apart
from opuspool_supervisor import audit, canary
from opuspool_supervisor.core import STALL_SECONDS, Core
from opuspool_supervisor.death import Death
from opuspool_supervisor.dispatch import BULK_ALONE, BULK_BESIDE
from opuspool_supervisor.instructions import (
    Instruction,
    Kill,
    Refuse,
    Report,
    Retire,
    SendLease,
    Spawn,
)

from opuspool import config, digests, ops, recorder, wire
from opuspool.ops import POISON
from opuspool.recorder import DECODE_BOUNDS, LaneCounts, Position
from opuspool.wire import GONE, LENDING, TOKEN, Action, Flag, Kind, Status, Step

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opuspool_supervisor.records import Stream

ANNA, BEN = b"anna", b"ben"
HANG_SECONDS = 1.0
RAN = Flag.RETRIED | Flag.SUSPECT
"""Flags of a request that a dead worker had run, or was running."""


class LaneWorker(ModelWorker):
    """A model worker that lends its streams, as it is told.

    Attributes:
        lent: stream keys by token.
    """

    def __init__(self, serial: int) -> None:
        super().__init__(serial)
        self.lent: dict[int, int] = {}

    def _step(self, index: int, step: Step, payload: bytes) -> tuple[Status, bytes] | None:
        if step.action == Action.LEND:
            assert step.stream in self.decoders
            self.lent[TOKEN.unpack(payload)[0]] = step.stream
            return None
        return super()._step(index, step, payload)

    def by_lane(self, token: int, text: str) -> None:
        """A client's packets come by a lane, one letter each."""
        self.decoders[self.lent[token]].outcome(packets(text))


class Scene:
    """A core, its workers, and what its clients are told; the books are audited at every turn.

    Attributes:
        told: what each client has been told, as (status, id, payload), in order.
        did: instructions that were not carried out, in order.
        workers: those that live, by serial.
    """

    def __init__(
        self, count: int = 1, *, ready: int | None = None, **sections: Mapping[str, object]
    ) -> None:
        workers = {"count": count, "spares": 0, "hang_seconds": HANG_SECONDS}
        quiet = {"canary_seconds": 3600.0}
        overrides = {"workers": workers, "health": quiet, **sections}
        self.core = Core(config.load(environ={}, overrides=overrides), Random(0))
        self.books = self.core.books
        self.now = 100.0
        self.told: dict[bytes, list[tuple[Status, int, bytes]]] = {ANNA: [], BEN: []}
        self.did: list[Instruction] = []
        self.workers: dict[int, LaneWorker] = {}
        self.ids = 0
        self.turn()
        for serial in list(self.workers)[:ready]:
            self.ready(serial)
        self.turn()

    # Time, workers

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass; do as the supervisor's loop does meanwhile."""
        self.now += seconds
        self.core.tick(self.now)
        while instructions := self.core.take_instructions():
            for instruction in instructions:
                self._carry_out(instruction)
        answers = self.core.dispatcher.answers
        while answers:
            client, gathered = answers.popitem()
            for answer, payload in taken_apart(gathered):
                self.told[client].append((Status(answer.status), answer.id, payload))
        assert audit.discrepancies(self.core) == []

    def _carry_out(self, instruction: Instruction) -> None:
        if isinstance(instruction, Spawn):
            serial = instruction.serial
            self.workers[serial] = LaneWorker(serial)
            lane = f"ipc:///{serial}"
            self.core.spawned(instruction.slot, serial, 1000 + serial, self.now, lane=lane)
        elif isinstance(instruction, SendLease):
            self.workers[instruction.serial].take(instruction.lease.frames())
        else:
            self.did.append(instruction)

    def ready(self, serial: int, *, lanes: bool = True) -> None:
        self.workers[serial].ready = True
        self.core.ready(serial, {"lanes": lanes}, self.now)

    def answered(self, worker: LaneWorker) -> None:
        """A worker runs its lease, and its results arrive."""
        worker.run()
        frames, worker.reply, worker.lease = worker.reply, None, None
        assert frames is not None
        self.core.results(worker.serial, wire.parse(frames), self.now)

    def work(self) -> None:
        """Every worker runs what it has been given, until there is nothing more."""
        self.turn()
        while busy := [worker for worker in self.workers.values() if worker.lease is not None]:
            for worker in busy:
                self.answered(worker)
            self.turn()

    def dies(
        self,
        worker: LaneWorker,
        position: Position | None = None,
        counts: LaneCounts | None = None,
    ) -> None:
        del self.workers[worker.serial]
        death = Death("segv", "SIGSEGV", position or worker.position, by_lane=counts)
        self.core.exited(worker.serial, death, self.now)

    def successor(self) -> LaneWorker:
        """The next worker of the only slot, ready."""
        worker = only_next(self)
        self.ready(worker.serial)
        self.turn()
        return worker

    # Clients

    def send(self, stream: int, text: str, client: bytes = ANNA, flags: int = 0) -> int:
        """Send packets of one letter each; returns the request's id."""
        blob = ops.pack(packets(text))
        return self.send_blob(stream, blob, len(text), client, flags=flags)

    def send_blob(
        self,
        stream: int,
        blob: bytes,
        count: int,
        client: bytes = ANNA,
        *,
        number: int = 0,
        flags: int = 0,
    ) -> int:
        self.ids += 1
        number = number or self.ids
        row = (number, stream, 60_000, len(blob), count, FORMAT.code, flags)
        message = wire.parse(wire.pack(Kind.REQUESTS, [row], [blob]))
        self.core.dispatcher.accept(client, message, self.now)
        return number

    def reached(self, client: bytes, worker: LaneWorker) -> None:
        known = self.core.dispatcher.client(client, self.now)
        self.core.dispatcher.lending.reached(known, worker.serial)

    def reach_unasked(self, client: bytes, worker: LaneWorker) -> None:
        """As if the client had been told of a worker before."""
        self.core.dispatcher.client(client, self.now).told.add(worker.serial)
        self.reached(client, worker)

    def offered(self, stream: int, client: bytes = ANNA, flags: int = 0) -> int:
        """Have a stream offered, after "ab"; returns its token."""
        self.send(stream, "a", client, flags=Flag.OPEN | flags)
        self.work()
        self.reached(client, self.workers[self.lane(client)])
        self.send(stream, "b", client)
        self.work()
        _, token, *_ = LENDING.unpack(self.last(client, Status.LENT)[1])
        return int(token)

    def lent(self, stream: int, client: bytes = ANNA) -> int:
        """Have a stream lent, after "ab"; returns its token."""
        token = self.offered(stream, client)
        self.take(stream, token, client)
        return token

    def take(self, stream: int, token: int, client: bytes = ANNA) -> None:
        self.send_blob(stream, b"", 0, client, number=token, flags=Flag.TAKE)
        self.turn()

    def hand_back(self, stream: int, checkpoint: bytes, log: str, client: bytes = ANNA) -> None:
        self.send_blob(stream, checkpoint, 0, client, flags=Flag.RESTORE)
        if log:
            self.send(stream, log, client, flags=Flag.REPLAY)

    def lane(self, client: bytes = ANNA) -> int:
        """The worker that a client was told of last."""
        return self.last(client, Status.LANE)[0]

    def all(self, client: bytes, status: Status) -> list[tuple[int, bytes]]:
        """What a client has been told of a kind, as (id, payload)."""
        return [(number, data) for kind, number, data in self.told[client] if kind is status]

    def last(self, client: bytes, status: Status) -> tuple[int, bytes]:
        return self.all(client, status)[-1]

    def answer(self, number: int, client: bytes = ANNA) -> tuple[Status, bytes]:
        """The one answer to a request."""
        kinds = {Status.CHECKPOINT, Status.LANE, Status.GONE, Status.LENT, Status.RECALL}
        told = [(kind, data) for kind, n, data in self.told[client] if n == number]
        [found] = [pair for pair in told if pair[0] not in kinds]
        return found

    def stream(self, stream: int, client: bytes = ANNA) -> Stream:
        return self.core.dispatcher.clients[client].streams[stream]


def steps(worker: LaneWorker) -> list[str]:
    """What a worker has been told to do: actions, with the letters of their packets."""
    assert worker.lease is not None
    pairs = list(zip(worker.lease.records, worker.lease.payloads(), strict=True))
    if any(step.stream == canary.STREAM for step, _ in pairs):
        return ["canary"]
    return [f"{Action(s.action).name} {letters(data, s.ops)}".strip() for s, data in pairs]


def letters(blob: bytes, count: int) -> str:
    return b"".join(op.packet for op in ops.unpack(blob, count)).decode() if count else ""


def state_of(text: str) -> bytes:
    """The state, and the last PCM, of a fresh decoder that has decoded all of them."""
    decoder = ToyDecoder()
    decoder.outcome(packets(text))
    return decoder.state


def by_lane(token: int, request: int, *, batch: int = 5, record: int = 3, op: int = 0) -> Position:
    """What a flight recorder says at a death with a client's batch in hand."""
    return Position(recorder.LANE, record, op, 9, batch, token, request, 1)


def only(scene: Scene) -> LaneWorker:
    [worker] = scene.workers.values()
    return worker


def restarts(scene: Scene) -> dict[str, int]:
    return {reason: n for reason, n in scene.books.worker_restarts.items() if n}


# ---- what is lent ---------------------------------------------------------------------------


def test_a_client_is_told_of_a_worker_once() -> None:
    scene = Scene()
    for stream in (1, 2, 3):
        scene.send(stream, "ab", flags=Flag.OPEN)
        scene.work()
    serial = only(scene).serial
    assert scene.all(ANNA, Status.LANE) == [(serial, f"ipc:///{serial}".encode())]
    scene.send(1, "a", BEN, flags=Flag.OPEN)
    scene.work()
    assert len(scene.all(BEN, Status.LANE)) == len(scene.all(ANNA, Status.LANE)) == 1


def test_nothing_is_offered_before_the_client_has_a_lane() -> None:
    scene = Scene()
    scene.send(1, "a", flags=Flag.OPEN)
    scene.work()
    scene.send(1, "b")
    scene.turn()
    assert steps(only(scene)) == ["DECODE b"]
    scene.work()
    scene.reached(ANNA, only(scene))
    scene.send(1, "c")
    scene.turn()
    assert steps(only(scene)) == ["DECODE c", "LEND"]


def test_a_lane_to_a_worker_that_the_client_was_not_told_of_does_not_count() -> None:
    scene = Scene()
    scene.reached(ANNA, only(scene))
    scene.send(1, "a", flags=Flag.OPEN)
    scene.turn()
    assert steps(only(scene)) == ["OPEN", "DECODE a"]


def test_the_client_is_told_when_the_worker_knows() -> None:
    """The token goes out with the results, not with the lease."""
    scene = Scene(recovery={"checkpoint_packets": 50}, limits={"queued_requests": 77})
    scene.reach_unasked(ANNA, only(scene))
    request = scene.send(1, "a", flags=Flag.OPEN)
    scene.turn()
    assert steps(only(scene)) == ["OPEN", "DECODE a", "LEND"]
    assert scene.all(ANNA, Status.LENT) == []
    scene.work()
    [(stream, payload)] = scene.all(ANNA, Status.LENT)
    [token] = only(scene).lent
    assert (stream, LENDING.unpack(payload)) == (1, (only(scene).serial, token, 50, 77, 2000))
    assert [kind for kind, _, _ in scene.told[ANNA]] == [Status.OK, Status.LENT]
    assert scene.answer(request)[0] is Status.OK


def test_what_is_offered_is_not_offered_again() -> None:
    scene = Scene()
    scene.offered(1)
    scene.send(1, "c")
    scene.turn()
    assert steps(only(scene)) == ["DECODE c"]


def test_every_offer_has_a_token_of_its_own() -> None:
    scene = Scene()
    tokens = {scene.offered(1), scene.offered(2), scene.offered(1, BEN)}
    assert len(tokens) == 3
    assert len(scene.core.dispatcher.lending) == 3


def not_lent(scene: Scene, flags: int = 0) -> bool:
    """Whether a stream whose client has a lane to its worker is not offered."""
    scene.reach_unasked(ANNA, only(scene))
    for text in ("a", "b"):
        scene.send(1, text, flags=flags | (Flag.OPEN if text == "a" else 0))
        scene.work()
    return not scene.all(ANNA, Status.LENT) and not only(scene).lent


def test_a_plain_live_stream_is_lent() -> None:
    assert not not_lent(Scene())


def test_beside_lent_streams_bulk_has_smaller_leases() -> None:
    """Their packets go past the supervisor, and wait until their worker's lease ends."""
    full = {False: BULK_ALONE * 4, True: BULK_BESIDE * 4}
    for lent, count in full.items():
        scene = Scene(requests={"lease_packets": 4})
        if lent:
            scene.lent(1)
        flags = int(Flag.OPEN | Flag.BULK)
        for _ in range(2 * count):
            scene.send(2, "c", flags=flags)
            flags = int(Flag.BULK)
        scene.turn()
        lease = only(scene).lease
        assert lease is not None
        assert sum(record.action == Action.DECODE for record in lease.records) == count


def test_bulk_streams_are_not_lent() -> None:
    assert not_lent(Scene(), Flag.BULK)


def test_where_packets_are_kept_for_reports_nothing_is_lent() -> None:
    scene = Scene(crashes={"keep_packets": True})
    assert not_lent(scene)
    assert scene.all(ANNA, Status.LANE) == []


def test_where_lanes_are_turned_off_nothing_is_lent() -> None:
    assert not_lent(Scene(requests={"lanes": False}))


def test_a_worker_without_lanes_is_not_told_of() -> None:
    scene = Scene(ready=0)
    scene.ready(only(scene).serial, lanes=False)
    scene.send(1, "a", flags=Flag.OPEN)
    scene.work()
    assert scene.told[ANNA] == [(Status.OK, 1, scene.answer(1)[1])]


def test_a_stream_that_is_closing_is_not_lent() -> None:
    scene = Scene()
    scene.reach_unasked(ANNA, only(scene))
    scene.send(1, "a", flags=Flag.OPEN | Flag.CLOSE)
    scene.turn()
    assert steps(only(scene)) == ["OPEN", "DECODE a"]


def test_a_suspect_is_lent_when_it_has_decoded_again() -> None:
    """Its worker has decoded a canary by then, too."""
    scene = Scene()
    scene.send(1, "a", flags=Flag.OPEN)
    scene.turn()
    dies_at_its_packet(scene)
    worker = scene.successor()
    scene.reach_unasked(ANNA, worker)
    scene.send(1, "b")
    assert leases_of(scene, worker) == [["OPEN", "DECODE a"], ["canary"], ["DECODE b", "LEND"]]


def test_nothing_is_lent_beside_a_suspect() -> None:
    """Until that has been tried, its worker may die any moment."""
    scene = Scene()
    token = scene.lent(1)
    scene.dies(only(scene), by_lane(token, 77))
    scene.hand_back(1, b"", "ab")
    scene.send_blob(1, ops.pack(packets("c")), 1, number=77, flags=Flag.RETRIED)
    scene.send(2, "x", BEN, flags=Flag.OPEN)
    scene.reach_unasked(BEN, only_next(scene))
    worker = scene.successor()
    assert steps(worker) == ["OPEN", "REPLAY ab", "DECODE c", "OPEN", "DECODE x"]
    scene.work()
    scene.send(2, "y", BEN)
    scene.turn()
    assert steps(worker) == ["DECODE y", "LEND"]


def only_next(scene: Scene) -> LaneWorker:
    """The next worker of the only slot, started, but not ready."""
    while not scene.workers:
        scene.turn(0.5)
    return only(scene)


def leases_of(scene: Scene, worker: LaneWorker) -> list[list[str]]:
    """What a worker is told to do, lease by lease, until there is nothing more."""
    leases = []
    while worker.lease is not None:
        leases.append(steps(worker))
        scene.answered(worker)
        scene.turn()
    return leases


def dies_at_its_packet(scene: Scene) -> None:
    """The only worker dies in the second step of its lease."""
    worker = only(scene)
    assert worker.lease is not None
    scene.dies(worker, Position(worker.lease.tag, 1, 0, 2))


def test_settings_may_end_lending_and_leave_what_is_lent() -> None:
    scene = Scene()
    scene.lent(1)
    off = config.load(
        environ={}, overrides={"workers": {"count": 1, "spares": 0}, "requests": {"lanes": False}}
    )
    scene.core.reconfigure(off, scene.now)
    scene.send(2, "a", flags=Flag.OPEN)
    scene.turn()
    assert steps(only(scene)) == ["OPEN", "DECODE a"]
    assert scene.stream(1).lent
    assert scene.all(ANNA, Status.RECALL) == []


# ---- whose the journal is -------------------------------------------------------------------


def test_until_it_is_taken_the_supervisor_has_the_journal() -> None:
    scene = Scene()
    scene.offered(1)
    assert letters(*scene.stream(1).journal.entries[0]) == "a"
    request = scene.send(1, "c")
    scene.work()
    status, payload = scene.answer(request)
    assert (status, payload[4:]) == (Status.OK, state_of("abc"))


def test_a_taken_stream_has_no_journal_here_and_its_requests_are_refused() -> None:
    scene = Scene()
    scene.lent(1)
    stream = scene.stream(1)
    assert (stream.lent, stream.journal.entries, stream.journal.checkpoint) == (True, [], None)
    assert scene.books.streams_lent == 1
    assert scene.all(ANNA, Status.RECALL) == []
    plain, flagged = scene.send(1, "c"), scene.send(1, "c", flags=Flag.RETRIED)
    scene.turn()
    assert {scene.answer(n)[0] for n in (plain, flagged)} == {Status.STREAM_CLOSED}
    assert scene.books.requests["closed"] == 2
    assert only(scene).lease is None


def test_a_stale_take_is_called_back() -> None:
    """The stream was moved after it had been offered: its decoder is not there any more."""
    scene = Scene()
    token = scene.offered(1)
    scene.dies(only(scene))
    scene.turn()
    scene.take(1, token)
    assert scene.all(ANNA, Status.RECALL) == [(1, TOKEN.pack(token))]
    scene.hand_back(1, b"", "ab")
    scene.successor()
    request = scene.send(1, "c", flags=Flag.RETRIED)
    scene.work()
    assert scene.answer(request)[1][4:] == state_of("abc")


def test_a_take_under_a_wrong_token_is_called_back() -> None:
    scene = Scene()
    token = scene.offered(1)
    scene.take(1, token ^ 1)
    assert scene.all(ANNA, Status.RECALL) == [(1, TOKEN.pack(token ^ 1))]


def test_a_take_with_a_request_under_way_is_called_back() -> None:
    scene = Scene()
    token = scene.offered(1)
    request = scene.send(1, "c")
    scene.take(1, token)
    assert scene.all(ANNA, Status.RECALL) == [(1, TOKEN.pack(token))]
    scene.work()
    assert scene.answer(request)[0] is Status.OK


def test_nobody_takes_the_stream_of_another() -> None:
    scene = Scene()
    token = scene.offered(1)
    scene.take(1, token, BEN)
    assert not scene.stream(1).lent
    assert scene.told[BEN] == []
    assert scene.books.streams_lent == 0


def test_a_lent_stream_is_handed_back_at_any_time() -> None:
    """With its worker alive: the old decoder goes, the new one is what the client says."""
    scene = Scene()
    token = scene.lent(1)
    only(scene).by_lane(token, "cd")
    scene.hand_back(1, state_of("abc"), "d")
    request = scene.send(1, "e", flags=Flag.RETRIED)
    scene.turn()
    assert steps(only(scene)) == ["CLOSE", "RESTORE", "REPLAY d", "DECODE e", "LEND"]
    scene.work()
    assert scene.answer(request)[1][4:] == state_of("abcde")
    assert len(only(scene).decoders) == 1
    assert (scene.books.streams_returned, scene.core.dispatcher.admission.streams) == (1, 1)
    assert (scene.books.retries, scene.books.streams_handed_over) == (0, 0)


def test_closing_a_lent_stream_closes_its_decoder() -> None:
    scene = Scene()
    scene.lent(1)
    scene.send_blob(1, b"", 0, flags=Flag.CLOSE)
    scene.work()
    assert only(scene).decoders == {}
    assert (scene.core.dispatcher.admission.streams, len(scene.core.dispatcher.lending)) == (0, 0)


def test_a_client_that_goes_leaves_nothing_lent() -> None:
    scene = Scene()
    scene.lent(1)
    scene.lent(1, BEN)
    scene.core.dispatcher.drop_client(ANNA)
    scene.work()
    assert len(only(scene).decoders) == len(scene.core.dispatcher.lending) == 1


# ---- ends of workers ------------------------------------------------------------------------


def test_a_death_is_told_to_all_and_named_to_whom_it_befell() -> None:
    scene = Scene()
    token = scene.lent(1)
    scene.lent(1, BEN)
    worker = only(scene)
    scene.dies(worker, by_lane(token, 77, batch=5, record=3))
    scene.turn()
    assert scene.all(ANNA, Status.GONE) == [(worker.serial, GONE.pack(5, 3))]
    assert scene.all(BEN, Status.GONE) == [(worker.serial, GONE.pack(0, 0))]


@pytest.mark.parametrize("lease", [0, 1], ids=["idle", "a lease in hand"])
def test_a_death_outside_of_lanes_names_no_batch(lease: int) -> None:
    scene = Scene()
    token = scene.lent(1)
    worker = only(scene)
    scene.dies(worker, Position(lease, 3, 0, 9, 5, token, 77, 1))
    scene.turn()
    assert scene.all(ANNA, Status.GONE) == [(worker.serial, GONE.pack(0, 0))]
    assert scene.stream(1).fatal is None


def test_who_was_not_told_of_a_worker_is_not_told_of_its_end() -> None:
    scene = Scene()
    scene.lent(1)
    scene.core.dispatcher.client(BEN, scene.now)
    scene.dies(only(scene))
    scene.turn()
    assert scene.told[BEN] == []


def test_a_wild_record_number_can_be_told() -> None:
    """It is read from memory that a dying process may have written anywhere."""
    scene = Scene()
    token = scene.lent(1)
    worker = only(scene)
    scene.dies(worker, by_lane(token, 77, record=(1 << 64) - 1))
    scene.turn()
    assert scene.all(ANNA, Status.GONE) == [(worker.serial, GONE.pack(5, 0xFFFFFFFF))]


def killer(scene: Scene, number: int, flags: int = RAN) -> None:
    """A request that kills comes again."""
    scene.send_blob(1, ops.pack([packet_that_kills()]), 1, number=number, flags=flags)


def packet_that_kills() -> ops.Op:
    return ops.Op(ops.OpKind.PACKET, KILLER)


def run_to_death(scene: Scene, worker: LaneWorker) -> None:
    with pytest.raises(FatalError):
        worker.run()
    scene.dies(worker)


def test_what_killed_by_a_lane_is_poison_at_the_second_death() -> None:
    """Its stream is what its client said, bit for bit, before and behind it."""
    scene = Scene()
    token = scene.lent(1)
    only(scene).by_lane(token, "c")
    scene.dies(only(scene), by_lane(token, 77))
    scene.hand_back(1, state_of("ab"), "c")
    killer(scene, 77)
    [request] = scene.core.dispatcher.unplaced
    assert (request.id, request.blame, request.alone) == (77, {0: 1.0}, True)
    assert scene.books.retries == 1
    second = scene.successor()
    assert steps(second) == ["RESTORE", "REPLAY c", "DECODE kill"]
    run_to_death(scene, second)
    assert scene.books.poison_packets == 1
    scene.successor()
    after = scene.send(1, "d")
    scene.work()
    status, payload = scene.answer(77)
    assert (status, ops.unpack_outcome(payload, 1, 4).results) == (Status.FAILED_OPS, (POISON,))
    assert scene.answer(after)[1][4:] == state_of("abcd")
    assert (scene.books.retries, scene.books.inexact_rebuilds) == (2, 0)
    assert scene.books.requests["poison"] == 1
    assert restarts(scene) == {"segv": 2}


def test_what_is_given_up_at_its_first_death_by_a_lane_clears_the_journal_once() -> None:
    """Of the next one that kills, the journal is suspected as well."""
    scene = Scene(requests={"max_attempts": 1})
    token = scene.lent(1)
    scene.dies(only(scene), by_lane(token, 77))
    scene.hand_back(1, b"", "ab")
    killer(scene, 77)
    killer(scene, 78, flags=0)
    second = scene.successor()
    assert steps(second) == ["OPEN", "REPLAY ab", "DECODE"]
    scene.answered(second)
    while scene.stream(1).deaths < 2:
        scene.turn()
        if steps(second) == ["canary"]:
            scene.answered(second)
        else:
            run_to_death(scene, second)
    assert steps(scene.successor()) == ["OPEN", "DECODE"]


def test_only_the_request_in_hand_is_blamed() -> None:
    """What ran before it gets a lease of its own, what had not run shares one."""
    scene = Scene()
    token = scene.lent(1)
    scene.dies(only(scene), by_lane(token, 77))
    scene.hand_back(1, b"", "ab")
    for number, flags in [(76, RAN), (77, RAN), (78, Flag.RETRIED), (79, Flag.RETRIED)]:
        blob = ops.pack(packets("x"))
        scene.send_blob(1, blob, 1, number=number, flags=flags)
    found = {r.id: (r.blame, r.alone) for r in scene.core.dispatcher.open_requests()}
    assert found == {
        76: (None, True),
        77: ({0: 1.0}, True),
        78: (None, False),
        79: (None, False),
    }
    leases = leases_of(scene, scene.successor())
    assert [lease for lease in leases if lease != ["canary"]] == [
        ["OPEN", "REPLAY ab", "DECODE x"],
        ["DECODE x"],
        ["DECODE x", "DECODE x"],
    ]
    assert scene.books.retries == 4
    assert scene.books.poison_packets == 0


@pytest.mark.parametrize(("request_id", "op"), [(78, 0), (77, 1)], ids=["other", "no such packet"])
def test_a_blame_that_fits_no_request_is_laid_on_none(request_id: int, op: int) -> None:
    scene = Scene()
    token = scene.lent(1)
    scene.dies(only(scene), by_lane(token, request_id, op=op))
    scene.hand_back(1, b"", "ab")
    scene.send_blob(1, ops.pack(packets("c")), 1, number=77, flags=RAN)
    [request] = scene.core.dispatcher.open_requests()
    assert request.blame is None
    scene.successor()
    scene.work()
    assert scene.answer(77)[1][4:] == state_of("abc")


def test_a_death_from_outside_blames_half() -> None:
    scene = Scene()
    token = scene.lent(1)
    serial = only(scene).serial
    del scene.workers[serial]
    scene.core.exited(serial, Death("killed", "SIGKILL", by_lane(token, 77)), scene.now)
    scene.hand_back(1, b"", "ab")
    scene.send_blob(1, ops.pack(packets("c")), 1, number=77, flags=RAN)
    [request] = scene.core.dispatcher.open_requests()
    assert request.blame == {0: 0.5}


def test_a_death_before_its_take_has_come_is_blamed_all_the_same() -> None:
    """The client's packets were faster than its TAKE."""
    scene = Scene()
    token = scene.offered(1)
    scene.dies(only(scene), by_lane(token, 77))
    scene.take(1, token)
    assert scene.all(ANNA, Status.RECALL) == [(1, TOKEN.pack(token))]
    scene.hand_back(1, b"", "ab")
    scene.send_blob(1, ops.pack(packets("c")), 1, number=77, flags=RAN)
    [request] = scene.core.dispatcher.open_requests()
    assert request.blame == {0: 1.0}


def test_a_suspect_that_came_back_is_not_lent_before_it_has_decoded() -> None:
    scene = Scene()
    token = scene.lent(1)
    scene.dies(only(scene), by_lane(token, 77))
    scene.hand_back(1, b"", "ab")
    scene.send_blob(1, ops.pack(packets("c")), 1, number=77, flags=RAN)
    worker = scene.successor()
    scene.reach_unasked(ANNA, worker)
    assert steps(worker) == ["OPEN", "REPLAY ab", "DECODE c"]
    scene.work()
    scene.send(1, "d")
    scene.turn()
    assert steps(worker) == ["DECODE d", "LEND"]


def test_a_death_by_a_lane_is_reported_with_its_stream() -> None:
    scene = Scene()
    token = scene.lent(1)
    scene.dies(only(scene), by_lane(token, 77))
    scene.turn()
    [report] = [done for done in scene.did if isinstance(done, Report)]
    assert (report.reason, report.autopsy.stream) == ("segv", 1)


def test_a_planned_end_is_no_death() -> None:
    """Its clients are told with nothing in hand, and what comes back is no retry."""
    scene = Scene()
    token = scene.lent(1)
    worker = only(scene)
    worker.by_lane(token, "c")
    assert scene.core.recycle(0, scene.now) is None
    scene.turn()
    assert [done.serial for done in scene.did if isinstance(done, Retire)] == [worker.serial]
    assert scene.all(ANNA, Status.GONE) == [(worker.serial, GONE.pack(0, 0))]
    del scene.workers[worker.serial]
    scene.core.exited(worker.serial, Death("exit", "0", by_lane(token, 77)), scene.now)
    scene.hand_back(1, b"", "abc")
    request = scene.send(1, "d", flags=Flag.RETRIED)
    scene.successor()
    scene.work()
    assert scene.answer(request)[1][4:] == state_of("abcd")
    assert len(scene.all(ANNA, Status.GONE)) == 1
    assert (scene.books.retries, scene.stream(1).fatal) == (0, None)
    assert not any(isinstance(done, Report) for done in scene.did)


def test_an_operators_restart_blames_nothing_in_hand() -> None:
    scene = Scene()
    token = scene.lent(1)
    worker = only(scene)
    assert scene.core.restart(0, scene.now) is None
    del scene.workers[worker.serial]
    scene.core.exited(worker.serial, Death("killed", "SIGKILL", by_lane(token, 77)), scene.now)
    scene.turn()
    assert scene.all(ANNA, Status.GONE) == [(worker.serial, GONE.pack(0, 0))]
    assert scene.stream(1).fatal is None


# ---- balance, refusals, books, hangs --------------------------------------------------------


def uneven_scene() -> tuple[Scene, dict[int, int]]:
    """Four streams are lent, all at the first of two workers, and that is seen; their tokens."""
    scene = Scene(2, ready=1)
    tokens = {stream: scene.lent(stream) for stream in (1, 2, 3, 4)}
    scene.ready(max(scene.workers))
    for _ in range(5):
        scene.turn(0.2)
    return scene, tokens


def test_uneven_load_recalls_lent_streams() -> None:
    """They are not moved under their clients' hands, and each is called back once."""
    scene, tokens = uneven_scene()
    first, second = sorted(scene.workers)
    recalled = scene.all(ANNA, Status.RECALL)
    assert len(recalled) == 2
    assert all(TOKEN.pack(tokens[stream]) == payload for stream, payload in recalled)
    assert scene.books.streams_moved == 0
    assert [len(slot.streams) for slot in scene.core.slots] == [4, 0]
    for stream, _ in recalled:
        scene.hand_back(stream, b"", "ab")
        scene.send(stream, "c", flags=Flag.RETRIED)
        scene.work()
    assert [len(slot.streams) for slot in scene.core.slots] == [2, 2]
    assert [len(scene.workers[serial].decoders) for serial in (first, second)] == [2, 2]


@pytest.mark.parametrize("lost", [False, True], ids=["is with another worker", "waits"])
def test_what_was_called_back_is_blamed_where_its_packets_are_now(*, lost: bool) -> None:
    """Its old worker dies of a packet that came by the lane before the client heard."""
    scene, tokens = uneven_scene()
    first, second = sorted(scene.workers)
    stream, _ = scene.all(ANNA, Status.RECALL)[0]
    if lost:
        scene.dies(scene.workers[second])
        scene.turn()
    scene.hand_back(stream, b"", "ab")
    for number, flags in [(77, RAN), (78, Flag.RETRIED)]:
        scene.send_blob(stream, ops.pack(packets("c")), 1, number=number, flags=flags)
    scene.dies(scene.workers[first], by_lane(tokens[stream], 77))
    found = {request.id: request.blame for request in scene.core.dispatcher.open_requests()}
    assert found == {77: {0: 1.0}, 78: None}
    assert scene.stream(stream).suspect
    assert sum(slot.suspects for slot in scene.core.slots) == (0 if lost else 1)


def test_a_log_ends_with_the_first_request_behind_it() -> None:
    """What says that it was run before, but comes after, would be run twice."""
    scene = Scene()
    token = scene.lent(1)
    only(scene).by_lane(token, "c")
    scene.hand_back(1, b"", "abc")
    request = scene.send(1, "d", flags=Flag.RETRIED)
    scene.send(1, "x", flags=Flag.REPLAY)
    scene.work()
    assert scene.answer(request)[1][4:] == state_of("abcd")
    assert [letters(blob, n) for blob, n in scene.stream(1).journal.entries] == ["abc", "d"]


def refusals(scene: Scene) -> list[Refuse]:
    found = [done for done in scene.did if isinstance(done, Refuse)]
    scene.did.clear()
    return found


def test_workers_are_told_what_is_in_quarantine() -> None:
    """Those that are ready when it changes, those that get ready later, and of its end."""
    scene = Scene(3, ready=2, quarantine={"ttl_seconds": 2.0})
    first, second, third = sorted(scene.workers)
    assert refusals(scene) == []
    poison = b"poison of some length"
    scene.core.dispatcher.quarantine.add(poison, scene.now)
    scene.turn()
    told = digests.pack([(len(poison), digests.digest(poison))])
    assert refusals(scene) == [Refuse(first, told), Refuse(second, told)]
    scene.turn()
    assert refusals(scene) == []
    scene.ready(third)
    scene.turn()
    assert refusals(scene) == [Refuse(third, told)]
    scene.turn(1.5)
    scene.turn(1.5)
    scene.turn()
    assert refusals(scene) == [Refuse(serial, b"") for serial in (first, second, third)]


def test_a_worker_without_lanes_is_told_of_no_poison() -> None:
    scene = Scene(ready=0)
    scene.ready(only(scene).serial, lanes=False)
    scene.core.dispatcher.quarantine.add(b"poison of some length", scene.now)
    scene.turn()
    assert refusals(scene) == []


TIMES = (2, *[0] * len(DECODE_BOUNDS))
DONE = LaneCounts(2, 3, 1, 1, 4, 48_000, 1, 2, 500, TIMES)


def test_work_by_lanes_is_in_the_books() -> None:
    scene = Scene()
    serial, books = only(scene).serial, scene.books
    for _ in range(2):  # the same counts say nothing new
        scene.core.by_lane(serial, DONE, scene.now)
        scene.turn()
    assert books.accepted == 5
    assert {k: n for k, n in books.requests.items() if n} == {"ok": 3, "invalid": 1, "poison": 1}
    assert (books.packets_decoded, books.audio_seconds) == (4, 1.0)
    assert (books.quarantine_hits, books.checkpoints) == (1, 2)
    worker = scene.core.slots[0].worker
    assert worker is not None
    assert (worker.served, worker.packets) == (5, 4)


def test_counts_that_go_backwards_are_ignored() -> None:
    """A wild process has written there; what comes later counts from what was last believed."""
    scene = Scene()
    serial = only(scene).serial
    scene.core.by_lane(serial, DONE, scene.now)
    for wild in (DONE._replace(batches=3, ok=2), DONE._replace(batches=3, ticks=1 << 63)):
        scene.core.by_lane(serial, wild, scene.now)
        assert scene.books.accepted == 5
        assert scene.books.audio_seconds == 1.0
    scene.core.by_lane(serial, DONE._replace(batches=3, ok=5), scene.now)
    assert scene.books.accepted == 7
    scene.turn()


def test_work_by_lanes_counts_though_its_worker_dies() -> None:
    scene = Scene()
    scene.dies(only(scene), counts=DONE)
    scene.turn()
    assert scene.books.accepted == 5


def test_real_decodes_by_lanes_prove_a_worker() -> None:
    scene = Scene()
    worker = scene.core.slots[0].worker
    assert worker is not None
    proved = worker.proved
    scene.now += 1.0
    scene.core.by_lane(worker.serial, LaneCounts(batches=1, invalid=1), scene.now)
    assert worker.proved == proved
    scene.core.by_lane(worker.serial, LaneCounts(batches=2, invalid=1, packets=1), scene.now)
    assert worker.proved == scene.now


def kills(scene: Scene) -> list[Kill]:
    return [done for done in scene.did if isinstance(done, Kill)]


def watch(scene: Scene, serial: int, seconds: float, waited: float = 0.0) -> None:
    """Let time pass in which a client's batch is in hand and nothing moves."""
    for _ in range(round(seconds / 0.25)):
        scene.now += 0.25
        if scene.core.progress(serial, (recorder.LANE, 7), scene.now):
            scene.core.stands_still(serial, waited, scene.now, by_lane=True)
        scene.turn()


def test_who_stands_still_with_a_batch_in_hand_is_killed() -> None:
    scene = Scene()
    token = scene.lent(1)
    worker = only(scene)
    scene.core.progress(worker.serial, (recorder.LANE, 7), scene.now)
    watch(scene, worker.serial, HANG_SECONDS)
    assert kills(scene) == []
    watch(scene, worker.serial, 0.25)
    assert kills(scene) == [Kill(worker.serial, "hang", dump=True)]
    scene.dies(worker, by_lane(token, 77))
    scene.turn()
    assert restarts(scene) == {"hang": 1}
    assert scene.all(ANNA, Status.GONE) == [(worker.serial, GONE.pack(5, 3))]


def test_who_moves_is_not_killed() -> None:
    scene = Scene()
    serial = only(scene).serial
    for progress in range(20):
        scene.now += 0.25
        assert not scene.core.progress(serial, (recorder.LANE, progress), scene.now)
        scene.turn()
    assert kills(scene) == []


def test_who_stood_still_while_the_supervisor_did_is_not_killed() -> None:
    """After a suspend the worker has a whole deadline, and no longer one."""
    scene = Scene()
    serial = only(scene).serial
    scene.core.progress(serial, (recorder.LANE, 7), scene.now)
    scene.now += STALL_SECONDS + 1
    watch(scene, serial, HANG_SECONDS)
    assert kills(scene) == []
    watch(scene, serial, 0.5)
    assert kills(scene) == [Kill(serial, "hang", dump=True)]


def test_a_hang_by_a_lane_is_one_though_a_canary_waits() -> None:
    scene = Scene(health={"canary_seconds": 1.0})
    worker = only(scene)
    scene.turn(1.5)
    lease = scene.core.slots[0].lease
    assert lease is not None
    assert lease.canary
    scene.core.progress(worker.serial, (recorder.LANE, 7), scene.now)
    watch(scene, worker.serial, HANG_SECONDS + 0.25)
    assert kills(scene) == [Kill(worker.serial, "hang", dump=True)]
