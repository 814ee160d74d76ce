"""`opuspool decode`: Ogg Opus files in, WAV files out."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import click

from opuspool.cli import messages, settings, targets
from opuspool.cli.options import config_option, endpoint_option
from opuspool.errors import (
    AuthenticationError,
    ConfigError,
    OpusPoolError,
    PoolClosedError,
    SupervisorLostError,
    WorkerBootError,
)
from opuspool.streamformat import SAMPLE_RATES, SAMPLE_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool.cli.targets import Job
    from opuspool.pool import Pool

__all__ = ["decode"]

_TIMEOUT_SECONDS = 86_400.0
"""A long file may take long; a packet that hangs has a deadline of its own."""

_HOPELESS = (
    AuthenticationError,
    BrokenPipeError,
    ConfigError,
    PoolClosedError,
    SupervisorLostError,
    WorkerBootError,
)
"""After one of these the other files would fail in the same way."""


_EXAMPLES = """\b
Examples:
  opuspool decode speech.opus                        writes speech.wav
  opuspool decode *.opus -o wav/ --rate 48000        writes into a folder
  opuspool decode - -o - <in.opus | sox - out.flac   stdin to stdout
"""


@click.command(epilog=_EXAMPLES)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="WAV file for one FILE, folder for several (one that is new is made), or - for stdout. "
    "Without it, each FILE's name with .wav, beside it.",
)
@click.option(
    "--rate",
    type=click.Choice([str(rate) for rate in SAMPLE_RATES]),
    default="16000",
    show_default=True,
    help="Sample rate, Hz.",
)
@click.option("--channels", type=click.Choice(["1", "2"]), help="Without it, as the file has.")
@click.option(
    "--dtype",
    type=click.Choice(SAMPLE_TYPES),
    default="int16",
    show_default=True,
    help="Samples as 16-bit PCM or as 32-bit float.",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), help="Decoder processes of the own pool, if any."
)
@click.option(
    "--libopus", metavar="PATH", help="The libopus that the own pool loads; else it is searched."
)
@endpoint_option
@config_option
def decode(
    files: tuple[str, ...],
    output: str | None,
    rate: str,
    channels: str | None,
    dtype: Literal["float32", "int16"],
    workers: int | None,
    libopus: str | None,
    endpoint: str | None,
    config: str | None,
) -> int:
    """Decode Ogg Opus FILEs to WAV; - is stdin.

    Existing outputs are replaced, each when its new content is whole. A FILE that fails has its
    line on stderr, and the others go on.
    """
    for name, value in (("--workers", workers), ("--libopus", libopus)):
        if endpoint is not None and value is not None:
            raise click.UsageError(
                f"{name} is for an own pool; the daemon at --endpoint has its own."
            )
    jobs = targets.plan(files, output)
    _check_standard_streams(jobs[0])

    from opuspool.cli.reach import check_reachable
    from opuspool.pool import Pool

    if endpoint is not None:
        check_reachable(endpoint)
    settings_ = settings.quiet(config)
    with Pool(endpoint, workers=workers, libopus=libopus, config=settings_) as pool:
        batch = _Batch(pool, int(rate), int(channels) if channels else None, dtype)
        batch.run(jobs)
        if batch.done:
            to_stderr = any(job.target == targets.STANDARD for job in jobs)
            click.echo(batch.summary(), err=to_stderr)
    return 1 if batch.failed else 0


def _check_standard_streams(job: Job) -> None:
    """Refuse stdin and stdout where they are closed, and a terminal for audio.

    Raises:
        click.UsageError: they cannot be used.
    """
    if job.source == targets.STANDARD and sys.stdin is None:
        raise click.UsageError("stdin is closed; name a file.")
    if job.target != targets.STANDARD:
        return
    if sys.stdout is None:
        raise click.UsageError("stdout is closed; name a file with -o.")
    if sys.stdout.isatty():
        raise click.UsageError("will not write audio to a terminal; name a file with -o.")


@dataclass
class _Batch:
    """Decodes jobs, several at a time, and counts.

    Attributes:
        done, failed: numbers of jobs.
        audio_seconds: of all outputs.
    """

    pool: Pool
    rate: int
    channels: int | None
    dtype: Literal["float32", "int16"]
    done: int = 0
    failed: int = 0
    audio_seconds: float = 0.0
    _before: dict[str, Any] = field(default_factory=dict)
    _seconds: float = 0.0

    def run(self, jobs: list[Job]) -> None:
        """Decode all jobs.

        Raises:
            OpusPoolError: nothing more can be decoded.
        """
        from opuspool.cli.progress import progress

        self._before = self.pool.status()
        started = time.monotonic()
        with progress(jobs) as advance:
            if len(jobs) == 1:
                # On this thread, which Ctrl-C can interrupt while it waits for stdin.
                self._settle(jobs[0], lambda: self._decode(jobs[0]))
                advance(jobs[0])
            else:
                self._run_threads(jobs, advance)
        self._seconds = time.monotonic() - started

    def summary(self) -> str:
        """What was done, in one line."""
        after = self.pool.status()
        total = self.done + self.failed
        files = messages.count(total, "file")
        parts = [
            f"decoded {files if not self.failed else f'{self.done} of {files}'}",
            f"{self.audio_seconds:.1f} s of audio",
            f"{self.audio_seconds / max(self._seconds, 1e-9):.0f} x real time",
            messages.count(len(after["workers"]), "worker"),
            messages.count(_restarts(after) - _restarts(self._before), "restart"),
        ]
        return ", ".join(parts)

    def _run_threads(self, jobs: list[Job], advance: Callable[[Job], None]) -> None:
        # A file keeps one worker busy; one more is read or written meanwhile.
        threads = min(len(jobs), len(self._before["workers"]) + 1)
        executor = ThreadPoolExecutor(threads, thread_name_prefix="opuspool-decode")
        try:
            futures = [executor.submit(self._decode, job) for job in jobs]
            for job, future in zip(jobs, futures, strict=True):
                self._settle(job, future.result)
                advance(job)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            self.pool.close()  # so that the threads do not wait for their PCM
            raise
        finally:
            executor.shutdown()

    def _decode(self, job: Job) -> float:
        """Decode one job; returns the seconds of audio."""
        from opuspool.cli import wav

        source = sys.stdin.buffer if job.source == targets.STANDARD else job.source
        pcm = self.pool.decode_file(
            source, self.rate, self.channels, self.dtype, timeout=_TIMEOUT_SECONDS
        )
        wav.write(job.target, pcm, self.rate)
        return len(pcm) / self.rate

    def _settle(self, job: Job, result: Callable[[], float]) -> None:
        try:
            self.audio_seconds += result()
        except _HOPELESS:
            raise
        except (OpusPoolError, OSError, MemoryError) as error:
            self.failed += 1
            messages.complain(_line(job, error))
        else:
            self.done += 1


def _line(job: Job, error: BaseException) -> str:
    """What went wrong with a job; its name comes first, once."""
    if isinstance(error, OSError) and error.filename == job.source:
        return messages.describe(error)
    return f"{job.name}: {messages.describe(error)}"


def _restarts(status: dict[str, Any]) -> int:
    return sum(status["counters"]["worker_restarts"].values())
