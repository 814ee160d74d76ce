"""Lets an asyncio event loop send and receive for a connection, on its own thread.

A thread of the connection's own would have to take turns with the loop's at the GIL, which costs
more than all the rest.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from opuspool import wakeup

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


class LoopDriver:
    """Calls a connection's turn when something is to be sent, or its socket may be read.

    Args:
        loop: the running loop; `supports(loop)` is true.

    Attributes:
        due: a turn will come soon.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._turn: Callable[[], bool] = bool
        self.due = False
        self._copies: dict[int, int] = {}

    def start(self, turn: Callable[[], bool]) -> None:
        """Call this from now on; it returns whether to call it again soon, behind who wakes."""
        self._turn = turn

    def nudge(self) -> None:
        """There is something to send; on the loop's thread."""
        if not self.due:
            self.due = True
            self._loop.call_soon(self._run)

    def turn(self) -> None:
        """Take a turn now; on the loop's thread."""
        if self._turn():
            self.nudge()

    def watch(self, fd: int, found: Callable[[], None]) -> None:
        """Take a turn whenever this descriptor is readable, after `found`; from any thread.

        It is duplicated: its owner may close it at any time.
        """
        copy = os.dup(fd)
        try:
            self._loop.call_soon_threadsafe(self._watch, fd, copy, found)
        except RuntimeError:  # the loop was closed: nobody waits any more
            os.close(copy)

    def watch_writing(self, fd: int, *, on: bool) -> None:
        """Take a turn also when this descriptor is writable, or no more; from any thread."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._watch_writing, fd, on)

    def forget(self, fd: int) -> None:
        """Watch it no more; from any thread, before its owner closes it."""
        try:
            self._loop.call_soon_threadsafe(self._forget, fd)
        except RuntimeError:  # the loop was closed, and its selector with it
            self._close_copy(fd)

    def leave(self) -> None:
        """Watch nothing any more; from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._forget_all)
        except RuntimeError:
            for fd in list(self._copies):
                self._close_copy(fd)

    @property
    def here(self) -> bool:
        """Whether this is the loop's thread."""
        return threading.get_ident() == self._thread

    def _watch(self, fd: int, copy: int, found: Callable[[], None]) -> None:
        self._copies[fd] = copy
        self._loop.add_reader(copy, self._read, found)
        self.nudge()  # it may have become readable before

    def _watch_writing(self, fd: int, on: bool) -> None:
        copy = self._copies.get(fd)
        if copy is None:
            return
        if on:
            self._loop.add_writer(copy, self._run)
        else:
            self._loop.remove_writer(copy)

    def _forget(self, fd: int) -> None:
        copy = self._copies.get(fd)
        if copy is not None:
            self._loop.remove_reader(copy)
            self._loop.remove_writer(copy)
            self._close_copy(fd)

    def _close_copy(self, fd: int) -> None:
        copy = self._copies.pop(fd, None)
        if copy is not None:
            os.close(copy)

    def _forget_all(self) -> None:
        for fd in list(self._copies):
            self._forget(fd)

    def _read(self, found: Callable[[], None]) -> None:
        found()
        if not self.due:
            self.turn()

    def _run(self) -> None:
        self.due = False
        self.turn()


def supports(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether a loop can watch descriptors; Windows's usual one cannot."""
    first, second = wakeup.pair()
    with first, second, suppress(NotImplementedError):
        loop.add_reader(first.fileno(), bool)
        return loop.remove_reader(first.fileno())
    return False
