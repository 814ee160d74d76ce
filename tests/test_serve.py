"""The worker's loop: leases in, results out; what cannot be ends the process and leaves a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

import faults
import pytest
import zmq
from opuspool_workers import libopus
from opuspool_workers.checkpoint import Relocator
from opuspool_workers.decoder import ProtocolError
from opuspool_workers.guard import GuardedBuffer
from opuspool_workers.serve import LeaseRunner
from recordings import speech_packets
from test_decoder import LOSS, SPEECH, plain, theirs
from waiting import wait_until

from opuspool import ops, recorder, wire
from opuspool.errors import WireError
from opuspool.exitcodes import ExitCode
from opuspool.ops import INVALID_PACKET, POISON, Op, OpKind
from opuspool.recorder import FlightRecorder, Position
from opuspool.streamformat import StreamFormat
from opuspool.wire import Action, Kind, Status, Step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from ctypes import c_void_p

PACKETS = speech_packets(2)
STEREO = StreamFormat(48000, 2, "int16")


@cache
def lib() -> libopus.LibOpus:
    return libopus.load()


@cache
def relocator() -> Relocator | None:
    return Relocator.create(frozenset(Relocator.snapshot() - {lib().path}))


@contextmanager
def memory() -> Iterator[FlightRecorder]:
    """A flight recorder that is given back."""
    fd = recorder.create()
    found = FlightRecorder(fd)
    os.close(fd)
    yield found
    found.close()


class Bench:
    """A runner and its flight recorder."""

    def __init__(self, record: FlightRecorder, how: Relocator | None) -> None:
        self.recorder = record
        self.runner = LeaseRunner(lib(), GuardedBuffer(46080), how, record)

    def run(self, *steps: Planned, tag: int = 7) -> list[Got]:
        """Run a lease; returns its results, taken apart."""
        answer = wire.parse(self.runner.run(lease(*steps, tag=tag)))
        assert (answer.kind, answer.tag) == (Kind.RESULTS, tag)
        rows = zip(answer.records, answer.payloads(), strict=True)
        return [Got(row.step, row.status, row.ops, payload) for row, payload in rows]


class Planned(NamedTuple):
    """A step of a lease and its payload."""

    step: Step
    payload: bytes


class Got(NamedTuple):
    """A result."""

    step: int
    status: int
    ops: int
    payload: bytes

    def outcome(self, fmt: StreamFormat = SPEECH) -> tuple[list[int], bytes]:
        """Samples or code of each operation, and the PCM of all."""
        return outcome_of(self, fmt)


class Answered(Protocol):
    """What a worker has answered."""

    @property
    def ops(self) -> int:
        """How many operations."""

    @property
    def payload(self) -> bytes:
        """Their outcome."""


def outcome_of(got: Answered, fmt: StreamFormat) -> tuple[list[int], bytes]:
    found = ops.unpack_outcome(got.payload, got.ops, fmt.frame_bytes)
    return list(found.results), bytes(found.pcm)


def lease(*steps: Planned, tag: int = 7) -> wire.Message:
    """What a worker receives."""
    records, payloads = [step for step, _ in steps], [payload for _, payload in steps]
    return wire.parse(wire.pack(Kind.LEASE, records, payloads, tag))


def planned(
    action: int,
    stream: int = 1,
    operations: list[Op] | None = None,
    payload: bytes = b"",
    fmt: StreamFormat = SPEECH,
) -> Planned:
    blob = ops.pack(operations) if operations else payload
    count = len(operations or [])
    return Planned(Step(stream, len(blob), count, fmt.code, action), blob)


def opened(stream: int = 1, fmt: StreamFormat = SPEECH) -> Planned:
    return planned(Action.OPEN, stream, fmt=fmt)


def decode(operations: list[Op], stream: int = 1) -> Planned:
    return planned(Action.DECODE, stream, operations)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with memory() as record:
        yield Bench(record, relocator())


@pytest.fixture
def plain_bench() -> Iterator[Bench]:
    """One whose worker can make no checkpoints."""
    with memory() as record:
        yield Bench(record, None)


# ---- what the actions do --------------------------------------------------------------------


@pytest.mark.parametrize("fmt", [SPEECH, STEREO])
def test_decode_gives_the_outcome_of_its_operations(bench: Bench, fmt: StreamFormat) -> None:
    operations = [*plain(PACKETS[:20]), LOSS, *plain(PACKETS[21:])]
    (got,) = bench.run(opened(fmt=fmt), decode(operations))
    assert got[:3] == (1, Status.OK, len(operations))
    assert got.outcome(fmt) == theirs(operations, fmt)


def test_a_streams_state_is_kept_between_leases(bench: Bench) -> None:
    bench.run(opened())
    pcm = b""
    for at in range(0, 100, 10):
        (got,) = bench.run(decode(plain(PACKETS[at : at + 10])))
        pcm += got.outcome()[1]
    assert pcm == theirs(plain(PACKETS[:100]), SPEECH)[1]


def test_results_come_in_the_order_of_the_steps_one_for_each_that_has_one(bench: Bench) -> None:
    results = bench.run(
        opened(1),
        opened(2, STEREO),
        decode(plain(PACKETS[:3]), 2),
        planned(Action.CHECKPOINT, 1),
        planned(Action.REPLAY, 1, plain(PACKETS[:5])),
        decode([LOSS], 1),
        planned(Action.CLOSE, 1),
        decode(plain(PACKETS[3:5]), 2),
    )
    assert [(got.step, got.ops) for got in results] == [(2, 3), (3, 0), (5, 1), (7, 2)]
    pcm = results[0].outcome(STEREO)[1] + results[3].outcome(STEREO)[1]
    assert pcm == theirs(plain(PACKETS[:5]), STEREO)[1]


def test_an_empty_lease_has_no_results(bench: Bench) -> None:
    assert bench.run() == []


def test_replay_moves_the_state_and_gives_nothing(bench: Bench) -> None:
    (got,) = bench.run(
        opened(), planned(Action.REPLAY, 1, plain(PACKETS[:50])), decode(plain(PACKETS[50:]))
    )
    samples, pcm = theirs(plain(PACKETS), SPEECH)
    assert got.outcome() == (samples[50:], pcm[50 * 320 * 4 :])


def test_replay_passes_over_what_was_refused_or_is_poison(bench: Bench) -> None:
    refused = [Op(OpKind.PACKET, b"\xff\xff"), Op(OpKind.POISONED, b"")]
    history = [*plain(PACKETS[:20]), *refused, *plain(PACKETS[20:40])]
    (got,) = bench.run(opened(), planned(Action.REPLAY, 1, history), decode([LOSS]))
    pcm = theirs([*plain(PACKETS[:40]), LOSS], SPEECH)[1]
    assert got.outcome() == ([320], pcm[40 * 320 * 4 :])


def test_failed_operations_are_told_beside_the_pcm_of_the_others(bench: Bench) -> None:
    operations = [*plain(PACKETS[:1]), Op(OpKind.PACKET, b"\xff\xff"), Op(OpKind.POISONED, b"")]
    operations += plain(PACKETS[1:2])
    (got,) = bench.run(opened(), decode(operations))
    assert got.status == Status.FAILED_OPS
    samples, pcm = theirs(plain(PACKETS[:2]), SPEECH)
    assert got.outcome() == ([samples[0], INVALID_PACKET, POISON, samples[1]], pcm)


def test_open_puts_a_fresh_decoder_in_place_of_the_old_one(bench: Bench) -> None:
    first, again = bench.run(
        opened(), decode(plain(PACKETS)), opened(fmt=STEREO), decode(plain(PACKETS[:5]))
    )
    assert first.outcome() == theirs(plain(PACKETS), SPEECH)
    assert again.outcome(STEREO) == theirs(plain(PACKETS[:5]), STEREO)
    assert list(bench.runner.decoders) == [1]


def test_each_decoder_is_destroyed_once_however_its_stream_ends() -> None:
    """By CLOSE, by OPEN and by RESTORE over it; closing twice does nothing."""
    created: list[int | None] = []
    destroyed: list[int | None] = []

    def create(*arguments: object) -> int | None:
        created.append(lib().create(*arguments))
        return created[-1]

    def destroy(state: c_void_p) -> None:
        destroyed.append(state.value)
        lib().destroy(state)

    counting = replace(lib(), create=create, destroy=destroy)
    with memory() as record:
        runner = LeaseRunner(counting, GuardedBuffer(46080), relocator(), record)
        close = planned(Action.CLOSE)
        restore = planned(Action.RESTORE, payload=b"damaged")
        runner.run(lease(opened(), opened(), restore, close, close))
    assert len(created) == 3
    assert destroyed == created
    assert runner.decoders == {}


def test_closing_an_unknown_stream_does_nothing(bench: Bench) -> None:
    assert bench.run(planned(Action.CLOSE, 99)) == []


# ---- checkpoints ----------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="checkpoints need /proc")
def test_a_stream_goes_on_from_its_checkpoint_under_another_name(bench: Bench) -> None:
    _, checkpoint = bench.run(
        opened(), decode(plain(PACKETS[:40])), planned(Action.CHECKPOINT), planned(Action.CLOSE)
    )
    assert checkpoint.status == Status.OK
    restore = planned(Action.RESTORE, 2, payload=checkpoint.payload)
    replay = planned(Action.REPLAY, 2, plain(PACKETS[40:60]))
    (got,) = bench.run(restore, replay, decode(plain(PACKETS[60:]), 2))
    samples, pcm = theirs(plain(PACKETS), SPEECH)
    assert got.outcome() == (samples[60:], pcm[60 * 320 * 4 :])


def test_a_worker_that_can_make_none_gives_an_empty_checkpoint(plain_bench: Bench) -> None:
    (got,) = plain_bench.run(opened(), planned(Action.CHECKPOINT))
    assert got == (1, Status.OK, 0, b"")


def test_a_worker_that_can_read_none_refuses_one(plain_bench: Bench) -> None:
    with pytest.raises(ProtocolError, match="cannot read checkpoints"):
        plain_bench.run(planned(Action.RESTORE, payload=b"x"))


@pytest.mark.skipif(sys.platform != "linux", reason="checkpoints need /proc")
def test_a_checkpoint_that_cannot_be_used_is_told_and_the_stream_starts_afresh(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    """As after an upgrade of libopus on disk."""
    restore = planned(Action.RESTORE, payload=b"OCP1, but damaged")
    (got,) = bench.run(restore, decode(plain(PACKETS[:9])))
    assert got.outcome() == theirs(plain(PACKETS[:9]), SPEECH)
    assert "checkpoint not used: not a checkpoint" in capfd.readouterr().err


# ---- what cannot be -------------------------------------------------------------------------

IMPOSSIBLE: dict[str, tuple[list[Planned], type[Exception], str]] = {
    "unknown action": ([planned(99)], ProtocolError, "unknown action 99"),
    "action 0": ([planned(0)], ProtocolError, "unknown action 0"),
    "decode of no stream": ([decode([LOSS])], ProtocolError, "stream 1 does not live here"),
    "replay of no stream": ([planned(Action.REPLAY, 5, [LOSS])], ProtocolError, "stream 5"),
    "checkpoint of no stream": ([planned(Action.CHECKPOINT, 6)], ProtocolError, "stream 6"),
    "decode after close": (
        [opened(), planned(Action.CLOSE), decode([LOSS])],
        ProtocolError,
        "stream 1",
    ),
    "unknown format": (
        [Planned(Step(1, 0, 0, 0x77, Action.OPEN), b"")],
        ProtocolError,
        "unknown format 119",
    ),
    "no operations": ([opened(), planned(Action.DECODE)], WireError, "0 operations"),
    "half an operation": (
        [opened(), Planned(Step(1, 3, 1, 0, Action.DECODE), b"abc")],
        WireError,
        "3 bytes",
    ),
    "unknown operation": (
        [opened(), Planned(Step(1, 4, 1, 0, Action.DECODE), b"\0\0\0\x63")],
        WireError,
        "0x63000000",
    ),
    "more packet than payload": (
        [opened(), Planned(Step(1, 4, 1, 0, Action.REPLAY), b"\x05\0\0\0")],
        WireError,
        "5 bytes in a blob",
    ),
}


@pytest.mark.parametrize(("steps", "error", "words"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_lease_that_cannot_be_run_raises(
    bench: Bench, steps: list[Planned], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        bench.run(*steps)


def test_more_samples_than_fit_are_no_samples() -> None:
    """A decoder that claims them has written past its buffer, or lies; either way it must go."""
    for claim, refused in ((1920, False), (1921, True), (100_000, True)):
        liar = replace(lib(), decode_float=lambda *_, claim=claim: claim)
        with memory() as record:
            runner = LeaseRunner(liar, GuardedBuffer(46080), None, record)
            work = lease(opened(), decode([LOSS]))
            if refused:
                with pytest.raises(ProtocolError, match=f"claims {claim} samples, at most 1920"):
                    runner.run(work)
            else:
                runner.run(work)


# ---- the flight recorder --------------------------------------------------------------------


def test_the_recorder_says_idle_after_a_lease_and_has_counted(bench: Bench) -> None:
    bench.run(opened(), decode(plain(PACKETS[:30])))
    position = bench.recorder.position()
    assert position.lease == 0
    assert position.progress >= 30
    bench.run(decode([LOSS]))
    assert bench.recorder.position().progress > position.progress


def test_the_recorder_keeps_the_place_of_what_could_not_be_run(bench: Bench) -> None:
    with pytest.raises(ProtocolError):
        bench.run(opened(), decode(plain(PACKETS[:5])), decode([LOSS], 2), tag=41)
    assert named(bench.recorder.position()) == (41, 2, 0)


IN_A_PROCESS = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from opuspool import wire
from opuspool.recorder import FlightRecorder
from opuspool_workers import libopus
from opuspool_workers.guard import GuardedBuffer
from opuspool_workers.serve import LeaseRunner
lib = libopus.load(os.environ["OPUSPOOL_LIBOPUS"])
runner = LeaseRunner(lib, GuardedBuffer(46080), None, FlightRecorder(int(sys.argv[1])))
header, data = sys.stdin.buffer.read().split(b"|SPLIT|")
runner.run(wire.parse([header, data]))
"""
"""Runs one lease of its standard input with the faulting libopus."""


@contextmanager
def running(fault: str, *, at: int) -> Iterator[tuple[subprocess.Popen[bytes], FlightRecorder]]:
    """A process that runs a lease of three decodes; packet `at` of the second one faults."""
    operations = plain(PACKETS[:12])
    operations[at] = Op(OpKind.PACKET, faults.marker(fault))
    steps = [opened(), opened(2), decode(plain(PACKETS[:20])), decode(operations, 2)]
    steps.append(decode(plain(PACKETS[20:30])))
    frames = wire.pack(Kind.LEASE, [s for s, _ in steps], [payload for _, payload in steps], 1234)
    fd = recorder.create()
    record = FlightRecorder(fd)
    process = subprocess.Popen(
        [sys.executable, "-c", IN_A_PROCESS, str(fd)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=[fd],
        env=os.environ | faults.environment(),
    )
    os.close(fd)
    with process:
        assert process.stdin is not None
        process.stdin.write(b"|SPLIT|".join(frames))
        process.stdin.close()
        yield process, record
        process.kill()
    record.close()


FATAL = {
    "segv": -signal.SIGSEGV,
    "abort": -signal.SIGABRT,
    "bus": -signal.SIGBUS,
    "stack": -signal.SIGSEGV,
    "overrun": -signal.SIGSEGV,
    "exit0": 0,
    "badreturn": 1,
}


@pytest.mark.skipif(os.name != "posix", reason="faults show as signals")
@pytest.mark.parametrize("fault", FATAL)
@pytest.mark.parametrize("at", [0, 7])
def test_after_a_death_the_recorder_names_the_packet(fault: str, at: int) -> None:
    with running(fault, at=at) as (process, record):
        assert process.wait(30) == FATAL[fault]
        position = record.position()
    assert named(position) == (1234, 3, at)


@pytest.mark.skipif(os.name != "posix", reason="faults show as signals")
def test_while_libopus_hangs_the_recorder_names_the_packet_and_stands_still() -> None:
    with running("loop", at=7) as (process, record):
        wait_until(lambda: named(record.position()) == (1234, 3, 7), what="at the packet")
        before = record.position()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        assert record.position() == before


def named(position: Position) -> tuple[int, int, int]:
    return position.lease, position.record, position.op


# ---- the process ----------------------------------------------------------------------------


class Worker:
    """A real worker, and the socket that it connects to."""

    def __init__(self, process: subprocess.Popen[bytes], socket: zmq.Socket[bytes]) -> None:
        self.process = process
        self._socket = socket
        self.identity = b""
        self.ready = self.receive().json()

    def send(self, frames: wire.Frames) -> None:
        self._socket.send_multipart([self.identity, *frames])

    def receive(self) -> wire.Message:
        assert self._socket.poll(20_000), self._why()
        self.identity, *frames = self._socket.recv_multipart()
        return wire.parse(frames)

    def _why(self) -> str:
        self.process.kill()
        return f"no answer: {self.stderr()}"

    def stderr(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said, once it has left."""
        code = self.process.wait(20)
        return code, self.stderr()


def settings_for(endpoint: str, fds: tuple[int, int]) -> bytes:
    """The line that a supervisor writes to a new worker."""
    settings = {
        "endpoint": endpoint,
        "identity": b"worker".hex(),
        "recorder_fd": fds[0],
        "fault_fd": fds[1],
        "libopus": os.environ.get("OPUSPOOL_LIBOPUS", ""),
        "socket": "",
        "own_directory": False,
        "curve": {},
    }
    return json.dumps(settings).encode() + b"\n"


@pytest.fixture
def worker() -> Iterator[Worker]:
    """A worker that has said READY; the faulting libopus where `faulty` was asked for before."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        fds = recorder.create(), recorder.create()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "opuspool_workers"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=fds,
            process_group=0,  # an orphan kills its group
        )
        for fd in fds:
            os.close(fd)
        with process:
            assert process.stdin is not None
            process.stdin.write(settings_for(f"tcp://127.0.0.1:{port}", fds))
            process.stdin.flush()
            yield Worker(process, socket)
            process.kill()


linux = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are inherited")


@linux
def test_a_worker_says_what_it_is_answers_leases_and_leaves_when_told(worker: Worker) -> None:
    assert worker.ready["pid"] == worker.process.pid
    assert worker.ready["libopus"]["path"] == lib().path
    assert worker.ready["checkpoints"] is True
    worker.send(wire.pack_plain(Kind.PING))
    assert worker.receive().kind is Kind.PING
    for step in (opened(), decode(plain(PACKETS[:50]))):
        worker.send(wire.pack(Kind.LEASE, [step.step], [step.payload], 5))
        answer = worker.receive()
        assert (answer.kind, answer.tag) == (Kind.RESULTS, 5)
    (row,) = answer.records
    got = Got(row.step, row.status, row.ops, answer.data)
    assert got.outcome() == theirs(plain(PACKETS[:50]), SPEECH)
    worker.send(wire.pack_plain(Kind.STOP))
    assert worker.end() == (ExitCode.OK, "")


@linux
def test_an_idle_worker_leaves_when_its_parent_lets_go(worker: Worker) -> None:
    """And takes its group along, itself too: other workers may hang."""
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert worker.end() == (ExitCode.ORPHANED, "")


IN_ITS_PARENTS_GROUP = """
import subprocess, sys
worker = subprocess.Popen(
    [sys.executable, "-P", "-m", "opuspool_workers"],
    stdin=subprocess.PIPE, pass_fds=[int(fd) for fd in sys.argv[1:]],
)
worker.stdin.write(sys.stdin.buffer.readline())
worker.stdin.close()
print(worker.wait() != 0, "alive", flush=True)
"""
"""As a script or a shell that starts a worker by hand: they share a group of processes."""


@linux
def test_an_orphan_kills_no_group_that_is_not_the_workers_own() -> None:
    fds = recorder.create(), recorder.create()
    done = subprocess.run(
        [sys.executable, "-c", IN_ITS_PARENTS_GROUP, *map(str, fds)],
        input=settings_for("tcp://127.0.0.1:1", fds),
        stdout=subprocess.PIPE,
        pass_fds=fds,
        process_group=0,
        timeout=60,
        check=False,
    )
    for fd in fds:
        os.close(fd)
    assert (done.returncode, done.stdout) == (0, b"True alive\n")


UNREADABLE: dict[str, tuple[wire.Frames, str]] = {
    "garbage": ((b"garbage", b""), "header of 7 bytes"),
    "another release": ((b"OPUS\x63" + bytes(15), b""), "wire version 99"),
    "a client's message": (wire.pack_plain(Kind.BYE), "unexpected BYE"),
    "a stream it does not have": (
        wire.pack(Kind.LEASE, [decode([LOSS]).step], [decode([LOSS]).payload], 5),
        "does not live here",
    ),
}


@linux
@pytest.mark.parametrize(("frames", "words"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_worker_leaves_on_what_it_cannot_read(
    frames: wire.Frames, words: str, worker: Worker
) -> None:
    worker.send(frames)
    code, stderr = worker.end()
    assert code == ExitCode.PROTOCOL
    assert words in stderr
    assert "Traceback" not in stderr


@linux
@pytest.mark.usefixtures("faulty")
class TestWithTheFaultingLibopus:
    """`faulty` goes first: fixtures of a class come before those of its tests' arguments."""

    def test_a_worker_whose_libopus_claims_too_many_samples_leaves(self, worker: Worker) -> None:
        steps = [opened(), decode([Op(OpKind.PACKET, faults.marker("badreturn"))])]
        frames = wire.pack(Kind.LEASE, [s for s, _ in steps], [p for _, p in steps], 1)
        worker.send(frames)
        code, stderr = worker.end()
        assert code == ExitCode.PROTOCOL
        assert "claims 100000 samples" in stderr

    def test_libopus_own_error_is_an_outcome(self, worker: Worker) -> None:
        steps = [opened(), decode([Op(OpKind.PACKET, faults.marker("negative")), LOSS])]
        worker.send(wire.pack(Kind.LEASE, [s for s, _ in steps], [p for _, p in steps], 1))
        answer = worker.receive()
        assert answer.records[0].status == Status.FAILED_OPS
        assert ops.unpack_outcome(answer.data, 2, 4).results == (-3, 320)


SETTINGS = {
    "none": (b"", "standard input ended"),
    "half a line": (b'{"endpoint"', "standard input ended"),
    "not JSON": (b"hello\n", "Expecting value"),
    "too few": (b"{}\n", "missing"),
    "not an object": (b"[1]\n", ""),
}


@pytest.mark.parametrize(("line", "words"), SETTINGS.values(), ids=SETTINGS)
def test_a_worker_without_settings_says_so_and_leaves(line: bytes, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "opuspool_workers"],
        input=line,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    stderr = done.stderr.decode()
    assert done.returncode == ExitCode.USAGE, stderr
    assert words in stderr
    assert "Traceback" not in stderr


# ---- Windows' way, anywhere -----------------------------------------------------------------

ACCESS_VIOLATION = """
import os, sys
import zmq
from opuspool import wire
from opuspool_workers.serve import Server

class Runner:
    def run(self, message):
        raise OSError("exception: access violation writing 0x000000208F210000")

class DeathSignal:
    def arm(self):
        return True

socket = zmq.Context().socket(zmq.DEALER)
lease = wire.Message(wire.Kind.LEASE, 1, [], b"")
Server(socket, None, None, Runner(), None, DeathSignal())._run(Runner().run, lease)
"""
"""What ctypes does with an access violation on Windows."""


def test_an_access_violation_that_ctypes_caught_ends_the_process_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ACCESS_VIOLATION], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == ExitCode.FAULT
    assert b"access violation writing 0x000000208F210000" in done.stderr


def test_an_access_violation_ends_the_process_also_where_nobody_reads_stderr() -> None:
    program = ACCESS_VIOLATION.replace("Server(", "os.close(2)\nServer(")
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == ExitCode.FAULT


DEAF = """
import os, sys
import zmq
from opuspool import recorder, wire
from opuspool_workers import libopus
from opuspool_workers.checkpoint import Relocator
from opuspool_workers.guard import GuardedBuffer
from opuspool_workers.serve import LeaseRunner, Server

class DeathSignal:
    def arm(self):
        return True
    def disarm(self):
        print("alive", flush=True)
        os._exit(0)

before = Relocator.snapshot()
lib = libopus.load()
how = Relocator.create(before)
record = recorder.FlightRecorder(recorder.create())
runner = LeaseRunner(lib, GuardedBuffer(46080), how, record)
step = wire.Step(1, 4, 0, 0, wire.Action.RESTORE)
message = wire.parse(wire.pack(wire.Kind.LEASE, [step], [b"none"], 1))
os.close(2)
socket = zmq.Context().socket(zmq.DEALER)
Server(socket, None, None, runner, None, DeathSignal())._run(runner.run, message)
"""
"""Passes over a checkpoint where nobody reads what it says of it."""


@linux
def test_where_nobody_reads_stderr_an_unused_checkpoint_is_no_access_violation() -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEAF], capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"alive\n")
