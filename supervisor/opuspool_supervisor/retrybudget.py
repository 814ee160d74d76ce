"""The retry budget: how often the pool runs again what has killed a worker; pure.

Most packets that have killed a worker kill the next one too. Every such second attempt spends one
from a budget, which grows by a fixed number a second and by a share of the accepted requests (as
Finagle's RetryBudget and Envoy's do). When it is spent, the stream waits for its turn, in order;
nothing fails for it but by its own deadline. What only shared a dead worker's lease is tried again
at once, and costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opuspool.config import RequestsConfig
    from opuspool_supervisor.books import Books
    from opuspool_supervisor.records import Stream

SAVED_SECONDS = 10.0
"""So many seconds of the fixed part are saved up, as in Finagle: ordinary faults come in bursts."""


class RetryBudget:
    """A bucket of attempts, and the streams that wait for one.

    Args:
        config: its growth.
        books: where accepted requests, and attempts that had to wait, are counted.
    """

    def __init__(self, config: RequestsConfig, books: Books) -> None:
        self._books = books
        self._accepted = 0
        self._filled = 0.0
        self._line: list[Stream] = []
        self._take_rates(config)
        self._left = self._most

    def _take_rates(self, config: RequestsConfig) -> None:
        self._share = config.retry_share
        self._per_second = config.retry_per_second
        self._most = max(1.0, SAVED_SECONDS * self._per_second)

    def reconfigure(self, config: RequestsConfig, now: float) -> None:
        """Grow by other rates from now on."""
        self._fill(now)
        self._take_rates(config)
        self._left = min(self._left, self._most)

    def left(self, now: float) -> float:
        """Attempts that may be made at once."""
        self._fill(now)
        return self._left

    def take(self, stream: Stream, now: float) -> bool:
        """Spend one on a stream's next attempt; False: it waits, until `freed` gives it back."""
        if not self._line and self._spend(now):
            return True
        self._books.delayed_retries += 1
        if stream not in self._line:
            self._line.append(stream)
        return False

    def freed(self, now: float) -> list[Stream]:
        """The waiting streams whose turn has come: of the client that has killed least, first.

        A stream that holds nothing back any more (its requests have timed out) is forgotten.
        """
        self._line = [stream for stream in self._line if stream.held]
        freed: list[Stream] = []
        while self._line and self._spend(now):
            stream = min(self._line, key=lambda stream: len(stream.client.kills))
            self._line.remove(stream)
            freed.append(stream)
        return freed

    def _spend(self, now: float) -> bool:
        if self.left(now) < 1:
            return False
        self._left -= 1
        return True

    def _fill(self, now: float) -> None:
        accepted = self._books.accepted - self._books.ended_by_clients  # that is only what they say
        earned = self._share * (accepted - self._accepted)
        earned += self._per_second * max(0.0, now - self._filled)
        self._left = min(self._most, self._left + earned)
        self._accepted, self._filled = accepted, now
