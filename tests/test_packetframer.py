"""Packets out of bytes that come in pieces; PCM in a buffer that forgets the oldest."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servicebytes import framed

from opuspool.compat.packetframer import PacketFramer
from opuspool.compat.pcm16buffer import PCM16RingBuffer

LONGEST = 4096
"""Bytes; what the incident's service takes."""


def popped(framer: PacketFramer) -> list[tuple[int | None, bytes]]:
    found = []
    while (one := framer.try_pop()) is not None:
        found.append(one)
    return found


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=40))),
    st.booleans(),
    st.data(),
)
def test_packets_come_out_however_their_bytes_are_cut(
    packets: list[tuple[int, bytes]], with_seq: bool, data: st.DataObject
) -> None:
    sent = [(number if with_seq else None, packet) for number, packet in packets]
    stream = b"".join(framed([packet], number) for number, packet in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    framer = PacketFramer(with_seq=with_seq)
    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        framer.feed(stream[begin:end])
        found += popped(framer)
    assert found == sent


def test_the_longest_packet_is_taken() -> None:
    framer = PacketFramer()
    framer.feed(framed([bytes(LONGEST)]))
    assert framer.try_pop() == (None, bytes(LONGEST))


@pytest.mark.parametrize("length", [0, LONGEST + 1, 0xFFFF])
def test_a_length_that_cannot_be_right_empties_the_buffer(
    length: int, caplog: pytest.LogCaptureFixture
) -> None:
    """What came whole before it comes out; what comes afterwards is read from its start."""
    framer = PacketFramer()
    framer.feed(framed([b"before"]) + struct.pack("<H", length) + framed([b"behind"]))
    assert popped(framer) == [(None, b"before")]
    assert f"a packet of {length} bytes" in caplog.text
    framer.feed(framed([b"after"]))
    assert popped(framer) == [(None, b"after")]


def test_a_cleared_framer_begins_anew() -> None:
    framer = PacketFramer(with_seq=True)
    framer.feed(framed([b"half"], 1)[:-1])
    framer.clear()
    framer.feed(framed([b"whole"], 2))
    assert popped(framer) == [(2, b"whole")]


# ---- the buffer -----------------------------------------------------------------------------


@given(st.lists(st.one_of(st.binary(max_size=12).map(lambda b: b + b), st.integers(-1, 10))))
def test_what_is_read_is_what_was_written(moves: list[bytes | int]) -> None:
    """Bytes are written, numbers read; the count is right after each."""
    buffer, whole = PCM16RingBuffer(10**6), b""
    for move in moves:
        if isinstance(move, bytes):
            buffer.write(move)
            whole += move
        else:
            taken = whole[: 2 * max(0, move)]
            whole = whole[len(taken) :]
            assert buffer.read(move) == taken
        assert buffer.available_samples() == len(whole) // 2


def test_a_full_buffer_forgets_the_oldest_chunks() -> None:
    buffer = PCM16RingBuffer(capacity_samples=4)
    for chunk in (b"aaaa", b"bbbb", b"cc"):
        buffer.write(chunk)
    assert buffer.available_samples() == 3
    assert buffer.read(10) == b"bbbbcc"
    buffer.write(bytes(10))
    assert buffer.read(10) == b"", "one chunk is more than fits"
    buffer.write(b"dd")
    buffer.clear()
    assert buffer.available_samples() == 0
