"""A network that loses, doubles and reorders packets; and what is right to hear behind it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, cast

import numpy as np
from reference import DtypeName, Pcm, ReferenceDecoder, samples

from opuspool.fec import has_fec

if TYPE_CHECKING:
    from collections.abc import Collection

REORDERED = 2
"""A packet is overtaken by so many others, at most."""


def arrivals(count: int, seed: int, *, loss: float = 0.1, double: float = 0.05) -> list[int]:
    """Numbers of packets in the order in which they arrive; the first and the last do."""
    rng = random.Random(seed)
    there = [n for n in range(1, count - 1) if rng.random() >= loss]
    block = REORDERED + 1
    order = [0]
    for at in range(0, len(there), block):
        part = there[at : at + block]
        rng.shuffle(part)
        order += part
        order += [n for n in part if rng.random() < double]
    return [*order, count - 1]


def in_time(order: list[int]) -> list[int]:
    """Of the arrivals those that no later packet has overtaken, each once."""
    newest, found = -1, []
    for number in order:
        if number > newest:
            newest = number
            found.append(number)
    return found


def heard(
    packets: list[bytes],
    there: Collection[int],
    sample_rate: int = 16000,
    channels: int = 1,
    dtype: DtypeName = "float32",
    *,
    fec: bool = True,
) -> Pcm:
    """What libopus, called directly, makes of a stream of which only some packets are there.

    Args:
        packets: all, of equal length; the first and the last are there.
        there: numbers of those that are.
        sample_rate: Hz.
        channels: 1 or 2.
        dtype: "float32" or "int16".
        fec: use FEC where the next packet has it; else conceal everything.
    """
    decoder = ReferenceDecoder(sample_rate, channels, dtype)
    length = samples(packets[0], sample_rate)
    parts: list[Pcm] = []
    for number, packet in enumerate(packets):
        if number in there:
            parts.append(decoder.decode(packet))
        elif fec and number + 1 in there and has_fec(packets[number + 1]):
            parts.append(decoder.fec(packets[number + 1], length))
        else:
            parts.append(decoder.lost(length))
    return cast("Pcm", np.concatenate(parts))


def missing(packets: list[bytes], there: Collection[int]) -> tuple[int, int]:
    """How many of the missing packets the next one's FEC gives, and how many nothing does."""
    gone = [n for n in range(len(packets)) if n not in there]
    by_fec = sum(n + 1 in there and has_fec(packets[n + 1]) for n in gone)
    return by_fec, len(gone) - by_fec
