"""Whole files: from an Ogg Opus file's links to one array of PCM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import oggopus, pcm
from opuspool.oggopus import Source
from opuspool.streamformat import StreamFormat

if TYPE_CHECKING:
    from opuspool.oggopus import Link
    from opuspool.pcm import Pcm
    from opuspool.streamformat import SampleType

__all__ = ["Plan", "Source"]


class Plan:
    """A file's links to decode as float32, one after another, and what they come to.

    Attributes:
        links: what to decode, each with a decoder of its own.
        channels: of the decoders and of the result; where not asked for, as the first link has.

    Raises:
        InvalidFileError: the source is not Ogg Opus, or no audio can be had from it.
        OSError: it cannot be read.
        ValueError, TypeError: a wrong format is asked for.
    """

    def __init__(
        self, source: Source, sample_rate: int, channels: int | None, dtype: SampleType
    ) -> None:
        self._format = StreamFormat(sample_rate, 1 if channels is None else channels, dtype)
        self.links = oggopus.read(source)
        self.channels = self.links[0].channels if channels is None else channels
        self._parts: list[Pcm] = []

    def add(self, link: Link, raw: Pcm) -> None:
        """Take the raw PCM of a link: cut it, apply its gain, give it the asked type."""
        part = oggopus.finish(raw, link, self._format.sample_rate)
        if self._format.dtype == "int16":
            self._parts.append(oggopus.to_int16(part))
        else:
            self._parts.append(part)

    def result(self) -> Pcm:
        """All links, joined."""
        fmt = StreamFormat(self._format.sample_rate, self.channels, self._format.dtype)
        return pcm.join(self._parts, fmt)
