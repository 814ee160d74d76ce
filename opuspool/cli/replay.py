"""Runs the packet of a crash report in one throw-away worker process, and says what happened."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opuspool import pychild
from opuspool.cli import messages
from opuspool.errors import OpusPoolError
from opuspool.exitcause import name_exit

if TYPE_CHECKING:
    from opuspool.cli.crashfiles import Crash

__all__ = ["CannotReplayError", "Ending", "job_of", "run", "run_under_gdb"]

DUMP_SECONDS = 5.0
"""A process that is told to abort, or gdb to interrupt, has this long."""

INSTALL_GDB = "apt-get install gdb (Fedora: dnf install gdb)"

_STAGES = {
    "checkpoint": "while its decoder was made",
    "journal": "while the packets before it were run",
    "operation": "while it ran",
    "destroy": "when its decoder was destroyed, after it had run",
}
_SIGNAL = re.compile(r"received signal (SIG\w+)")
_TAIL_BYTES = 64 * 1024


class CannotReplayError(OpusPoolError):
    """There is nothing to replay, or nothing to replay it with."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What came of a replay.

    Attributes:
        survived: the process lived.
        words: what happened.
        details: what it, or gdb, wrote about it.
    """

    survived: bool
    words: str
    details: str = ""


def job_of(crash: Crash, libopus: str) -> dict[str, Any]:
    """What the throw-away worker is to do (opuspool_workers/replay.py).

    Args:
        crash: the report.
        libopus: the library to load; "" searches.

    Raises:
        CannotReplayError: the report holds no packet.
    """
    replay, stream = crash.get("replay"), crash.get("stream")
    if not replay or not stream:
        raise CannotReplayError(
            f"{crash['id']} holds no packet: set [crashes] keep_packets = true and wait for the "
            "next death"
        )
    return {
        "libopus": libopus,
        **stream,
        "checkpoint": replay["checkpoint"],
        "journal": replay["journal"],
        "operation": crash["operation"],
        "packet": replay["packet"],
        "frame": replay.get("frame", 0),  # reports of older versions have none
    }


def run(job: dict[str, Any], seconds: float) -> Ending:
    """Run a job.

    Args:
        job: from `job_of`.
        seconds: a process that needs longer hangs.

    Raises:
        CannotReplayError: the process could not begin.
    """
    process = subprocess.Popen(  # noqa: S603  # this interpreter
        pychild.command("opuspool_workers.replay"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **pychild.options(),
    )
    out, err, hung = _communicate(process, json.dumps(job).encode(), seconds, _abort_signal())
    return _ending(process.returncode, out, err, seconds if hung else None)


def run_under_gdb(job: dict[str, Any], seconds: float) -> Ending:
    """Run a job under gdb, which shows the native stack where it stops; the same as `run`.

    Raises:
        CannotReplayError: there is no gdb, or the process could not begin.
    """
    gdb = shutil.which("gdb")
    if gdb is None:
        raise CannotReplayError(f"gdb is not installed: {INSTALL_GDB}")
    with tempfile.TemporaryDirectory(prefix="opuspool-replay-") as folder:  # only we can read it
        file = Path(folder, "job.json")
        file.write_text(json.dumps(job))
        command = pychild.command("opuspool_workers.replay", str(file))
        process = subprocess.Popen(  # noqa: S603  the gdb of this user's PATH
            [gdb, "-nx", "--batch", "-ex", "run", "-ex", "bt", "--args", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out, _, hung = _communicate(process, None, seconds, signal.SIGINT)
    return _ending_in_gdb(out, seconds if hung else None)


def _abort_signal() -> int:
    """What makes faulthandler write where it hangs."""
    return signal.SIGABRT if sys.platform != "win32" else signal.SIGTERM


def _communicate(
    process: subprocess.Popen[bytes], data: bytes | None, seconds: float, number: int
) -> tuple[str, str, bool]:
    """Wait for a process, at most so long before it gets a signal; it is gone in any case."""
    hung = False
    try:
        out, err = process.communicate(data, timeout=seconds)
    except subprocess.TimeoutExpired:
        hung = True
        process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=DUMP_SECONDS)
        process.kill()
        out, err = process.communicate()
    finally:
        process.kill()
        process.wait()
    tail = (err or b"")[-_TAIL_BYTES:]
    return out.decode(errors="replace"), tail.decode(errors="replace"), hung


def _ending(code: int, out: str, err: str, hung: float | None) -> Ending:
    said = _said(out)
    if hung is not None:
        return Ending(False, f"it hung for {hung:g} s, {_stage(said)}", err)
    if code == 0 and "result" in said:
        return _survived(said, err)
    reason, words = name_exit(code, err)
    if not said.get("stage"):
        raise CannotReplayError(f"the throw-away worker could not begin: {words}")
    return Ending(False, f"it killed its worker ({reason}: {words}), {_stage(said)}", err)


def _ending_in_gdb(out: str, hung: float | None) -> Ending:
    said = _said(out)
    if not said:
        raise CannotReplayError(f"it could not be run under gdb:\n{out.strip()}")
    details = "\n".join(line for line in out.splitlines() if not line.startswith('{"'))
    if hung is not None:
        return Ending(False, f"it hung for {hung:g} s, {_stage(said)}", details)
    if "result" in said:
        return _survived(said, details)
    found = _SIGNAL.search(out)
    words = found[1] if found else "it left"
    return Ending(False, f"it killed its worker ({words}), {_stage(said)}", details)


def _said(out: str) -> dict[str, Any]:
    """All that the process has said of itself; later words replace earlier ones."""
    said: dict[str, Any] = {}
    for line in out.splitlines():
        if line.startswith('{"'):
            with suppress(ValueError):
                said |= json.loads(line)
    return said


def _stage(said: dict[str, Any]) -> str:
    return _STAGES.get(str(said.get("stage")), "before it began")


def _survived(said: dict[str, Any], details: str) -> Ending:
    result = said["result"]
    if result < 0:
        words = f"libopus refused it (code {result}); the worker lives on"
    else:
        words = f"it gave {messages.count(result, 'sample')} per channel; the worker lives on"
    note = f" ({said['note']})" if said.get("note") else ""
    return Ending(True, words + note, details)
