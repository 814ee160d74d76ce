"""An ffmpeg process for each file: safe too, since a fault ends with its process."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from opuspool.bench import speech
from opuspool.bench.drivers import CALL_SECONDS, ThreadRival
from opuspool.bench.loads import Kind

if TYPE_CHECKING:
    from contextlib import ExitStack

    from opuspool.bench.drivers import Call
    from opuspool.pcm import Pcm

__all__ = ["Ffmpeg"]

_COMMAND = "ffmpeg -v error -c:a libopus -i pipe:0 -f f32le -ac 1 -ar 16000 pipe:1"


class Ffmpeg(ThreadRival):
    """ffmpeg with its libopus decoder: decodes at 48 kHz and resamples, so its PCM is near."""

    name: ClassVar[str] = "ffmpeg"
    title: ClassVar[str] = "an ffmpeg process a file"
    kinds: ClassVar[frozenset[Kind]] = frozenset({Kind.FILE})
    exact: ClassVar[bool] = False

    @classmethod
    def missing(cls) -> str | None:
        """Whether it is installed."""
        return None if shutil.which("ffmpeg") else "apt install ffmpeg"

    def open(self) -> None:
        """Nothing is started before the first call."""

    def close(self) -> None:
        """Nothing was started that is not gone."""

    def job(self, kind: Kind, caller: int, ends: ExitStack) -> Call:  # noqa: ARG002  all the same
        """Calls of one caller."""
        return _decode_file


def _decode_file() -> Pcm:
    done = subprocess.run(  # noqa: S603  our own words
        _COMMAND.split(),
        input=speech.file(),
        capture_output=True,
        check=False,
        timeout=CALL_SECONDS,
    )
    if done.returncode != 0:
        raise RuntimeError(f"ffmpeg has failed: {done.stderr.decode(errors='replace').strip()}")
    return np.frombuffer(done.stdout, np.float32)
