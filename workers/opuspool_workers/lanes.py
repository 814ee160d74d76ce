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
from opuspool.ops import AS_INT16, POISON, is_packet
from opuspool.wire import Kind, Status
from opuspool_workers import operations
from opuspool_workers.decoder import checked

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
        record, number = self._record, batch.tag
        record.begin_batch(number)
        rows: list[wire.Row] = []
        data = bytearray()
        for index, (row, blob) in enumerate(zip(batch.rows, batch.payloads(), strict=True)):
            start = len(data)
            request, token, _, _, count, _, _ = row
            decoder = self._lent.get(token)
            if decoder is None:
                rows.append(_failed(data, request, _CLOSED, "this worker does not have the stream"))
                continue
            if not count:
                record.begin(index, number, token, 0, 0)
                self._save(decoder, data)
                rows.append((token, len(data) - start, 0, _CHECKPOINT))
                continue
            if count == 1 and is_packet(blob):
                status = self._packet(index, number, row, decoder, blob, data)
            else:
                try:
                    ops.check(blob, count)
                except WireError as error:
                    rows.append(_failed(data, request, _BAD_REQUEST, str(error)))
                    continue
                record.begin(index, number, token, request, int.from_bytes(blob[:4], "little"))
                status = self._several(decoder, blob, count, data)
            rows.append((request, len(data) - start, count, status))
        record.end_batch(self._done, time.perf_counter() - began)
        return wire.pack(Kind.ANSWERS, rows, [data], number)

    def _packet(
        self, index: int, batch: int, row: wire.Row, decoder: Decoder, blob: bytes, data: bytearray
    ) -> int:
        """As `_several`, of one packet; done for every packet of a live stream."""
        request, token, _, _, _, _, _ = row
        packet = blob[4:]
        if self._is_refused(packet):
            self._record.begin(index, batch, token, request, len(packet))
            samples = POISON
        else:
            self._record.begin_packet(index, batch, token, request, blob)
            samples = checked(decoder.decode(packet), decoder)
        data += samples.to_bytes(4, "little", signed=True)
        if samples < 0:
            return self._count_failed(samples == POISON)
        data += decoder.pcm(samples)
        done = self._done
        done[_OKS] += 1
        done[_PACKETS] += 1
        done[_TICKS] += samples * decoder.ticks
        return _OK

    def _several(self, decoder: Decoder, blob: bytes, count: int, data: bytearray) -> int:
        """Run operations, append their outcome; returns its status."""
        start = len(data)
        data += bytes(4 * count)
        run = partial(self._operation, decoder)
        outcomes = operations.run(decoder, run, blob, count, self._words, data)
        struct.pack_into(f"<{count}i", data, start, *outcomes)
        done = self._done
        done[_PACKETS] += sum(n >= 0 for n in outcomes)
        frames = blob[2 : 4 * count : 4]
        done[_TICKS] += sum(map(_ticks, repeat(decoder), outcomes, frames))
        if min(outcomes) < 0:
            return self._count_failed(POISON in outcomes)
        done[_OKS] += 1
        return _OK

    def _operation(self, decoder: Decoder, kind: OpKind, packet: bytes, frame: int) -> int:
        """Run an operation, unless its packet is known as poison; samples or a code."""
        if packet:
            if self._is_refused(packet):
                return POISON
            self._record.keep(packet)
        return decoder.run(kind, packet, frame)

    def _is_refused(self, packet: bytes) -> bool:
        """Whether a packet is known as poison; counted, if so."""
        if len(packet) not in self._refused_sizes or digest(packet) not in self._refused:
            return False
        self._done[_REFUSED] += 1
        return True

    def _count_failed(self, poison: bool) -> int:
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


def _failed(data: bytearray, request: int, status: int, message: str) -> wire.Row:
    payload = wire.write_json({"message": message})
    data += payload
    return (request, len(payload), 0, status)
