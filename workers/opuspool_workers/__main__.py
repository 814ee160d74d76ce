"""One decoder process: `python -m opuspool_workers`, started by a supervisor."""

from __future__ import annotations

import faulthandler
import gc
import os
import platform
import signal
import sys
from pathlib import Path
from selectors import DefaultSelector
from typing import TYPE_CHECKING

import zmq

from opuspool import pychild, wire
from opuspool.curve import CurveKeys
from opuspool.errors import WireError, WorkerBootError
from opuspool.exitcause import caught, is_fault
from opuspool.exitcodes import ExitCode
from opuspool.parent import DeathSignal, ParentWatch
from opuspool.recorder import FlightRecorder
from opuspool.rundir import RunFiles
from opuspool.streamformat import StreamFormat
from opuspool_workers import heap, libopus, scheduling, selftest, settings
from opuspool_workers.checkpoint import Relocator
from opuspool_workers.clients import Clients
from opuspool_workers.decoder import ProtocolError
from opuspool_workers.guard import GuardedBuffer
from opuspool_workers.serve import LeaseRunner, Server

if TYPE_CHECKING:
    from selectors import BaseSelector

    from opuspool_workers.settings import WorkerSettings


PATIENCE_SECONDS = 0.5
"""A supervisor that dies may hold its lock for so long after its pipes have ended."""


def main() -> int:
    """Boot, serve, clear up; returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the supervisor's to handle, which drains
        signal.signal(number, signal.SIG_IGN)
    try:
        config = settings.read()
    except (ValueError, TypeError) as error:
        return _fail(ExitCode.USAGE, f"{error}")
    pychild.no_dialogs()
    heap.keep()
    scheduling.give_way()
    faulthandler.enable(settings.descriptor(config.fault_fd), all_threads=False)
    watch = ParentWatch()
    try:
        code = _serve(config, watch)
    except WorkerBootError as error:
        return _fail(ExitCode.NO_LIBOPUS, f"{error}")
    except selftest.SelfTestError as error:
        return _fail(ExitCode.SELF_TEST, f"{error}")
    except OSError as error:
        if not is_fault(error):
            raise
        return _fail(ExitCode.FAULT, caught(error))
    except (ProtocolError, WireError) as error:
        return _fail(ExitCode.PROTOCOL, f"{error}")
    except MemoryError:
        return _fail(ExitCode.NO_MEMORY, "out of memory")
    if code == ExitCode.ORPHANED:
        _clear_up(config)
    return code


def _clear_up(config: WorkerSettings) -> None:
    """The supervisor was killed: remove its sockets, and the other workers, hung or stopped."""
    if config.socket:
        files = RunFiles(Path(config.socket), config.own_directory)
        if not files.sweep(PATIENCE_SECONDS):
            return  # a successor lives there
    if sys.platform != "win32" and config.group == os.getpgrp():
        os.killpg(config.group, signal.SIGKILL)


def _serve(config: WorkerSettings, watch: ParentWatch) -> ExitCode:
    death_signal = DeathSignal(watch)
    before = Relocator.snapshot()
    if not death_signal.arm() or watch.gone():  # from here on it may hang in C
        return ExitCode.ORPHANED
    lib = libopus.load(config.libopus or None)
    largest = StreamFormat(48000, 2, "float32")
    buffer = GuardedBuffer(largest.capacity * largest.frame_bytes)
    selftest.check(lib, buffer)
    death_signal.disarm()
    relocator = Relocator.create(before)
    runner = LeaseRunner(lib, buffer, relocator, FlightRecorder(config.recorder_fd))
    context = zmq.Context()
    socket = _connect(context, config)
    selector = DefaultSelector()
    clients = _listen(config, selector)
    ready = {
        "pid": os.getpid(),
        "libopus": {"path": lib.path, "version": lib.version},
        "checkpoints": relocator is not None,
        "lanes": clients is not None,
        "python": platform.python_version(),
    }
    socket.send_multipart(wire.pack_json(wire.Kind.READY, ready))
    gc.freeze()
    code = Server(socket, clients, selector, runner, watch, death_signal).run()
    if clients is not None:
        clients.close()
    context.destroy(linger=0)
    return code


def _connect(context: zmq.Context[zmq.Socket[bytes]], config: WorkerSettings) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, bytes.fromhex(config.identity))
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_DATA_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 10)
    if config.curve:
        CurveKeys(**config.curve).join(socket)
    socket.connect(config.endpoint)
    return socket


def _listen(config: WorkerSettings, selector: BaseSelector) -> Clients | None:
    """Where clients may connect; None where they may not, or there is no room for it."""
    if not config.lanes:
        return None
    try:
        return Clients(Path(config.lanes), selector)
    except OSError as error:
        sys.stderr.write(f"opuspool-worker: no lanes at {config.lanes}: {error}\n")
        return None


def _fail(code: ExitCode, message: str) -> int:
    sys.stderr.write(f"opuspool-worker: {message}\n")
    return code


if __name__ == "__main__":
    result = main()
    sys.stderr.flush()
    os._exit(result)  # no interpreter teardown: it could only hang or fault
