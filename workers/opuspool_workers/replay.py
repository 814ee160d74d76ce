"""Replays the packet of a crash report: `python -m opuspool_workers.replay [FILE]`.

It reads one JSON object, from FILE or from standard input, rebuilds the decoder and runs the
operation; a throw-away process, for it may die of that as the worker did. Before each stage it
prints a line of JSON that names it, at the end one with the result:

    {"stage": "checkpoint"}   then "journal", "operation", "destroy"
    {"result": samples per channel or a code of libopus, "note": what to know of it}
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opuspool import ops, pychild
from opuspool.errors import WireError, WorkerBootError
from opuspool.exitcause import caught
from opuspool.exitcodes import ExitCode
from opuspool.ops import OpKind
from opuspool.parent import DeathSignal, ParentWatch
from opuspool.streamformat import StreamFormat
from opuspool_workers import libopus
from opuspool_workers.checkpoint import Relocator
from opuspool_workers.decoder import Decoder
from opuspool_workers.guard import GuardedBuffer

if TYPE_CHECKING:
    from opuspool.ops import Op


class Job:
    """What to replay.

    Raises:
        KeyError, ValueError, TypeError: it is not a job.
        WireError: its journal is not one.
    """

    def __init__(self, value: dict[str, Any]) -> None:
        self.libopus: str = value["libopus"]
        self.format = StreamFormat(value["sample_rate"], value["channels"], value["dtype"])
        state = value["checkpoint"]
        self.checkpoint = None if state is None else bytes.fromhex(state)
        self.journal: list[Op] = []
        for count, blob in value["journal"]:
            self.journal += ops.unpack(bytes.fromhex(blob), count)
        self.kind = OpKind[value["operation"].upper()]
        self.packet = bytes.fromhex(value["packet"])
        self.frame: int = value["frame"]


def main() -> int:
    """Replay; returns the exit code."""
    pychild.no_dialogs()
    faulthandler.enable(all_threads=False)
    if sys.platform != "win32" and not DeathSignal(ParentWatch(stdin=False)).arm():
        return ExitCode.OK
    try:
        data = Path(sys.argv[1]).read_bytes() if len(sys.argv) > 1 else sys.stdin.buffer.read()
        job = Job(json.loads(data))
    except (OSError, KeyError, ValueError, TypeError, WireError) as error:
        return _fail(ExitCode.USAGE, f"not a job to replay: {error!r}")
    try:
        return _replay(job)
    except WorkerBootError as error:
        return _fail(ExitCode.NO_LIBOPUS, f"{error}")
    except OSError as error:  # Windows: ctypes caught an access violation
        return _fail(ExitCode.FAULT, caught(error))


def _replay(job: Job) -> int:
    before = Relocator.snapshot()
    lib = libopus.load(job.libopus or None)
    relocator = Relocator.create(before)
    buffer = GuardedBuffer(job.format.max_packet_pcm_bytes)
    _say(stage="checkpoint")
    decoder = Decoder(lib, job.format, buffer)
    note = _restore(decoder, relocator, job.checkpoint)
    _say(stage="journal")
    for op in job.journal:
        decoder.run(op.kind, op.packet, op.frame)
    _say(stage="operation")
    result = decoder.run(job.kind, job.packet, job.frame)
    if result > decoder.capacity:
        fits = f"at most {decoder.capacity} fit"
        return _fail(ExitCode.PROTOCOL, f"libopus claims {result} samples, {fits}")
    _say(stage="destroy")  # a damaged heap shows here at the latest
    decoder.close()
    _say(result=result, note=note)
    return ExitCode.OK


def _restore(decoder: Decoder, relocator: Relocator | None, checkpoint: bytes | None) -> str:
    """Put the decoder into the state of the checkpoint; returns why that was not done, or ""."""
    if checkpoint is None:
        return ""
    if relocator is None:
        return "the checkpoint cannot be used on this system"
    try:
        decoder.import_state(relocator.unpack(checkpoint))
    except ValueError as error:
        return f"the checkpoint was not used: {error}"
    return ""


def _say(**value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _fail(code: ExitCode, message: str) -> int:
    sys.stderr.write(f"opuspool-worker: {message}\n")
    return code


if __name__ == "__main__":
    result = main()
    sys.stderr.flush()
    os._exit(result)  # no interpreter teardown: it could only hang or fault
