"""Calls: from a caller's packets to requests, and from answers to PCM or an error."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, TypeGuard, TypeVar, cast

from opuspool import ops, wire
from opuspool.errors import (
    RETRY_AFTER_SECONDS,
    DecodeTimeoutError,
    InvalidPacketError,
    OpusPoolError,
    OverloadedError,
    PoisonPacketError,
    StreamClosedError,
    SupervisorLostError,
    WireError,
    WorkerBootError,
)
from opuspool.journal import Log
from opuspool.ops import POISON, Op, OpKind
from opuspool.streamformat import MAX_PACKET_BYTES
from opuspool.wire import Flag, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opuspool.lane import Lane
    from opuspool.pcm import Pcm
    from opuspool.streamformat import StreamFormat

Packet = bytes | bytearray | memoryview | None
"""A packet as a caller gives it; None: it was lost."""

Piece = tuple[bytes, int]
"""Operations that make one request: packed (ops.py), and how many they are."""

_T = TypeVar("_T")

LOG_LIMIT = 3000
"""Operations that a client keeps of a stream, where its workers make no checkpoints."""

# As plain numbers: they are compared for every packet, and members of an IntEnum are slow at it.
_OK, _FAILED_OPS, _TIMEOUT = int(Status.OK), int(Status.FAILED_OPS), int(Status.TIMEOUT)
_OPEN = int(Flag.OPEN)
_pack_word = ops.pack_word

_ERRORS: dict[int, type[OpusPoolError]] = {
    Status.TIMEOUT: DecodeTimeoutError,
    Status.OVERLOADED: OverloadedError,
    Status.STREAM_CLOSED: StreamClosedError,
    Status.BOOT: WorkerBootError,
    Status.SHUTDOWN: SupervisorLostError,
    Status.BAD_REQUEST: WireError,
}

_LIBOPUS_WORDS = {  # opus_defines.h
    -1: "bad argument",
    -2: "buffer too small",
    -3: "internal error",
    -4: "invalid packet",
    -5: "unimplemented",
    -6: "invalid state",
    -7: "out of memory",
}


def _array() -> Callable[[bytes, StreamFormat], Pcm]:
    from opuspool import pcm  # brings numpy, which is imported while a private supervisor starts

    return pcm.from_outcome


@dataclass(slots=True)
class StreamState:
    """What a client knows of one of its streams.

    Attributes:
        id: its number within this client.
        opened: the supervisor has it.
        used: a request of it has been sent.
        log: what rebuilds it in another worker, or under another supervisor.
        pending: its calls that have been sent, or wait for a lane, and have no answer.
        offer: it may be taken, as soon as nothing is pending; a `wire.LENDING`.
        lane: to the worker where it has been taken; None: the supervisor has it.
        token: its name there.
        checkpoint_packets: operations between two checkpoints there; 0: none are made.
        full_at: operations in the log at which the next one is asked for, or the log cut.
        most_waiting: so many calls may wait for the lane.
        last: its end, which waits for its calls.
        array: `pcm.from_outcome`.
    """

    id: int
    format: StreamFormat
    opened: bool = False
    used: bool = False
    closed: bool = False
    log: Log = field(default_factory=Log)
    pending: int = 0
    offer: tuple[int, int, int, int, int] | None = None
    lane: Lane | None = None
    token: int = 0
    checkpoint_packets: int = 0
    full_at: int = 0
    most_waiting: int = 0
    last: Call | None = None
    array: Callable[[bytes, StreamFormat], Pcm] = field(default_factory=_array)

    def journal_failed(self, blob: bytes, outcome: bytes, count: int) -> None:
        """Append a request's operations that have been executed: all but poison."""
        results = ops.unpack_outcome(outcome, count, self.format.frame_bytes).results
        for index, result in enumerate(results):
            if result == POISON:
                blob = ops.poisoned(blob, count, index)
        self.log.settle(blob, count, LOG_LIMIT)


class Call:
    """One request on its way; whoever waits for it is told when it is complete.

    Attributes:
        blob, count: its operations, packed (ops.py), and how many they are.
        deadline: monotonic, seconds.
        status, payload: the answer, as in `wire.Answer`; status None until it is there.
        error: why there will be none.
        number: its id on the wire.
        batch: the batch of a lane in which it was sent; 0: in none.
        ended: its caller has been told that its deadline has passed.
        whole: its answer is known to be the PCM of one operation.
    """

    __slots__ = (
        "batch",
        "blob",
        "count",
        "deadline",
        "ended",
        "error",
        "flags",
        "number",
        "payload",
        "status",
        "stream",
        "whole",
    )

    def __init__(
        self, stream: StreamState, blob: bytes, count: int, flags: int, deadline: float
    ) -> None:
        self.stream = stream
        self.blob = blob
        self.count = count
        self.flags = flags if stream.opened else flags | _OPEN
        self.deadline = deadline
        self.status: int | None = None
        self.payload = b""
        self.error: OpusPoolError | None = None
        self.number = self.batch = 0
        self.ended = self.whole = False
        stream.used = True

    def answered(self, status: int, payload: bytes) -> None:
        """Take the answer."""
        stream = self.stream
        if status == _OK:
            stream.opened = True
            stream.log.settle(self.blob, self.count, LOG_LIMIT)
            fmt, size = stream.format, len(payload)
            if self.count == 1:
                self.whole = ops.is_whole(payload, fmt.frame_bytes, fmt.capacity, 0, size)
        else:
            if status <= _TIMEOUT:
                stream.opened = True
            if status == _FAILED_OPS:
                stream.journal_failed(self.blob, payload, self.count)
        self.payload = payload
        self.status = status

    def refuse(self, status: Status, message: str) -> None:
        """Take an answer that did not come from the supervisor."""
        value = {"message": message, "retry_after": RETRY_AFTER_SECONDS}
        self.answered(status, wire.write_json(value))

    def fits(self, answer: wire.Row, payload: bytes) -> bool:
        """Whether a worker's answer can be the outcome of its operations."""
        number, _, count, status = answer
        if number != self.number or count != self.count or status > _FAILED_OPS:
            return False
        fmt = self.stream.format
        try:
            ops.check_outcome(payload, count, fmt.frame_bytes, fmt.capacity)
        except WireError:
            return False
        return True

    def pcm(self) -> Pcm:
        """The PCM of its only operation; as `collect`, at less cost where all went well.

        Raises:
            OpusPoolError: the request failed, or the packet was refused or is poison.
        """
        stream = self.stream
        if self.whole:
            return stream.array(self.payload, stream.format)
        return collect([self.outcome()], [(self.blob, self.count)], stream.format)

    def outcome(self) -> ops.Outcome:
        """The outcome of the request's operations.

        Raises:
            OpusPoolError: the request as a whole failed.
        """
        if self.error is not None:
            raise self.error
        if self.status is None:
            raise DecodeTimeoutError("the deadline passed, and the supervisor has not answered")
        if self.status > _FAILED_OPS:
            raise _error(self.status, self.payload)
        return ops.unpack_outcome(self.payload, self.count, self.stream.format.frame_bytes)


def _error(status: int, payload: bytes) -> OpusPoolError:
    try:
        value = json.loads(payload)
        message = str(value["message"])
        retry_after = float(value.get("retry_after", RETRY_AFTER_SECONDS))
    except (ValueError, KeyError, TypeError, AttributeError):
        return WireError(f"the supervisor's answer to status {status} cannot be read")
    if status == Status.OVERLOADED:
        return OverloadedError(message, retry_after=retry_after)
    return _ERRORS.get(status, WireError)(message)


def operation(packet: Packet, *, fec: bool = False) -> Op:
    """Make the operation that decodes a packet.

    Raises:
        TypeError: the packet is not bytes-like or None.
        ValueError: FEC is asked of a lost packet.
    """
    if packet is None:
        if fec:
            raise ValueError("fec=True needs the packet that carries the FEC, not None")
        return Op(OpKind.LOST, b"")
    if not isinstance(packet, bytes):
        if not isinstance(packet, (bytearray, memoryview)):
            raise TypeError(f"a packet is bytes or None, not {type(packet).__name__}")
        packet = bytes(packet)
    if len(packet) > MAX_PACKET_BYTES:
        packet = b""  # refused like any invalid packet, and not worth the way
    return Op(OpKind.FEC if fec else OpKind.PACKET, packet)


def packed(packet: Packet, *, fec: bool = False) -> bytes:
    """The operation that decodes a packet, packed; at little cost for the usual packet.

    Raises:
        TypeError, ValueError: as `operation`.
    """
    if type(packet) is bytes and len(packet) <= MAX_PACKET_BYTES and not fec:
        return _pack_word(len(packet)) + packet
    return ops.pack_one(operation(packet, fec=fec))


def packed_pieces(packets: Iterable[Packet], size: int) -> list[Piece]:
    """Make the operations that decode packets, one after another, in pieces of at most `size`.

    Raises:
        TypeError: it is one packet instead of several, or one of them is not bytes-like or None.
    """
    if isinstance(packets, (bytes, bytearray, memoryview, str)):
        raise TypeError("packets must be a sequence of packets, not one; put it into a list")
    packets = list(packets)
    if _are_plain(packets):
        return [(ops.pack_packets(cut), len(cut)) for cut in _cut(packets, size)]
    return pieces([operation(packet) for packet in packets], size)


def _are_plain(packets: list[Packet]) -> TypeGuard[list[bytes]]:
    """Whether all are bytes, of a packet's size; of none it is not said."""
    if set(map(type, packets)) != {bytes}:
        return False
    return max(map(len, cast("list[bytes]", packets))) <= MAX_PACKET_BYTES


def pieces(operations: list[Op], size: int) -> list[Piece]:
    """Pack operations, in pieces of at most `size`."""
    return [(ops.pack(cut), len(cut)) for cut in _cut(operations, size)]


def _cut(items: list[_T], size: int) -> Iterator[list[_T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def collect(outcomes: list[ops.Outcome], pieces_: list[Piece], fmt: StreamFormat) -> Pcm:
    """Join the PCM of a call's pieces.

    Raises:
        PacketError: packets were refused or are poison; the first decides which error it is.
    """
    from opuspool import pcm

    joined = pcm.from_parts([outcome.pcm for outcome in outcomes], fmt)
    if all(min(outcome.results) >= 0 for outcome in outcomes):
        return joined  # nearly always, and without a look at every operation
    operations = [op for blob, count in pieces_ for op in ops.unpack(blob, count)]
    results = [
        n
        for n, op in zip(chain.from_iterable(o.results for o in outcomes), operations, strict=True)
        if op.kind is not OpKind.GAIN
    ]
    packets = [op.packet for op in operations if op.kind is not OpKind.GAIN]
    failures = {index: n for index, n in enumerate(results) if n < 0}
    index, code = next(iter(failures.items()))
    of = f" of {len(packets)}" if len(packets) > 1 else ""
    what = f"packet {index}{of} ({len(packets[index])} bytes)"
    if code == POISON:
        raise PoisonPacketError(
            f"{what} killed its workers and is not tried again; the stream goes on without it",
            index=index,
            code=code,
            failures=failures,
            pcm=joined,
        )
    words = _LIBOPUS_WORDS.get(code, "unknown error")
    raise InvalidPacketError(
        f"{what} is not a valid Opus packet (libopus: {words}, {code}); the stream goes on",
        index=index,
        code=code,
        failures=failures,
        pcm=joined,
    )
