"""Whole files: from an Ogg Opus file's links to one array of PCM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import calls, oggopus, ops, pcm
from opuspool.ops import Op, OpKind
from opuspool.streamformat import StreamFormat

if TYPE_CHECKING:
    from opuspool.calls import Piece
    from opuspool.oggopus import Link, Source
    from opuspool.pcm import Pcm
    from opuspool.streamformat import SampleType


class Plan:
    """A file's links to decode one after another, and what they come to.

    Attributes:
        links: what to decode, each with a decoder of its own.
        format: of the decoders and of the result; where no number of channels is asked for, as
            many as the link with the most has (as opusdec).

    Raises:
        InvalidFileError: the source is not Ogg Opus, or no audio can be had from it.
        OSError: it cannot be read.
        ValueError, TypeError: a wrong format is asked for.
    """

    def __init__(
        self, source: Source, sample_rate: int, channels: int | None, dtype: SampleType
    ) -> None:
        asked = StreamFormat(sample_rate, 1 if channels is None else channels, dtype)
        self.links = oggopus.read(source)
        if channels is None:
            most = max(link.channels for link in self.links)
            asked = StreamFormat(sample_rate, most, dtype)
        self.format = asked
        self._parts: list[Pcm] = []

    def pieces(self, link: Link, size: int) -> list[Piece]:
        """What decodes a link, at most `size` operations a piece.

        A gain is set by the piece of the first packets: what is a request of its own has settled
        by the time that they are tried again, and their worker does not count as fresh any more.
        """
        gain = link.head.gain
        if not gain:
            return calls.packed_pieces(link.packets, size)
        first = Op(OpKind.GAIN, ops.pack_gain(gain))
        return calls.pieces([first, *map(calls.operation, link.packets)], size)

    def add(self, link: Link, raw: Pcm) -> None:
        """Take the raw PCM of a link, without its pre-skip and what its end trims."""
        self._parts.append(oggopus.cut(raw, link, self.format.sample_rate))

    def result(self) -> Pcm:
        """All links, joined."""
        return pcm.join(self._parts, self.format)
