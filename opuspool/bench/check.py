"""Is a rival's PCM right? A fast wrong answer is no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opuspool.bench import speech
from opuspool.bench.direct import Decoder, Library
from opuspool.bench.loads import Kind

if TYPE_CHECKING:
    from opuspool.bench.rival import Rival
    from opuspool.pcm import Pcm

__all__ = ["check"]

NEAR = 0.95
"""Least correlation with libopus's own PCM of what has been resampled."""

_DELAYS = range(9)
"""Samples that a resampler may delay: 0 to 4 either way (ffmpeg's: half a sample)."""


def check(rival: Rival) -> None:
    """Compare what a rival makes of the speech with libopus's own.

    Raises:
        RuntimeError: it is something else.
    """
    library = Library(rival.setup.libopus, keep_gil=True)
    for kind in sorted(rival.kinds, key=lambda kind: kind.value):
        got, expected = rival.decode_once(kind), _expected(library, kind)
        same = np.array_equal(got, expected) if rival.exact else _is_near(got, expected)
        if not same:
            raise RuntimeError(
                f"wrong PCM from {rival.name} for a {kind.value}: {len(got)} samples that are not "
                f"libopus's {len(expected)}"
            )


def _expected(library: Library, kind: Kind) -> Pcm:
    if kind is Kind.FILE:
        return library.decode_file(speech.file())
    packets = speech.utterance() if kind is Kind.UTTERANCE else speech.packets()
    with Decoder(library) as decoder:
        return np.frombuffer(decoder.decode_all(packets), np.float32)


def _is_near(got: Pcm, expected: Pcm) -> bool:
    if abs(len(got) - len(expected)) > speech.FRAME_SAMPLES:
        return False
    count = min(len(got), len(expected)) - len(_DELAYS)
    middle = expected[4 : 4 + count]
    found = (np.corrcoef(got[late : late + count], middle)[0, 1] for late in _DELAYS)
    return bool(max(found) > NEAR)
