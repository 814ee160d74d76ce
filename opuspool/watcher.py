"""Waits for descriptors on a thread, as eventloop.py does on an event loop."""

from __future__ import annotations

import selectors
from selectors import EVENT_READ, EVENT_WRITE
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Watcher:
    """Calls what belongs to a descriptor when that is ready; used by one thread at a time."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, fd: int, found: Callable[[], None]) -> None:
        """Call `found` whenever this descriptor is readable.

        Raises:
            OSError: the system has no room for it.
        """
        self._selector.register(fd, EVENT_READ, found)

    def watch_writing(self, fd: int, *, on: bool) -> None:
        """Call it also when the descriptor is writable, or no more."""
        events = EVENT_READ | EVENT_WRITE if on else EVENT_READ
        self._selector.modify(fd, events, self._selector.get_key(fd).data)

    def forget(self, fd: int) -> None:
        """Watch it no more; before its owner closes it."""
        self._selector.unregister(fd)

    def wait(self, seconds: float) -> None:
        """Wait until any is ready, at most so long."""
        for key, _ in self._selector.select(seconds):
            key.data()

    def close(self) -> None:
        """Watch nothing any more."""
        self._selector.close()
