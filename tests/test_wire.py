"""The wire format: every message is read as it was written, or refused with `WireError`."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuspool import wire
from opuspool.errors import WireError
from opuspool.wire import Answer, Frames, Kind, Message, Request, Result, Step

if TYPE_CHECKING:
    from collections.abc import Callable

U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
HEADER = struct.Struct("<4sBBHIQ")

RECORDS: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.REQUESTS: st.builds(Request, U64, U64, U32, U32, U16, U8, U8),
    Kind.ANSWERS: st.builds(Answer, U64, U32, U16, U8),
    Kind.LEASE: st.builds(Step, U64, U32, U16, U8, U8),
    Kind.RESULTS: st.builds(Result, U32, U32, U16, U8),
}
JSON_KINDS = [Kind.HELLO, Kind.WELCOME, Kind.ASK, Kind.REPORT, Kind.READY, Kind.ENDED]
BARE_KINDS = [Kind.PING, Kind.BYE, Kind.STOP, Kind.LANE, Kind.LOST]

JSON = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=5,
)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Kind, list[Any], list[bytes], int]:
    """A kind with records, records of it, their payloads, a tag."""
    kind = draw(st.sampled_from(list(RECORDS)))
    records = draw(st.lists(RECORDS[kind], max_size=8))
    payloads = [draw(st.binary(max_size=20)) for _ in records]
    records = [
        record._replace(length=len(payload))
        for record, payload in zip(records, payloads, strict=True)
    ]
    return kind, records, payloads, draw(U64)


@st.composite
def messages(draw: st.DrawFn) -> Frames:
    """Frames of any valid message."""
    if draw(st.booleans()):
        return wire.pack(*draw(batches()))
    if draw(st.booleans()):
        return wire.pack_json(draw(st.sampled_from(JSON_KINDS)), draw(JSON), draw(U64))
    return wire.pack_plain(draw(st.sampled_from(BARE_KINDS)), tag=draw(U64))


def header(
    kind: int = Kind.PING,
    *,
    magic: bytes = wire.MAGIC,
    version: int = wire.VERSION,
    reserved: int = 0,
    count: int = 0,
) -> bytes:
    """A header frame without records, by hand."""
    return HEADER.pack(magic, version, kind, reserved, count, 0)


def written(message: Message) -> Frames:
    """A parsed message, written anew."""
    if message.kind in RECORDS:
        return wire.pack(message.kind, message.records, message.payloads(), message.tag)
    return wire.pack_plain(message.kind, message.data, message.tag)


def taken_or_refused(frames: list[bytes]) -> None:
    """What is taken is one message, and its JSON too is taken or refused."""
    try:
        message = wire.parse(frames)
    except WireError:
        return
    assert len(frames) == 2
    header_frame, data = written(message)
    assert data == frames[1]
    assert len(header_frame) == len(frames[0])
    assert len(message.payloads()) == len(message.records)
    if message.kind in JSON_KINDS:
        with suppress(WireError):
            assert isinstance(message.json(), dict)


# ---- what is written is read ----------------------------------------------------------------


@given(batches())
def test_records_come_back_as_they_were(batch: tuple[Kind, list[Any], list[bytes], int]) -> None:
    """Kind, tag, records and payloads, in their order."""
    kind, records, payloads, tag = batch
    message = wire.parse(wire.pack(kind, records, payloads, tag))
    assert (message.kind, message.tag) == (kind, tag)
    assert message.records == records
    assert [type(record) for record in message.records] == [type(record) for record in records]
    assert message.payloads() == payloads


@given(st.sampled_from(JSON_KINDS), JSON, U64)
def test_json_comes_back_as_it_was(kind: Kind, value: dict[str, Any], tag: int) -> None:
    """Any JSON object, with any of the kinds that carry one."""
    message = wire.parse(wire.pack_json(kind, value, tag))
    assert (message.kind, message.tag, message.records) == (kind, tag, [])
    assert message.json() == value


@given(st.sampled_from(BARE_KINDS), U64)
def test_bare_messages_come_back_as_they_were(kind: Kind, tag: int) -> None:
    """They are a kind and a tag."""
    assert wire.parse(wire.pack_plain(kind, tag=tag)) == Message(kind, tag, [], b"")


def test_each_kind_is_of_one_of_three_sorts() -> None:
    """With records, with JSON, or bare: the tests here know them all."""
    sorts = [*RECORDS, *JSON_KINDS, *BARE_KINDS, Kind.REFUSE]
    assert sorted(sorts) == sorted(Kind)


# ---- what is not a message is refused -------------------------------------------------------


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_any_frames_are_taken_or_refused(frames: list[bytes]) -> None:
    """Nothing but `WireError` comes out of them."""
    taken_or_refused(frames)


@given(st.sampled_from(Kind), st.integers(0, 4), st.binary(max_size=120), st.binary(max_size=40))
def test_anything_behind_a_right_header_is_taken_or_refused(
    kind: Kind, count: int, records: bytes, data: bytes
) -> None:
    """The same where magic, version and kind are right."""
    taken_or_refused([header(kind, count=count) + records, data])


def flipped(frame: bytes, at: int) -> bytes:
    """A frame with one bit changed."""
    index = at // 8 % len(frame)
    return frame[:index] + bytes([frame[index] ^ 1 << at % 8]) + frame[index + 1 :]


DAMAGES: dict[str, Callable[[bytes, bytes, int], list[bytes]]] = {
    "a bit of the header": lambda head, data, at: [flipped(head, at), data],
    "a bit of the data": lambda head, data, at: [head, flipped(data or b"x", at)],
    "header cut": lambda head, data, at: [head[: at % len(head)], data],
    "data cut": lambda head, data, at: [head, data[: at % (len(data) + 1)]],
    "header longer": lambda head, data, at: [head + bytes(1 + at % 40), data],
    "data longer": lambda head, data, at: [head, data + bytes(1 + at % 40)],
    "swapped": lambda head, data, _: [data, head],
    "one frame": lambda head, _data, _at: [head],
    "three frames": lambda head, data, _: [head, data, b""],
    "a frame before": lambda head, data, _: [b"", head, data],
    "in one frame": lambda head, data, _: [head + data],
}


@pytest.mark.parametrize("damage", DAMAGES)
@given(frames=messages(), at=st.integers(0, 2000))
def test_damaged_messages_are_taken_or_refused(damage: str, frames: Frames, at: int) -> None:
    """Flipped, cut, longer, swapped: nothing but `WireError` comes out."""
    taken_or_refused(DAMAGES[damage](*frames, at))


REQUEST = wire.pack(Kind.REQUESTS, [Request(1, 2, 3, 4, 1, 0, 0)], [b"abcd"])

REFUSED: dict[str, tuple[list[bytes], str]] = {
    "no frames": ([], "2 frames, not 0"),
    "one frame": ([header()], "2 frames, not 1"),
    "three frames": ([header(), b"", b""], "2 frames, not 3"),
    "empty header": ([b"", b""], "header of 0 bytes"),
    "short header": ([header()[:-1], b""], "header of 19 bytes"),
    "another magic": ([header(magic=b"OPUZ"), b""], "not an opuspool message"),
    "reserved bits": ([header(reserved=1), b""], "not an opuspool message"),
    "an older version": ([header(version=0), b""], "version 0, this is version 2"),
    "a newer version": ([header(version=3), b""], "version 3, this is version 2"),
    "kind 0": ([header(0), b""], "unknown kind 0"),
    "an unknown kind": ([header(max(Kind) + 1), b""], "unknown kind"),
    "bare with a record": ([header(Kind.PING, count=1), b""], "PING has no records"),
    "bare with more header": ([header(Kind.BYE) + b"x", b""], "BYE has no records"),
    "bare with data": ([header(Kind.STOP), b"x"], "STOP carries no data"),
    "JSON with a record": ([header(Kind.READY, count=1), b"{}"], "READY has no records"),
    "a record less": ([header(Kind.REQUESTS, count=1), b""], "1 records of REQUESTS"),
    "a record more": ([REQUEST[0] + REQUEST[0][20:], b"abcd"], "1 records of REQUESTS"),
    "half a record": ([REQUEST[0][:-1], b"abcd"], "1 records of REQUESTS"),
    "data too short": ([REQUEST[0], b"abc"], "do not add up to 3"),
    "data too long": ([REQUEST[0], b"abcde"], "do not add up to 5"),
    "data without records": ([header(Kind.LEASE), b"x"], "do not add up to 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_rule_is_refused_with_its_reason(case: str) -> None:
    """The words say which rule was broken, and with which number."""
    frames, words = REFUSED[case]
    with pytest.raises(WireError, match=words):
        wire.parse(frames)


# ---- limits ---------------------------------------------------------------------------------


class Unread(bytes):
    """A frame whose content must not be looked at; only its length may."""

    claims = 0

    def __len__(self) -> int:
        return self.claims

    def __getitem__(self, index: object) -> Any:
        raise AssertionError("an oversized frame was read")


def test_too_many_records_are_refused_before_they_are_read() -> None:
    """The count alone decides; the greatest count itself is allowed."""
    frames = [header(Kind.REQUESTS, count=wire.MAX_RECORDS + 1), b""]
    with pytest.raises(WireError, match=f"{wire.MAX_RECORDS + 1} records, at most"):
        wire.parse(frames)
    results = [Result(0, 0, 0, 0)] * wire.MAX_RECORDS
    message = wire.parse(wire.pack(Kind.RESULTS, results, []))
    assert len(message.records) == wire.MAX_RECORDS


@pytest.mark.parametrize("kind", [Kind.REPORT, Kind.LEASE, Kind.PING])
def test_too_much_data_is_refused_before_it_is_read(kind: Kind) -> None:
    """Its length alone decides."""
    data = Unread()
    data.claims = wire.MAX_DATA_BYTES + 1
    with pytest.raises(WireError, match=f"at most {wire.MAX_DATA_BYTES}"):
        wire.parse([header(kind), data])


def test_too_much_json_is_refused_before_it_is_read() -> None:
    """Its length alone decides."""
    data = Unread()
    data.claims = wire.MAX_JSON_BYTES + 1
    with pytest.raises(WireError, match=f"at most {wire.MAX_JSON_BYTES}"):
        wire.read_json(data)


def test_the_longest_json_is_allowed() -> None:
    """Just as many bytes as may be."""
    text = b'{"a":"' + b"x" * (wire.MAX_JSON_BYTES - 8) + b'"}'
    assert len(text) == wire.MAX_JSON_BYTES
    assert wire.read_json(text).keys() == {"a"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b'"text"',
        b"\xff",
        b'{"a": "\xff"}',
        b"\xff\xfe{\x00",
        b"{}{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=lambda data: repr(data[:12]),
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    """Nothing, other values, other encodings, endless depth, a number without end."""
    with pytest.raises(WireError, match="JSON"):
        wire.read_json(data)


@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_any_bytes_are_a_json_object_or_refused(data: bytes) -> None:
    """Nothing but `WireError` comes out; what is taken is what json takes."""
    try:
        value = wire.read_json(data)
    except WireError:
        return
    assert value == json.loads(data)
