"""The core in scripted histories: the way of a packet, of a crash, and of all that may go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from coremodel import (
    BAD,
    HANG,
    KILLER,
    OUTSIDE,
    SAMPLES,
    SMASHING,
    ToyDecoder,
    World,
    packet,
    packets,
    taken_apart,
)
from opuspool_supervisor import audit, canary
from opuspool_supervisor.blame import FREE_KILLS, _punish
from opuspool_supervisor.core import DUMP_SECONDS, RETIRE_SECONDS
from opuspool_supervisor.death import Death
from opuspool_supervisor.dispatch import BULK_ALONE
from opuspool_supervisor.slots import HOPELESS, SlotState

from opuspool import knownpacket, ops, wire
from opuspool.ops import INVALID_PACKET, MAX_OPS, POISON, Op, OpKind
from opuspool.recorder import Position
from opuspool.wire import Action, Flag, Kind, Request, Result, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from coremodel import ModelWorker, Sent, Track

LOST = Op(OpKind.LOST, b"")
FEC = Op(OpKind.FEC, b"f")
KILL = packet(KILLER)


def world(count: int = 1, spares: int = 0, **sections: dict[str, object]) -> World:
    """A world whose workers are all ready."""
    made = closed_world(count, spares, **sections)
    made.boot()
    return made


def closed_world(count: int = 1, spares: int = 0, **sections: dict[str, object]) -> World:
    """A world whose workers have not been started."""
    workers = {"count": count, "spares": spares, **sections.pop("workers", {})}
    quiet = {"canary_seconds": 3600.0}
    return World({"workers": workers, "health": quiet, **sections})


def only(made: World) -> ModelWorker:
    """The one worker there is."""
    [worker] = made.workers.values()
    return worker


def lease_of(worker: ModelWorker) -> wire.Message:
    assert worker.lease is not None
    return worker.lease


def steps(worker: ModelWorker) -> list[str]:
    """What a worker has been told to do: actions, with the letters of their packets."""
    lease = lease_of(worker)
    return [
        f"{Action(step.action).name} {letters(payload, step.ops)}".strip()
        for step, payload in zip(lease.records, lease.payloads(), strict=True)
    ]


def letters(blob: bytes, count: int) -> str:
    return b"".join(op.packet for op in ops.unpack(blob, count)).decode() if count else ""


def pcm_of(text: str) -> bytes:
    """PCM of the last packet, where a fresh decoder has decoded all of them."""
    decoder = ToyDecoder()
    for op in packets(text):
        decoder.run(op)
    return decoder.state


def outcomes(made: World) -> dict[str, int]:
    """Requests by outcome, those that are not 0."""
    return {name: number for name, number in made.books.requests.items() if number}


def restarts(made: World) -> dict[str, int]:
    """Ended workers by reason, those that are not 0."""
    return {name: number for name, number in made.books.worker_restarts.items() if number}


def dies_at(made: World, worker: ModelWorker, record: int, op: int = 0) -> None:
    """A worker dies of a fault in the given step of its lease; a turn is taken."""
    made.die(worker, "segv", Position(lease_of(worker).tag, record, op, 1))
    made.turn()


def decoded(made: World, track: Track, text: str) -> Sent:
    """Send packets, one letter each, and have them decoded."""
    sent = made.send(track, packets(text))
    made.work(2)
    assert sent.status is Status.OK
    return sent


def waits(sent: Sent) -> bool:
    return sent.status is None


def told(made: World, event: str) -> list[dict[str, Any]]:
    return [tell.facts for tell in made.told if tell.event == event]


# ---- the way of a packet --------------------------------------------------------------------


def test_the_way_of_a_packet() -> None:
    """Queued, leased, decoded, settled in the journal, answered with its PCM."""
    made = world()
    track = made.stream()
    sent = made.send(track, packets("a"))
    assert (made.dispatcher.admission.queued, made.dispatcher.in_flight) == (1, 0)
    made.turn()
    assert (made.dispatcher.admission.queued, made.dispatcher.in_flight) == (0, 1)
    assert steps(only(made)) == ["OPEN", "DECODE a"]
    made.finish(only(made))
    made.turn()
    assert sent.status is Status.OK
    assert sent.payload.endswith(pcm_of("a"))
    assert outcomes(made) == {"ok": 1}
    assert made.books.packets_decoded == 1
    assert [count for _, count in made.core_stream(track).journal.entries] == [1]


def test_a_stream_goes_on_where_it_was() -> None:
    """Its decoder is opened once; losses and FEC keep their place among the packets."""
    made = world()
    track = made.stream()
    decoded(made, track, "ab")
    sent = made.send(track, [LOST, FEC, *packets("c")])
    made.turn()
    assert steps(only(made)) == ["DECODE fc"]
    made.work(2)
    assert sent.results == (SAMPLES,) * 3


def test_what_has_gathered_is_the_next_lease() -> None:
    """Requests that come while a worker is busy go to it together, up to the lease's size."""
    made = world(requests={"lease_packets": 3})
    one, two = made.stream(), made.stream()
    made.send(one, packets("a"))
    made.turn()
    for text in ["b", "c", "d", "e"]:
        made.send(two, packets(text))
    made.finish(only(made))
    made.turn()
    assert steps(only(made)) == ["OPEN", "DECODE b", "DECODE c", "DECODE d"]


def test_a_refused_packet_fails_alone() -> None:
    """Its outcome says so, the packets around it have their PCM, and the worker lives."""
    made = world()
    sent = made.send(made.stream(), [*packets("a"), packet(BAD), *packets("b")])
    made.work(2)
    assert sent.status is Status.FAILED_OPS
    assert sent.results == (SAMPLES, INVALID_PACKET, SAMPLES)
    assert outcomes(made) == {"invalid": 1}
    assert made.books.packets_decoded == 2
    assert restarts(made) == {}


def test_a_checkpoint_is_taken_every_few_packets() -> None:
    """It takes the place of the log; its client gets a copy. A stream's first one comes early."""
    made = world(recovery={"checkpoint_packets": 3})
    track = made.stream()
    decoded(made, track, "a")
    journal = made.core_stream(track).journal
    assert (journal.checkpoint, journal.packets) == (None, 1)
    made.send(track, packets("b"))
    made.turn()
    assert steps(only(made)) == ["DECODE b", "CHECKPOINT"]
    made.work(2)
    assert (journal.checkpoint, journal.packets) == (pcm_of("ab"), 0)
    assert made.books.checkpoints == 1
    decoded(made, track, "cd")
    assert (journal.checkpoint, journal.packets) == (pcm_of("ab"), 2)
    decoded(made, track, "e")
    assert (journal.checkpoint, journal.packets) == (pcm_of("abcde"), 0)


def test_streams_that_began_together_are_not_saved_together() -> None:
    """Or all would wait for all of their checkpoints, again and again."""
    made = world(recovery={"checkpoint_packets": 10})
    tracks = [made.stream() for _ in range(20)]
    taken = []
    for _ in range(10):
        before = made.books.checkpoints
        for track in tracks:
            decoded(made, track, "a")
        taken.append(made.books.checkpoints - before)
    assert taken == [2] * 10


def test_a_closed_stream_leaves_nothing() -> None:
    """Its worker destroys the decoder, and the supervisor forgets it."""
    made = world()
    track = made.stream()
    made.send(track, packets("a"), close=True)
    made.work(3)
    assert made.dispatcher.admission.streams == 0
    assert only(made).decoders == {}
    late = made.send(track, packets("b"), flags=0)
    made.turn()
    assert late.status is Status.STREAM_CLOSED


def test_streams_spread_over_the_workers() -> None:
    """Each new stream goes where least is to do."""
    made = world(count=3)
    for _ in range(6):
        made.send(made.stream(), packets("a"))
    made.turn()
    assert [len(slot.streams) for slot in made.core.slots] == [2, 2, 2]


# ---- the way of a crash ---------------------------------------------------------------------


@pytest.mark.parametrize("spares", [0, 1])
@pytest.mark.parametrize("checkpoint", [0, 2])
def test_the_way_of_a_crash(spares: int, checkpoint: int) -> None:
    """A spare, or the next worker, rebuilds the streams, and nobody notices anything."""
    made = world(spares=spares, recovery={"checkpoint_packets": checkpoint})
    one, two = made.stream(b"anna"), made.stream(b"bert")
    decoded(made, one, "ab")
    decoded(made, two, "c")
    sent = [
        made.send(one, packets("d")),
        made.send(two, packets("e")),
        made.send(one, packets("f")),
    ]
    made.turn()
    dies_at(made, made.worker_of(one), record=0)
    if not spares:
        made.boot()
    rebuild = ["RESTORE"] if checkpoint else ["OPEN", "REPLAY ab"]
    assert steps(made.worker_of(one)) == [*rebuild, "DECODE d"]
    made.work(4)
    assert [request.status for request in sent] == [Status.OK] * 3
    assert [request.payload[-len(pcm_of("")) :] for request in sent] == [
        pcm_of("abd"),
        pcm_of("ce"),
        pcm_of("abdf"),
    ]
    assert restarts(made) == {"segv": 1}
    assert made.books.access_violations == 1
    assert made.books.retries == 3


def test_a_spare_takes_over_in_the_same_turn() -> None:
    """No request waits for a process to start; the empty place is the spare's then."""
    made = world(count=2, spares=1)
    track = made.stream()
    made.send(track, packets("a"))
    made.turn()
    worker = made.worker_of(track)
    slot = made.slot_of(worker)
    assert slot is not None
    made.die(worker)
    made.turn()
    assert slot.state is SlotState.BUSY
    assert slot.generation == 2
    assert [s.state for s in made.core.slots if s.spare] == [SlotState.STARTING]
    assert made.core.health == "ok"


def test_without_a_spare_another_worker_takes_over() -> None:
    """The streams of the dead go to those that live."""
    made = world(count=2)
    one, two = made.stream(), made.stream()
    decoded(made, one, "a")
    decoded(made, two, "b")
    made.die(made.worker_of(one))
    made.turn()
    assert made.core.health == "degraded"
    assert decoded(made, one, "c").payload.endswith(pcm_of("ac"))


@pytest.mark.parametrize("bulk", [False, True])
def test_what_a_dead_worker_had_goes_to_the_head_of_the_queue(bulk: bool) -> None:
    """Before what waits for the worker that takes over, and before what waits for any."""
    made = world(count=2, requests={"lease_packets": 1})
    one, two = made.stream(bulk=bulk), made.stream(bulk=bulk)
    times = BULK_ALONE if bulk else 1  # a lease full
    for letter in "ab":
        made.send(one, packets(letter * times))
        made.send(two, packets(letter.upper() * times))
    made.turn()
    made.die(made.worker_of(one), "killed")
    made.turn()
    survivor = made.worker_of(two)
    seen = []
    for _ in range(4):
        seen.append(steps(survivor)[-1])
        made.finish(survivor)
        made.turn()
    assert seen == [f"DECODE {letter * times}" for letter in "AabB"]


def test_a_dead_workers_requests_go_before_those_that_wait_for_any_worker() -> None:
    """With nobody to take over, new requests line up behind them."""
    made = world(requests={"lease_packets": 1})
    made.send(made.stream(), packets("a"))
    made.turn()
    made.send(made.stream(), packets("b"))
    made.die(only(made), "killed")
    made.send(made.stream(), packets("c"))
    made.boot()
    seen = []
    for _ in range(3):
        seen.append(steps(only(made))[-1])
        made.finish(only(made))
        made.turn()
    assert seen == ["DECODE a", "DECODE b", "DECODE c"]


def test_the_last_workers_requests_go_before_those_that_wait_already() -> None:
    """They had been accepted earlier, and part of them has been tried."""
    made = world(count=2, requests={"lease_packets": 1})
    for letter in "ab":
        made.send(made.stream(), packets(letter))
    made.turn()
    first, second = made.workers.values()
    for worker in (first, second):
        made.core.babbled(worker.serial, "nonsense", made.now)
    made.die(first)
    made.send(made.stream(), packets("c"))
    made.die(second)
    waiting = [letters(request.blob, 1) for request in made.dispatcher.unplaced]
    assert waiting == ["b", "a", "c"]
    made.boot()
    made.work(6)
    assert outcomes(made) == {"ok": 3}


def test_a_spares_place_waits_as_long_as_the_dead_workers_would_have() -> None:
    """A spare that takes over is no way around the backoff."""
    made = world(spares=1)
    slot, spare = made.core.slots
    slot.fruitless = 20
    made.die(made.workers[1])
    assert slot.state is SlotState.IDLE
    assert spare.due > made.now + 1.0


def test_a_death_while_idle_blames_nobody() -> None:
    """Its streams move; no packet has an attempt less."""
    made = world(spares=1)
    track = made.stream()
    decoded(made, track, "a")
    made.die(made.worker_of(track))
    made.turn()
    stream = made.core_stream(track)
    assert (stream.deaths, stream.suspect) == (0, False)
    assert decoded(made, track, "b").payload.endswith(pcm_of("ab"))


def test_only_the_packet_in_hand_is_blamed() -> None:
    """The other requests of the lease are innocent, before it and behind it."""
    made = world(spares=1, requests={"max_attempts": 1})
    tracks = [made.stream(), made.stream(), made.stream()]
    sent = [made.send(track, packets("ab")) for track in tracks]
    made.turn()
    dies_at(made, made.worker_of(tracks[0]), record=3, op=1)  # OPEN, DECODE, OPEN, DECODE
    made.work(8)
    statuses = [request.status for request in sent]
    assert statuses == [Status.OK, Status.FAILED_OPS, Status.OK]
    assert sent[1].results == (SAMPLES, POISON)


def test_after_what_may_kill_with_a_delay_a_canary_goes_first() -> None:
    """If its damage shows now, it shows in a packet of ours, and no stream is blamed for it."""
    made = world(spares=1)
    culprit = made.send(made.stream(), packets("a"))
    made.turn()
    dies_at(made, made.worker_of(culprit.track), record=1, op=0)
    made.turn()
    worker = made.worker_of(culprit.track)
    made.finish(worker)
    innocent = made.send(made.stream(), packets("b"))
    made.turn()
    slot = made.slot_of(worker)
    assert slot is not None
    assert slot.lease is not None
    assert slot.lease.canary
    made.die(worker, "abort")
    made.work(6)
    assert [culprit.status, innocent.status] == [Status.OK, Status.OK]
    assert made.books.poison_packets == made.books.inexact_rebuilds == 0


@pytest.mark.parametrize(
    "position",
    [
        None,
        Position(0, 0, 0, 0),
        Position(10**9, 1, 0, 0),
        Position(1, 2**64 - 1, 0, 0),
        Position(1, 1, 2**64 - 1, 0),
        Position(1, 2**64 - 1, 2**64 - 1, 2**64 - 1),
    ],
)
def test_an_unreadable_flight_recorder_names_no_packet(position: Position | None) -> None:
    """The dead worker may have scribbled over it: nothing breaks, no packet is blamed."""
    made = world(spares=1, requests={"max_attempts": 1})
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    worker = made.worker_of(sent.track)
    del made.workers[worker.serial]
    made.core.exited(worker.serial, Death("segv", "SIGSEGV", position), made.now)
    made.work(4)
    assert sent.status is Status.OK


# ---- poison ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize(
    ("data", "reason", "deaths_each"),
    [(KILLER, "segv", 1), (OUTSIDE, "killed", 2), (HANG, "hang", 1)],
)
def test_a_packet_whose_attempts_are_used_up_is_poison(
    attempts: int, data: bytes, reason: str, deaths_each: int
) -> None:
    """It alone fails; SIGKILL, which comes from outside, counts half; neighbours are whole."""
    made = world(count=2, spares=1, requests={"max_attempts": attempts})
    track, other = made.stream(), made.stream()
    bad = made.send(track, [*packets("a"), packet(data), *packets("b")])
    good = [made.send(other, packets("c")), made.send(track, packets("d"))]
    made.work(60, seconds=0.3)
    assert bad.results == (SAMPLES, POISON, SAMPLES)
    assert [sent.status for sent in good] == [Status.OK] * 2
    assert good[1].payload.endswith(pcm_of("abd"))
    assert restarts(made) == {reason: attempts * deaths_each}
    assert made.books.poison_packets == 1
    assert outcomes(made) == {"ok": 2, "poison": 1}


def test_two_killers_in_one_request_are_both_found() -> None:
    """Attempts are counted for each packet."""
    made = world(spares=1)
    sent = made.send(made.stream(), [KILL, *packets("a"), packet(KILLER + b"2"), *packets("b")])
    made.work(60, seconds=0.3)
    assert sent.results == (POISON, SAMPLES, POISON, SAMPLES)
    assert restarts(made) == {"segv": 4}


def test_a_packet_that_kills_once_is_decoded() -> None:
    """A transient cause costs a retry, and the caller notices nothing."""
    made = world(spares=1)
    sent = made.send(made.stream(), packets("ab"))
    made.turn()
    dies_at(made, made.worker_of(sent.track), record=1, op=1)
    made.work(4)
    assert sent.status is Status.OK
    assert made.books.retries == 1
    assert made.books.poison_packets == 0


LONG_KILLER = KILLER + b" and longer"
REFUSED = Op(OpKind.POISONED, b"")
"""What the world is to expect of a packet that is never run."""


def test_a_known_killer_is_refused_unseen() -> None:
    """In any stream of any client, without another death, for a time."""
    made = world(spares=1, quarantine={"ttl_seconds": 100.0})
    made.send(made.stream(), [packet(LONG_KILLER)])
    made.work(20, seconds=0.3)
    assert restarts(made) == {"segv": 2}
    again = made.send(made.stream(b"bert"), [*packets("a"), packet(LONG_KILLER), *packets("b")])
    again.operations[1] = REFUSED
    made.work(2)
    assert again.results == (SAMPLES, POISON, SAMPLES)
    assert restarts(made) == {"segv": 2}
    assert made.books.quarantine_hits == 1
    made.work(110, seconds=1.0)
    made.send(made.stream(b"carl"), [packet(LONG_KILLER)])
    made.work(20, seconds=0.3)
    assert restarts(made) == {"segv": 4}


def test_a_known_killer_that_waits_already_is_refused_unseen() -> None:
    """Requests that came before the verdict do not kill again."""
    made = world(spares=1)
    sent = [made.send(made.stream(), [packet(LONG_KILLER)]) for _ in range(6)]
    for one in sent:
        one.operations[0] = REFUSED
    made.work(40, seconds=0.3)
    assert [request.results for request in sent] == [(POISON,)] * 6
    assert restarts(made)["segv"] <= 4


def test_the_stream_of_a_killer_is_slowed_down_in_order() -> None:
    """A request held back longer is still run before one that came later."""
    made = world(count=2)
    track = made.stream()
    decoded(made, track, "a")
    stream = made.core_stream(track)
    stream.suspect = True
    for ago in [9.95] * 2 + [0.0] * FREE_KILLS:
        _punish(stream.client, made.now - ago)
    first = made.send(track, packets("b"))
    assert stream.held == 1
    made.turn(0.1)  # the two old deaths are forgotten
    _punish(stream.client, made.now)
    second = made.send(track, packets("c"))
    made.work(20, seconds=0.1)
    assert first.payload.endswith(pcm_of("ab"))
    assert second.payload.endswith(pcm_of("abc"))


# ---- a rebuild that kills -------------------------------------------------------------------


def test_what_a_rebuild_uses_shrinks_with_each_death() -> None:
    """All, all again, then the log alone, then nothing: until a worker survives it."""
    made = world(recovery={"checkpoint_packets": 3})
    track = made.stream()
    decoded(made, track, "abc")
    decoded(made, track, "d")
    sent = made.send(track, packets("e"))
    made.turn()
    made.die(only(made), "killed", Position(0, 0, 0, 0))
    seen = []
    for _ in range(4):
        made.boot()
        seen.append(steps(only(made)))
        if len(seen) < 4:
            dies_at(made, only(made), record=0)
    assert seen == [
        ["RESTORE", "REPLAY d", "DECODE e"],
        ["RESTORE", "REPLAY d", "DECODE e"],
        ["OPEN", "REPLAY d", "DECODE e"],
        ["OPEN", "DECODE e"],
    ]
    made.work(2)
    assert sent.status is Status.OK
    assert sent.payload.endswith(pcm_of("e"))
    assert made.books.inexact_rebuilds == 2


def test_a_death_while_decoding_counts_as_the_first() -> None:
    """The dying worker's checkpoint may be damaged: one rebuild tries it, the next does not."""
    made = world(spares=0, recovery={"checkpoint_packets": 2}, requests={"max_attempts": 5})
    track = made.stream()
    decoded(made, track, "ab")
    made.send(track, packets("c"))
    made.turn()
    dies_at(made, only(made), record=0)
    made.boot()
    assert steps(only(made)) == ["RESTORE", "DECODE c"]
    dies_at(made, only(made), record=0)
    made.boot()
    assert steps(only(made)) == ["OPEN", "DECODE c"]


def test_a_rebuild_that_held_is_trusted_again() -> None:
    """What lives now is what later rebuilds give, bit for bit."""
    made = world(recovery={"checkpoint_packets": 2})
    track = made.stream()
    decoded(made, track, "ab")
    only(made).damages = True
    decoded(made, track, "cd")  # its checkpoint kills
    made.send(track, packets("e"))
    made.die(only(made), "killed")
    made.work(12, seconds=0.2)
    assert restarts(made) == {"killed": 1, "segv": 2}
    stream = made.core_stream(track)
    assert stream.deaths == 0
    made.die(only(made), "killed")
    assert decoded_after_boot(made, track, "f").endswith(pcm_of("ef"))
    assert restarts(made) == {"killed": 2, "segv": 2}


def decoded_after_boot(made: World, track: Track, text: str) -> bytes:
    sent = made.send(track, packets(text))
    made.work(4)
    return sent.payload


@pytest.mark.parametrize("attempts", [1, 2, 3, 4])
@pytest.mark.parametrize("checkpoint", [0, 2])
def test_poison_leaves_the_journal_trusted(attempts: int, checkpoint: int) -> None:
    """The packet is guilty, and its stream goes on bit for bit."""
    recovery: dict[str, object] = {"checkpoint_packets": checkpoint}
    made = world(spares=1, recovery=recovery, requests={"max_attempts": attempts})
    track = made.stream()
    decoded(made, track, "abc")
    sent = made.send(track, [KILL, *packets("d")])
    made.work(20, seconds=0.2)
    assert sent.results == (POISON, SAMPLES)
    assert sent.payload.endswith(pcm_of("abcd"))
    assert made.core_stream(track).journal.exact


def test_closes_without_number_fit_into_leases() -> None:
    """Many streams may end at once; a rebuild waits until all of them are told."""
    made = world()
    slot = made.core.slots[0]
    slot.closes += range(1000, 1000 + wire.MAX_RECORDS + 100)
    made.send(made.stream(), packets("a"))
    seen: list[int] = []
    while (lease := made.dispatcher.lease(slot, made.now)) is not None:
        message = wire.parse(lease.frames())
        seen += [step.action for step in message.records]
    assert seen == [*[Action.CLOSE] * (wire.MAX_RECORDS + 100), Action.OPEN, Action.DECODE]


def test_the_bytes_of_a_rebuild_fit_into_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long packets are no way to make a lease that no worker can read."""
    made = world(recovery={"checkpoint_packets": 0})
    tracks = [made.stream() for _ in range(8)]
    sent = [made.send(track, [packet(b"a" * 900)]) for track in tracks for _ in range(3)]
    made.work(3)
    sent += [made.send(track, packets("b")) for track in tracks]
    monkeypatch.setattr(wire, "MAX_DATA_BYTES", 10_000)
    made.die(only(made), "killed")
    made.work(20)
    assert {one.status for one in sent} == {Status.OK}


def test_a_log_without_checkpoints_fits_into_leases() -> None:
    """However much is to be replayed, no lease is longer than a message may be."""
    made = world(recovery={"checkpoint_packets": 0, "journal_packets": 3000})
    tracks = [made.stream() for _ in range(24)]
    for track in tracks:
        made.send(track, packets("a"))
    made.work(3)
    entry = (ops.pack(packets("b")), 1)
    for track in tracks:
        journal = made.core_stream(track).journal
        journal.entries += [entry] * 2999
        journal.packets += 2999
        track.decoder.outcome(packets("b" * 2999))
    for track in tracks:
        made.send(track, packets("c"))
    made.die(only(made), "killed")
    made.work(40)
    assert [sent.status for sent in made.sent.values()] == [Status.OK] * 48


# ---- deadlines ------------------------------------------------------------------------------


def test_a_request_that_waits_too_long_is_answered_and_never_run() -> None:
    """Those behind it run as if it had not been there."""
    made = world()
    track = made.stream()
    made.send(made.stream(), packets("x"))
    made.turn()
    late = made.send(track, packets("a"), timeout=0.3)
    sent = made.send(track, packets("b"))
    made.turn(0.35)
    made.turn(0.1)
    assert late.status is Status.TIMEOUT
    assert waits(sent)
    made.work(3)
    assert sent.payload.endswith(pcm_of("b"))
    assert outcomes(made) == {"ok": 2, "timeout": 1}


def test_requests_that_have_timed_out_do_not_pile_up() -> None:
    """Also where nobody works for long, what has been answered is forgotten."""
    made = closed_world()
    track = made.stream()
    for _ in range(50):
        made.send(track, packets("a"), timeout=0.0)
    made.turn(0.2)
    assert outcomes(made) == {"timeout": 50}
    assert list(made.dispatcher.open_requests()) == []
    assert made.core_stream(track).pending == 0


def test_a_request_that_times_out_while_run_is_still_journalled() -> None:
    """It is answered once; its late result is part of the stream, also after a crash."""
    made = world(workers={"hang_seconds": 60.0})
    track = made.stream()
    late = made.send(track, packets("a"), timeout=0.3)
    made.turn()
    made.turn(0.5)
    assert late.status is Status.TIMEOUT
    made.finish(only(made))
    made.turn()
    assert outcomes(made) == {"timeout": 1}
    made.die(only(made), "killed")
    made.boot()
    made.send(track, packets("b"))
    made.turn()
    assert steps(only(made)) == ["OPEN", "REPLAY a", "DECODE b"]


def test_a_request_that_times_out_and_loses_its_worker_is_dropped() -> None:
    """Nobody waits for it any more."""
    made = world(workers={"hang_seconds": 60.0})
    late = made.send(made.stream(), packets("a"), timeout=0.3)
    made.turn()
    made.turn(0.5)
    assert late.status is Status.TIMEOUT
    dies_at(made, only(made), record=1)
    made.work(3)
    assert made.books.retries == 0
    assert made.books.packets_decoded == 0


# ---- results that must not count ------------------------------------------------------------


def test_a_dead_workers_reply_is_dropped() -> None:
    """Its lease is another worker's by then, in another generation."""
    made = world(spares=1)
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    old = made.worker_of(sent.track)
    made.run(old)
    assert old.reply is not None
    made.die(old, "killed")
    made.turn()
    made.core.results(old.serial, wire.parse(old.reply), made.now)
    made.turn()
    assert waits(sent)
    made.work(2)
    assert sent.status is Status.OK
    assert made.books.packets_decoded == 1


def test_a_killed_workers_reply_is_dropped() -> None:
    """It comes too late: the worker is on its way out, and the request on its way to another."""
    made = world(spares=1)
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    worker = made.worker_of(sent.track)
    for _ in range(3):
        made.turn(0.3)
    assert [kill.reason for kill in made.kills] == ["hang"]
    made.run(worker)
    made.deliver(worker)
    made.turn()
    assert waits(sent)
    made.work(3)
    assert sent.status is Status.OK
    assert made.books.packets_decoded == 1


def with_payload(change: Callable[[bytes], bytes]) -> Callable[[wire.Message], wire.Message]:
    def garble(reply: wire.Message) -> wire.Message:
        data = change(reply.data)
        records = [reply.records[0]._replace(length=len(data))]
        return wire.Message(Kind.RESULTS, reply.tag, records, data)

    return garble


def with_record(**changes: int) -> Callable[[wire.Message], wire.Message]:
    def garble(reply: wire.Message) -> wire.Message:
        records = [reply.records[0]._replace(**changes)]
        return wire.Message(Kind.RESULTS, reply.tag, records, reply.data)

    return garble


TOO_MANY = 1921  # samples of 120 ms at 16 kHz, and one

GARBAGE: dict[str, Callable[[wire.Message], wire.Message]] = {
    "another lease": lambda reply: wire.Message(Kind.RESULTS, reply.tag + 1, *_rest(reply)),
    "no results": lambda reply: wire.Message(Kind.RESULTS, reply.tag, [], b""),
    "two results": lambda reply: wire.Message(
        Kind.RESULTS, reply.tag, [*reply.records, Result(2, 0, 1, 0)], reply.data
    ),
    "another step": with_record(step=0),
    "more operations": with_record(ops=2),
    "an unknown status": with_record(status=Status.TIMEOUT),
    "nothing": with_payload(lambda _data: b""),
    "cut PCM": with_payload(lambda data: data[:-1]),
    "too much PCM": with_payload(lambda data: data + b"\0"),
    "a packet of more than 120 ms": with_payload(
        lambda _data: TOO_MANY.to_bytes(4, "little") + bytes(TOO_MANY * 4)
    ),
}


def _rest(reply: wire.Message) -> tuple[list[Any], bytes]:
    return reply.records, reply.data


@pytest.mark.parametrize("what", GARBAGE)
def test_a_worker_that_sends_garbage_is_replaced(what: str) -> None:
    """Nothing of it reaches a client; the request is run by another worker."""
    made = world(spares=1)
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    worker = made.worker_of(sent.track)
    worker.run()
    assert worker.reply is not None
    made.core.results(worker.serial, GARBAGE[what](wire.parse(worker.reply)), made.now)
    worker.reply = None
    made.turn()
    assert waits(sent)
    assert [(kill.serial, kill.reason, kill.dump) for kill in made.kills] == [
        (worker.serial, "exit", False)
    ]
    assert made.books.protocol_errors == 1
    made.work(3)
    assert sent.status is Status.OK
    assert made.books.poison_packets == 0


def test_a_killed_worker_gets_no_more_work() -> None:
    """Until its end is known its slot serves nobody, and new streams go elsewhere."""
    made = world(count=2)
    track = made.stream()
    decoded(made, track, "a")
    worker = made.worker_of(track)
    made.core.babbled(worker.serial, "nonsense", made.now)
    sent = made.send(track, packets("b"))
    news = [made.send(made.stream(), packets("c")) for _ in range(4)]
    made.turn()
    assert worker.lease is None
    assert all(made.worker_of(new.track) is not worker for new in news)
    made.work(4)
    assert {request.status for request in [sent, *news]} == {Status.OK}


def test_a_killed_spare_is_not_promoted() -> None:
    """It is as good as dead; the slot waits for a worker of its own."""
    made = world(count=1, spares=1)
    spare = next(slot for slot in made.core.slots if slot.spare)
    assert spare.worker is not None
    made.core.babbled(spare.worker.serial, "nonsense", made.now)
    track = made.stream()
    made.send(track, packets("a"))
    made.turn()
    dead = spare.worker.serial
    made.die(made.worker_of(track))
    made.turn()
    assert all(s.spare for s in made.core.slots if s.worker and s.worker.serial == dead)


# ---- start and stop -------------------------------------------------------------------------


def test_a_late_starter_is_killed_and_counts_as_a_boot_failure() -> None:
    """Also where it gets ready between the kill and its end: no stream goes to it."""
    made = closed_world(workers={"start_seconds": 2.0})
    made.turn()
    made.turn(2.0)
    assert made.kills == []
    made.turn(0.1)
    assert [(kill.reason, kill.dump) for kill in made.kills] == [("boot", True)]
    worker = only(made)
    sent = made.send(made.stream(), packets("a"))
    made.core.ready(worker.serial, {}, made.now)
    made.turn()
    assert worker.lease is None
    made.die(worker, "killed")
    made.turn()
    assert restarts(made) == {"boot": 1}
    assert made.core.slots[0].state is SlotState.BACKOFF
    assert sent.status is Status.BOOT


def test_when_no_worker_can_start_requests_are_told_why() -> None:
    """Those that wait and those that come, until a worker gets ready."""
    made = closed_world(count=2, spares=1)
    waiting = made.send(made.stream(), packets("a"))
    made.turn()
    for worker in list(made.workers.values()):
        assert waits(waiting)
        made.die(worker, "exit")
        made.turn()
    assert waiting.status is Status.BOOT
    assert wire.read_json(waiting.payload)["message"] == "died of exit"
    refused = made.send(made.stream(), packets("a"))
    made.turn()
    assert refused.status is Status.BOOT
    assert made.core.health == "down"
    assert outcomes(made) == {"boot": 2}
    made.turn(1.0)
    made.boot()
    decoded(made, made.stream(), "b")
    assert made.core.boot_error is None


def test_processes_that_cannot_be_started_are_boot_failures() -> None:
    """Each try is counted, and the next one waits."""
    made = closed_world()
    made.spawn_error = "no room"
    for _ in range(30):
        made.turn(0.1)
    assert 3 <= made.books.spawns <= 6
    assert restarts(made) == {"boot": made.books.spawns}
    refused = made.send(made.stream(), packets("a"))
    made.turn()
    assert refused.status is Status.BOOT
    made.spawn_error = ""
    made.work(50, seconds=0.2)
    decoded(made, made.stream(), "a")


@pytest.mark.parametrize("how", ["drain", "boot"])
def test_a_request_that_is_held_back_is_told_too(how: str) -> None:
    """Where waiting is of no use, it does not wait."""
    made = world()
    track = made.stream()
    decoded(made, track, "a")
    stream = made.core_stream(track)
    stream.suspect = True
    stream.client.penalty_until = made.now + 100.0
    held = made.send(track, packets("b"))
    assert stream.held == 1
    made.die(only(made))
    if how == "drain":
        made.drain()
        made.turn(0.2)
        assert held.status is Status.SHUTDOWN
    else:
        made.turn()
        made.die(only(made), "exit")
        made.turn()
        assert held.status is Status.BOOT


def test_a_start_that_a_signal_ends_is_tried_again_before_it_is_hopeless() -> None:
    """Something outside may have killed it; requests wait for the next tries."""
    made = closed_world()
    waiting = made.send(made.stream(), packets("a"))
    made.turn()
    for number in range(1, HOPELESS + 1):
        made.die(only(made), "killed")
        made.turn()
        assert waiting.status is (Status.BOOT if number == HOPELESS else None)
        made.turn(1.0)


def test_a_slot_that_a_spare_has_filled_has_booted() -> None:
    """Its worker's crash is a crash: what failed to start there before does not count."""
    made = closed_world(count=1, spares=1)
    made.turn()
    first, spare = made.workers.values()
    made.die(first, "exit")
    made.ready(spare)
    track = made.stream()
    decoded_by(made, spare, track)
    made.turn(0.2)
    [second] = [worker for worker in made.workers.values() if worker is not spare]
    made.die(second, "exit")
    made.die(spare)
    sent = made.send(track, packets("b"))
    made.turn()
    assert waits(sent)
    made.work(6, seconds=0.2)
    assert sent.payload.endswith(pcm_of("ab"))


def test_crashes_are_no_boot_failures() -> None:
    """With every worker dead after good work, requests wait for the next ones."""
    made = world(count=2)
    track = made.stream()
    decoded(made, track, "a")
    for worker in list(made.workers.values()):
        made.die(worker)
    sent = made.send(track, packets("b"))
    made.turn()
    assert waits(sent)
    made.work(3)
    assert sent.payload.endswith(pcm_of("ab"))


def test_a_drain_finishes_what_was_accepted() -> None:
    """New requests are refused; health says so."""
    made = world()
    track = made.stream()
    sent = [made.send(track, packets(text)) for text in "abc"]
    made.turn()
    made.drain()
    late = made.send(track, packets("d"))
    made.turn()
    assert late.status is Status.SHUTDOWN
    assert made.core.health == "down"
    made.work(4)
    assert [request.status for request in sent] == [Status.OK] * 3
    assert made.core.open_requests == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_drain_without_workers_fails_what_waits(when: str) -> None:
    """Nobody is left to run it, and nobody will be started: it does not wait for the limit."""
    made = world()
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    if when == "after":
        made.drain()
    made.die(only(made))
    if when == "before":
        made.drain()
    made.turn(1.0)
    assert made.workers == {}
    assert sent.status is Status.SHUTDOWN


# ---- hangs ----------------------------------------------------------------------------------


def test_a_hung_worker_is_asked_for_a_traceback_then_killed() -> None:
    """Its flight recorder stands still for longer than a packet may take."""
    made = world(spares=1, workers={"hang_seconds": 1.0})
    sent = made.send(made.stream(), [packet(HANG), *packets("a")])
    made.turn()
    worker = made.worker_of(sent.track)
    made.run(worker)
    made.turn(0.6)
    made.turn(0.6)
    assert made.kills == []
    made.turn(0.6)
    assert [(kill.serial, kill.reason, kill.dump) for kill in made.kills] == [
        (worker.serial, "hang", True)
    ]
    made.turn(DUMP_SECONDS + 0.01)
    assert [(kill.reason, kill.dump) for kill in made.kills[1:]] == [("hang", False)]
    made.die(worker, "abort")
    made.turn()
    assert restarts(made) == {"hang": 1}


def test_a_slow_worker_that_moves_is_left_alone() -> None:
    """Each packet has its own time; a lease may take as long as it likes."""
    made = world(workers={"hang_seconds": 1.0})
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    worker = only(made)
    for number in range(20):
        worker.position = Position(lease_of(worker).tag, 1, 0, number)
        made.turn(0.9)
    assert made.kills == []
    made.work(2)
    assert sent.status is Status.OK


def test_a_worker_that_is_not_let_run_does_not_hang() -> None:
    """On a busy machine it stands still as well; time that others had does not count."""
    made = world(workers={"hang_seconds": 1.0})
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    worker = only(made)
    for _ in range(40):
        worker.waited += 0.09
        made.turn(0.1)
    assert made.kills == []  # it could have run for 0.7 s or so
    for _ in range(5):
        made.turn(0.1)
    assert [kill.reason for kill in made.kills] == ["hang"]
    assert waits(sent)


def test_a_first_look_that_comes_late_convicts_nobody() -> None:
    """Until then nobody has seen whether it waits; what hangs is found all the same."""
    made = world(workers={"hang_seconds": 0.3})
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    made.turn(0.01)
    made.turn(0.5)
    assert made.kills == []
    made.turn(0.1)
    assert made.kills == []
    made.turn(0.2)
    assert [kill.reason for kill in made.kills] == ["hang"]
    assert waits(sent)


def test_a_lease_that_is_still_on_its_way_is_no_hang() -> None:
    """What carries it waits for a processor too, which nobody counts; but not forever."""
    made = world(workers={"hang_seconds": 0.3})
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    only(made).unseen = True
    for _ in range(19):
        made.turn(0.1)
    assert made.kills == []
    for _ in range(3):
        made.turn(0.1)
    assert [kill.reason for kill in made.kills] == ["hang"]
    assert waits(sent)


def test_a_worker_has_its_time_from_when_its_lease_has_come() -> None:
    made = world(workers={"hang_seconds": 0.3})
    made.send(made.stream(), packets("a"))
    made.turn()
    worker = only(made)
    worker.unseen = True
    for _ in range(10):
        made.turn(0.1)
    worker.unseen = False
    worker.position = Position(1, 0, 0, 0)
    for _ in range(3):
        made.turn(0.1)
    assert made.kills == []
    for _ in range(2):
        made.turn(0.1)
    assert [kill.reason for kill in made.kills] == ["hang"]


def test_nobody_waits_behind_what_may_hang_again() -> None:
    """With one worker left, a suspect waits for the next one, and its stream's order is kept."""
    made = world(2, 1, workers={"hang_seconds": 1.0})
    hung = [made.send(made.stream(), [packet(HANG)]) for _ in range(2)]
    made.turn()
    for sent in hung:
        made.run(made.worker_of(sent.track))
    after = made.send(hung[0].track, packets("b"))
    beside = [made.send(made.stream(), packets(letter)) for letter in "cd"]
    for _ in range(3):
        made.turn(0.6)
    assert len(made.kills) == 2
    first, second = (made.worker_of(sent.track) for sent in hung)
    made.die(first, "abort")
    made.die(second, "abort")
    made.turn()
    spare = made.worker_of(beside[0].track)
    assert made.worker_of(beside[1].track) is spare
    made.finish(spare)
    made.turn()
    assert [sent.status for sent in beside] == [Status.OK, Status.OK]
    assert all(waits(sent) for sent in (*hung, after))
    late = made.send(hung[0].track, packets("e"))
    made.boot()
    made.turn()
    suspect = made.worker_of(hung[0].track)
    assert suspect is not spare
    assert made.worker_of(hung[1].track) is suspect
    assert steps(suspect) == ["OPEN", "DECODE hang"]
    assert all(waits(sent) for sent in (after, late))


def test_nobody_is_late_for_a_stall_of_the_supervisor_itself() -> None:
    """After SIGSTOP or a suspend, workers and clients have their time anew."""
    made = world(workers={"hang_seconds": 1.0}, limits={"client_ttl_seconds": 5.0})
    sent = made.send(made.stream(), packets("a"))
    made.turn()
    made.stall(60.0)
    assert made.kills == []
    assert made.dispatcher.clients
    made.work(2)
    assert sent.status is Status.OK


# ---- clients --------------------------------------------------------------------------------


def test_a_client_that_goes_leaves_nothing() -> None:
    """Waiting requests are not run, its streams are closed, others are not touched."""
    made = world()
    gone, stays = made.stream(b"anna"), made.stream(b"bert")
    decoded(made, gone, "a")
    made.send(gone, packets("b"))
    made.turn()
    waiting = made.send(gone, packets("c"))
    other = made.send(stays, packets("d"))
    made.client_goes(b"anna")
    assert audit.discrepancies(made.core) == []
    made.work(4)
    assert other.status is Status.OK
    assert waits(waiting)
    assert made.books.packets_decoded == 3
    assert outcomes(made) == {"ok": 2, "abandoned": 2}
    assert made.dispatcher.admission.streams == 1
    assert len(only(made).decoders) == 1


def test_a_checkpoint_of_a_gone_client_goes_to_nobody() -> None:
    """Also where the same address has come back: its streams are others now."""
    made = world(recovery={"checkpoint_packets": 1})
    track = made.stream()
    made.send(track, packets("a"))
    made.turn()
    made.dispatcher.drop_client(track.client)
    made.open.clear()
    made.dispatcher.client(track.client, made.now)
    only(made).run()
    reply = only(made).reply
    assert reply is not None
    made.core.results(only(made).serial, wire.parse(reply), made.now)
    assert not made.dispatcher.answers.get(track.client)


def test_a_silent_client_is_dropped_after_its_time() -> None:
    """Any sign of life keeps it."""
    made = world(limits={"client_ttl_seconds": 5.0})
    for client in (b"anna", b"bert"):
        decoded(made, made.stream(client), "a")
    for _ in range(12):
        made.dispatcher.client(b"bert", made.now)
        made.turn(0.5)
    made.work(2)
    assert set(made.dispatcher.clients) == {b"bert"}
    assert made.dispatcher.admission.streams == 1
    assert [facts["client"] for facts in told(made, "client_dropped")] == [b"anna".hex()]


def request(made: World, record: Request, blob: bytes) -> tuple[Status, dict[str, Any]]:
    """What one raw request is told at once."""
    made.dispatcher.accept(b"raw", wire.Message(Kind.REQUESTS, 0, [record], blob), made.now)
    [(answer, payload)] = taken_apart(made.dispatcher.answers.pop(b"raw"))
    assert answer.id == record.id
    return Status(answer.status), wire.read_json(payload)


A = ops.pack(packets("a"))
FORMAT = 2
OTHER_FORMAT = 3


@pytest.mark.parametrize(
    ("record", "blob", "status"),
    [
        (Request(1, 1, 9, len(A), 1, FORMAT, 0), A, Status.STREAM_CLOSED),
        (Request(1, 1, 9, len(A), 1, 255, Flag.OPEN), A, Status.BAD_REQUEST),
        (Request(1, 1, 9, len(A), 2, FORMAT, Flag.OPEN), A, Status.BAD_REQUEST),
        (Request(1, 1, 9, 0, 1, FORMAT, Flag.OPEN), b"", Status.BAD_REQUEST),
        (Request(1, 1, 9, 4, MAX_OPS + 1, FORMAT, Flag.OPEN), b"aaaa", Status.BAD_REQUEST),
        (Request(1, 7, 9, len(A), 1, 255, 0), A, Status.BAD_REQUEST),
        (Request(1, 7, 9, len(A), 1, OTHER_FORMAT, 0), A, Status.BAD_REQUEST),
    ],
)
def test_a_wrong_request_is_refused(record: Request, blob: bytes, status: Status) -> None:
    """An unknown stream, an unknown or another format, operations that do not add up."""
    made = world()
    known = Request(0, 7, 60_000, len(A), 1, FORMAT, Flag.OPEN)
    made.dispatcher.accept(b"raw", wire.Message(Kind.REQUESTS, 0, [known], A), made.now)
    assert request(made, record, blob)[0] is status
    assert made.books.accepted == 2
    assert made.core.open_requests == 1


@pytest.mark.parametrize(
    "limits",
    [
        {"queued_requests": 4},
        {"queued_bytes": 4 * 5},
        {"streams": 4},
        {"queued_output_bytes": 4 * 1920 * 4},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_more_than_the_queue_holds_is_refused_at_once(limits: dict[str, object]) -> None:
    """The refusal says when to come again; what was accepted is served, and then there is room."""
    made = closed_world(limits=limits)
    sent = [made.send(made.stream(), packets("a")) for _ in range(6)]
    made.turn()
    refused = [one for one in sent if one.status is not None]
    assert refused == sent[4:]
    assert {one.status for one in refused} == {Status.OVERLOADED}
    assert all(wire.read_json(one.payload)["retry_after"] > 0 for one in refused)
    for one in sent[:4]:
        made.close(one.track)
    made.work(4)
    assert [one.status for one in sent[:4]] == [Status.OK] * 4
    decoded(made, made.stream(), "a")


@pytest.mark.parametrize(
    "limits",
    [
        {"queued_requests": 5},
        {"queued_bytes": 5 * len(A)},
        {"queued_output_bytes": 5 * 1920 * 4},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_of_one_message_as_much_is_accepted_as_the_queue_holds(limits: dict[str, object]) -> None:
    """Its requests are of a known stream, whose usual packets go a shorter way."""
    made = world(limits=limits)
    assert refused_of(made, [1] * 6) == [5, 6]


def test_a_long_request_leaves_the_short_ones_behind_it_what_room_there_is() -> None:
    """All in one message: the room is that for all of it."""
    made = world(limits={"queued_output_bytes": 26 * 1920 * 4})
    assert refused_of(made, [23, 1, 1, 1]) == [4]


def refused_of(made: World, counts: list[int]) -> list[int]:
    """Which requests of a message are refused: of so many operations each, on a known stream."""
    known = Request(0, 7, 60_000, len(A), 1, FORMAT, Flag.OPEN)
    made.dispatcher.accept(b"raw", wire.Message(Kind.REQUESTS, 0, [known], A), made.now)
    blobs = [ops.pack([Op(OpKind.PACKET, b"a")] * count) for count in counts]
    rows = [
        Request(number, 7, 60_000, len(blob), count, FORMAT, 0)
        for number, (blob, count) in enumerate(zip(blobs, counts, strict=True), 1)
    ]
    message = wire.Message(Kind.REQUESTS, 0, rows, b"".join(blobs))
    made.dispatcher.accept(b"raw", message, made.now)
    answers = list(taken_apart(made.dispatcher.answers.pop(b"raw")))
    assert {answer.status for answer, _ in answers} == {Status.OVERLOADED}
    return [answer.id for answer, _ in answers]


def test_what_can_never_be_queued_is_not_told_to_come_again() -> None:
    """No wait would help: the limits are named instead."""
    made = world(limits={"queued_bytes": 40})
    sent = made.send(made.stream(), packets("a" * 20))
    made.turn()
    assert sent.status is Status.BAD_REQUEST
    value = wire.read_json(sent.payload)
    assert "queued_bytes" in value["message"]
    assert "retry_after" not in value
    decoded(made, made.stream(), "a")


# ---- order and fairness ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3, 4, 16])
def test_bulk_goes_behind_live_but_does_not_starve(size: int) -> None:
    """Of each lease a part is for bulk, and the rest for live streams, while any wait."""
    made = world(requests={"lease_packets": size})
    bulk, live = made.stream(bulk=True), made.stream()
    made.send(bulk, packets("b"))
    made.work(2)
    slow = [made.send(bulk, packets("b")) for _ in range(10 * size)]
    for _ in range(8):
        for _ in range(2 * size):
            made.send(live, packets("a"))
        made.turn()
        todo = [step.split()[-1] for step in steps(only(made)) if step.startswith("DECODE")]
        assert todo[:size] == ["a"] * size
        assert set(todo[size:]) <= {"b"}
        made.finish(only(made))
    made.turn()
    assert 0 < sum(one.status is Status.OK for one in slow) < len(slow)


def test_bulk_has_all_the_room_that_live_leaves() -> None:
    """With nothing live to do, a lease is full of bulk, and larger."""
    made = world(requests={"lease_packets": 8})
    track = made.stream(bulk=True)
    for _ in range((BULK_ALONE + 1) * 8):
        made.send(track, packets("b"))
    made.turn()
    assert steps(only(made)) == ["OPEN", *["DECODE b"] * BULK_ALONE * 8]


def test_a_stream_keeps_its_order_where_its_requests_are_bulk_and_live() -> None:
    """A live request does not overtake a bulk one of the same stream."""
    made = world(requests={"lease_packets": 1})
    track = made.stream()
    sent = [
        made.send(track, packets("a"), flags=Flag.OPEN | Flag.BULK),
        made.send(track, packets("b"), flags=Flag.OPEN),
        made.send(track, packets("c"), flags=Flag.OPEN | Flag.BULK),
    ]
    made.work(6)
    assert [one.payload[4:] for one in sent] == [pcm_of("a"), pcm_of("ab"), pcm_of("abc")]


def test_a_stream_keeps_its_order_through_crashes_and_moves() -> None:
    """Whatever ends whichever worker, each request finds what those before it left."""
    made = world(count=2, spares=1, requests={"lease_packets": 2})
    tracks = [made.stream() for _ in range(3)]
    sent = []
    for number in range(24):
        sent += [made.send(track, packets("abcd"[number % 4])) for track in tracks]
        made.turn(0.05)
        worker = list(made.workers.values())[number % len(made.workers)]
        if number % 5 == 4:
            made.die(worker, "killed")
        elif worker.can_run:
            made.finish(worker)
    made.work(60, seconds=0.2)
    assert {one.status for one in sent} == {Status.OK}
    assert [one.payload[4:] for one in sent[-3:]] == [pcm_of("abcd" * 6)] * 3


def test_quiet_streams_move_to_a_worker_that_has_few() -> None:
    """A worker that is new gets its share; streams with work in hand stay."""
    made = closed_world(count=2)
    made.turn()
    first, second = made.workers.values()
    made.ready(first)
    tracks = [made.stream() for _ in range(6)]
    for track in tracks:
        decoded_by(made, first, track)
    made.ready(second)
    busy = [made.send(track, packets("b")) for track in tracks[:2]]
    made.turn(0.2)
    assert [len(slot.streams) for slot in made.core.slots] == [3, 3]
    assert all(made.worker_of(one.track) is first for one in busy)
    made.work(3)
    assert len(first.decoders) == 3
    for track in tracks[2:]:
        assert decoded(made, track, "c").payload.endswith(pcm_of("ac"))


def decoded_by(made: World, worker: ModelWorker, track: Track) -> None:
    made.send(track, packets("a"))
    made.turn()
    made.finish(worker)
    made.turn()


# ---- streams that another supervisor had ----------------------------------------------------


def hand_over(made: World, track: Track, checkpoint: bytes, log: list[str]) -> None:
    """What a client sends of a stream when its supervisor is another one."""
    records = [Request(0, track.id, 0, len(checkpoint), 0, FORMAT, Flag.RESTORE)]
    blobs = [checkpoint]
    for text in log:
        blobs.append(ops.pack(packets(text)))
        records.append(Request(0, track.id, 0, len(blobs[-1]), len(text), FORMAT, Flag.REPLAY))
    frames = wire.pack(Kind.REQUESTS, records, blobs)
    made.dispatcher.accept(track.client, wire.parse(frames), made.now)


@pytest.mark.parametrize(
    ("checkpoint", "log", "rebuild"),
    [
        (b"", ["a", "bc"], ["OPEN", "REPLAY a", "REPLAY bc"]),
        (pcm_of("ab"), ["c"], ["RESTORE", "REPLAY c"]),
        (pcm_of("abc"), [], ["RESTORE"]),
    ],
)
def test_a_stream_that_is_handed_over_goes_on(
    checkpoint: bytes, log: list[str], rebuild: list[str]
) -> None:
    """Its checkpoint is restored and its log replayed before its next request."""
    made = world()
    track = made.stream()
    track.decoder.state = pcm_of("abc")
    hand_over(made, track, checkpoint, log)
    sent = made.send(track, packets("d"))
    made.turn()
    assert steps(only(made)) == [*rebuild, "DECODE d"]
    made.work(2)
    assert sent.payload.endswith(pcm_of("abcd"))
    assert made.books.streams_handed_over == 1


def test_a_stream_that_is_known_is_not_handed_over_again() -> None:
    """The supervisor's own journal is the newer one."""
    made = world()
    track = made.stream()
    decoded(made, track, "ab")
    hand_over(made, track, b"", ["ab"])
    made.die(only(made), "killed")
    sent = made.send(track, packets("c"))
    made.work(4)
    assert sent.payload.endswith(pcm_of("abc"))


def test_a_log_that_is_none_is_not_taken() -> None:
    """It is counted, and the stream goes on without it."""
    made = world()
    track = made.stream()
    hand_over(made, track, b"", [])
    bad = Request(0, track.id, 0, 3, 1, FORMAT, Flag.REPLAY)
    made.dispatcher.accept(track.client, wire.Message(Kind.REQUESTS, 0, [bad], b"abc"), made.now)
    assert made.books.protocol_errors == 1
    assert decoded(made, track, "a").payload.endswith(pcm_of("a"))


# ---- canaries and recycling -----------------------------------------------------------------


def singing(count: int = 1, spares: int = 0) -> World:
    made = world(count, spares, health={"canary_seconds": 1.0}, workers={"hang_seconds": 0.5})
    made.turn(0.6)
    made.turn(0.6)
    return made


def test_an_idle_worker_proves_itself() -> None:
    """Workers and spares decode a known packet; it is nobody's request."""
    made = singing(count=2, spares=1)
    assert all(worker.can_run for worker in made.workers.values())
    assert made.books.canaries == 3
    made.work(2)
    assert made.core.health == "ok"
    assert made.books.accepted == 0
    assert made.books.packets_decoded == 0


def test_a_worker_that_does_not_answer_its_canary_is_killed() -> None:
    """The reason is the missed heartbeat; no packet is blamed."""
    made = singing()
    for _ in range(4):
        made.turn(0.2)
    assert [(kill.reason, kill.dump) for kill in made.kills] == [("heartbeat", True)]
    made.die(only(made), "abort")
    made.turn()
    assert restarts(made) == {"heartbeat": 1}
    assert made.core.health == "down"


@pytest.mark.parametrize("data", [b"", b"\1", bytes(4 + 2 * knownpacket.SAMPLES)])
def test_a_worker_that_decodes_its_canary_wrongly_is_replaced(data: bytes) -> None:
    """Nothing, too little, silence."""
    made = singing()
    tag = lease_of(only(made)).tag
    silent = data[4:] and knownpacket.SAMPLES.to_bytes(4, "little") + data[4:]
    results = wire.pack(
        Kind.RESULTS, [Result(canary.RESULT_STEP, len(silent or data), 1, 0)], [silent or data], tag
    )
    made.core.results(only(made).serial, wire.parse(results), made.now)
    made.turn()
    assert [kill.reason for kill in made.kills] == ["exit"]


def test_health_does_not_trust_a_worker_for_long() -> None:
    """Without a real decode lately no worker counts."""
    made = singing()
    for _ in range(5):
        assert made.core.health == "ok" or made.now > 103
        made.core.tick(made.now + 0.5)
        made.now += 0.5
    assert made.core.health == "down"


def test_a_worker_is_recycled_when_it_is_idle() -> None:
    """After its requests are settled it leaves, its streams move, and nothing is lost."""
    made = world(spares=1, recycle={"requests": 2})
    track = made.stream()
    sent = [made.send(track, packets(text)) for text in "abc"]
    made.turn()
    old = made.worker_of(track)
    made.work(6, seconds=0.2)
    assert [one.status for one in sent] == [Status.OK] * 3
    assert old.serial not in made.workers
    assert restarts(made) == {"recycled_requests": 1}
    assert decoded(made, track, "d").payload.endswith(pcm_of("abcd"))
    assert made.kills == []


def test_a_worker_that_does_not_leave_is_killed() -> None:
    """It has a time for it."""
    made = world(recycle={"requests": 1})
    track = made.stream()
    made.send(track, packets("a"))
    made.send(track, packets("b"))
    made.turn()
    made.finish(only(made))
    made.turn(0.2)
    made.turn(RETIRE_SECONDS - 0.3)
    assert made.kills == []
    made.turn(0.5)
    assert [kill.reason for kill in made.kills] == ["recycled_requests"]


def test_no_worker_is_recycled_in_a_drain() -> None:
    """Nobody would take its place."""
    made = world(recycle={"requests": 1}, requests={"lease_packets": 1})
    track = made.stream()
    sent = [made.send(track, packets(text)) for text in "abc"]
    made.turn()
    made.drain()
    made.work(20, seconds=0.2)
    assert [one.status for one in sent] == [Status.OK] * 3


@pytest.mark.parametrize(
    ("recycle", "reason"),
    [({"memory_bytes": 1000}, "recycled_memory"), ({"age_seconds": 5.0}, "recycled_age")],
)
def test_a_worker_is_recycled_for_its_memory_and_age(
    recycle: dict[str, object], reason: str
) -> None:
    """Both are looked at now and then."""
    made = world(recycle=recycle)
    made.core.measured(only(made).serial, 1001)
    made.work(16, seconds=0.5)
    assert reason in restarts(made)


# ---- found by a second reading --------------------------------------------------------------


def test_a_checkpoint_and_a_log_that_both_kill_are_given_up_in_turn() -> None:
    """Deaths in a rebuild add up, wherever in it they are: RESTORE twice, REPLAY, then nothing."""
    made = world(1, 1, recovery={"checkpoint_packets": 4})
    track = made.stream()
    decoded(made, track, "abcd")
    decoded(made, track, "ef")
    made.die(made.worker_of(track))
    made.send(track, packets("g"))
    seen = []
    for _ in range(3):
        made.boot()
        worker = made.worker_of(track)
        seen.append(steps(worker))
        dies_at(made, worker, 0 if seen[-1][0] == "RESTORE" else 1)
    made.boot()
    seen.append(steps(made.worker_of(track)))
    rebuild = ["RESTORE", "REPLAY ef", "DECODE g"]
    assert seen == [rebuild, rebuild, ["OPEN", "REPLAY ef", "DECODE g"], ["OPEN", "DECODE g"]]


@pytest.mark.parametrize(
    ("attempts", "rebuild"),
    [(2, ["OPEN", "DECODE g"]), (3, ["OPEN", "REPLAY e"])],
    ids=["the last attempt", "more are left"],
)
def test_after_a_poison_packet_the_checkpoint_is_distrusted_before_the_log(
    attempts: int, rebuild: list[str]
) -> None:
    """One more death behind it costs the whole of the stream's past only to save the packet."""
    made = world(1, 1, recovery={"checkpoint_packets": 4}, requests={"max_attempts": attempts})
    track = made.stream()
    decoded(made, track, "abcd")
    decoded(made, track, "e")
    made.send(track, [KILL, packet(b"g")])
    for _ in range(attempts):
        made.boot()
        made.run(made.worker_of(track))
    made.boot()
    worker = made.worker_of(track)
    dies_at(made, worker, len(steps(worker)) - 1, 1)
    made.boot()
    assert steps(made.worker_of(track))[:2] == rebuild


@pytest.mark.parametrize("attempts", [2, 3, 4])
@pytest.mark.parametrize("checkpoint", [0, 2])
@pytest.mark.parametrize("killers", [2, 3, 4])
def test_killers_in_a_row_leave_the_journal_trusted(
    attempts: int, checkpoint: int, killers: int
) -> None:
    """Each has killed with nothing before it as well: the stream goes on bit for bit."""
    recovery: dict[str, object] = {"checkpoint_packets": checkpoint}
    made = world(1, 1, recovery=recovery, requests={"max_attempts": attempts})
    track = made.stream()
    decoded(made, track, "abc")
    bad = [made.send(track, [packet(KILLER + bytes([n]))]) for n in range(killers)]
    sent = made.send(track, packets("d"))
    made.work(30 * killers, seconds=0.4)
    assert [one.results for one in bad] == [(POISON,)] * killers
    assert restarts(made) == {"segv": attempts * killers}
    assert sent.payload.endswith(pcm_of("abcd"))
    assert made.core_stream(track).journal.exact


@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("checkpoint", [0, 4])
def test_damage_in_the_log_does_not_cost_packet_after_packet(
    attempts: int, checkpoint: int
) -> None:
    """Whatever is decoded behind it kills: one is given up, then the log is."""
    recovery: dict[str, object] = {"checkpoint_packets": checkpoint}
    made = world(1, 1, recovery=recovery, requests={"max_attempts": attempts})
    track = made.stream()
    decoded(made, track, "abcd")
    made.send(track, [packet(SMASHING)])
    made.work(2)
    sent = [made.send(track, packets(letter)) for letter in "efgh"]
    made.work(40, seconds=0.5)
    given_up = [POISON in one.results for one in sent]
    assert given_up == [True, attempts == 1, False, False]
    assert made.core_stream(track).deaths == 0


def test_a_stream_that_cannot_be_rebuilt_exactly_is_not_moved_for_balance() -> None:
    """Nothing has failed: its decoder is right, and must not be given up for a worse one."""
    made = world(2, recovery={"checkpoint_packets": 0, "journal_packets": 2})
    made.die(list(made.workers.values())[1])
    tracks = [made.stream() for _ in range(4)]
    for track in tracks:
        for letter in "abcd":
            made.send(track, packets(letter))
    made.work(4, seconds=0.2)
    sent = [made.send(track, packets("z")) for track in tracks]
    made.work(3)
    assert [one.status for one in sent] == [Status.OK] * 4
    assert made.books.inexact_rebuilds == 0


def test_a_packet_becomes_poison_once() -> None:
    """A later death that finds the recorder still at its place is not counted as another."""
    made = world(2, requests={"max_attempts": 1})
    sent = made.send(made.stream(), [packet(b"a"), KILL])
    made.turn()
    made.run(made.worker_of(sent.track))
    made.turn()
    worker = made.worker_of(sent.track)
    made.die(worker, "killed", Position(lease_of(worker).tag, 1, 1, 9))
    made.work(3)
    assert sent.status is Status.FAILED_OPS
    assert made.books.poison_packets == 1


def test_a_last_request_that_is_refused_still_closes_its_stream() -> None:
    """Else the stream would stay open until its client goes."""
    made = world(limits={"queued_requests": 1})
    track = made.stream()
    decoded(made, track, "a")
    made.send(track, packets("b"))
    last = made.send(track, packets("c"), close=True)
    made.work(3)
    assert last.status is Status.OVERLOADED
    assert made.dispatcher.admission.streams == 0


def test_the_gain_outlives_the_log_that_set_it() -> None:
    """A rebuild from less than all may be inexact, but must not be louder or softer."""
    made = world(2, recovery={"checkpoint_packets": 0, "journal_packets": 2})
    track = made.stream()
    made.send(track, [Op(OpKind.GAIN, ops.pack_gain(256))])
    for letter in "abcd":
        decoded(made, track, letter)
    made.die(made.worker_of(track))
    track.exact = False
    made.send(track, packets("e"))
    made.turn()
    lease = lease_of(made.worker_of(track))
    replayed = [
        op.kind
        for step, payload in zip(lease.records, lease.payloads(), strict=True)
        if step.action == Action.REPLAY
        for op in ops.unpack(payload, step.ops)
    ]
    assert OpKind.GAIN in replayed


def test_spares_do_not_make_a_storm_of_a_crash_loop() -> None:
    """A spare's slot waits as long as the slot that it has helped out."""
    made = world(1, 1)
    for _ in range(600):
        made.work(1, seconds=0.1)
        for worker in list(made.workers.values()):
            slot = made.slot_of(worker)
            if worker.ready and slot is not None and not slot.spare:
                made.die(worker)
    assert len(made.starts) <= 60
