"""The wire format between client, supervisor and workers.

Every message is two frames, whatever the batch: one header, one of data.

    header frame                                              all little endian
    ┌───────────┬─────────┬──────┬──────────┬───────┬────────┬─────────────────────┐
    │ magic     │ version │ kind │ reserved │ count │ tag    │ count x record      │
    │ "OPUS" 4s │ u8      │ u8   │ u16 = 0  │ u32   │ u64    │ of the kind's shape │
    └───────────┴─────────┴──────┴──────────┴───────┴────────┴─────────────────────┘
    data frame: the records' payloads back to back; their lengths add up to it exactly

    kind      who                   tag        record       payload
    HELLO     client → supervisor   0          none         JSON {"version", "pid"}
    WELCOME   supervisor → client   0          none         JSON {"version", "pid", ...}
    REQUESTS  client → supervisor   0          Request      operations (ops.py)
    ANSWERS   supervisor → client   0          Answer       outcome (ops.py), or JSON of an error
    ASK       client → supervisor   id         none         JSON {"what", ...} (asking.py)
    REPORT    supervisor → client   id         none         JSON
    PING      either                0          none         nothing: "still here"
    BYE       client → supervisor   0          none         nothing: "my streams are done"
    LANE      client → supervisor   worker     none         nothing: "I reach that worker"
    LOST      client → supervisor   worker     none         nothing: "I have no lane to it now"
    ENDED     client → supervisor   0          none         JSON {outcome: calls it has ended}
    READY     worker → supervisor   0          none         JSON {"pid", "libopus", ...}
    LEASE     supervisor → worker   lease id   Step         by its action
    RESULTS   worker → supervisor   lease id   Result       by its action
    REFUSE    supervisor → worker   0          none         digests of packets not to be decoded
    STOP      supervisor → worker   0          none         nothing: "leave"
    REQUESTS  client → worker       batch      Request      operations on lent streams (lanes.py)
    ANSWERS   worker → client       batch      Answer       outcomes, checkpoints

On a lane (lanesocket.py), from client to worker, a stream's number is the token under
which it was lent; a request without operations asks for its checkpoint. A PING is answered by one.

Times on the wire are time left, never a clock reading. Nothing here opens a socket. A lease's
results come in the order of its steps, one for each DECODE and CHECKPOINT.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from itertools import accumulate
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from opuspool.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAGIC = b"OPUS"
VERSION = 2

MAX_RECORDS = 65_536
"""Records in one message, at most."""

MAX_DATA_BYTES = 256 * 1024 * 1024
"""Bytes of a data frame, at most; also the sockets' MAXMSGSIZE."""

MAX_JSON_BYTES = 4 * 1024 * 1024
"""Bytes of a JSON payload, at most."""

TOKEN = struct.Struct("<Q")
"""What a stream is called on a lane: a number that cannot be guessed."""

LENDING = struct.Struct("<QQIII")
"""The worker's number, the token, operations between two checkpoints (0: none), how many requests
may wait for the worker before the client refuses more, and after how many milliseconds of silence
the client gives a lane up."""

GONE = struct.Struct("<QI")
"""A batch of this client and the record in it that the worker was running; 0, 0: none."""

DIGEST_BYTES = 16
"""Bytes of a digest in REFUSE, BLAKE2b (digests.py), each behind its packet's length (u32)."""

_HEADER = struct.Struct("<4sBBHIQ")


class Kind(IntEnum):
    """What a message is."""

    HELLO = 1
    WELCOME = 2
    REQUESTS = 3
    ANSWERS = 4
    ASK = 5
    REPORT = 6
    PING = 7
    BYE = 8
    READY = 9
    LEASE = 10
    RESULTS = 11
    STOP = 12
    LANE = 13
    REFUSE = 14
    ENDED = 15
    LOST = 16


class Flag(IntEnum):
    """Flags of a request; they may be added."""

    OPEN = 1
    """The stream's first: it starts with a fresh decoder."""
    CLOSE = 2
    """The stream's last; with no operations it is not answered."""
    BULK = 4
    """Not live: may wait behind live streams."""
    RESTORE = 8
    """No request: a stream that this supervisor does not have (any more); the payload is its
    checkpoint, if any; operations 1: with what follows it is not exact."""
    REPLAY = 16
    """No request: operations that a stream handed over has settled since its checkpoint."""
    TAKE = 32
    """No request: the client sends this stream's packets to its worker now; the id is the token."""
    RETRIED = 64
    """A worker had it when it ended, or when its stream was called back."""
    SUSPECT = 128
    """That worker had run it, or was running it, when it died."""


class Status(IntEnum):
    """How a request ended."""

    OK = 0
    """Every operation gave PCM."""
    FAILED_OPS = 1
    """Some operations were refused or are poison; the outcome says which."""
    TIMEOUT = 2
    OVERLOADED = 3
    STREAM_CLOSED = 4
    BOOT = 5
    """No worker can start."""
    SHUTDOWN = 6
    """The supervisor is draining."""
    BAD_REQUEST = 7
    """The request broke the wire format's rules."""
    CHECKPOINT = 8
    """No answer: the payload is a checkpoint of the stream whose number stands for the id."""
    LANE = 9
    """No answer: the id is a worker's number, the payload where clients may connect to it."""
    GONE = 10
    """No answer: the worker with this number is gone; the payload (`GONE`): what it had in hand."""
    LENT = 11
    """No answer: the stream whose number is the id may be taken; the payload is a `LENDING`."""
    RECALL = 12
    """No answer: the stream is to be handed back; the payload is its `TOKEN`."""


class Action(IntEnum):
    """What a step of a lease asks of a worker."""

    OPEN = 1
    """Make a fresh decoder for the stream, in place of one it may have."""
    RESTORE = 2
    """Make a decoder from the checkpoint in the payload."""
    REPLAY = 3
    """Run the operations in the payload, throw their PCM away."""
    DECODE = 4
    """Run the operations in the payload; a result with their outcome."""
    CHECKPOINT = 5
    """A result with the decoder's checkpoint."""
    CLOSE = 6
    """Destroy the stream's decoder."""
    LEND = 7
    """Let a client use the stream's decoder, under the `TOKEN` in the payload."""


class Request(NamedTuple):
    """A client's request: operations on one of its streams."""

    id: int
    stream: int
    timeout_ms: int
    length: int
    ops: int
    format: int
    flags: int


class Answer(NamedTuple):
    """The supervisor's answer to a request."""

    id: int
    length: int
    ops: int
    status: int


class Step(NamedTuple):
    """One step of a lease."""

    stream: int
    length: int
    ops: int
    format: int
    action: int


class Result(NamedTuple):
    """A worker's result of one step."""

    step: int
    length: int
    ops: int
    status: int


class _Shape(NamedTuple):
    struct: struct.Struct
    make: Any
    length_of: Any


_SHAPES: dict[Kind, _Shape] = {
    Kind.REQUESTS: _Shape(struct.Struct("<QQIIHBB"), Request._make, itemgetter(3)),
    Kind.ANSWERS: _Shape(struct.Struct("<QIHBx"), Answer._make, itemgetter(1)),
    Kind.LEASE: _Shape(struct.Struct("<QIHBB"), Step._make, itemgetter(1)),
    Kind.RESULTS: _Shape(struct.Struct("<IIHBx"), Result._make, itemgetter(1)),
}
MAX_HEADER_BYTES = _HEADER.size + MAX_RECORDS * max(s.struct.size for s in _SHAPES.values())
"""Bytes of a header frame, at most."""

_PREFIX = struct.Struct("<4sBBH")
_COUNT_AND_TAG = struct.Struct("<IQ")
_SHAPED = {
    _PREFIX.pack(MAGIC, VERSION, kind, 0): (kind, shape.struct, shape.length_of)
    for kind, shape in _SHAPES.items()
}
"""What begins the header of each kind that has records: all that a message's header must say."""

_KINDS = {int(kind): kind for kind in Kind}
_PLAIN = frozenset(Kind) - frozenset(_SHAPES)
_JSON = frozenset({Kind.HELLO, Kind.WELCOME, Kind.ASK, Kind.REPORT, Kind.READY, Kind.ENDED})

Record = Request | Answer | Step | Result
Row = tuple[int, ...]
"""A record as it comes off the wire, its numbers in its shape's order."""
Frames = tuple[bytes, bytes]


class Message(NamedTuple):
    """A message taken apart: `payloads()[i]` belongs to `rows[i]`.

    A kind without records has its payload in `data`. Of what came off the wire, `header` is the
    first frame.
    """

    kind: Kind
    tag: int
    rows: Sequence[Row]
    data: bytes
    header: bytes = b""

    @property
    def records(self) -> list[Any]:
        """The rows, with names for their numbers; what is done for every packet takes the rows."""
        return list(map(_SHAPES[self.kind].make, self.rows)) if self.rows else []

    def payloads(self) -> list[bytes]:
        """Cut the data frame into the records' payloads, in their order."""
        data = self.data
        if len(self.rows) == 1:
            return [data]
        if not self.rows:
            return []
        ends = list(accumulate(map(_SHAPES[self.kind].length_of, self.rows)))
        return [data[at:end] for at, end in zip([0, *ends], ends, strict=False)]

    def json(self) -> dict[str, Any]:
        """Read the payload of a JSON kind.

        Raises:
            WireError: it is not a JSON object.
        """
        return read_json(self.data)


def pack(
    kind: Kind, records: Sequence[Record | Row], payloads: Iterable[bytes | bytearray], tag: int = 0
) -> Frames:
    """Build the two frames of a message that has records."""
    packer = _SHAPES[kind].struct.pack
    return pack_rows(kind, [packer(*record) for record in records], payloads, tag)


def row_packer(kind: Kind) -> Callable[..., bytes]:
    """What packs a record of a kind from its numbers, for `pack_rows`."""
    return _SHAPES[kind].struct.pack


def pack_rows(
    kind: Kind, rows: Sequence[bytes], payloads: Iterable[bytes | bytearray], tag: int = 0
) -> Frames:
    """As `pack`, of records that are packed already."""
    header = _HEADER.pack(MAGIC, VERSION, kind, 0, len(rows), tag)
    return header + b"".join(rows), b"".join(payloads)


def pack_plain(kind: Kind, data: bytes = b"", tag: int = 0) -> Frames:
    """Build the two frames of a message without records."""
    return _HEADER.pack(MAGIC, VERSION, kind, 0, 0, tag), data


def pack_json(kind: Kind, value: dict[str, Any], tag: int = 0) -> Frames:
    """Build the two frames of a message whose payload is JSON."""
    return pack_plain(kind, write_json(value), tag)


def parse(frames: Sequence[bytes]) -> Message:
    """Read a message; everything is checked before anything is used.

    Raises:
        WireError: the frames are not a message of this version.
    """
    if len(frames) != 2:
        raise WireError(f"a message has 2 frames, not {len(frames)}")
    header, data = frames
    shape = _SHAPED.get(header[: _PREFIX.size])
    if len(data) > MAX_DATA_BYTES:
        raise WireError(f"{len(data)} bytes of data, at most {MAX_DATA_BYTES}")
    if shape is None or len(header) < _HEADER.size:
        return _plain(*_read_header(header), header, data)
    kind, record, length_of = shape
    tag, rows = _rows(header, kind, record)
    if sum(map(length_of, rows)) != len(data):
        raise WireError(f"lengths of {kind.name} do not add up to {len(data)} bytes of data")
    return Message(kind, tag, rows, data, header)


def parse_header(header: bytes) -> Message:
    """Read the rows of a message that has records, and whose data is not at hand.

    Raises:
        WireError: the frame is not the header of one.
    """
    shape = _SHAPED.get(header[: _PREFIX.size])
    if shape is None or len(header) < _HEADER.size:
        raise WireError("not the header of a message with records")
    return Message(shape[0], *_rows(header, shape[0], shape[1]), b"", header)


def take_operations(header: memoryview, index: int) -> None:
    """Make a request in a header of REQUESTS one of no operations."""
    shape = _SHAPES[Kind.REQUESTS].struct
    at = _HEADER.size + index * shape.size
    request = Request._make(shape.unpack_from(header, at))
    shape.pack_into(header, at, *request._replace(ops=0))


def _rows(header: bytes, kind: Kind, record: struct.Struct) -> tuple[int, list[Row]]:
    count, tag = _COUNT_AND_TAG.unpack_from(header, _PREFIX.size)
    if count > MAX_RECORDS:
        raise WireError(f"{count} records, at most {MAX_RECORDS}")
    if len(header) != _HEADER.size + count * record.size:
        raise WireError(f"header of {len(header)} bytes for {count} records of {kind.name}")
    return tag, list(record.iter_unpack(header[_HEADER.size :]))


def _read_header(header: bytes) -> tuple[Kind, int, int]:
    if len(header) < _HEADER.size:
        raise WireError(f"header of {len(header)} bytes, at least {_HEADER.size}")
    magic, version, number, reserved, count, tag = _HEADER.unpack_from(header)
    if magic != MAGIC or reserved:
        raise WireError("not an opuspool message")
    if version != VERSION:
        raise WireError(f"wire version {version}, this is version {VERSION}: use equal releases")
    if number not in _KINDS:
        raise WireError(f"unknown kind {number}")
    if count > MAX_RECORDS:
        raise WireError(f"{count} records, at most {MAX_RECORDS}")
    return _KINDS[number], count, tag


def _plain(kind: Kind, count: int, tag: int, header: bytes, data: bytes) -> Message:
    if count or len(header) != _HEADER.size:
        raise WireError(f"{kind.name} has no records")
    if data and kind not in _JSON and kind is not Kind.REFUSE:
        raise WireError(f"{kind.name} carries no data")
    return Message(kind, tag, [], data)


def write_json(value: dict[str, Any]) -> bytes:
    """Write a JSON payload."""
    return json.dumps(value, separators=(",", ":")).encode()


def read_json(data: bytes) -> dict[str, Any]:
    """Read a JSON payload.

    Raises:
        WireError: too large, or not a JSON object.
    """
    if len(data) > MAX_JSON_BYTES:
        raise WireError(f"{len(data)} bytes of JSON, at most {MAX_JSON_BYTES}")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise WireError("JSON, but not an object")
    return value
