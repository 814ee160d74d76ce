"""Ogg Opus files (RFC 7845): links of a chain, pre-skip, end trim, gain."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from opuspool import ogg, toc
from opuspool.errors import InvalidFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

Source = str | os.PathLike[str] | bytes | BinaryIO
"""A path, the file's bytes, or a file that is open for reading bytes."""

RATE = 48000
"""Granule positions count samples at this rate (RFC 7845, section 4)."""

_HEAD = struct.Struct("<8sBBHIhB")  # RFC 7845, section 5.1
_HEAD_MAGIC = b"OpusHead"
_TAGS_MAGIC = b"OpusTags"

_KINDS = (  # what is often taken for Ogg Opus, by its first bytes
    (0, b"\x1aE\xdf\xa3", "a WebM or Matroska file"),
    (4, b"ftyp", "an MP4 file"),
    (0, b"RIFF", "a WAV file"),
    (0, b"fLaC", "a FLAC file"),
    (0, b"ID3", "an MP3 file"),
    (0, b"\xff\xfb", "an MP3 file"),
    (0, b"caff", "a CAF file"),
)
_CODECS = (
    (b"\x01vorbis", "Vorbis"),
    (b"\x7fFLAC", "FLAC"),
    (b"Speex", "Speex"),
    (b"\x80theora", "Theora"),
)
_CONVERT = "convert it first, for example with `ffmpeg -i IN -c:a libopus OUT.opus`"
_REMUX = "take the Opus out of it first, for example with `ffmpeg -i IN -c copy OUT.opus`"


@dataclass(frozen=True, slots=True)
class Head:
    """An identification header.

    Attributes:
        channels: 1 or 2.
        pre_skip: samples at 48 kHz to drop from the start.
        gain: of the decoder's output, in 1/256 dB.
    """

    channels: int
    pre_skip: int
    gain: int


@dataclass(slots=True)
class Link:
    """One link of a chain: a stream with a decoder of its own.

    Attributes:
        packets: its packets, all of a valid length in time.
        end: samples at 48 kHz of the raw decode to keep; None: all.
    """

    head: Head
    packets: list[bytes] = field(default_factory=list)
    end: int | None = None

    @property
    def channels(self) -> int:
        """1 or 2."""
        return self.head.channels

    def window(self, sample_rate: int) -> tuple[int, int | None]:
        """The first sample of the raw decode to keep, and the end (None: all)."""
        end = None if self.end is None else _at_rate(self.end, sample_rate)
        return _at_rate(self.head.pre_skip, sample_rate), end


def read(source: Source) -> list[Link]:
    """Read a file's links.

    Raises:
        InvalidFileError: it is not Ogg Opus, or has no audio that can be decoded.
        OSError: it cannot be read.
        TypeError: the source is none of the allowed kinds.
    """
    data = _bytes_of(source)
    links = [link for link in _links(data) if link.packets]
    if not links:
        raise InvalidFileError(_why_none(data))
    return links


def _at_rate(samples: int, sample_rate: int) -> int:
    return -(-samples * sample_rate // RATE)


def _bytes_of(source: Source) -> bytes:
    if isinstance(source, bytes):
        return source
    if isinstance(source, (str, os.PathLike)):
        return Path(source).read_bytes()
    if not hasattr(source, "read"):
        raise TypeError(f"a file is a path, bytes or a binary file, not {type(source).__name__}")
    data = source.read()
    if not isinstance(data, bytes):
        raise TypeError('the file must be open for bytes: open(path, "rb")')
    return data


def _links(data: bytes) -> Iterator[Link]:
    """Each link: the first Opus stream of every group of streams that begin together."""
    reader: _LinkReader | None = None
    group: set[int] = set()
    for page in ogg.pages(data):
        if not page.first:
            group.clear()
            if reader is not None and page.serial == reader.serial:
                reader.add(page)
            continue
        headless = reader is not None and not reader.link.packets
        if page.serial in group or (headless and reader and page.serial == reader.serial):
            raise InvalidFileError("the Opus headers are there twice: the file is damaged")
        if not group and reader is not None:
            yield reader.link
            reader = None
        group.add(page.serial)
        if reader is None and page.pieces and page.pieces[0].startswith(_HEAD_MAGIC):
            reader = _LinkReader(page)
    if reader is not None:
        yield reader.link


class _LinkReader:
    """Collects the pages of one link, from the one with its identification header on."""

    def __init__(self, page: ogg.Page) -> None:
        self.serial = page.serial
        self.link = Link(parse_head(page.pieces[0]))
        self._assembler = ogg.Assembler()
        self._assembler.add(page)
        self._tags_seen = False
        self._ended = False
        self._before = 0  # samples of all packets on earlier pages
        self._granule = 0  # at the end of the page before

    def add(self, page: ogg.Page) -> None:
        """Take a page of this stream."""
        if self._ended:
            return
        packets = self._assembler.add(page)
        if not self._tags_seen and packets:
            _check_tags(packets.pop(0))
            self._tags_seen = True
        audio = [packet for packet in packets if toc.units(packet)]
        samples = sum(map(toc.units, audio)) * toc.SAMPLES_A_UNIT
        self.link.packets += audio
        self._ended = page.last
        if page.last and page.granule >= 0:
            self._trim(page.granule, samples)
        self._before += samples
        if page.granule >= 0 and audio:
            self._granule = page.granule

    def _trim(self, granule: int, samples: int) -> None:
        """End trimming (RFC 7845, section 4.4): the last page may end before its packets do."""
        kept = min(max(granule - self._granule, 0), samples)
        if kept < samples:
            self.link.end = self._before + kept


def parse_head(packet: bytes) -> Head:
    """Read an identification header.

    Raises:
        InvalidFileError: it is damaged, or of a kind that cannot be decoded here.
    """
    if len(packet) < _HEAD.size:
        raise InvalidFileError("the Opus header is cut short: the file is damaged")
    _, version, channels, pre_skip, _rate, gain, family = _HEAD.unpack_from(packet)
    if version > 15:
        raise InvalidFileError(f"Ogg Opus version {version}: this release reads versions up to 15")
    if channels == 0:
        raise InvalidFileError("the Opus header claims 0 channels: the file is damaged")
    if channels > 2 or family > 1:
        raise InvalidFileError(
            f"surround ({channels} channels, mapping family {family}) is not supported yet: "
            "mix it down first, for example with `ffmpeg -i IN -ac 2 -c:a libopus OUT.opus`"
        )
    return Head(channels, pre_skip, gain)


def _check_tags(packet: bytes) -> None:
    if not packet.startswith(_TAGS_MAGIC):
        raise InvalidFileError("the Opus comment header is missing: the file is damaged")


def _why_none(data: bytes) -> str:
    """Why there is no link, and what to do."""
    if not data:
        return "the file is empty"
    for at, magic, words in _KINDS:
        if data.startswith(magic, at):
            return f"this is {words}, not Ogg Opus: {_REMUX if at or magic[0] == 26 else _CONVERT}"
    first = next(ogg.pages(data), None)
    if first is None:
        return f"this is not an Ogg file (it starts with {data[:8]!r}): {_CONVERT}"
    packet = first.pieces[0] if first.pieces else b""
    if packet.startswith(_HEAD_MAGIC):
        return "the file has Opus headers, but no audio"
    if packet.startswith(_TAGS_MAGIC):
        return "the Opus identification header is missing or damaged"
    for magic, words in _CODECS:
        if packet.startswith(magic):
            return f"this is Ogg {words}, not Ogg Opus: {_CONVERT}"
    return f"this Ogg file has no Opus stream: {_CONVERT}"
