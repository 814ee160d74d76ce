"""A request's operations on a decoder, one after another, each noted in the flight recorder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import ops
from opuspool.ops import OpKind
from opuspool.recorder import OP, PROGRESS
from opuspool.streamformat import MAX_PACKET_BYTES
from opuspool_workers.decoder import too_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool_workers.decoder import Decoder

OP_KINDS = list(OpKind)


def run(
    decoder: Decoder, blob: bytes, count: int, words: memoryview, pcm: bytearray | None
) -> list[int]:
    """Run operations of a lease, append their PCM; returns samples or code of each.

    Args:
        decoder: theirs.
        blob: `count` operations (ops.py).
        count: how many they are.
        words: the flight recorder.
        pcm: None: their PCM is not wanted.

    Raises:
        ProtocolError: libopus claims what cannot be.
        WireError: the blob is not `count` operations.
    """
    sizes = ops.words_of(blob, count)
    if max(sizes) > MAX_PACKET_BYTES:
        return run_each(decoder, decoder.run, blob, count, words, pcm)
    # Packets and nothing else: what is done for each of an utterance's, at less cost.
    outcomes: list[int] = []
    decode, capacity = decoder.decode, decoder.capacity
    at, progress = 4 * count, words[PROGRESS]
    for index, size in enumerate(sizes):
        progress += 1
        words[OP] = index
        words[PROGRESS] = progress
        samples = decode(blob[at : at + size])
        at += size
        if samples > capacity:
            raise too_many(samples, decoder)
        if samples > 0 and pcm is not None:
            pcm += decoder.pcm(samples)
        outcomes.append(samples)
    return outcomes


def run_each(
    decoder: Decoder,
    operation: Callable[[OpKind, bytes, int], int],
    blob: bytes,
    count: int,
    words: memoryview,
    pcm: bytearray | None,
) -> list[int]:
    """As `run`, of any operations, each by `operation`: `Decoder.run`, or what calls it."""
    outcomes: list[int] = []
    at, progress = 4 * count, words[PROGRESS]
    for index, word in enumerate(ops.words_of(blob, count)):
        words[OP] = index
        progress += 1
        words[PROGRESS] = progress
        end = at + (word & 0xFFFF)
        samples = operation(OP_KINDS[word >> 24], blob[at:end], word >> 16 & 0xFF)
        at = end
        if samples > decoder.capacity:
            raise too_many(samples, decoder)
        outcomes.append(samples)
        if pcm is not None and samples > 0:
            pcm += decoder.pcm(samples)
    return outcomes
