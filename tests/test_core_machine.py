"""Any history of a supervisor's core keeps the promises; `coremodel.World` checks them."""

from __future__ import annotations

from typing import Any

from coremodel import BAD, HANG, KILLER, OUTSIDE, ModelWorker, Track, World
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
    [b"a", b"b", b"c", b"d", b"longer", BAD, BAD + b"der", KILLER, OUTSIDE, HANG]
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

TROUBLES = [
    "a client goes",
    "a dead worker replies",
    "checkpoints get damaged",
    "no process can start",
    "killed workers go",
    "the supervisor stalls",
    "drain",
    "a slot is drained",
    "a slot is resumed",
]


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
        retries=st.sampled_from([0.2, 2.0]),
        narrow=st.sampled_from([False, False, False, False, True]),
        saves=st.sampled_from([True, True, False]),
        recycle=st.sampled_from([0, 0, 0, 3]),
        booted=st.sampled_from([True, True, True, False]),
        drains=st.sampled_from([False, False, False, True]),
    )
    def start(
        self,
        count: int,
        spares: int,
        lease: int,
        checkpoint: int,
        attempts: int,
        retries: float,
        narrow: bool,
        saves: bool,
        recycle: int,
        booted: bool,
        drains: bool,
    ) -> None:
        self.world = World(
            {
                "workers": {
                    "count": count,
                    "spares": spares,
                    "hang_seconds": 2.0,
                    "start_seconds": 5.0,
                },
                "requests": {
                    "lease_packets": lease,
                    "max_attempts": attempts,
                    "retry_per_second": retries,
                },
                "recovery": {"checkpoint_packets": checkpoint, "journal_packets": 50_000},
                "recycle": {"requests": recycle},
                "limits": {
                    "queued_requests": 8 if narrow else 1000,
                    "queued_bytes": 200 if narrow else 100_000,
                    "streams": 4 if narrow else 100,
                    "client_ttl_seconds": 86_400.0,
                },
            }
        )
        self.world.saves = saves
        self.drains = drains
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
        turns=st.sampled_from([None, 0, 1, 3]),
    )
    def send(
        self,
        client: int,
        number: int,
        bulk: bool,
        requests: list[list[Op]],
        timeout: float,
        close: bool,
        turns: int | None,
    ) -> None:
        track = self._stream(client, number, bulk=bulk)
        for index, operations in enumerate(requests):
            last = index == len(requests) - 1
            self.world.send(track, operations, timeout, close=close and last)
        if turns is not None:
            self.world.work(turns)

    @rule(client=st.integers(0, 2), number=st.integers(0, 2))
    def close(self, client: int, number: int) -> None:
        track = self.streams.get((client, number))
        if track is not None:
            self.world.close(track)
            self.world.turn()

    # Workers

    def _pick(self, which: int, kind: str) -> ModelWorker | None:
        alive = self.world.workers.values()
        workers = [worker for worker in alive if _is(worker, kind) and not worker.leaves]
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

    @rule(turns=st.integers(1, 4), seconds=st.sampled_from([0.0, 0.0, 0.2]))
    def all_work(self, turns: int, seconds: float) -> None:
        self.world.work(turns, seconds)

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

    @rule(which=NUMBER, how=st.sampled_from(["tag", "count", "payload", "ops", "step"]))
    def sends_garbage(self, which: int, how: str) -> None:
        worker = self._pick(which, "leased")
        if worker is None:
            return
        self.world.run(worker)
        if worker.reply is not None:
            reply = wire.parse(worker.reply)
            worker.reply = None
            worker.hung = True  # nothing more will come from it
            self.world.core.results(worker.serial, _garbled(reply, how), self.world.now)
            self.world.turn()

    @rule(which=NUMBER)
    def replies_too_late(self, which: int) -> None:
        worker = self._pick(which, "leased")
        if worker is None:
            return
        self.world.run(worker)
        self.world.turn(4.0)
        if worker.reply is not None and self.world.slot_of(worker) is not None:
            self.world.deliver(worker)
            self.world.turn()

    # The rest

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.3, 0.3, 1.0, 2.5, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.turn(seconds)

    @rule(what=st.sampled_from(TROUBLES), which=NUMBER)
    def trouble(self, what: str, which: int) -> None:
        world = self.world
        if what == "a client goes" and which > 5:
            world.client_goes(CLIENTS[which % 3])
        elif what == "a dead worker replies" and self.ghosts:
            serial, frames = self.ghosts[which % len(self.ghosts)]
            world.core.results(serial, wire.parse(frames), world.now)
        elif what == "checkpoints get damaged" and world.workers:
            list(world.workers.values())[which % len(world.workers)].damages = True
        elif what == "no process can start":
            world.spawn_error = "no room for another process" if which % 2 else ""
        elif what == "killed workers go":
            self._killed_go()
        elif what == "the supervisor stalls":
            world.stall(3.0)
        elif what == "drain" and self.drains:
            world.drain()
        elif what == "a slot is drained":
            self._drain_slot(which)
        elif what == "a slot is resumed":
            self._resume_slots()
        world.turn()

    def _drain_slot(self, which: int) -> None:
        core = self.world.core
        slot = core.slots[which % len(core.slots)]
        if core.drain_slot(slot.number, self.world.now) is None and not slot.spare:
            assert any(other.serving for other in core.slots), "drained, and nothing serves"

    def _resume_slots(self) -> None:
        for slot in self.world.core.slots:
            if slot.drain:
                self.world.resume(slot)

    def _killed_go(self) -> None:
        for slot in self.world.core.slots:
            if slot.worker is not None and slot.worker.killed_for:
                worker = self.world.workers[slot.worker.serial]
                self.world.die(worker, "exit" if worker.leaves else "killed")

    def teardown(self) -> None:
        """With healthy workers and time, every request of a living client gets its answer."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.spawn_error = ""
        self._resume_slots()
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
        world.work(50, seconds=1.0)
        assert world.core.health == "ok"
        for track in world.tracks.values():
            world.close(track)
        world.work(3)
        assert world.dispatcher.admission.streams == 0
        assert world.dispatcher.admission.queued_bytes == 0
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
        records[0] = records[0]._replace(length=records[0].length + 1)
        data = data[:1] + data
    elif how == "ops":
        records[0] = records[0]._replace(ops=records[0].ops + 1)
    else:
        records[0] = records[0]._replace(step=records[0].step + 1)
    return wire.Message(Kind.RESULTS, tag, records, data)


def test_any_history_keeps_the_promises() -> None:
    """One answer each, the reference's PCM, order, books that balance, nothing lost or left."""
    examples = max(200, settings().max_examples)  # more in a hunt
    run_state_machine_as_test(
        CoreMachine, settings=settings(max_examples=examples, stateful_step_count=60)
    )
