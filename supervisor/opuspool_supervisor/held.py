"""Requests that are held back: those of clients whose packets kill, and second attempts; pure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opuspool_supervisor.records import Request, Stream


class Held:
    """What waits, and until when; the requests of one stream stay in their order."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, Request]] = []

    def __iter__(self) -> Iterator[Request]:
        return (request for _, request in self._waiting)

    def add(self, request: Request, until: float) -> None:
        """Hold a request back; not shorter than those of its stream that came before."""
        stream = request.stream
        stream.held_until = max(stream.held_until if stream.held else 0.0, until)
        stream.held += 1
        self._waiting.append((stream.held_until, request))

    def put_back(self, stream: Stream, requests: list[Request]) -> None:
        """Hold back a stream, all of it and in order, until `set_until` says otherwise.

        Args:
            stream: which.
            requests: what goes before those of its requests that are held back already.
        """
        self._waiting = [(inf, request) for request in requests] + self._waiting
        stream.held += len(requests)
        self.set_until(stream, inf)

    def set_until(self, stream: Stream, until: float) -> None:
        """Hold all of a stream's requests until then."""
        stream.held_until = until
        self._waiting = [(until if r.stream is stream else due, r) for due, r in self._waiting]

    def take_due(self, now: float) -> list[Request]:
        """Those that have been held back for long enough; they are not any more."""
        return self._take([until <= now for until, _ in self._waiting])

    def take_answered(self) -> list[Request]:
        """Those that have had their answer meanwhile."""
        return self._take([request.answered for request in self])

    def _take(self, wanted: list[bool]) -> list[Request]:
        pairs = list(zip(self._waiting, wanted, strict=True))
        self._waiting = [pair for pair, is_wanted in pairs if not is_wanted]
        taken = [request for (_, request), is_wanted in pairs if is_wanted]
        for request in taken:
            request.stream.held -= 1
        return taken
