"""Ogg Opus files (RFC 7845): their links, and what to keep of each link's decoded samples.

Follows opusfile, which opusdec uses: where the two would differ, opusfile is right.
"""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

import numpy as np

from opuspool import filetype, ogg, opusheader
from opuspool.errors import InvalidFileError
from opuspool.oggtime import Timeline
from opuspool.opusheader import MAX_TAGS_BYTES, OpusHead
from opuspool.streamformat import MAX_PACKET_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opuspool.ogg import Page
    from opuspool.pcm import Pcm

__all__ = ["Link", "Source", "cut", "read"]

Source: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO"
"""A path, a file's bytes, or a binary file, which is read from where it stands."""

_GRANULE_RATE = 48_000
"""Hz; of all granule positions, whatever rate was recorded (RFC 7845, section 4)."""


@dataclass(frozen=True, slots=True)
class Link:
    """One link of a chained file, for a decoder of its own; most files have one.

    Attributes:
        head: its header.
        pre_skip: samples at 48 kHz to drop at the start of the raw decode; the header's, unless
            pages are missing there.
        packets: the audio packets; those that are trimmed away whole at the end are left out.
        total: samples at 48 kHz from the pre-skip to the end trim; None: all there are.
        cuts: stretches in between that are dropped too, `(begin, end)` in samples at 48 kHz of
            the raw decode: where pages were missing, until the decoder has converged again.
    """

    head: OpusHead
    pre_skip: int
    packets: list[bytes]
    total: int | None
    cuts: tuple[tuple[int, int], ...] = ()

    @property
    def channels(self) -> int:
        """1 or 2, as the header says."""
        return self.head.channels

    def window(self, sample_rate: int) -> tuple[int, int | None]:
        """The first sample to keep and the end, of the raw decode at a rate in Hz; None: its end.

        A sample is kept if its time, counted exactly, is within the link's.
        """
        first = _scaled(self.pre_skip, sample_rate)
        if self.total is None:
            return first, None
        return first, _scaled(self.pre_skip + self.total, sample_rate)


def read(source: Source) -> list[Link]:
    """Read a whole file; holds its audio packets in memory, and little else of it.

    Raises:
        InvalidFileError: it is not Ogg Opus, or damaged, or has no audio stream that we decode.
        OSError: it cannot be read.
        TypeError: the source is none of the kinds in `Source`.
    """
    with _opened(source) as file:
        head = _head(file)
        if ogg.CAPTURE not in head:
            raise InvalidFileError(filetype.not_ogg(head))
        return _LinkReader(ogg.read_pages(file, head)).links()


def cut(pcm: Pcm, link: Link, sample_rate: int) -> Pcm:
    """Cut a link's raw decode to what it is meant to be.

    Args:
        pcm: shape `(samples,)` or `(samples, channels)`: all of the link's packets, decoded.
        link: where it comes from.
        sample_rate: of `pcm`, Hz.

    Returns:
        The same type and number of dimensions; may share its memory with `pcm`.
    """
    first, end = link.window(sample_rate)
    if not link.cuts:
        return pcm[first:end]
    edges = [first, *(_scaled(edge, sample_rate) for edge in chain.from_iterable(link.cuts)), end]
    spans = zip(edges[::2], edges[1::2], strict=True)
    return cast("Pcm", np.concatenate([pcm[begin:stop] for begin, stop in spans]))


class _LinkReader:
    """Takes a file's pages apart into links."""

    def __init__(self, pages: Iterator[Page]) -> None:
        self._pages = pages
        self._page = next(pages, None)

    def links(self) -> list[Link]:
        """All links of the file.

        Raises:
            InvalidFileError: there is none, or one of them cannot be read.
        """
        links: list[Link] = []
        while (page := self._page) is not None:
            try:
                links.append(self._link(page))
            except InvalidFileError as error:
                if not links:
                    raise
                raise InvalidFileError(
                    f"link {len(links) + 1} of the chained file: {error}"
                ) from error
        if not links:
            raise InvalidFileError(
                "it has no whole Ogg page; it is damaged or was cut off: fetch or record it anew"
            )
        return links

    def _advance(self) -> Page | None:
        self._page = next(self._pages, None)
        return self._page

    def _link(self, page: Page) -> Link:
        head, serial, stream, serials = self._heads(page)
        self._tags(serial, stream)
        stream.limit = MAX_PACKET_BYTES
        timeline = Timeline(head.pre_skip)
        stray = False
        while (page_ := self._page) is not None:
            if page_.first and page_.serial not in serials:
                break
            if page_.first and not timeline.started:
                if head.pre_skip:
                    raise InvalidFileError(
                        "its headers are there twice; it is damaged: write it anew without them"
                    )
                break
            # A BOS page of our own stream, in its midst, is illegal; opusfile reads on.
            if page_.serial == serial:
                timeline.add(stream.push(page_), page_.granule, hole=stream.hole)
            stray = page_.serial not in serials
            self._advance()
        if stray and self._page is None:
            raise InvalidFileError(
                "its last pages belong to a stream whose first page is missing or damaged; "
                "fetch or record it anew"
            )
        kept = timeline.result()
        return Link(head, kept.pre_skip, kept.packets, kept.total, kept.cuts)

    def _heads(self, page: Page) -> tuple[OpusHead, int, ogg.PacketReader, set[int]]:
        """Read the pages that begin the link's streams (BOS); the first Opus stream is ours."""
        found: tuple[OpusHead, int, ogg.PacketReader] | None = None
        serials: set[int] = set()
        others: list[str] = []
        next_page: Page | None = page
        while next_page is not None and next_page.first:
            if next_page.serial in serials:
                raise InvalidFileError(
                    f"two of its streams have the same serial number ({next_page.serial}); "
                    "the file is damaged: write it anew"
                )
            serials.add(next_page.serial)
            if found is None:
                stream = ogg.PacketReader(MAX_TAGS_BYTES)
                packet = next(iter(stream.push(next_page)), None)
                data = packet.data if packet else b""
                if opusheader.is_head(data):
                    found = OpusHead.parse(data), next_page.serial, stream
                others.append(filetype.foreign_stream(data) or "an unknown stream")
            next_page = self._advance()
        if found is None:
            raise InvalidFileError(_no_opus(others))
        return (*found, serials)

    def _tags(self, serial: int, stream: ogg.PacketReader) -> None:
        """Read the comment header, which may span pages and must end with one."""
        while (page := self._page) is not None and not (page.first and page.serial != serial):
            if page.serial == serial:
                packets = stream.push(page)
                if stream.hole:
                    break
                if packets:
                    opusheader.check_tags(packets[0].data)
                    if len(packets) > 1 or page.lacing[-1] == 255:
                        raise InvalidFileError(
                            "audio begins on the page of its comment header (OpusTags), which is "
                            "not allowed (RFC 7845, section 3): write the file anew"
                        )
                    self._advance()
                    return
            self._advance()
        raise InvalidFileError(
            "it ends, or pages are missing, before its comment header (OpusTags) is complete; "
            "fetch or record it anew"
        )


def _no_opus(others: list[str]) -> str:
    if not others:
        return (
            "it begins in the middle of an Ogg stream: its first page is missing or damaged; "
            "fetch or record it from its start"
        )
    return f"this is {' and '.join(others)}, not Ogg Opus; convert it: ffmpeg -i FILE -vn out.opus"


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    elif isinstance(source, (str, os.PathLike)):
        with Path(source).open("rb") as file:
            yield file
    elif hasattr(source, "read"):
        yield source
    else:
        raise TypeError(f"source must be a path, bytes or a file, not {type(source).__name__}")


def _head(file: BinaryIO) -> bytes:
    """Read the file's beginning, all of it, however little a pipe gives at a time."""
    pieces: list[bytes] = []
    missing = filetype.HEAD_BYTES
    while missing > 0 and (piece := file.read(missing)):
        if not isinstance(piece, bytes):
            raise TypeError("source must be a binary file; open it in mode 'rb'")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _scaled(samples: int, sample_rate: int) -> int:
    """The first sample at a rate in Hz that is not before one at 48 kHz."""
    return -(-samples * sample_rate // _GRANULE_RATE)
