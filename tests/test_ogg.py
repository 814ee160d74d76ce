"""Ogg pages and packets are found in sound, damaged and hostile files."""

from __future__ import annotations

import io
import time
import tracemalloc
from typing import TYPE_CHECKING

import oggfiles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oggfiles import CONTINUED, FIRST, LAST, NO_GRANULE, Page
from recordings import real_file

from opuspool import ogg
from opuspool.errors import InvalidFileError
from opuspool.ogg import PacketReader

if TYPE_CHECKING:
    from collections.abc import Sequence


def read(data: bytes) -> list[ogg.Page]:
    return list(ogg.read_pages(io.BytesIO(data)))


def packets(pages: Sequence[Page], limit: int = 1 << 20) -> list[bytes]:
    reader = PacketReader(limit)
    found = read(oggfiles.write(list(pages)))
    return [packet.data for page in found for packet in reader.push(page)]


class Trickle(io.BytesIO):
    """A file that gives a few bytes at a time, as a slow pipe does."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(7, size) if size and size > 0 else 7)


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_rfc_3533(body: bytes) -> None:
    page = oggfiles.page(7, 8, 9, [body])
    found = read(page.write())
    assert [(p.serial, p.sequence, p.granule, p.body) for p in found] == [(7, 8, 9, body)]


def test_flags_and_granule_are_read() -> None:
    flags = CONTINUED | FIRST | LAST
    (page,) = read(Page(1, 2, NO_GRANULE, b"\xff", b"x" * 255, flags).write())
    assert (page.continued, page.first, page.last, page.granule) == (True, True, True, None)
    (page,) = read(Page(1, 2, -2, b"", b"").write())
    assert (page.continued, page.first, page.last, page.granule) == (False, False, False, 2**64 - 2)


def test_every_changed_byte_makes_the_page_bad() -> None:
    data = oggfiles.page(1, 2, 3, [b"abc"]).write()
    for at in range(len(data)):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert read(damaged) == []


def test_pages_are_found_after_junk_and_damage() -> None:
    first, second = (oggfiles.page(1, n, 0, [b"data" * 99]).write() for n in (1, 2))
    data = b"junk OggS junk" + first + first[:100] + second + b"OggS"
    assert [page.sequence for page in read(data)] == [1, 2]


def test_a_later_version_is_passed_over() -> None:
    page = oggfiles.page(1, 2, 3, [b"abc"])
    assert read(page.but(version=1).write()) == []


def test_a_page_cut_off_by_the_end_is_passed_over() -> None:
    data = oggfiles.page(1, 2, 3, [b"abc"]).write()
    for size in range(len(data)):
        assert read(data[:size]) == []


def test_a_slow_pipe_gives_the_same_pages() -> None:
    data = oggfiles.link([b"\x08" + bytes(90)] * 30)
    assert list(ogg.read_pages(Trickle(data))) == read(data)


def test_bytes_read_before_come_first() -> None:
    data = oggfiles.link([b"\x08" + bytes(90)] * 30)
    assert list(ogg.read_pages(io.BytesIO(data[33:]), data[:33])) == read(data)


def test_real_pages_are_all_found() -> None:
    data = real_file("voice/silero_16k.opus").read_bytes()
    assert len(read(data)) == len(oggfiles.split(data))


@pytest.mark.parametrize("size", [0, 1, 254, 255, 256, 510, 3000])
def test_packets_of_any_size_come_out_whole(size: int) -> None:
    wanted = [b"a" * size, b"b", b"c" * size]
    assert packets([oggfiles.page(1, 0, 0, wanted)]) == wanted


def test_a_packet_may_span_pages() -> None:
    pages = [
        Page(1, 0, 5, b"\x03\xff", b"one" + b"x" * 255),
        Page(1, 1, NO_GRANULE, b"\xff", b"y" * 255, CONTINUED),
        Page(1, 2, 9, b"\x02\x03", b"zztwo", CONTINUED),
    ]
    assert packets(pages) == [b"one", b"x" * 255 + b"y" * 255 + b"zz", b"two"]


def test_a_packet_with_a_lost_part_is_dropped_and_the_next_is_not() -> None:
    pages = [
        Page(1, 0, 5, b"\x03\xff", b"one" + b"x" * 255),
        Page(1, 2, 9, b"\x02\x03", b"zztwo", CONTINUED),
    ]
    assert packets(pages) == [b"one", b"two"]


def test_a_stream_joined_in_the_middle_begins_with_a_whole_packet() -> None:
    assert packets([Page(1, 7, 9, b"\x02\x03", b"zztwo", CONTINUED)]) == [b"two"]
    lost = [Page(1, 7, NO_GRANULE, b"\xff", b"z" * 255, CONTINUED)]
    assert packets([*lost, Page(1, 8, 9, b"\x02\x03", b"zztwo", CONTINUED)]) == [b"two"]


def test_a_packet_that_is_not_continued_is_dropped() -> None:
    pages = [Page(1, 0, 5, b"\xff", b"x" * 255), Page(1, 1, 9, b"\x03", b"two")]
    assert packets(pages) == [b"two"]


def test_a_gap_in_the_sequence_is_a_hole() -> None:
    reader = PacketReader(100)
    holes = []
    for sequence in (5, 6, 8, 9, 9, 10):
        (page,) = read(oggfiles.page(1, sequence, 0, [b"a"]).write())
        reader.push(page)
        holes.append(reader.hole)
    assert holes == [False, False, True, False, True, False]


def test_the_sequence_may_wrap() -> None:
    reader = PacketReader(100)
    for sequence in (2**32 - 1, 0):
        reader.push(read(oggfiles.page(1, sequence, 0, [b"a"]).write())[0])
    assert not reader.hole


def test_granule_and_end_go_to_the_last_packet_that_ends() -> None:
    (page,) = read(Page(1, 0, 77, b"\x01\x01\xff", b"ab" + b"x" * 255).write())
    assert [packet[1:] for packet in PacketReader(999).push(page)] == [(None, False), (77, False)]
    (page,) = read(Page(1, 0, 77, b"\x01\x01", b"ab", LAST).write())
    assert [packet[1:] for packet in PacketReader(999).push(page)] == [(None, False), (77, True)]


def test_a_packet_over_the_limit_is_empty_and_not_kept() -> None:
    pages = [Page(1, n, NO_GRANULE, b"\xff" * 255, b"x" * 65025, CONTINUED) for n in range(40)]
    pages[0].flags = 0
    end = Page(1, 40, 9, b"\x01\x03", b"xtwo", CONTINUED)
    data = oggfiles.write([*pages, end])
    tracemalloc.start()
    reader = PacketReader(1000)
    found = [p.data for page in ogg.read_pages(io.BytesIO(data)) for p in reader.push(page)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [b"", b"two"]
    assert peak < 1_500_000
    assert packets([oggfiles.page(1, 0, 0, [b"x" * 1001, b"ok"])], limit=1000) == [b"", b"ok"]


@given(st.lists(st.binary(max_size=600), max_size=20), st.data())
def test_packets_survive_any_way_of_cutting_pages(wanted: list[bytes], data: st.DataObject) -> None:
    values = b"".join(oggfiles.lacing(len(packet)) for packet in wanted)
    body = b"".join(wanted)
    pages: list[Page] = []
    at = begin = 0
    while at < len(values):
        count = data.draw(st.integers(0, min(255, len(values) - at)))
        some = values[at : at + count]
        continued = bool(at) and values[at - 1] == 255
        size = sum(some)
        pages.append(Page(1, len(pages), 0, some, body[begin : begin + size], int(continued)))
        at, begin = at + count, begin + size
    assert packets(pages) == wanted


def test_false_pages_without_end_are_refused_soon() -> None:
    """Each capture pattern claims 64 KiB with a wrong checksum: quadratic, were it gone through."""
    header = Page(1, 0, 0, b"", b"").write()[:26] + b"\xff" * 29
    started = time.monotonic()
    with pytest.raises(InvalidFileError, match="damaged beyond use"):
        read(header * 40_000)
    assert time.monotonic() - started < 10


def test_a_file_whose_every_page_is_damaged_has_none() -> None:
    pages = bytearray(oggfiles.link([b"\x08" + bytes(900)] * 3000))
    at = 0
    while (at := pages.find(b"OggS", at)) >= 0:
        pages[at + 30] ^= 1
        at += 4
    assert read(bytes(pages)) == []


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"OggS", b"OggS\0"]))))
def test_any_bytes_end_well(pieces: list[bytes]) -> None:
    assert read(b"".join(pieces)) == []
