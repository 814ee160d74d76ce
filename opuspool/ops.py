"""Decoder operations: what one entry of a request asks of a stream's decoder, and its outcome.

A request's operations travel as one blob, which the journal keeps as it is:

    n x u32 little endian   operation words: kind << 24 | frame << 16 | length of its packet
    packets                 back to back

The frame says how much PCM is wanted, and of which type; 0: what the packet has (a loss: what the
last packet had), of the stream's own type.

    bits 0 to 6   units of 2.5 ms, 1 to 48 (more counts as 48); `TOO_SHORT`: less than one unit
    bit 7         `AS_INT16`

Their outcome travels as another:

    n x i32 little endian   samples per channel (>= 0), or an error code (< 0)
    PCM                     of the operations that succeeded, back to back
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from opuspool.errors import WireError
from opuspool.streamformat import MAX_PACKET_BYTES, StreamFormat

MAX_OPS = 1024
"""Operations in one request, at most."""


class OpKind(IntEnum):
    """What an operation asks for."""

    PACKET = 0
    """Decode the packet."""
    LOST = 1
    """Conceal a lost packet of the last duration (PLC); no packet comes along."""
    FEC = 2
    """Decode the packet before this one from this one's in-band FEC."""
    POISONED = 3
    """Not executed: the packet that stood here killed its workers."""
    GAIN = 4
    """Set the output's gain from now on: i16 in 1/256 dB; gives no samples."""
    RESET = 5
    """Make the decoder as new, but for its gain; gives no samples."""
    GET = 6
    """Read a value of the decoder: u16, a request of `opus_defines.h`; an i64 takes PCM's place."""


class Op(NamedTuple):
    """One operation: its kind, its packet (empty where the kind needs none) and its frame."""

    kind: OpKind
    packet: bytes
    frame: int = 0


TOO_SHORT = 0x7F
"""A frame of less than 2.5 ms: no packet fits it."""

AS_INT16 = 0x80
"""A float32 stream's operation gives int16, two samples in the place of one."""


INVALID_PACKET = -4
"""`OPUS_INVALID_PACKET` (`opus_defines.h`)."""

POISON = -100
"""Outcome of an operation whose packet is poison; below libopus's own codes, which end at -7."""

_KINDS = {int(kind): kind for kind in OpKind}
_GAIN_KIND = int(OpKind.GAIN)  # plain: a member of an IntEnum is slow to compare with
_LAST_KIND = max(_KINDS)

UNIMPLEMENTED = -5
"""`OPUS_UNIMPLEMENTED` (`opus_defines.h`)."""

VALUE = struct.Struct("<q")
"""What a GET operation gives; its 8 bytes are whole samples of every format."""

WITH_PACKET = frozenset({int(OpKind.PACKET), int(OpKind.FEC)})
"""Kinds that decode a packet of their own."""


def pack(ops: list[Op]) -> bytes:
    """Put operations into a blob."""
    words = [op.kind << 24 | op.frame << 16 | len(op.packet) for op in ops]
    return struct.pack(f"<{len(words)}I", *words) + b"".join([op.packet for op in ops])


def pack_packets(packets: list[bytes]) -> bytes:
    """Put a PACKET operation for each packet, whose word is its length, into a blob."""
    return struct.pack(f"<{len(packets)}I", *map(len, packets)) + b"".join(packets)


_int = int.from_bytes

pack_word = struct.Struct("<I").pack
"""Makes a word; that of a PACKET operation without a frame is the packet's length."""


def pack_one(op: Op) -> bytes:
    """Put one operation into a blob; the same as `pack([op])`, at less cost."""
    kind, packet, frame = op
    return pack_word(kind << 24 | frame << 16 | len(packet)) + packet


_GAIN = struct.Struct("<h")


def pack_gain(gain: int) -> bytes:
    """What a GAIN operation carries; 1/256 dB, from -32768 to 32767 (`opus_defines.h`)."""
    return _GAIN.pack(gain)


def unpack_gain(data: bytes) -> int | None:
    """The gain in a GAIN operation; None where it is not one."""
    return int(_GAIN.unpack(data)[0]) if len(data) == _GAIN.size else None


_REQUEST = struct.Struct("<H")


def pack_request(request: int) -> bytes:
    """What a GET operation carries (`opus_defines.h`)."""
    return _REQUEST.pack(request)


def unpack_request(data: bytes) -> int | None:
    """The request in a GET operation; None where it is not one."""
    return int(_REQUEST.unpack(data)[0]) if len(data) == _REQUEST.size else None


def last_gain(blob: bytes, count: int) -> bytes | None:
    """The last GAIN operation of a blob, as a blob of its own; None where it has none."""
    if _GAIN_KIND not in blob[3 : 4 * count : 4]:
        return None
    return pack([[op for op in unpack(blob, count) if op.kind is OpKind.GAIN][-1]])


def check(blob: bytes, count: int) -> None:
    """Check a blob.

    Raises:
        WireError: it is not `count` operations.
    """
    if count != 1 or not is_one(blob):
        words_of(blob, count)


def is_one(blob: bytes) -> bool:
    """Whether a blob is one operation; the usual case, at less cost."""
    word = _int(blob[:4], "little")
    size = len(blob) - 4
    return word & 0xFFFF == size <= MAX_PACKET_BYTES and word >> 24 <= _LAST_KIND


def are_packets(blobs: list[bytes]) -> list[bool]:
    """Which blobs are one PACKET operation, not empty and without a frame: a live stream's."""
    return [0 < _int(blob[:4], "little") == len(blob) - 4 <= MAX_PACKET_BYTES for blob in blobs]


def words_of(blob: bytes, count: int) -> tuple[int, ...]:
    """Read and check the operation words of a blob.

    Raises:
        WireError: the blob is not `count` operations.
    """
    head = 4 * count
    if not 0 < count <= MAX_OPS or len(blob) < head:
        raise WireError(f"{len(blob)} bytes cannot hold {count} operations")
    words = struct.unpack_from(f"<{count}I", blob)
    total = sum(words) if max(words) <= MAX_PACKET_BYTES else _bytes_of(words)
    if head + total != len(blob):
        raise WireError(f"operations of {total} bytes in a blob with {len(blob) - head}")
    return words


def _bytes_of(words: tuple[int, ...]) -> int:
    """Bytes of all packets; of words that are lengths alone, it is their sum.

    Raises:
        WireError: there is no such word.
    """
    for word in words:
        if word >> 24 > _LAST_KIND or word & 0xFFFF > MAX_PACKET_BYTES:
            raise WireError(f"operation word {word:#010x} is not one of ours")
    return sum([word & 0xFFFF for word in words])


def unpack(blob: bytes, count: int) -> list[Op]:
    """Take a blob apart.

    Raises:
        WireError: the blob is not `count` operations.
    """
    ops = []
    at = 4 * count
    for word in words_of(blob, count):
        end = at + (word & 0xFFFF)
        ops.append(Op(_KINDS[word >> 24], blob[at:end], word >> 16 & 0xFF))
        at = end
    return ops


def last_packets(blob: bytes, count: int, most: int) -> list[bytes]:
    """The packets of a blob's last operations, `most` operations at most, in their order.

    Args:
        blob: `count` operations; it has been checked before.
        count: how many they are.
        most: of how many, counted from the end, packets are wanted.
    """
    wanted = min(count, most)
    packets: list[bytes] = []
    end = len(blob)
    for word in reversed(struct.unpack_from(f"<{wanted}I", blob, 4 * (count - wanted))):
        start = end - (word & 0xFFFF)
        if word >> 24 in WITH_PACKET:
            packets.append(blob[start:end])
        end = start
    return packets[::-1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A blob of outcomes, taken apart: samples or error code of each operation, and the PCM."""

    results: tuple[int, ...]
    pcm: memoryview


def unpack_outcome(blob: bytes | memoryview, count: int, frame_bytes: int) -> Outcome:
    """Read and check an outcome blob of `count` operations, `frame_bytes` a sample.

    Raises:
        WireError: counts and lengths do not add up.
    """
    head = 4 * count
    if len(blob) < head:
        raise WireError(f"{len(blob)} bytes cannot hold {count} outcomes")
    results = struct.unpack_from(f"<{count}i", blob)
    samples = sum(results) if min(results, default=0) >= 0 else sum([n for n in results if n > 0])
    if head + samples * frame_bytes != len(blob):
        raise WireError(f"{samples} samples of {frame_bytes} bytes in {len(blob) - head} bytes")
    return Outcome(results, memoryview(blob)[head:])


def is_whole(data: bytes | memoryview, frame_bytes: int, capacity: int, at: int, size: int) -> bool:
    """Whether an outcome is that of one operation that gave PCM, at most `capacity` samples.

    Args:
        data: what it lies in.
        frame_bytes: bytes of a sample of all channels.
        capacity: samples per channel, at most.
        at: where it begins, bytes.
        size: its length, bytes.
    """
    samples = _int(data[at : at + 4], "little")  # as if unsigned: an error code is more than fits
    return 0 < samples <= capacity and 4 + samples * frame_bytes == size


def are_whole(outcomes: list[bytes], formats: list[StreamFormat]) -> list[bool]:
    """As `is_whole`, of many, as many as there are formats; at less cost."""
    return [
        0 < _int(blob[:4], "little") * fmt.frame_bytes == len(blob) - 4 <= fmt.max_packet_pcm_bytes
        for blob, fmt in zip(outcomes, formats, strict=False)
    ]


def check_outcome(blob: bytes | memoryview, count: int, frame_bytes: int, capacity: int) -> None:
    """Check an outcome blob; no operation may claim more than `capacity` samples.

    Raises:
        WireError: counts and lengths do not add up.
    """
    results = unpack_outcome(blob, count, frame_bytes).results
    if max(results) > capacity:
        raise WireError(f"{max(results)} samples of one packet, at most {capacity}")


def poisoned(blob: bytes, count: int, index: int) -> bytes:
    """The same blob with operation `index` marked as poison and its packet taken out."""
    ops = unpack(blob, count)
    ops[index] = Op(OpKind.POISONED, b"")
    return pack(ops)
