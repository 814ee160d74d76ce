"""Lanes, in real pools: streams are lent, and what was lent comes back bit for bit."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
import pytest
from killing import stopped
from matrix import PACKETS
from reference import golden
from waiting import wait_until

import opuspool
from opuspool import calls, config, ops, wire
from opuspool.lanesocket import LaneSocket
from opuspool.ops import Op, OpKind
from opuspool.pool import _ThreadCall
from opuspool.wire import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opuspool.aio import AsyncStream
    from opuspool.lane import Lane
    from opuspool.pool import Pool, Stream

QUICK = {"recovery": {"checkpoint_packets": 20}}


@contextmanager
def pooled(settings: dict[str, dict[str, Any]] | None = None) -> Iterator[Pool]:
    with opuspool.Pool(config=config.load(overrides={**QUICK, **(settings or {})})) as pool:
        yield pool


def is_lent(stream: Stream | AsyncStream) -> bool:
    return stream._state.lane is not None


def lend(stream: Stream, packets: Iterator[bytes]) -> list[opuspool.pcm.Pcm]:
    """Speak until the stream is lent."""
    pcm: list[opuspool.pcm.Pcm] = []
    while not is_lent(stream):
        pcm.append(stream.decode(next(packets)))
        assert len(pcm) < 200, "it is never lent"
    return pcm


def home(pool: Pool) -> int:
    """The process where the only stream lives."""
    return int(next(w["pid"] for w in pool.status()["workers"] if w["streams"]))


@contextmanager
def beside(lane: Lane) -> Iterator[LaneSocket]:
    """Another connection to the same worker."""
    own = lane._socket._socket
    with socket.socket(own.family, own.type) as connected:
        connected.connect(own.getpeername())
        yield LaneSocket(connected, wire.MAX_DATA_BYTES)


def counters(pool: Pool) -> dict[str, Any]:
    status = pool.status()
    assert status["unbalanced"] == []
    found: dict[str, Any] = status["counters"]
    return found


def test_a_live_stream_is_lent_and_counted() -> None:
    """What goes past the supervisor is in its books all the same."""
    packets = PACKETS[:300]
    with pooled() as pool, pool.stream() as stream:
        pcm = [stream.decode(packet) for packet in packets]
        assert is_lent(stream)
        counted = counters(pool)
        assert counted["streams_lent"] == 1
        assert counted["requests"]["ok"] == counted["packets_decoded"] == 300
        assert counted["audio_seconds"] == pytest.approx(6.0)
        assert counted["checkpoints"] > 10
        assert sum(pool.status()["timings"]["decode_seconds"]["counts"]) == 300
    assert np.array_equal(np.concatenate(pcm), golden(packets))


@pytest.mark.parametrize(
    "settings",
    [{"requests": {"lanes": False}}, {"crashes": {"keep_packets": True}}],
    ids=["lanes off", "packets kept"],
)
def test_where_lanes_are_not_wanted_nothing_is_lent(settings: dict[str, dict[str, Any]]) -> None:
    with pooled(settings) as pool, pool.stream() as stream:
        pcm = [stream.decode(packet) for packet in PACKETS[:50]]
        assert not is_lent(stream)
        assert counters(pool)["streams_lent"] == 0
    assert np.array_equal(np.concatenate(pcm), golden(PACKETS[:50]))


def test_whole_utterances_are_not_lent() -> None:
    with pooled() as pool:
        for _ in range(5):
            assert np.array_equal(pool.decode(PACKETS[:200]), golden(PACKETS[:200]))
        assert counters(pool)["streams_lent"] == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_lent_stream_outlives_its_workers(number: signal.Signals) -> None:
    """Checkpoint and log come from the client; soon it is lent again."""
    packets = PACKETS[:400]
    rest = iter(packets)
    with pooled() as pool, pool.stream() as stream:
        pcm = []
        for _ in range(4):
            pcm += lend(stream, rest)
            pcm += [stream.decode(next(rest)) for _ in range(30)]
            os.kill(home(pool), number)
            pcm.append(stream.decode(next(rest)))
        pcm += [stream.decode(packet) for packet in rest]
        counted = counters(pool)
        assert counted["streams_returned"] == 4
        assert counted["inexact_rebuilds"] == counted["poison_packets"] == 0
    assert np.array_equal(np.concatenate(pcm), golden(packets))


@pytest.mark.parametrize("fault", ["segv", "loop"])
def test_poison_by_a_lane_is_refused_alone(faulty: Path, fault: str) -> None:
    """It has two attempts, the first by the lane; the stream goes on, and is lent again."""
    del faulty
    rest = iter(PACKETS[:120])
    with pooled() as pool, pool.stream() as stream:
        pcm = lend(stream, rest)
        with pytest.raises(opuspool.PoisonPacketError):
            stream.decode(faults.marker(fault))
        pcm += lend(stream, rest)
        pcm += [stream.decode(packet) for packet in rest]
        counted = counters(pool)
        reason = {"segv": "segv", "loop": "hang"}[fault]
        assert counted["worker_restarts"][reason] == 2
        assert counted["poison_packets"] == 1
    assert np.array_equal(np.concatenate(pcm), golden(PACKETS[:120]))


def test_known_poison_kills_nobody_by_a_lane(faulty: Path) -> None:
    """Workers are told what is in quarantine."""
    del faulty
    with pooled() as pool, pool.stream() as first, pool.stream() as second:
        with pytest.raises(opuspool.PoisonPacketError):
            first.decode(faults.marker("segv"))
        lend(second, iter(PACKETS))
        with pytest.raises(opuspool.PoisonPacketError):
            second.decode(faults.marker("segv"))
        assert is_lent(second)
        counted = counters(pool)
        assert counted["worker_restarts"]["segv"] == 2
        assert counted["quarantine_hits"] == 1


def test_a_passing_fault_by_a_lane_is_not_noticed(faulty: Path) -> None:
    del faulty
    packets = PACKETS[:60]
    with pooled() as pool, pool.stream() as stream:
        rest = iter(packets[:50])
        pcm = lend(stream, rest)
        pcm += [stream.decode(packet) for packet in rest]
        pcm.append(stream.decode(faults.marker("segv-once", like=packets[50])))
        pcm += [stream.decode(packet) for packet in packets[51:]]
        assert counters(pool)["worker_restarts"]["segv"] == 1
    assert np.array_equal(np.concatenate(pcm), golden(packets))


def test_calls_of_many_threads_keep_their_order_while_workers_die() -> None:
    """Streams of one pool, each from a thread of its own."""
    packets = PACKETS[:300]
    expected = golden(packets)
    wrong: list[int] = []
    with pooled() as pool:

        def speak(number: int) -> None:
            with pool.stream() as stream:
                pcm = [stream.decode(packet) for packet in packets]
            if not np.array_equal(np.concatenate(pcm), expected):
                wrong.append(number)

        threads = [threading.Thread(target=speak, args=(n,)) for n in range(12)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            victim = next((w["pid"] for w in pool.status()["workers"] if w["pid"]), None)
            if victim is not None:
                os.kill(victim, signal.SIGKILL)
            threads[0].join(0.1)
        for thread in threads:
            thread.join()
        counters(pool)
    assert wrong == []


def test_several_calls_of_one_stream_under_way_then_its_end() -> None:
    """Its end does not overtake them."""
    packets = PACKETS[:100]
    with pooled() as pool:
        stream = pool.stream()
        rest = iter(packets)
        pcm = lend(stream, rest)
        many = list(rest)
        results: list[opuspool.pcm.Pcm] = []
        thread = threading.Thread(target=lambda: results.append(stream.decode_many(many)))
        thread.start()
        thread.join()
        stream.close()
        wait_until(lambda: pool.status()["streams"] == 0, what="the supervisor knows of its end")
    assert np.array_equal(np.concatenate([*pcm, *results]), golden(packets))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_worker_that_is_replaced_gives_its_streams_back(at_once: bool) -> None:
    packets = PACKETS * 10
    rest = iter(packets)
    with pooled() as pool, pool.stream() as stream:
        pcm = lend(stream, rest)
        slot = next(w["slot"] for w in pool.status()["workers"] if w["streams"])
        pool.replace_worker(slot, at_once=at_once)

        def came_back() -> bool:
            pcm.extend(stream.decode(packet) for packet in islice(rest, 10))
            return bool(counters(pool)["streams_returned"])

        wait_until(came_back, what="the stream has come back")
        pcm += [stream.decode(packet) for packet in islice(rest, 100)]
        counted = counters(pool)
        assert counted["streams_returned"] == 1
        assert counted["retries"] == 0 or at_once
    assert np.array_equal(np.concatenate(pcm), golden(packets[: len(pcm)]))


def test_what_a_client_ends_itself_is_counted(faulty: Path) -> None:
    """A deadline that passes by a lane; what it was of is still executed, and known."""
    del faulty
    packets = PACKETS[:80]
    with pooled({"workers": {"hang_seconds": 5.0}}) as pool, pool.stream() as stream:
        rest = iter(packets[:40])
        pcm = lend(stream, rest)
        pcm += [stream.decode(packet) for packet in rest]
        late = [faults.marker("slow", like=packet) for packet in packets[40:60]]
        with pytest.raises(opuspool.DecodeTimeoutError):
            stream.decode_many(late, timeout=0.2)
        right = golden(packets)
        pcm += [right[40 * 320 : 60 * 320], *[stream.decode(p) for p in packets[60:]]]
        wait_until(lambda: counters(pool)["requests"]["timeout"] == 1, what="it is counted")
    assert np.array_equal(np.concatenate(pcm), right)


def test_what_was_executed_after_its_deadline_is_known_after_a_death() -> None:
    """By the supervisor's way its client is told that it was not: that must not take the stream."""
    packets = PACKETS[:60]
    patient = {"workers": {"count": 1, "spares": 1, "hang_seconds": 20.0}}
    with pooled(patient) as pool, pool.stream() as other, pool.stream() as stream:
        lend(other, iter(PACKETS))
        worker = home(pool)
        with stopped(worker), pytest.raises(opuspool.DecodeTimeoutError):
            stream.decode(packets[0], timeout=0.3)
        wait_until(lambda: pool.status()["in_flight"] == 0, what="it is executed all the same")
        pcm = [stream.decode(packets[1])]
        os.kill(worker, signal.SIGKILL)
        pcm += [stream.decode(packet) for packet in packets[2:]]
        assert counters(pool)["inexact_rebuilds"] == 0
    assert np.array_equal(np.concatenate(pcm), golden(packets)[320:])


def test_a_gain_outlives_what_the_clients_log_has_dropped() -> None:
    """Without checkpoints the oldest operations go; the gain does not, and the books say so."""
    half = ops.pack([Op(OpKind.GAIN, ops.pack_gain(-6 * 256))])
    settings = {"recovery": {"checkpoint_packets": 0}, "workers": {"count": 1, "spares": 1}}
    with pooled(settings) as pool, pool.stream() as stream:
        lend(stream, iter(PACKETS))
        call = _ThreadCall(stream._state, half, 1, 0, time.monotonic() + 10)
        pool._connection.submit(call)
        call.wait()
        for _ in range(calls.LOG_LIMIT // 100 + 2):
            before = stream.decode_many(PACKETS[:100])
        os.kill(home(pool), signal.SIGKILL)
        after = stream.decode_many(PACKETS[:100])
        assert np.abs(after).mean() == pytest.approx(np.abs(before).mean(), rel=0.05)
        assert counters(pool)["inexact_rebuilds"] == 1


def test_a_fatal_packet_that_does_not_come_again_is_forgotten(faulty: Path) -> None:
    """Its deadline passes before its worker is killed; the stream is lent again."""
    del faulty
    with pooled() as pool, pool.stream() as stream:
        lend(stream, iter(PACKETS))
        with pytest.raises(opuspool.DecodeTimeoutError):
            stream.decode(faults.marker("loop"), timeout=0.1)
        assert stream.decode(PACKETS[0]).shape == (320,)
        lend(stream, iter(PACKETS * 2))
        assert counters(pool)["worker_restarts"]["hang"] == 1


@pytest.mark.parametrize("what", ["checkpoints", "losses"])
def test_a_batch_that_asks_for_too_much_is_not_run(what: str) -> None:
    """Whoever has a token can neither hang the worker nor use up its memory."""
    loss = (1 << 24 | 48 << 16).to_bytes(4, "little") * 1024
    count, blob, operations = {"checkpoints": (65536, b"", 0), "losses": (20, loss, 1024)}[what]
    with pooled() as pool, pool.stream() as stream:
        rest = iter(PACKETS)
        lend(stream, rest)
        state = stream._state
        row = (0, state.token, 0, len(blob), operations, state.format.code, 0)
        batch = wire.pack(Kind.REQUESTS, [row] * count, [blob] * count, 1)
        assert state.lane is not None
        with beside(state.lane) as hostile:
            hostile.send(batch)
            hostile.send(wire.pack_plain(Kind.PING))
            wait_until(lambda: not hostile.blocked or hostile.flush(), what="it is read")
            assert wait_until(hostile.receive)[0].kind is Kind.PING
        assert stream.decode(next(rest)).shape == (320,)
        assert is_lent(stream)
        assert sum(counters(pool)["worker_restarts"].values()) == 0


def test_a_client_that_stood_still_keeps_its_lane() -> None:
    """What it finds then is read before it judges."""
    program = LENDER.format(tests=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "lent\n"
        with stopped(client.pid):
            time.sleep(2.5)  # more than a lane may be silent
        client.stdin.write("\n")
        client.stdin.close()
        assert client.stdout.readline() == "lent 0\n"


LENDER = """
import sys, threading
sys.path.insert(0, {tests!r})
import opuspool
from matrix import PACKETS
with opuspool.Pool() as pool, pool.stream() as stream:
    for packet in PACKETS[:20]:
        stream.decode(packet)
    ended = threading.Event()
    def speak():
        while not ended.is_set():
            stream.decode(PACKETS[20])
    speaker = threading.Thread(target=speak)
    speaker.start()
    print("lent" if stream._state.lane else "not lent", flush=True)
    sys.stdin.readline()
    ended.set()
    speaker.join()
    returned = pool.status()["counters"]["streams_returned"]
    print("lent" if stream._state.lane else "not lent", returned, flush=True)
"""


def test_without_a_descriptor_for_a_lane_a_client_goes_on() -> None:
    """By the supervisor, as before there were lanes."""
    with pooled() as pool, pool.stream() as stream:
        rest = iter(PACKETS)
        pool.status()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            pcm = [stream.decode(next(rest)) for _ in range(50)]
            assert not is_lent(stream)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        pcm += [stream.decode(next(rest)) for _ in range(50)]
    assert np.array_equal(np.concatenate(pcm), golden(PACKETS[:100]))


def test_without_a_descriptor_to_watch_a_lane_with_an_event_loop_goes_on() -> None:
    """One is left, for the lane itself; when there are more again, so are lanes."""

    async def speak() -> list[opuspool.pcm.Pcm]:
        async with opuspool.AsyncPool() as pool:
            stream = pool.stream()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
            try:
                pcm = [await stream.decode(packet) for packet in PACKETS[:50]]
                assert not is_lent(stream)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            while not is_lent(stream):
                pcm.append(await stream.decode(PACKETS[len(pcm)]))
            return pcm

    pcm = asyncio.run(speak())
    assert np.array_equal(np.concatenate(pcm), golden(PACKETS[: len(pcm)]))


def test_a_caller_that_takes_its_own_answers_holds_up_no_other(faulty: Path) -> None:
    """While one waits 50 ms for each, the other's go on."""
    del faulty
    with pooled() as pool, pool.stream() as first, pool.stream() as second:
        wait_until(lambda: pool.status()["health"] == "ok", what="both workers are there")
        for stream in (first, second):
            lend(stream, iter(PACKETS))
        assert first._state.lane is not second._state.lane
        slow = [faults.marker("slow", like=packet) for packet in PACKETS[:10]]
        thread = threading.Thread(target=lambda: [first.decode(packet) for packet in slow])
        thread.start()
        others = 0
        while thread.is_alive():
            second.decode(PACKETS[others % 100])
            others += 1
        assert others > 5 * len(slow)


class AlarmError(Exception):
    """What a signal's handler raises, as Ctrl-C does."""


@pytest.mark.parametrize("seconds", [0.001, 0.02])
def test_a_caller_that_is_interrupted_loses_no_packet(faulty: Path, seconds: float) -> None:
    """Whether it waits for its answer itself or has left that to the thread."""
    del faulty

    def ring(*_: object) -> None:
        raise AlarmError

    rest = iter(PACKETS)
    old = signal.signal(signal.SIGALRM, ring)
    try:
        with pooled() as pool, pool.stream() as stream:
            pcm = lend(stream, rest)
            packet = next(rest)
            signal.setitimer(signal.ITIMER_REAL, seconds)
            with pytest.raises(AlarmError):
                stream.decode(faults.marker("slow", like=packet))
            after = [stream.decode(packet) for packet in islice(rest, 50)]
    finally:
        signal.signal(signal.SIGALRM, old)
    whole = golden(PACKETS[: len(pcm) + 1 + len(after)])
    assert np.array_equal(np.concatenate(after), whole[(len(pcm) + 1) * 320 :])


def test_callers_that_are_interrupted_again_and_again_break_nothing() -> None:
    """Wherever the handler's exception strikes: others decode at once, and so does the caller."""

    def ring(*_: object) -> None:
        raise AlarmError

    old = signal.signal(signal.SIGALRM, ring)
    struck = 0
    try:
        with pooled() as pool, pool.stream() as stream, pool.stream() as other:
            for at in range(400):
                try:
                    signal.setitimer(signal.ITIMER_REAL, 20e-6 + at % 50 * 10e-6)
                    while True:
                        stream.decode(PACKETS[at % 100], timeout=5)
                except AlarmError:
                    struck += 1
            for each in (other, stream):
                assert each.decode(PACKETS[0], timeout=5).shape == (320,)
            connection = pool._connection
            wait_until(lambda: not len(connection._exchange), what="no call is open")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert struck == 400


def test_a_streams_end_that_waits_for_its_last_call_follows_it_at_once() -> None:
    """With an event loop: nobody else would tell it to send."""

    async def speak() -> None:
        async with opuspool.AsyncPool() as pool:
            stream = pool.stream()
            packets = iter(PACKETS)
            while not is_lent(stream):
                await stream.decode(next(packets))
            last = asyncio.create_task(stream.decode(next(packets)))
            await asyncio.sleep(0)  # it is under way
            await stream.close()
            await last
            assert not pool._connection._outbox

    asyncio.run(speak())


def test_a_lost_lane_is_not_read_again_and_again() -> None:
    """Its end was seen, then a message could not be sent: there is nothing to read any more."""
    with pooled() as pool, pool.stream() as stream:
        lend(stream, iter(PACKETS))
        lane = stream._state.lane
        assert lane is not None
        lane.may_be_read()
        lane._lose(time.monotonic())
        assert lane.receive(time.monotonic()) == []
        assert not lane.ready


def test_lanes_leave_no_socket_behind() -> None:
    """A worker that is killed cannot remove its own."""
    with pooled() as pool, pool.stream() as stream:
        rest = iter(PACKETS)
        lend(stream, rest)
        os.kill(home(pool), signal.SIGKILL)
        stream.decode(next(rest))

        def found() -> int:
            folder = Path(os.environ["TMPDIR"])
            return len(list(folder.glob("opuspool-*/pool.sock.w[0-9]*")))

        alive = len(pool.status()["workers"]) + len(pool.status()["spares"])
        wait_until(lambda: found() == alive, what="a socket for each worker")
