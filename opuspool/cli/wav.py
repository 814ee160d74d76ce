"""Write PCM as a WAV file that is there whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from opuspool.cli.targets import STANDARD

if TYPE_CHECKING:
    from opuspool.pcm import Pcm

__all__ = ["write"]

_WAV_BYTES = (1 << 32) - 4096
"""WAV's sizes have 32 bits; more is written as RF64, the same with 64."""


def write(target: str, pcm: Pcm, sample_rate: int) -> None:
    """Write float32 PCM as FLOAT, int16 as PCM_16.

    Args:
        target: a path, or "-" for stdout. A regular file is written beside its place and moved
            there when it is whole; a device or pipe is written to.
        pcm: shape `(samples,)` or `(samples, channels)`.
        sample_rate: Hz.

    Raises:
        OSError: it cannot be written; what was at the target still is.
    """
    data = _render(pcm, sample_rate)
    if target == STANDARD:
        # With PYTHONUNBUFFERED a write may take only a part.
        while data:
            data = data[sys.stdout.buffer.write(data) :]
        sys.stdout.buffer.flush()
        return
    # A symbolic link stays one.
    path = Path(os.path.realpath(target))
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        _replace(path, data)


def _render(pcm: Pcm, sample_rate: int) -> memoryview:
    """Render the file in memory: soundfile cannot tell why a write failed."""
    import soundfile

    buffer = io.BytesIO()
    subtype = "PCM_16" if pcm.dtype == "int16" else "FLOAT"
    kind = "WAV" if pcm.nbytes < _WAV_BYTES else "RF64"
    soundfile.write(buffer, pcm, sample_rate, subtype=subtype, format=kind)
    return buffer.getbuffer()


def _replace(path: Path, data: memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".opuspool-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with draft.open("xb") as file:
            file.write(data)
        draft.replace(path)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None  # the name that was asked for
        raise
