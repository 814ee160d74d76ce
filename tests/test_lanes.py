"""Lanes, in real pools: streams are lent, and what was lent comes back bit for bit."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
import pytest
from matrix import PACKETS
from reference import golden
from waiting import wait_until

import opuspool
from opuspool import config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opuspool.pool import Pool, Stream

QUICK = {"recovery": {"checkpoint_packets": 20}}


@contextmanager
def pooled(settings: dict[str, dict[str, Any]] | None = None) -> Iterator[Pool]:
    with opuspool.Pool(config=config.load(overrides={**QUICK, **(settings or {})})) as pool:
        yield pool


def is_lent(stream: Stream) -> bool:
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
    packets = PACKETS[:200]
    rest = iter(packets)
    with pooled() as pool, pool.stream() as stream:
        pcm = lend(stream, rest)
        slot = next(w["slot"] for w in pool.status()["workers"] if w["streams"])
        pool.replace_worker(slot, at_once=at_once)
        pcm += [stream.decode(packet) for packet in rest]
        counted = counters(pool)
        assert counted["streams_returned"] == 1
        assert counted["retries"] == 0 or at_once
    assert np.array_equal(np.concatenate(pcm), golden(packets))


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
