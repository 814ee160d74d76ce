"""Operations and outcomes: every blob is read as it was written, or refused with `WireError`."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuspool import ops
from opuspool.errors import WireError
from opuspool.ops import INVALID_PACKET, MAX_OPS, POISON, Op, OpKind
from opuspool.streamformat import MAX_PACKET_BYTES

OPERATIONS = st.lists(
    st.builds(Op, st.sampled_from(OpKind), st.binary(max_size=40), st.integers(0, 255)),
    min_size=1,
    max_size=20,
)
CODES = st.sampled_from([-1, INVALID_PACKET, -7, POISON, -(2**31)])
FRAME_BYTES = st.sampled_from([2, 4, 8])


def word(kind: int, size: int) -> bytes:
    return struct.pack("<I", kind << 24 | size)


def outcome(results: list[int], pcm: bytes) -> bytes:
    return struct.pack(f"<{len(results)}i", *results) + pcm


# ---- operations -----------------------------------------------------------------------------


@given(OPERATIONS)
def test_operations_come_back_as_they_were(operations: list[Op]) -> None:
    """Kinds and packets, in their order."""
    blob = ops.pack(operations)
    assert ops.unpack(blob, len(operations)) == operations
    assert ops.words_of(blob, len(operations)) == tuple(
        op.kind << 24 | op.frame << 16 | len(op.packet) for op in operations
    )


@given(st.binary(max_size=200), st.integers(-2, 70_000))
def test_any_bytes_are_operations_or_refused(blob: bytes, count: int) -> None:
    """Nothing but `WireError` comes out; what is taken is written back as the same bytes."""
    try:
        operations = ops.unpack(blob, count)
    except WireError:
        return
    assert len(operations) == count
    assert ops.pack(operations) == blob


@given(OPERATIONS, st.data())
def test_damaged_operations_are_operations_or_refused(
    operations: list[Op], data: st.DataObject
) -> None:
    """One byte changed, some cut off, some added, or another count."""
    blob, count = ops.pack(operations), len(operations)
    at = data.draw(st.integers(0, len(blob) - 1))
    changed = bytes([data.draw(st.integers(0, 255))])
    for damaged, number in [
        (blob[:at] + changed + blob[at + 1 :], count),
        (blob[:at], count),
        (blob + changed, count),
        (blob, count + 1),
        (blob, count - 1),
    ]:
        try:
            taken = ops.unpack(damaged, number)
        except WireError:
            continue
        assert ops.pack(taken) == damaged


@pytest.mark.parametrize(
    ("blob", "count"),
    [
        (b"", 0),
        (b"", 1),
        (word(0, 0), 0),
        (word(0, 0), -1),
        (word(0, 0), 2),
        (word(0, 0)[:3], 1),
        (word(0, 3) + b"ab", 1),
        (word(0, 1) + b"ab", 1),
        (word(max(OpKind) + 1, 0), 1),
        (word(255, 0), 1),
        (word(0, MAX_PACKET_BYTES + 1) + bytes(MAX_PACKET_BYTES + 1), 1),
        (word(0, 0) * (MAX_OPS + 1), MAX_OPS + 1),
    ],
)
def test_what_is_no_operations_is_refused(blob: bytes, count: int) -> None:
    """None at all, too short, too long, an unknown kind, too large, too many."""
    with pytest.raises(WireError):
        ops.words_of(blob, count)
    with pytest.raises(WireError):
        ops.unpack(blob, count)


@pytest.mark.parametrize(
    "operations",
    [[Op(OpKind.PACKET, bytes(MAX_PACKET_BYTES))], [Op(OpKind.LOST, b"")] * MAX_OPS],
    ids=["the largest packet", "the most operations"],
)
def test_the_limits_themselves_are_allowed(operations: list[Op]) -> None:
    """A packet of the largest size, and as many operations as may be."""
    assert ops.unpack(ops.pack(operations), len(operations)) == operations


@given(OPERATIONS, st.data())
def test_poisoned_takes_one_packet_out(operations: list[Op], data: st.DataObject) -> None:
    """Operation `index` is marked and its packet is gone; the others stay as they are."""
    index = data.draw(st.integers(0, len(operations) - 1))
    blob = ops.poisoned(ops.pack(operations), len(operations), index)
    expected = [*operations[:index], Op(OpKind.POISONED, b""), *operations[index + 1 :]]
    assert ops.unpack(blob, len(operations)) == expected


@given(st.integers(-(2**15), 2**15 - 1))
def test_a_gain_comes_back_as_it_was(gain: int) -> None:
    """Any gain that libopus takes."""
    assert ops.unpack_gain(ops.pack_gain(gain)) == gain


@pytest.mark.parametrize("data", [b"", b"a", b"abc"])
def test_what_is_no_gain_is_none(data: bytes) -> None:
    """A gain has two bytes."""
    assert ops.unpack_gain(data) is None


# ---- outcomes -------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.integers(0, 30), CODES), min_size=1, max_size=20), FRAME_BYTES)
def test_outcomes_come_back_as_they_were(results: list[int], frame_bytes: int) -> None:
    """Samples and codes of each operation, and the PCM of those that gave any."""
    pcm = bytes(range(256)) * 30
    pcm = pcm[: sum(n for n in results if n > 0) * frame_bytes]
    taken = ops.unpack_outcome(outcome(results, pcm), len(results), frame_bytes)
    assert taken.results == tuple(results)
    assert bytes(taken.pcm) == pcm


@given(st.binary(max_size=200), st.integers(0, 60), FRAME_BYTES)
def test_any_bytes_are_an_outcome_or_refused(blob: bytes, count: int, frame_bytes: int) -> None:
    """Nothing but `WireError` comes out; samples and PCM of what is taken agree."""
    try:
        taken = ops.unpack_outcome(memoryview(blob), count, frame_bytes)
    except WireError:
        return
    assert len(taken.results) == count
    assert sum(n for n in taken.results if n > 0) * frame_bytes == len(taken.pcm)
    assert outcome(list(taken.results), bytes(taken.pcm)) == blob


@pytest.mark.parametrize(
    ("blob", "count"),
    [
        (b"", 1),
        (outcome([2], b"abcd")[:-1], 1),
        (outcome([2], b"abcde"), 1),
        (outcome([2], b"abcd"), 2),
        (outcome([-4], b"abcd"), 1),
        (outcome([2**31 - 1], b"abcd"), 1),
        (outcome([2**31 - 1, -(2**31) + 3], b"abcd"), 2),
    ],
)
def test_an_outcome_whose_lengths_disagree_is_refused(blob: bytes, count: int) -> None:
    """Too short, too long, too few, PCM of a refused packet, absurd counts; codes do not add up."""
    with pytest.raises(WireError):
        ops.unpack_outcome(blob, count, 2)
