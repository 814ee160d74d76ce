"""A request's operations on a decoder, one after another, each noted in the flight recorder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import ops
from opuspool.ops import OpKind
from opuspool.recorder import OP, PROGRESS, WORD
from opuspool_workers.decoder import checked

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool_workers.decoder import Decoder

OP_KINDS = list(OpKind)


def run(
    decoder: Decoder,
    operation: Callable[[OpKind, bytes, int], int],
    blob: bytes,
    count: int,
    words: memoryview,
    pcm: bytearray | None,
) -> list[int]:
    """Run operations, append their PCM; returns samples or code of each.

    Args:
        decoder: theirs.
        operation: runs one of them; `Decoder.run`, or what calls it.
        blob: `count` operations (ops.py).
        count: how many they are.
        words: the flight recorder.
        pcm: None: their PCM is not wanted.

    Raises:
        ProtocolError: libopus claims what cannot be.
        WireError: the blob is not `count` operations.
    """
    outcomes: list[int] = []
    at, progress = 4 * count, words[PROGRESS]
    for index, word in enumerate(ops.words_of(blob, count)):
        words[OP] = index
        words[WORD] = word
        progress += 1
        words[PROGRESS] = progress
        end = at + (word & 0xFFFF)
        samples = operation(OP_KINDS[word >> 24], blob[at:end], word >> 16 & 0xFF)
        at = end
        outcomes.append(checked(samples, decoder))
        if pcm is not None and samples > 0:
            pcm += decoder.pcm(samples)
    return outcomes
