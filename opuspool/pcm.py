"""PCM as the caller gets it: numpy arrays in soundfile's shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opuspool.streamformat import SampleType, StreamFormat

Pcm: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.int16]
"""Mono: shape `(samples,)`; stereo: shape `(samples, channels)`."""

_DTYPES: dict[SampleType, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "int16": np.dtype(np.int16),
}


def from_outcome(outcome: bytes | bytearray, fmt: StreamFormat) -> Pcm:
    """The PCM of an outcome of one operation (ops.py), which has a word of 4 bytes in front.

    An array over a bytearray, which is not copied: one over bytes could not be written to.
    """
    if type(outcome) is not bytearray:
        outcome = bytearray(outcome)
    pcm = np.frombuffer(outcome, _DTYPES[fmt.dtype], -1, 4)
    return pcm if fmt.channels == 1 else pcm.reshape(-1, fmt.channels)


def from_parts(parts: Sequence[bytes | memoryview], fmt: StreamFormat) -> Pcm:
    """Copy interleaved PCM bytes into one array, one part after another."""
    arrays = [np.frombuffer(part, _DTYPES[fmt.dtype]) for part in parts or [b""]]
    return _shaped(np.concatenate(arrays), fmt)


def join(parts: list[Pcm], fmt: StreamFormat) -> Pcm:
    """Join arrays along time; an empty list gives an empty array of the right shape."""
    if len(parts) == 1:
        return parts[0]
    return cast("Pcm", np.concatenate(parts)) if parts else from_parts([], fmt)


def _shaped(pcm: npt.NDArray[Any], fmt: StreamFormat) -> Pcm:
    return pcm if fmt.channels == 1 else pcm.reshape(-1, fmt.channels)
