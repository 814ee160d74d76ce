"""Admission: what waits, and why a request may not wait as well; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import ops, wire
from opuspool.errors import WireError
from opuspool.streamformat import FORMATS, MAX_PACKET_PCM_BYTES
from opuspool.wire import Flag, Status

if TYPE_CHECKING:
    from opuspool.config import LimitsConfig
    from opuspool.streamformat import StreamFormat
    from opuspool_supervisor.records import Request, Stream

Refusal = tuple[Status, str]
"""Why a request is refused, as its client is told."""


class Admission:
    """Counts what has been accepted, and refuses what would be too much.

    Attributes:
        limits: `[limits]`.
        refusal: what every new request is told while no work can be done; None otherwise.
        queued: unanswered requests that wait for a worker.
        queued_bytes, queued_output: packets and PCM, at most, of all requests that are not settled.
        streams: how many are open.
    """

    def __init__(self, limits: LimitsConfig) -> None:
        self.limits = limits
        self.refusal: Refusal | None = None
        self.queued = 0
        self.queued_bytes = 0
        self.queued_output = 0
        self.streams = 0

    def add(self, request: Request) -> None:
        """A request is accepted, and waits."""
        self.queued += 1
        self.queued_bytes += request.size
        self.queued_output += request.output_bytes

    def forget(self, request: Request) -> None:
        """A request is settled, or will never run; whether it still waited, its owner knows."""
        self.queued_bytes -= request.size
        self.queued_output -= request.output_bytes

    def has_room_for(self, message: wire.Message) -> bool:
        """Whether nothing in a message can be too much."""
        limits = self.limits
        output = sum([row[4] for row in message.rows]) * MAX_PACKET_PCM_BYTES
        return (
            self.refusal is None
            and self.queued + len(message.rows) <= limits.queued_requests
            and self.queued_bytes + len(message.data) <= limits.queued_bytes
            and self.queued_output + output <= limits.queued_output_bytes
        )

    def has_room_for_a_stream(self) -> bool:
        """Whether one more may be open."""
        return self.streams < self.limits.streams

    def refuse(self, stream: Stream, code: int, count: int, blob: bytes) -> Refusal | None:
        """Why a request of a stream that is known is refused, if it is."""
        if self.refusal is not None:
            return self.refusal
        if stream.lent:
            return Status.STREAM_CLOSED, "the stream is lent to its client, which has to return it"
        if stream.format.code != code:
            return Status.BAD_REQUEST, "a stream's format cannot change"
        return self._refuse(stream.format, count, blob)

    def refuse_new(self, row: wire.Row, blob: bytes) -> Refusal | None:
        """Why a request of an unknown stream is refused, if it is."""
        request = wire.Request._make(row)
        if not request.flags & Flag.OPEN:
            return Status.STREAM_CLOSED, "the supervisor does not know this stream (any more)"
        if request.format not in FORMATS:
            return Status.BAD_REQUEST, f"format {request.format} is not one of ours"
        if not self.has_room_for_a_stream():
            return Status.OVERLOADED, f"{self.streams} streams are open: close some"
        return self.refusal or self._refuse(FORMATS[request.format], request.ops, blob)

    def _refuse(self, fmt: StreamFormat, count: int, blob: bytes) -> Refusal | None:
        refusal = self._too_much(len(blob), count * fmt.max_packet_pcm_bytes)
        if refusal is None:
            try:
                ops.check(blob, count)
            except WireError as error:
                return Status.BAD_REQUEST, str(error)
        return refusal

    def _too_much(self, size: int, output: int) -> Refusal | None:
        """Which limit a request does not fit: one that it never will, or one that is full now."""
        limits = self.limits
        if size > limits.queued_bytes or output > limits.queued_output_bytes:
            return Status.BAD_REQUEST, (
                f"a request of {size} bytes, for up to {output} bytes of PCM, is more than "
                "may ever be queued: send fewer packets a call, or raise [limits] queued_bytes and "
                "queued_output_bytes"
            )
        if self.queued >= limits.queued_requests:
            return Status.OVERLOADED, f"{self.queued} requests are queued: send less, or later"
        if self.queued_bytes + size > limits.queued_bytes:
            return Status.OVERLOADED, f"{self.queued_bytes} bytes are queued: send less, or later"
        if self.queued_output + output > limits.queued_output_bytes:
            return Status.OVERLOADED, "what is queued may decode to too much: send less, or later"
        return None
