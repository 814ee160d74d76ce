"""Ogg pages (RFC 3533), in pure Python.

The file is read inside the service that embeds us, where a native demuxer would bring back the
very memory faults that opuspool keeps out.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAGIC = b"OggS"
_HEADER = struct.Struct("<4sBBqIIIB")  # RFC 3533, section 6
_CRC_AT = 22
_CONTINUED, _FIRST, _LAST = 1, 2, 4

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class Page(NamedTuple):
    """One page of one logical stream.

    Attributes:
        granule: position at the end of the last packet that ends here; -1 where none does.
        pieces: the parts of packets in it.
        continued: the first piece goes on with the packet of the page before.
        open: the last piece goes on on the next page.
    """

    serial: int
    sequence: int
    granule: int
    first: bool
    last: bool
    continued: bool
    open: bool
    pieces: list[bytes]


def crc(data: bytes) -> int:
    """Ogg's checksum: CRC-32 of polynomial 0x04c11db7, not reflected, starting at 0.

    zlib's is the same on bits in the other order, so both bytes and result are turned round.
    """
    value = zlib.crc32(data.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{value:032b}"[::-1], 2)


def pages(data: bytes) -> Iterator[Page]:
    """Read the whole pages in some bytes; what lies between or is damaged is passed over."""
    at = data.find(_MAGIC)
    while at >= 0:
        found = _page(data, at)
        if found is None:
            at = data.find(_MAGIC, at + 1)
        else:
            page, end = found
            yield page
            at = data.find(_MAGIC, end)


def _page(data: bytes, at: int) -> tuple[Page, int] | None:
    """The page at a position and where it ends; None where there is no whole one."""
    body = at + _HEADER.size
    if body > len(data):
        return None
    _, version, flags, granule, serial, sequence, checksum, count = _HEADER.unpack_from(data, at)
    lacing = data[body : body + count]
    body += count
    end = body + sum(lacing)
    if version or len(lacing) < count or end > len(data):
        return None
    whole = data[at : at + _CRC_AT] + bytes(4) + data[at + _CRC_AT + 4 : end]
    if crc(whole) != checksum:
        return None
    page = Page(
        serial,
        sequence,
        granule,
        bool(flags & _FIRST),
        bool(flags & _LAST),
        bool(flags & _CONTINUED),
        count > 0 and lacing[-1] == 255,
        _pieces(data, body, lacing),
    )
    return page, end


def _pieces(data: bytes, at: int, lacing: bytes) -> list[bytes]:
    pieces = []
    size = 0
    for value in lacing:
        size += value
        if value < 255:
            pieces.append(data[at : at + size])
            at += size
            size = 0
    if lacing and lacing[-1] == 255:
        pieces.append(data[at : at + size])
    return pieces


class Assembler:
    """Joins the pieces of one logical stream's pages to packets."""

    def __init__(self) -> None:
        self._part: bytes | None = None
        self._next: int | None = None

    def add(self, page: Page) -> list[bytes]:
        """The packets that end on a page; one that a lost page has torn is dropped."""
        pieces = list(page.pieces)
        if self._next not in {None, page.sequence}:
            self._part = None
        self._next = (page.sequence + 1) & 0xFFFFFFFF
        if pieces and page.continued:
            torn = self._part is None
            pieces[0] = (self._part or b"") + pieces[0]
            if torn and not (page.open and len(pieces) == 1):
                del pieces[0]
        self._part = pieces.pop() if page.open and pieces else None
        return pieces
