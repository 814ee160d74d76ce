"""Granule positions of one Ogg Opus link: which of its decoded samples are kept (RFC 7845, 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opuspool import toc
from opuspool.errors import InvalidFileError

if TYPE_CHECKING:
    from opuspool.ogg import Packet

__all__ = ["Kept", "Timeline"]

_PREROLL = 3840
"""Samples at 48 kHz, 80 ms, in which a decoder converges (RFC 7845, section 4.6)."""

_MAX_SAMPLES = (1 << 63) - 1


class Kept(NamedTuple):
    """What a link comes to; the fields are those of `oggopus.Link`."""

    packets: list[bytes]
    pre_skip: int
    total: int | None
    cuts: tuple[tuple[int, int], ...]


class Timeline:
    """Takes the pages' packets in their order, and trims as opusfile does.

    Positions are samples at 48 kHz: of the granule scale (`_start`, `_granule`), or of the raw
    decode of all packets (`_raw`, `_spans`).

    Args:
        pre_skip: the header's.
    """

    def __init__(self, pre_skip: int) -> None:
        self._pre_skip = pre_skip
        self._packets: list[bytes] = []
        self._start: int | None = None
        self._granule: int | None = None  # of the last packet; None: unknown, after a hole
        self._last_granule = 0
        self._discard = pre_skip
        self._raw = 0
        self._spans: list[tuple[int, int]] = []
        self._used_packets = 0
        self._used_raw = 0

    @property
    def started(self) -> bool:
        """Whether there has been audio."""
        return self._start is not None

    def add(self, packets: list[Packet], granule: int | None, *, hole: bool) -> None:
        """Take one page.

        Args:
            packets: that end on the page; invalid ones are ignored.
            granule: the page's.
            hole: pages before this one are missing.

        Raises:
            InvalidFileError: the first granule position is impossible.
        """
        if granule is not None:
            self._last_granule = granule
        if hole and self.started:
            self._granule = None
        durations = [toc.units(packet.data) * toc.SAMPLES_A_UNIT for packet in packets]
        audio = [(p.data, n) for p, n in zip(packets, durations, strict=True) if n]
        if not audio:
            return
        ends = packets[-1].last and durations[-1] > 0
        position, total = packets[-1].granule, sum(durations)
        if self._start is None:
            before = self._begin(position, total, ends=ends)
        elif self._granule is not None:
            before = self._granule
        elif ends:
            # How much of it to trim cannot be told. RFC 7845, section 4.4: do not play it.
            return
        else:
            before = self._resume(self._start, position, total)
        self._take(audio, before, before + total if position is None else position, ends=ends)

    def result(self) -> Kept:
        """What the link comes to.

        Raises:
            InvalidFileError: it has no audio, or less than its pre-skip.
        """
        if self._start is None and self._pre_skip:
            raise InvalidFileError("it has headers but no audio; record it anew")
        if self._start is not None:
            samples = self._last_granule - self._start
            if not self._pre_skip <= samples <= _MAX_SAMPLES:
                raise InvalidFileError(
                    f"by its timestamps it has {samples} samples, which does not go with its "
                    f"pre-skip of {self._pre_skip}; it is damaged or was cut off: record it anew"
                )
        if not self._spans:
            return Kept([], self._pre_skip, 0, ())
        first, end = self._spans[0][0], self._spans[-1][1]
        total = None if end == self._used_raw else end - first
        gaps = zip(self._spans, self._spans[1:], strict=False)
        cuts = tuple((left[1], right[0]) for left, right in gaps)
        return Kept(self._packets[: self._used_packets], first, total, cuts)

    def _begin(self, position: int | None, total: int, *, ends: bool) -> int:
        """Find where the link's audio begins, from its first page with audio (section 4.3)."""
        if position is None:
            raise InvalidFileError(
                "its first page of audio has no timestamp; it is damaged: write it anew"
            )
        start = position - total
        if start < 0:
            # Only a first page that is also the last may have less than its packets: end trim.
            if not ends or position < self._pre_skip:
                raise InvalidFileError(
                    f"its first timestamp ({position}) is less than the audio before it ({total} "
                    "samples); it is damaged: write it anew"
                )
            start = 0
        self._start = start
        return start

    def _resume(self, start: int, position: int | None, total: int) -> int:
        """Go on after a hole as after a seek: let the decoder converge (section 4.6)."""
        before = start if position is None or position < total else position - total
        within = before - start
        self._discard = _PREROLL
        if 0 <= within <= max(0, self._pre_skip - _PREROLL):
            self._discard = self._pre_skip - within
        return before

    def _take(
        self, audio: list[tuple[bytes, int]], before: int, position: int, *, ends: bool
    ) -> None:
        """Keep a page's packets; on the stream's last page, up to the granule position."""
        trim = ends and position - before < sum(samples for _, samples in audio)
        self._granule = before
        for data, samples in audio:
            left = position - self._granule if trim else samples
            if left < 0:
                return
            self._keep(data, samples, min(samples, left))
            self._granule += min(samples, left)
        if not trim:
            self._granule = max(position, audio[-1][1])

    def _keep(self, data: bytes, samples: int, kept: int) -> None:
        """Append a packet whose first `kept` samples count, less what is still to be discarded."""
        skipped = min(kept, self._discard)
        self._discard -= skipped
        self._packets.append(data)
        begin, end = self._raw + skipped, self._raw + kept
        self._raw += samples
        if begin == end:
            return
        if self._spans and self._spans[-1][1] == begin:
            begin = self._spans.pop()[0]
        self._spans.append((begin, end))
        self._used_packets, self._used_raw = len(self._packets), self._raw
