"""Writes Ogg Opus files for tests, whole ones and broken ones; shares no code with the reader."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

CONTINUED, FIRST, LAST = 1, 2, 4
NO_GRANULE = -1
TAGS = b"OpusTags" + struct.pack("<I", 4) + b"test" + struct.pack("<I", 0)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1) ^ (0x104C11DB7 if value & 0x80000000 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def crc(data: bytes) -> int:
    """Ogg's checksum, bit by bit as RFC 3533 has it."""
    value = 0
    for byte in data:
        value = ((value << 8) & 0xFFFFFFFF) ^ _CRC[(value >> 24) ^ byte]
    return value


@dataclass
class Page:
    """One page to write; `lacing` and `body` are what the header's other fields speak of."""

    serial: int
    sequence: int
    granule: int
    lacing: bytes
    body: bytes
    flags: int = 0
    version: int = 0

    def write(self) -> bytes:
        head = struct.pack(
            "<4sBBqIIIB",
            b"OggS",
            self.version,
            self.flags,
            self.granule,
            self.serial,
            self.sequence,
            0,
            len(self.lacing),
        )
        data = head + self.lacing + self.body
        return data[:22] + struct.pack("<I", crc(data)) + data[26:]

    def but(self, **changes: int) -> Page:
        return replace(self, **changes)  # type: ignore[arg-type]


def lacing(size: int) -> bytes:
    """The lacing values of one packet."""
    return b"\xff" * (size // 255) + bytes([size % 255])


def page(serial: int, sequence: int, granule: int, packets: list[bytes], flags: int = 0) -> Page:
    """A page with whole packets."""
    values = b"".join(lacing(len(packet)) for packet in packets)
    return Page(serial, sequence, granule, values, b"".join(packets), flags)


def head(
    channels: int = 1,
    pre_skip: int = 312,
    *,
    gain: int = 0,
    version: int = 1,
    family: int = 0,
    mapping: bytes = b"",
) -> bytes:
    """An identification header."""
    fields = struct.pack("<BBHIhB", version, channels, pre_skip, 16000, gain, family)
    return b"OpusHead" + fields + mapping


def headers(serial: int = 1, head_: bytes | None = None, tags: bytes = TAGS) -> list[Page]:
    """The two pages with headers."""
    first = page(serial, 0, 0, [head() if head_ is None else head_], FIRST)
    return [first, page(serial, 1, 0, [tags])]


def audio(
    packets: list[bytes],
    samples: int = 960,
    *,
    serial: int = 1,
    per_page: int = 10,
    start: int = 0,
    trim: int = 0,
    ends: bool = True,
) -> list[Page]:
    """The pages with audio.

    Args:
        packets: all of the same duration.
        samples: of one packet, at 48 kHz.
        serial: of the stream.
        per_page: packets on a page.
        start: granule position before the first packet.
        trim: samples that the last granule position is too small.
        ends: whether the last page ends the stream.
    """
    pages: list[Page] = []
    for at in range(0, len(packets), per_page):
        some = packets[at : at + per_page]
        granule = start + (at + len(some)) * samples
        pages.append(page(serial, 2 + len(pages), granule, some))
    if pages:
        pages[-1].granule -= trim
        pages[-1].flags = LAST if ends else 0
    return pages


def write(pages: list[Page]) -> bytes:
    """The file."""
    return b"".join(page_.write() for page_ in pages)


def link(packets: list[bytes], *, serial: int = 1, channels: int = 1, trim: int = 0) -> bytes:
    """A whole link: headers and audio, in packets of 20 ms."""
    pages = headers(serial, head(channels)) + audio(packets, serial=serial, trim=trim)
    return write(pages)


def split(data: bytes) -> list[bytes]:
    """The pages of a sound file, as bytes."""
    pages, at = [], 0
    while data[at : at + 4] == b"OggS":
        count = data[at + 26]
        size = 27 + count + sum(data[at + 27 : at + 27 + count])
        pages.append(data[at : at + size])
        at += size
    return pages
