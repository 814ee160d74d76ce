"""The log of clients' batches in a flight recorder: what is read is what was written last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuspool import ops, wire
from opuspool.batchlog import NO_RECORD, Batch, BatchLog
from opuspool.ops import Op, OpKind
from opuspool.wire import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOM = 8192
TOKEN = 99


def batch(number: int, requests: list[list[int]]) -> wire.Frames:
    """A batch of requests, each of packets of those sizes."""
    blobs = [
        ops.pack([Op(OpKind.PACKET, bytes([number % 256]) * size) for size in sizes])
        for sizes in requests
    ]
    rows = [
        (index, TOKEN, 1000, len(blob), len(sizes), 1, 0)
        for index, (sizes, blob) in enumerate(zip(requests, blobs, strict=True))
    ]
    return wire.pack(Kind.REQUESTS, rows, blobs, number)


@pytest.fixture
def log() -> Iterator[BatchLog]:
    log = BatchLog(memoryview(bytearray(1024 + ROOM)))
    yield log
    log.close()


def newest(log: BatchLog) -> Batch:
    return next(log.batches())


def test_an_empty_log_has_no_batches(log: BatchLog) -> None:
    assert list(log.batches()) == []


@given(
    st.lists(
        st.lists(st.lists(st.integers(1, 1275), min_size=1, max_size=5), min_size=1, max_size=4),
        min_size=1,
        max_size=100,
    )
)
def test_what_is_read_is_what_was_written_last(batches: list[list[list[int]]]) -> None:
    """The newest first, none left out, none damaged; as many as half of the room holds at least."""
    log = BatchLog(memoryview(bytearray(1024 + ROOM)))
    written = [batch(number, requests) for number, requests in enumerate(batches, start=1)]
    for done, frames in enumerate(written, start=1):
        log.append(*frames)
        found = list(log.batches())
        expected = written[:done][::-1][: len(found)]
        assert [found.message.header for found in found] == [header for header, _ in expected]
        for was, (header, data) in zip(found, expected, strict=True):
            assert was.whole is (len(header) + len(data) <= ROOM)
            assert was.message.data == (data if was.whole else b"")
        if done > len(found):
            sizes = [sum(map(len, frames)) for frames in written[:done][::-1]]
            assert len(found) == 63 or sum(sizes[: len(found) + 1]) > ROOM // 2


def test_packets_up_to_an_operation(log: BatchLog) -> None:
    log.append(*batch(7, [[10, 11], [12, 13, 14]]))

    def sizes(record: int | None = None, op: int = 0) -> list[int]:
        return [len(packet or b"") for packet in newest(log).packets(record, op)]

    assert sizes() == [10, 11, 12, 13, 14]
    assert sizes(0, 0) == [10]
    assert sizes(0, 1) == [10, 11]
    assert sizes(1, 1) == [10, 11, 12, 13]
    assert sizes(NO_RECORD) == []
    assert newest(log).word(1, 2) == 14
    assert newest(log).word(1, 3) >> 24 == 0xFF


def test_what_was_not_run_is_not_among_the_packets(log: BatchLog) -> None:
    log.append(*batch(7, [[10, 11], [12, 13, 14]]))
    log.strike_out(1, 1)
    assert [len(packet or b"") for packet in newest(log).packets()] == [10, 11, 12, 14]
    log.strike_out(0)
    assert [len(packet or b"") for packet in newest(log).packets()] == [12, 14]


def test_what_is_no_batch_of_requests_ends_the_reading(log: BatchLog) -> None:
    log.append(*batch(1, [[100]]))
    log.append(*wire.pack(Kind.ANSWERS, [(1, 0, 0, 0)], [b""]))
    assert list(log.batches()) == []


@given(
    st.binary(max_size=16),
    st.lists(
        st.tuples(st.integers(0, 1024 + ROOM - 24), st.binary(min_size=1, max_size=24)), max_size=8
    ),
)
def test_a_wild_process_cannot_make_the_reader_fail(
    begun: bytes, wild: list[tuple[int, bytes]]
) -> None:
    memory = bytearray(1024 + ROOM)
    log = BatchLog(memoryview(memory))
    for number in range(1, 40):
        log.append(*batch(number, [[100, 50], [70]]))
    for at, garbage in [(0, begun), *wild]:
        memory[at : at + len(garbage)] = garbage
    assert len(memory) == 1024 + ROOM
    for found in log.batches():
        found.packets()
        found.packets(1, 0)
        assert found.message.kind is Kind.REQUESTS
