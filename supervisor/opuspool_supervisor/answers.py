"""Answers to one client, gathered until they are sent; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import wire
from opuspool.wire import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE_BYTES = 1 << 20
"""A message is closed when it has as many bytes of payload."""


class Answers:
    """Rows of answers and their payloads, as few messages as may be."""

    def __init__(self) -> None:
        self._closed: list[wire.Frames] = []
        self._rows: list[wire.Row] = []
        self._data: list[bytes] = []
        self._size = 0

    def add(self, row: wire.Row, payload: bytes) -> None:
        """Append an answer, a `wire.Answer` without names."""
        self.extend([row], payload)

    def extend(self, rows: list[wire.Row], data: bytes) -> None:
        """Append answers whose payloads lie back to back: they are not copied one by one."""
        if len(data) > MESSAGE_BYTES and len(rows) > 1:
            self._extend_singly(rows, data)
            return
        if len(self._rows) + len(rows) > wire.MAX_RECORDS or self._size >= MESSAGE_BYTES:
            self._close()
        self._rows += rows
        self._data.append(data)
        self._size += len(data)

    def messages(self) -> Iterator[wire.Frames]:
        """All of them, in their order."""
        self._close()
        yield from self._closed

    def _extend_singly(self, rows: list[wire.Row], data: bytes) -> None:
        at = 0
        for row in rows:
            end = at + row[1]
            self.extend([row], data[at:end])
            at = end

    def _close(self) -> None:
        if self._rows:
            self._closed.append(wire.pack(Kind.ANSWERS, self._rows, self._data))
        self._rows, self._data, self._size = [], [], 0
