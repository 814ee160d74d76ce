"""Any history of a supervisor's core keeps the promises; `coremodel.World` checks them."""

from __future__ import annotations

from typing import Any

from coremodel import BAD, HANG, KILLER, ModelWorker, Track, World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from opuspool import wire
from opuspool.ops import Op, OpKind
from opuspool.recorder import Position
from opuspool.wire import Kind, Status

CLIENTS = (b"anna", b"bert", b"carl")
PATIENT = 10_000.0
"""Seconds; a request that may take so long must not time out."""

PACKETS = st.sampled_from(
    [b"a", b"b", b"c", b"d", b"long" * 9, BAD, BAD + b"der", KILLER, KILLER + b"killed", HANG]
)
OPERATIONS = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=2).map(lambda data: Op(OpKind.PACKET, b"p" + data)),
        PACKETS.map(lambda data: Op(OpKind.PACKET, data)),
        st.just(Op(OpKind.LOST, b"")),
        st.just(Op(OpKind.FEC, b"f")),
    ),
    min_size=1,
    max_size=5,
)
NUMBER = st.integers(0, 11)
"""Picks one of however many there are: draws must not depend on what the core does."""


class CoreMachine(RuleBasedStateMachine):
    """Clients, workers and time do what they like; the world checks after each turn."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.streams: dict[tuple[int, int], Track] = {}
        self.ghosts: list[tuple[int, wire.Frames]] = []

    @initialize(
        count=st.integers(1, 3),
        spares=st.integers(0, 2),
        lease=st.sampled_from([1, 3, 8, 64]),
        checkpoint=st.sampled_from([0, 1, 3, 7]),
        attempts=st.integers(1, 3),
        saves=st.booleans(),
        booted=st.booleans(),
    )
    def start(
        self,
        count: int,
        spares: int,
        lease: int,
        checkpoint: int,
        attempts: int,
        saves: bool,
        booted: bool,
    ) -> None:
        self.world = World(
            {
                "workers": {
                    "count": count,
                    "spares": spares,
                    "hang_seconds": 2.0,
                    "start_seconds": 5.0,
                },
                "requests": {"lease_packets": lease, "max_attempts": attempts},
                "recovery": {"checkpoint_packets": checkpoint, "journal_packets": 100_000},
                "limits": {
                    "queued_requests": 20,
                    "queued_bytes": 1000,
                    "streams": 6,
                    "client_ttl_seconds": 86_400.0,
                },
            }
        )
        self.world.saves = saves
        self.world.turn()
        if booted:
            self.world.boot()

    # Clients

    def _stream(self, client: int, number: int, *, bulk: bool) -> Track:
        track = self.streams.get((client, number))
        if track is None or track.closed:
            track = self.world.stream(CLIENTS[client], bulk=bulk)
            self.streams[client, number] = track
        return track

    @rule(
        client=st.integers(0, 2),
        number=st.integers(0, 2),
        bulk=st.booleans(),
        requests=st.lists(OPERATIONS, min_size=1, max_size=4),
        timeout=st.sampled_from([PATIENT, PATIENT, PATIENT, 0.0, 0.3, 2.5]),
        close=st.sampled_from([False, False, False, False, True]),
        at_once=st.booleans(),
    )
    def send(
        self,
        client: int,
        number: int,
        bulk: bool,
        requests: list[list[Op]],
        timeout: float,
        close: bool,
        at_once: bool,
    ) -> None:
        track = self._stream(client, number, bulk=bulk)
        for index, operations in enumerate(requests):
            last = index == len(requests) - 1
            self.world.send(track, operations, timeout, close=close and last)
        if at_once:
            self.world.turn()

    @rule(client=st.integers(0, 2), number=st.integers(0, 2))
    def close(self, client: int, number: int) -> None:
        track = self.streams.get((client, number))
        if track is not None:
            self.world.close(track)
            self.world.turn()

    @rule(client=st.integers(0, 2), sure=NUMBER)
    def client_goes(self, client: int, sure: int) -> None:
        if sure > 8:
            self.world.client_goes(CLIENTS[client])
            self.world.turn()

    # Workers

    def _pick(self, which: int, kind: str) -> ModelWorker | None:
        workers = [worker for worker in self.world.workers.values() if _is(worker, kind)]
        return workers[which % len(workers)] if workers else None

    @rule(which=NUMBER)
    def gets_ready(self, which: int) -> None:
        worker = self._pick(which, "booting")
        if worker is not None:
            self.world.ready(worker)
            self.world.turn()

    @rule(which=NUMBER, deliver=st.booleans(), at_once=st.booleans())
    def works(self, which: int, deliver: bool, at_once: bool) -> None:
        worker = self._pick(which, "leased")
        if worker is not None:
            self.world.run(worker)
            if deliver and worker.reply is not None:
                self.world.deliver(worker)
        if at_once:
            self.world.turn()

    @rule(seconds=st.sampled_from([0.0, 0.2]))
    def all_work(self, seconds: float) -> None:
        for worker in list(self.world.workers.values()):
            if worker.can_run:
                self.world.run(worker)
            if worker.reply is not None:
                self.world.deliver(worker)
        self.world.turn(seconds)

    @rule(which=NUMBER, at_once=st.booleans())
    def results_arrive(self, which: int, at_once: bool) -> None:
        worker = self._pick(which, "replying")
        if worker is not None:
            self.world.deliver(worker)
        if at_once:
            self.world.turn()

    @rule(
        which=NUMBER,
        kind=st.sampled_from(["booting", "idle", "leased", "leased", "replying", "hung"]),
        reason=st.sampled_from(["segv", "abort", "killed", "access_violation", "exit"]),
        begun=st.booleans(),
        record=NUMBER,
        op=NUMBER,
        at_once=st.booleans(),
    )
    def dies(
        self,
        which: int,
        kind: str,
        reason: str,
        begun: bool,
        record: int,
        op: int,
        at_once: bool,
    ) -> None:
        worker = self._pick(which, kind)
        if worker is not None:
            position = worker.position
            if kind == "leased" and begun and worker.lease is not None:
                steps = worker.lease.records
                record %= len(steps)
                op %= max(1, steps[record].ops)
                position = Position(worker.lease.tag, record, op, 1)
            if worker.reply is not None:
                self.ghosts.append((worker.serial, worker.reply))
            self.world.die(worker, reason, position)
        if at_once:
            self.world.turn()

    @rule(which=NUMBER)
    def dead_worker_replies(self, which: int) -> None:
        if self.ghosts:
            serial, frames = self.ghosts[which % len(self.ghosts)]
            self.world.core.results(serial, wire.parse(frames), self.world.now)
            self.world.turn()

    @rule(which=NUMBER, how=st.sampled_from(["tag", "count", "payload", "step"]))
    def sends_garbage(self, which: int, how: str) -> None:
        worker = self._pick(which, "replying")
        if worker is not None and worker.reply is not None:
            reply = wire.parse(worker.reply)
            worker.reply = None
            worker.hung = True  # nothing more will come from it
            self.world.core.results(worker.serial, _garbled(reply, how), self.world.now)
            self.world.turn()

    @rule()
    def killed_workers_go(self) -> None:
        for slot in self.world.core.slots:
            if slot.worker is not None and slot.worker.killed_for:
                self.world.die(self.world.workers[slot.worker.serial], "killed")
        self.world.turn()

    @rule(which=NUMBER)
    def checkpoints_get_damaged(self, which: int) -> None:
        workers = list(self.world.workers.values())
        if workers:
            workers[which % len(workers)].damages = True

    @rule(trouble=st.booleans())
    def processes_run_out(self, trouble: bool) -> None:
        self.world.spawn_error = "no room for another process" if trouble else ""

    # The rest

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.3, 1.0, 2.5, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.turn(seconds)

    @rule(sure=st.integers(0, 19))
    def drain(self, sure: int) -> None:
        if sure == 19:
            self.world.drained = True
            self.world.core.drain(self.world.now)
            self.world.turn()

    def teardown(self) -> None:
        """With healthy workers and time, every request of a living client gets its answer."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.spawn_error = ""
        for worker in world.workers.values():
            worker.damages = False
        for _ in range(400):
            world.work(seconds=1.0)
            if not world.core.open_requests and all(s.lease is None for s in world.core.slots):
                break
        if world.drained:
            world.dispatcher.fail_all(Status.SHUTDOWN, "the supervisor has shut down")
            world.turn()
        assert not world.open, f"never answered: {list(world.open.values())}"
        if not world.drained:
            self._end_in_peace()

    def _end_in_peace(self) -> None:
        world = self.world
        for sent in world.sent.values():
            late = sent.status is Status.TIMEOUT and sent.deadline >= PATIENT
            assert not late, f"{sent} starved"
        world.work(5, seconds=10.0)
        assert world.core.health == "ok"
        track = world.stream(b"last")
        assert world.send(track, [Op(OpKind.LOST, b"")]) is not None
        for track in world.tracks.values():
            world.close(track)
        world.work(3)
        assert world.dispatcher.streams == 0
        assert world.dispatcher._queued_bytes == 0
        for worker in world.workers.values():
            assert not worker.decoders, f"{worker} keeps decoders {worker.decoders}"


def _is(worker: ModelWorker, kind: str) -> bool:
    kinds = {
        "booting": not worker.ready,
        "idle": worker.ready and worker.lease is None,
        "leased": worker.can_run,
        "replying": worker.reply is not None,
        "hung": worker.hung,
    }
    return kinds[kind]


def _garbled(reply: wire.Message, how: str) -> wire.Message:
    """Results that do not fit their lease."""
    records: list[Any] = list(reply.records)
    tag, data = reply.tag, reply.data
    if how == "tag":
        tag += 1000
    elif how == "count" or not records:
        records.append(wire.Result(0, 0, 1, 0))
    elif how == "payload":
        last = records[-1]
        records[-1] = last._replace(length=last.length + 1, ops=last.ops + 1)
        data += b"!"
    else:
        records[0] = records[0]._replace(step=records[0].step + 1)
    return wire.Message(Kind.RESULTS, tag, records, data)


def test_any_history_keeps_the_promises() -> None:
    """One answer each, the reference's PCM, order, books that balance, nothing lost or left."""
    run_state_machine_as_test(
        CoreMachine, settings=settings(max_examples=200, stateful_step_count=60)
    )
