"""Lanes in a worker: a client reaches what was lent to it, and nothing it sends does harm."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest
from reference import golden
from test_decoder import LOSS, SPEECH, plain, theirs
from test_serve import (
    PACKETS,
    STEREO,
    Bench,
    Planned,
    decode,
    memory,
    opened,
    outcome_of,
    planned,
    relocator,
)

from opuspool import ops, recorder, wire
from opuspool.digests import digest
from opuspool.ops import AS_INT16, INVALID_PACKET, POISON, Op, OpKind
from opuspool.recorder import DECODE_BOUNDS, LaneCounts, Position
from opuspool.wire import TOKEN, Action, Kind, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ctypes import c_void_p

    from opuspool.streamformat import StreamFormat

TOKEN_A, TOKEN_B, UNKNOWN = 0xA11CE << 40, 0xB0B << 40, 0xBAD << 40
BATCH = 9
TICKS = 960
"""20 ms, which each of the packets lasts."""

BAD = Op(OpKind.PACKET, b"\xff\xff")
NEEDS_PROC = pytest.mark.skipif(sys.platform != "linux", reason="checkpoints need /proc")


class Ask(NamedTuple):
    """A request as a client sends it by a lane."""

    request: int
    token: int
    ops: int
    blob: bytes


class Reply(NamedTuple):
    """An answer."""

    id: int
    status: int
    ops: int
    payload: bytes

    def outcome(self, fmt: StreamFormat = SPEECH) -> tuple[list[int], bytes]:
        """Samples or code of each operation, and the PCM of all."""
        return outcome_of(self, fmt)


def ask(operations: list[Op], token: int = TOKEN_A, request: int = 1) -> Ask:
    return Ask(request, token, len(operations), ops.pack(operations))


def save(token: int = TOKEN_A) -> Ask:
    return Ask(0, token, 0, b"")


def batch(bench: Bench, *asks: Ask, number: int = BATCH) -> list[Reply]:
    """Send a batch by a lane; returns its answers."""
    rows = [(a.request, a.token, 0, len(a.blob), a.ops, SPEECH.code, 0) for a in asks]
    message = wire.parse(wire.pack(Kind.REQUESTS, rows, [a.blob for a in asks], number))
    answer = wire.parse(bench.runner.lanes.run(message))
    assert (answer.kind, answer.tag) == (Kind.ANSWERS, number)
    pairs = zip(answer.records, answer.payloads(), strict=True)
    return [Reply(row.id, row.status, row.ops, payload) for row, payload in pairs]


def lend(bench: Bench, stream: int = 1, token: int = TOKEN_A, fmt: StreamFormat = SPEECH) -> None:
    bench.run(opened(stream, fmt), planned(Action.LEND, stream, payload=TOKEN.pack(token)))


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A worker that has lent one stream."""
    with memory() as record:
        made = Bench(record, relocator())
        lend(made)
        yield made


# ---- what a client is given -----------------------------------------------------------------


def test_a_lent_stream_decodes_bit_for_bit(bench: Bench) -> None:
    pcm = b""
    for number, packet in enumerate(PACKETS):
        (got,) = batch(bench, ask(plain([packet]), request=number))
        assert got[:3] == (number, Status.OK, 1)
        pcm += got.outcome()[1]
    assert pcm == golden(PACKETS).tobytes()


def test_requests_of_one_batch_are_answered_in_their_order(bench: Bench) -> None:
    lend(bench, 2, TOKEN_B, STEREO)
    one, two, three = batch(
        bench,
        ask(plain(PACKETS[:1]), request=5),
        ask(plain(PACKETS[:2]), TOKEN_B, request=4),
        ask(plain(PACKETS[1:3]), request=6),
    )
    assert [one.id, two.id, three.id] == [5, 4, 6]
    assert one.outcome()[1] + three.outcome()[1] == golden(PACKETS[:3]).tobytes()
    assert two.outcome(STEREO) == theirs(plain(PACKETS[:2]), STEREO)


def test_lanes_and_leases_share_one_decoder(bench: Bench) -> None:
    """The stream's state is the same, whichever way its packets come."""
    (leased,) = bench.run(decode(plain(PACKETS[:5])))
    (by_lane,) = batch(bench, ask(plain(PACKETS[5:10])))
    pcm = leased.outcome()[1] + by_lane.outcome()[1]
    assert pcm == golden(PACKETS[:10]).tobytes()


def test_several_operations_fail_one_by_one(bench: Bench) -> None:
    operations = [*plain(PACKETS[:2]), BAD, Op(OpKind.POISONED, b""), LOSS, *plain(PACKETS[3:4])]
    (got,) = batch(bench, ask(operations))
    assert (got.status, got.ops) == (Status.FAILED_OPS, 6)
    samples, pcm = theirs([*plain(PACKETS[:2]), LOSS, *plain(PACKETS[3:4])], SPEECH)
    assert got.outcome() == ([*samples[:2], INVALID_PACKET, POISON, *samples[2:]], pcm)
    counts = bench.recorder.counts()
    assert (counts.ok, counts.invalid, counts.poison, counts.packets) == (0, 0, 1, 4)


def test_an_invalid_packet_alone_gives_its_code(bench: Bench) -> None:
    (got,) = batch(bench, ask([BAD]))
    assert (got.status, got.outcome()) == (Status.FAILED_OPS, ([INVALID_PACKET], b""))
    counts = bench.recorder.counts()
    assert (counts.ok, counts.invalid, counts.packets, counts.ticks) == (0, 1, 0, 0)


def test_a_batch_of_nothing_is_answered_by_nothing(bench: Bench) -> None:
    assert batch(bench) == []
    assert bench.recorder.counts().batches == 1


# ---- what it cannot reach, and what it cannot break -----------------------------------------


def test_an_unknown_token_touches_nothing(bench: Bench) -> None:
    """It is refused, and the lent stream goes on as if it had not been."""
    first, closed, second = batch(
        bench,
        ask(plain(PACKETS[:1])),
        ask(plain(PACKETS[:1]), UNKNOWN, 8),
        ask(plain(PACKETS[1:2])),
    )
    assert (closed.id, closed.status, closed.ops) == (8, Status.STREAM_CLOSED, 0)
    assert wire.read_json(closed.payload)["message"]
    assert first.outcome()[1] + second.outcome()[1] == golden(PACKETS[:2]).tobytes()
    counts = bench.recorder.counts()
    assert (counts.requests, counts.packets) == (2, 2)


@pytest.mark.parametrize("token", [0, 1, 2, UNKNOWN])
def test_a_stream_that_is_not_lent_is_out_of_reach(bench: Bench, token: int) -> None:
    """Neither its number nor zero stands for a token, to decode or to save."""
    bench.run(opened(2))
    asked = [ask(plain(PACKETS[:3]), token), save(token)]
    assert [got.status for got in batch(bench, *asked)] == [Status.STREAM_CLOSED] * 2
    (got,) = bench.run(decode(plain(PACKETS[:3]), 2))
    assert got.outcome() == theirs(plain(PACKETS[:3]), SPEECH)


@pytest.mark.parametrize(
    ("count", "blob"),
    [
        (1, b""),
        (1, b"\1\0\0"),
        (1, b"\5\0\0\0abc"),
        (1, b"\1\0\0\xffa"),
        (2, b"\0\0\0\1"),
        (2, b"\5\0\0\0\5\0\0\0abc"),
        (3, b"\0\0\0\1" * 4),
        (2, b"\0\0\0\x07\0\0\0\1"),
        (1, b"\xff\xff\0\0" + bytes(0xFFFF)),
        (ops.MAX_OPS + 1, b"\0\0\0\1" * (ops.MAX_OPS + 1)),
        (0xFFFF, b""),
    ],
)
def test_a_malformed_request_is_refused_alone(bench: Bench, count: int, blob: bytes) -> None:
    before, bad, after = batch(
        bench, ask(plain(PACKETS[:1])), Ask(8, TOKEN_A, count, blob), ask(plain(PACKETS[1:2]))
    )
    assert (bad.id, bad.status, bad.ops) == (8, Status.BAD_REQUEST, 0)
    assert wire.read_json(bad.payload)["message"]
    assert before.outcome()[1] + after.outcome()[1] == golden(PACKETS[:2]).tobytes()
    assert bench.recorder.counts().requests == 2


@pytest.mark.parametrize("end", [planned(Action.CLOSE), opened()], ids=["closed", "opened anew"])
def test_the_end_of_a_decoder_takes_its_token_away(bench: Bench, end: Planned) -> None:
    bench.run(end)
    (got,) = batch(bench, ask(plain(PACKETS[:1])))
    assert got.status == Status.STREAM_CLOSED


@NEEDS_PROC
def test_a_restored_stream_has_no_token(bench: Bench) -> None:
    bench.run(planned(Action.RESTORE, payload=b"damaged"))
    (got,) = batch(bench, ask(plain(PACKETS[:1])))
    assert got.status == Status.STREAM_CLOSED


def test_the_end_of_one_stream_leaves_the_others_lent(bench: Bench) -> None:
    lend(bench, 2, TOKEN_B)
    bench.run(planned(Action.CLOSE))
    (got,) = batch(bench, ask(plain(PACKETS[:3]), TOKEN_B))
    assert got.outcome() == theirs(plain(PACKETS[:3]), SPEECH)


def test_a_stream_that_is_lent_again_has_one_token(bench: Bench) -> None:
    bench.run(planned(Action.LEND, payload=TOKEN.pack(TOKEN_B)))
    old, new = batch(bench, ask(plain(PACKETS[:1])), ask(plain(PACKETS[:1]), TOKEN_B))
    assert (old.status, new.status) == (Status.STREAM_CLOSED, Status.OK)


# ---- checkpoints ----------------------------------------------------------------------------


@NEEDS_PROC
def test_a_checkpoint_goes_on_in_another_worker(bench: Bench) -> None:
    """A request without operations asks for it; the token stands for the id."""
    _, saved, last = batch(bench, ask(plain(PACKETS[:40])), save(), ask(plain(PACKETS[40:])))
    assert (saved.id, saved.status, saved.ops) == (TOKEN_A, Status.CHECKPOINT, 0)
    assert bench.recorder.counts().checkpoints == 1
    with memory() as record:
        other = Bench(record, relocator())
        restore = planned(Action.RESTORE, 7, payload=saved.payload)
        (got,) = other.run(restore, decode(plain(PACKETS[40:]), 7))
    samples = golden(PACKETS)[40 * 320 :]
    assert got.outcome()[1] == last.outcome()[1] == samples.tobytes()


def test_a_worker_that_can_save_nothing_says_so_by_an_empty_one() -> None:
    with memory() as record:
        unable = Bench(record, None)
        lend(unable)
        (got,) = batch(unable, save())
        assert got == (TOKEN_A, Status.CHECKPOINT, 0, b"")
        assert unable.recorder.counts().checkpoints == 0


# ---- poison ---------------------------------------------------------------------------------


def known(*packets: bytes) -> list[tuple[int, bytes]]:
    return [(len(packet), digest(packet)) for packet in packets]


def test_what_is_known_as_poison_never_reaches_the_decoder(bench: Bench) -> None:
    """It fails alone, singly or among others, and the stream is as if it had not come."""
    bench.runner.lanes.refuse(known(PACKETS[50]))
    first, alone, rest = batch(
        bench,
        ask(plain(PACKETS[:1])),
        ask(plain(PACKETS[50:51])),
        ask(plain([PACKETS[1], PACKETS[50], PACKETS[2]])),
    )
    assert (alone.status, alone.outcome()) == (Status.FAILED_OPS, ([POISON], b""))
    assert (rest.status, rest.outcome()[0]) == (Status.FAILED_OPS, [320, POISON, 320])
    assert first.outcome()[1] + rest.outcome()[1] == golden(PACKETS[:3]).tobytes()
    counts = bench.recorder.counts()
    assert (counts.refused, counts.poison, counts.ok, counts.packets) == (2, 2, 1, 3)
    assert PACKETS[50] not in bench.recorder.kept()


def test_another_packet_of_a_poisons_length_is_decoded(bench: Bench) -> None:
    bench.runner.lanes.refuse([(len(PACKETS[0]), digest(b"another"))])
    (got,) = batch(bench, ask(plain(PACKETS[:1])))
    assert got.status == Status.OK
    assert bench.recorder.counts().refused == 0


def test_what_is_not_refused_any_more_is_decoded(bench: Bench) -> None:
    bench.runner.lanes.refuse(known(PACKETS[0]))
    bench.runner.lanes.refuse([])
    (got,) = batch(bench, ask(plain(PACKETS[:1])))
    assert got.outcome() == theirs(plain(PACKETS[:1]), SPEECH)


# ---- the flight recorder --------------------------------------------------------------------


def test_the_counters_tell_what_was_done(bench: Bench) -> None:
    batch(bench, ask(plain(PACKETS[:1])), ask(plain(PACKETS[1:4])), ask([BAD]))
    batch(bench, ask(plain(PACKETS[4:5])), ask(plain(PACKETS[:1]), UNKNOWN))
    counts = bench.recorder.counts()
    assert counts[:6] == (2, 3, 1, 0, 5, 5 * TICKS)
    assert counts.requests == 4
    assert sum(counts.times) == 2


def test_leases_are_not_counted_as_work_by_lanes(bench: Bench) -> None:
    bench.run(decode(plain(PACKETS[:5])))
    assert bench.recorder.counts() == LaneCounts()
    assert bench.recorder.kept() == []


def test_audio_is_counted_in_one_rate_whatever_the_stream(bench: Bench) -> None:
    lend(bench, 2, TOKEN_B, STEREO)
    batch(bench, ask(plain(PACKETS[:3]), TOKEN_B))
    assert bench.recorder.counts().ticks == 3 * TICKS


@pytest.mark.parametrize("count", [1, 3])
def test_int16_of_a_float_stream_lasts_as_long(bench: Bench, count: int) -> None:
    """Two of its samples take the place of one, but are no less audio."""
    operations = [Op(OpKind.PACKET, packet, AS_INT16) for packet in PACKETS[:count]]
    (got,) = batch(bench, ask(operations))
    assert got.outcome()[0] == [160] * count
    assert got.outcome()[1] == golden(PACKETS[:count], dtype="int16").tobytes()
    assert bench.recorder.counts().ticks == count * TICKS


def test_int16_of_an_int16_stream_is_not_counted_twice(bench: Bench) -> None:
    lend(bench, 2, TOKEN_B, STEREO)
    batch(bench, ask([Op(OpKind.PACKET, PACKETS[0], AS_INT16)], TOKEN_B))
    assert bench.recorder.counts().ticks == TICKS


def test_the_last_packets_are_kept_in_their_order(bench: Bench) -> None:
    """Losses have none; only so many of the newest can be had."""
    batch(bench, ask([*plain(PACKETS[:2]), LOSS]), ask(plain(PACKETS[2:3])))
    assert bench.recorder.kept() == PACKETS[:3]
    for packet in PACKETS[3:40]:
        batch(bench, ask(plain([packet])))
    assert bench.recorder.kept() == PACKETS[9:40]


def test_a_batch_that_is_too_long_leaves_a_gap(bench: Bench) -> None:
    """Its position is known all the same."""
    fits, long = [b"\xff" * 1275] * 10, [b"\xff" * 1000] * 300
    for asked in (PACKETS[:1], fits, long, PACKETS[1:2]):
        batch(bench, ask(plain(asked)))
    assert bench.recorder.kept() == [PACKETS[0], *fits, None, PACKETS[1]]


def test_in_a_batch_that_is_too_long_the_position_is_known(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Position] = []
    decode = bench.runner.decoders[1]._decode

    def spied(state: c_void_p, packet: bytes, *rest: object) -> int:
        seen.append(bench.recorder.position())
        return int(decode(state, packet, *rest))

    monkeypatch.setattr(bench.runner.decoders[1], "_decode", spied)
    batch(bench, ask(plain(PACKETS[:1])), ask(plain([b"\xff" * 1000] * 300 + PACKETS[1:2])))
    assert [(at.record, at.op, at.token) for at in seen] == [(0, 0, TOKEN_A), (1, 300, TOKEN_A)]
    assert {at.word >> 24 for at in seen} == {0xFF}  # no operation's


def test_the_position_names_what_is_in_hand(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch, record, token, request, operation and its word, before libopus is called."""
    seen: list[Position] = []
    decode = bench.runner.decoders[1]._decode

    def spied(state: c_void_p, packet: bytes, *rest: object) -> int:
        seen.append(bench.recorder.position())
        assert bench.recorder.kept()[-1] == packet
        return int(decode(state, packet, *rest))

    monkeypatch.setattr(bench.runner.decoders[1], "_decode", spied)
    packets = PACKETS[:3]
    batch(bench, ask(plain(packets[:1]), request=70), ask(plain(packets[1:]), request=71))
    assert [(at.record, at.op, at.request) for at in seen] == [(0, 0, 70), (1, 0, 71), (1, 1, 71)]
    assert [at.word & 0xFFFF for at in seen] == [len(packet) for packet in packets]
    assert {(at.lease, at.batch, at.token) for at in seen} == {(recorder.LANE, BATCH, TOKEN_A)}
    assert len({at.progress for at in seen}) == 3
    assert bench.recorder.position().lease == 0


def test_a_new_batch_is_not_taken_for_the_stream_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch(bench, ask(plain(PACKETS[:1])))
    seen: list[Position] = []
    end = bench.recorder.end_batch

    def spied(done: list[int], seconds: float) -> None:
        seen.append(bench.recorder.position())
        end(done, seconds)

    monkeypatch.setattr(bench.recorder, "end_batch", spied)
    batch(bench, ask(plain(PACKETS[:1]), UNKNOWN), number=BATCH + 1)
    [at] = seen
    assert (at.lease, at.batch, at.token) == (recorder.LANE, BATCH + 1, 0)
    assert bench.recorder.kept() == PACKETS[:1], "what was not run is not among them"


def test_counts_since_are_what_has_come() -> None:
    times = (1, *[0] * len(DECODE_BOUNDS))
    before = LaneCounts(1, 2, 0, 0, 2, 1920, 0, 0, 300, times)
    after = LaneCounts(2, 4, 1, 0, 5, 4800, 0, 1, 700, (2, *times[1:]))
    assert after.since(before) == LaneCounts(1, 2, 1, 0, 3, 2880, 0, 1, 400, times)
    assert before.since(before) == LaneCounts()


@pytest.mark.parametrize(
    "garbage",
    [
        LaneCounts(batches=4, ok=9),
        LaneCounts(batches=5, ok=1 << 63),
        LaneCounts(batches=5, ok=10, times=((1 << 63), *[0] * len(DECODE_BOUNDS))),
        LaneCounts(batches=5, ok=10, ticks=(1 << 64) - 1),
    ],
)
def test_counts_that_cannot_be_are_none(garbage: LaneCounts) -> None:
    assert garbage.since(LaneCounts(batches=5, ok=9)) is None


def test_a_recorder_full_of_garbage_can_be_read() -> None:
    """A wild process may have written anything there."""
    with memory() as record:
        for at in range(16, recorder.SIZE // 8):
            record.words[at] = (1 << 64) - 1
        record.words[recorder.LEASE] = recorder.LANE
        assert record.counts().since(LaneCounts()) is None
        assert record.kept() == []
        assert record.position() == Position(recorder.LANE, 0, 0, 0)
