"""Answers to a client come out as they went in, in few messages of bounded size."""

from __future__ import annotations

import pytest
from opuspool_supervisor.answers import MESSAGE_BYTES, Answers

from opuspool import wire

BIG = MESSAGE_BYTES // 2 + 1


def parts_of(sizes: list[int], first: int) -> tuple[list[wire.Row], bytes]:
    """Answers with payloads of these sizes, back to back, each of bytes of its own."""
    rows: list[wire.Row] = [(first + n, size, 1, 0) for n, size in enumerate(sizes)]
    return rows, b"".join([bytes([first + n]) * size for n, size in enumerate(sizes)])


@pytest.mark.parametrize(
    ("batches", "messages"),
    [
        ([], 0),
        ([[]], 0),
        ([[3]], 1),
        ([[3, 0, 5], [1], [7, 2]], 1),
        ([[BIG, BIG, BIG, 4]], 2),
        ([[BIG], [3], [BIG, BIG], [2]], 2),
        ([[MESSAGE_BYTES], [3]], 2),
        ([[3 * MESSAGE_BYTES]], 1),
    ],
    ids=lambda value: None if isinstance(value, int) else "+".join(str(len(b)) for b in value),
)
def test_answers_come_out_as_they_went_in(batches: list[list[int]], messages: int) -> None:
    answers = Answers()
    expected: list[tuple[wire.Row, bytes]] = []
    for sizes in batches:
        rows, data = parts_of(sizes, len(expected))
        expected += [(row, bytes([row[0]]) * row[1]) for row in rows]
        answers.extend(rows, data)
    sent = [wire.parse(frames) for frames in answers.messages()]
    got = [pair for one in sent for pair in zip(one.rows, one.payloads(), strict=True)]
    assert got == expected
    assert len(sent) == messages
    largest = max([size for sizes in batches for size in sizes], default=0)
    assert all(len(one.data) <= MESSAGE_BYTES + largest for one in sent)


def test_a_message_has_no_more_answers_than_the_wire_format_allows() -> None:
    answers = Answers()
    for number in range(wire.MAX_RECORDS + 1):
        answers.add((number, 0, 1, 0), b"")
    sent = [wire.parse(frames) for frames in answers.messages()]
    assert [len(one.rows) for one in sent] == [wire.MAX_RECORDS, 1]
    assert [row[0] for one in sent for row in one.rows] == list(range(wire.MAX_RECORDS + 1))
