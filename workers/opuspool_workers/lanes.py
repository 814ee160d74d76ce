"""Lanes: clients send packets of streams that were lent to them straight to this worker.

Nothing from a client is trusted: it can reach the decoders whose tokens it was given, and no other.
"""

from __future__ import annotations

import struct
import time
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

from opuspool import ops, wire
from opuspool.digests import digest
from opuspool.errors import WireError
from opuspool.ops import AS_INT16, POISON
from opuspool.recorder import OP, PROGRESS, RECORD
from opuspool.wire import Kind, Status
from opuspool_workers import operations

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opuspool.ops import OpKind
    from opuspool.recorder import FlightRecorder
    from opuspool_workers.checkpoint import Relocator
    from opuspool_workers.decoder import Decoder

# As plain numbers: they are used for every packet, and members of an IntEnum are slow.
_OK, _FAILED_OPS, _CLOSED = int(Status.OK), int(Status.FAILED_OPS), int(Status.STREAM_CLOSED)
_BAD_REQUEST, _CHECKPOINT = int(Status.BAD_REQUEST), int(Status.CHECKPOINT)

_COUNTED = ("ok", "invalid", "poison", "packets", "ticks", "refused", "checkpoints")
_OKS, _INVALID, _POISON, _PACKETS, _TICKS, _REFUSED, _CHECKPOINTS = range(len(_COUNTED))

_row = wire.row_packer(Kind.ANSWERS)

MAX_ROWS = 256
"""Requests in a batch; a client sends half as many at most (`opuspool.lane.BATCH_PACKETS`)."""


class Lanes:
    """The streams that are lent, and what clients may do with them.

    Args:
        record: this worker's flight recorder.
        relocator: makes checkpoints; None: this worker cannot.
    """

    def __init__(self, record: FlightRecorder, relocator: Relocator | None) -> None:
        self._record = record
        self._words = record.words
        self._relocator = relocator
        self._lent: dict[int, Decoder] = {}
        self._tokens: dict[int, int] = {}
        self._done = [0] * len(_COUNTED)
        self._refused: frozenset[bytes] = frozenset()
        self._refused_sizes: frozenset[int] = frozenset()

    def lend(self, stream: int, token: int, decoder: Decoder) -> None:
        """Let whoever knows the token use this stream's decoder."""
        self.take_back(stream)
        self._tokens[stream] = token
        self._lent[token] = decoder

    def take_back(self, stream: int) -> None:
        """Nobody may use this stream's decoder any more."""
        self._lent.pop(self._tokens.pop(stream, 0), None)

    def refuse(self, packets: Iterable[tuple[int, bytes]]) -> None:
        """Decode none of these any more, but any other: lengths and digests of poison."""
        known = list(packets)
        self._refused = frozenset(key for _, key in known)
        self._refused_sizes = frozenset(size for size, _ in known)

    def takes(self, batch: wire.Message) -> bool:
        """Whether a batch is no more than a client may ask for at a time: it bounds the answer."""
        return len(batch.rows) <= MAX_ROWS and sum([row[4] for row in batch.rows]) <= ops.MAX_OPS

    def run(self, batch: wire.Message) -> wire.Frames:
        """Run a client's batch; returns the message with its answers.

        Raises:
            ProtocolError: libopus claims what cannot be.
            OSError: Windows: an access violation inside libopus.
        """
        began = time.perf_counter()
        self._done = [0] * len(_COUNTED)
        self._record.begin_batch(batch.header, batch.data)
        words, refused = self._words, self._refused_sizes
        answers: list[bytes] = []
        data = bytearray()
        blobs = batch.payloads()
        are_packets = ops.are_packets(blobs)
        good = ticks = 0
        for index, (row, blob, is_packet) in enumerate(
            zip(batch.rows, blobs, are_packets, strict=True)
        ):
            request, token, _, length, count, _, _ = row
            decoder = self._lent.get(token)
            if decoder is None or not is_packet or count != 1 or length - 4 in refused:
                answers.append(self._request(index, row, blob, data))
                words[OP] = 0
                continue
            words[RECORD] = index
            words[PROGRESS] += 1
            samples = decoder.decode(blob[4:])
            size = decoder.append_outcome(data, samples)
            if samples < 0:
                answers.append(_row(request, size, 1, self._count_failed(poison=False)))
                continue
            good += 1
            ticks += samples * decoder.ticks
            answers.append(_row(request, size, 1, _OK))
        self._count_good(good, good, ticks)
        self._record.end_batch(self._done, time.perf_counter() - began)
        return wire.pack_rows(Kind.ANSWERS, answers, [data], batch.tag)

    def _request(self, index: int, row: wire.Row, blob: bytes, data: bytearray) -> bytes:
        """Run any request, append what it gives; returns its answer's row."""
        request, token, _, _, count, _, _ = row
        start, decoder = len(data), self._lent.get(token)
        if decoder is None:
            self._record.pass_over(index)
            return _failed(data, request, _CLOSED, "this worker does not have the stream")
        if not count:
            self._record.begin(index)
            self._save(decoder, data)
            return _row(token, len(data) - start, 0, _CHECKPOINT)
        try:
            ops.check(blob, count)
        except WireError as error:
            return _failed(data, request, _BAD_REQUEST, str(error))
        self._record.begin(index)
        status = self._several(decoder, blob, count, data)
        return _row(request, len(data) - start, count, status)

    def _several(self, decoder: Decoder, blob: bytes, count: int, data: bytearray) -> int:
        """Run operations, append their outcome; returns its status."""
        start = len(data)
        data += bytes(4 * count)
        run = partial(self._operation, decoder)
        outcomes = operations.run_each(decoder, run, blob, count, self._words, data)
        struct.pack_into(f"<{count}i", data, start, *outcomes)
        ok = min(outcomes) >= 0
        frames = blob[2 : 4 * count : 4]
        ticks = sum(map(_ticks, repeat(decoder), outcomes, frames))
        self._count_good(int(ok), sum(n >= 0 for n in outcomes), ticks)
        return _OK if ok else self._count_failed(poison=POISON in outcomes)

    def _operation(self, decoder: Decoder, kind: OpKind, packet: bytes, frame: int) -> int:
        """Run an operation, unless its packet is known as poison; samples or a code."""
        if packet and self._is_refused(packet):
            return POISON
        return decoder.run(kind, packet, frame)

    def _is_refused(self, packet: bytes) -> bool:
        """Whether a packet is known as poison; counted, if so."""
        if len(packet) not in self._refused_sizes or digest(packet) not in self._refused:
            return False
        self._record.refuse()
        self._done[_REFUSED] += 1
        return True

    def _count_good(self, requests: int, packets: int, ticks: int) -> None:
        self._done[_OKS] += requests
        self._done[_PACKETS] += packets
        self._done[_TICKS] += ticks

    def _count_failed(self, *, poison: bool) -> int:
        self._done[_POISON if poison else _INVALID] += 1
        return _FAILED_OPS

    def _save(self, decoder: Decoder, data: bytearray) -> None:
        if self._relocator is not None:
            data += self._relocator.pack(decoder.export_state())
            self._done[_CHECKPOINTS] += 1


def _ticks(decoder: Decoder, samples: int, frame: int) -> int:
    """How long the PCM of an operation lasts, by its outcome and its frame (ops.py)."""
    if samples <= 0:
        return 0
    ticks = samples * decoder.ticks
    return ticks * decoder.packed if frame & AS_INT16 else ticks


def _failed(data: bytearray, request: int, status: int, message: str) -> bytes:
    payload = wire.write_json({"message": message})
    data += payload
    return _row(request, len(payload), 0, status)
