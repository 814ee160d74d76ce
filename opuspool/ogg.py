"""Ogg pages and packets (RFC 3533), from a file that is read once, front to back.

Pure Python: a file is parsed inside the service that embeds us, where a native demuxer would bring
back the memory faults that this project exists to remove.

    page:  "OggS" version flags | granule position | serial | sequence | CRC | n | n lacing values
           (4 + 1 + 1)            (8)                (4)      (4)        (4)   (1) | body
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from opuspool.errors import InvalidFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CAPTURE", "Packet", "PacketReader", "Page", "read_pages"]

CAPTURE = b"OggS"
"""What each page begins with (RFC 3533, section 6)."""

MAX_PAGE_BYTES = 27 + 255 + 255 * 255
"""The longest page: header, lacing values, body (RFC 3533, section 6)."""

_READ_BYTES = 1 << 18
_HEADER = struct.Struct("<4sBBQII4sB")
_CRC_AT, _LACING_AT = 22, 27
_CONTINUED, _FIRST, _LAST = 1, 2, 4
_NO_GRANULE = (1 << 64) - 1  # -1: no packet ends on this page
_SEQUENCES = 1 << 32

_MIRROR = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in reverse order."""

_WASTE_FACTOR, _WASTE_BYTES = 8, 64 * MAX_PAGE_BYTES
"""How many bytes of bad pages are checked: this factor times the bytes read, and a start."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page whose checksum was right.

    Attributes:
        serial: the logical stream that it belongs to, 32 bits.
        sequence: its number in that stream, 32 bits.
        granule: its granule position, 0 to 2**64 - 2; None: no packet ends on it.
        continued: its first bytes go on with a packet of the page before.
        first: it begins its stream (BOS).
        last: it ends its stream (EOS).
        lacing: segment sizes, 0 to 255 each; a packet ends with the first one under 255.
        body: the segments, joined.
    """

    serial: int
    sequence: int
    granule: int | None
    continued: bool
    first: bool
    last: bool
    lacing: bytes
    body: bytes


class Packet(NamedTuple):
    """One packet; granule position and end of stream go to the last one that ends on a page."""

    data: bytes
    granule: int | None
    last: bool


def read_pages(file: BinaryIO, start: bytes = b"") -> Iterator[Page]:
    """Read the good pages of a file; what is damaged or between pages is passed over.

    Holds at most a few hundred KB of the file at a time, whatever the file says.

    Args:
        file: read from where it stands to its end; need not be seekable.
        start: bytes of the file that the caller has read already.

    Raises:
        InvalidFileError: so much is damaged that searching on would take too long.
        OSError: the file cannot be read.
    """
    window = _Window(file, start)
    wasted = 0
    while window.find_page():
        page, size = _parse(window.data, window.at)
        if page is not None:
            window.at += size
            yield page
            continue
        # A false capture pattern every few bytes would have each byte checked thousands of times.
        wasted += size
        if wasted > _WASTE_BYTES + _WASTE_FACTOR * window.bytes_read:
            raise InvalidFileError(
                "the file is damaged beyond use: nearly all of its Ogg pages fail their checksum; "
                "fetch or record it anew"
            )
        window.at += 1


class _Window:
    """A stretch of a file: at least a page's length from `at` on, or up to the file's end."""

    def __init__(self, file: BinaryIO, start: bytes) -> None:
        self._file = file
        self._ended = False
        self.data = start
        self.at = 0
        self.bytes_read = len(start)

    def find_page(self) -> bool:
        """Move `at` to the next capture pattern, with all that there is of its page after it."""
        while True:
            self._fill()
            found = self.data.find(CAPTURE, self.at)
            if found >= 0:
                self.at = found
                self._fill()
                return True
            if self._ended:
                return False
            # The pattern may begin in the last three bytes.
            self.at = max(self.at, len(self.data) - len(CAPTURE) + 1)

    def _fill(self) -> None:
        missing = MAX_PAGE_BYTES - (len(self.data) - self.at)
        if self._ended or missing <= 0:
            return
        pieces = [self.data[self.at :]]
        while missing > 0 and not self._ended:
            piece = self._file.read(_READ_BYTES)
            self._ended = not piece
            pieces.append(piece)
            missing -= len(piece)
            self.bytes_read += len(piece)
        self.data, self.at = b"".join(pieces), 0


def _parse(data: bytes, at: int) -> tuple[Page | None, int]:
    """The page at an offset, or None where there is no good one, and how many bytes were looked at.

    `data` holds the whole page, unless the file ends before.
    """
    if len(data) - at < _LACING_AT:
        return None, 0
    _, version, flags, granule, serial, sequence, crc, count = _HEADER.unpack_from(data, at)
    body_at = at + _LACING_AT + count
    lacing = data[at + _LACING_AT : body_at]
    end = body_at + sum(lacing)
    if version != 0 or len(lacing) < count or end > len(data):
        return None, 0
    if _checksum(data[at:end]) != crc:
        return None, end - at
    page = Page(
        serial=serial,
        sequence=sequence,
        granule=None if granule == _NO_GRANULE else granule,
        continued=bool(flags & _CONTINUED),
        first=bool(flags & _FIRST),
        last=bool(flags & _LAST),
        lacing=lacing,
        body=data[body_at:end],
    )
    return page, end - at


def _checksum(page: bytes) -> bytes:
    """A page's CRC-32 as it stands in the page (RFC 3533, section 6: 0x04c11db7, most significant
    bit first, initial value 0, the CRC's own bytes taken as 0).

    zlib's CRC has the same polynomial but takes the least significant bit first, so it is given
    the page with each byte's bits reversed, and its result is reversed in turn.
    """  # noqa: D205  the numbers belong together
    mirrored = page.translate(_MIRROR)
    crc = zlib.crc32(mirrored[:_CRC_AT], 0xFFFFFFFF)  # zlib inverts both ends; begin with 0
    crc = zlib.crc32(bytes(4), crc)
    crc = zlib.crc32(mirrored[_CRC_AT + 4 :], crc) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_MIRROR)


class PacketReader:
    """Puts one logical stream's packets together from its pages.

    Args:
        limit: the longest packet in bytes; a longer one comes out as b"", which is no packet of
            any codec, so that a stream without packet ends cannot fill the memory.

    Attributes:
        limit: may be changed between two pages.
        hole: pages are missing before the one that was given last.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.hole = False
        self._next: int | None = None
        self._parts: list[bytes] | None = None
        self._size = 0

    def push(self, page: Page) -> list[Packet]:
        """Take the stream's next page; returns the packets that end on it."""
        gap = page.sequence != self._next
        self.hole = gap and self._next is not None
        self._next = (page.sequence + 1) % _SEQUENCES
        if gap or not page.continued:
            self._parts = None
        done = self._split(page)
        last_index = len(done) - 1
        ends = page.last and page.lacing[-1:] < b"\xff"
        return [
            Packet(data, page.granule, ends) if index == last_index else Packet(data, None, False)
            for index, data in enumerate(done)
        ]

    def _split(self, page: Page) -> list[bytes]:
        done: list[bytes] = []
        # The rest of a packet whose beginning is lost is passed over.
        skipping = page.continued and self._parts is None
        begin = end = 0
        for size in page.lacing:
            end += size
            if size == 255:
                continue
            if not skipping:
                done.append(self._complete(page.body[begin:end]))
            skipping = False
            begin = end
        if page.lacing[-1:] == b"\xff" and not skipping:
            self._hold(page.body[begin:end])
        return done

    def _hold(self, part: bytes) -> None:
        """Keep what there is of a packet that goes on with the next page."""
        if self._parts is None:
            self._parts, self._size = [], 0
        self._size += len(part)
        if self._size > self.limit:
            self._parts.clear()
        else:
            self._parts.append(part)

    def _complete(self, part: bytes) -> bytes:
        if self._parts is None:
            return part if len(part) <= self.limit else b""
        self._hold(part)
        data = b"".join(self._parts) if self._size <= self.limit else b""
        self._parts = None
        return data
