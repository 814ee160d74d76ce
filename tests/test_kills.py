"""A kill in mid-stream changes not one sample."""

from __future__ import annotations

import asyncio
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from killing import REASONS, Killer, check_books, deaths
from recordings import generated_streams, real_streams, speech_packets
from reference import ReferenceDecoder, golden
from waiting import wait_until

import opuspool

KILLS = 25


def _streams(count: int) -> list[tuple[str, list[bytes]]]:
    recordings = itertools.islice(itertools.cycle([*real_streams(), *generated_streams()]), count)
    return [(r.name, r.packets) for r in recordings]


def _check_counts(pool_status: dict[str, object], killer: Killer) -> None:
    assert killer.failure is None
    counters = pool_status["counters"]
    assert isinstance(counters, dict)
    restarts = counters["worker_restarts"]
    assert {reason: restarts[reason] for reason in REASONS.values()} == {
        reason: killer.kills[reason] for reason in REASONS.values()
    }
    assert counters["access_violations"] == killer.kills["segv"]
    assert counters["inexact_rebuilds"] == 0
    assert counters["poison_packets"] == 0
    check_books(pool_status)


def test_twelve_live_streams_under_25_kills_are_bit_exact() -> None:
    """Every call returns PCM, every sample equals libopus called directly."""
    streams = _streams(12)
    rounds = [0] * len(streams)
    wrong: list[str] = []
    stop = threading.Event()

    def speak(index: int, pool: opuspool.Pool) -> None:
        name, packets = streams[index]
        expected = golden(packets)
        while not stop.is_set():
            with pool.stream() as stream:
                pcm = [stream.decode(packet) for packet in packets]
            if not np.array_equal(np.concatenate(pcm), expected):
                wrong.append(name)
            rounds[index] += 1

    with opuspool.Pool(workers=2) as pool, ThreadPoolExecutor(len(streams)) as threads:
        speakers = [threads.submit(speak, index, pool) for index in range(len(streams))]
        with Killer(pool.status, KILLS, seed=1) as killer:
            killer.done.wait(120)
            stop.set()
            for speaker in speakers:
                speaker.result(timeout=60)
        status = pool.status()
    assert wrong == []
    assert all(rounds)
    assert sum(killer.kills.values()) == KILLS
    _check_counts(status, killer)


def test_ten_minutes_at_6_kbps_are_bit_exact_under_kills() -> None:
    """A decoder of speech at a low rate never converges: only its exact state will do."""
    packets = (speech_packets(20.0, bitrate=6000) * 30)[:30_000]  # 10 minutes of 20 ms
    decoder = ReferenceDecoder()
    with opuspool.Pool(workers=2) as pool, Killer(pool.status, 40, seed=2, pause=0.05) as killer:
        with pool.stream() as stream:
            for at in range(0, len(packets), 10):
                batch = packets[at : at + 10]
                pcm = stream.decode_many(batch)
                assert np.array_equal(pcm, decoder.decode_all(batch)), f"packet {at}"
        assert killer.failure is None
        killer.__exit__()
        status = pool.status()
    assert deaths(status) >= 10
    _check_counts(status, killer)


def test_utterances_are_bit_exact_under_kills() -> None:
    """`decode()` of whole utterances, 8 at once."""
    utterances = _streams(10)
    expected = [golden(packets) for _, packets in utterances]
    with opuspool.Pool(workers=2) as pool, ThreadPoolExecutor(8) as threads:
        with Killer(pool.status, 10, seed=3) as killer:
            while not killer.done.is_set():
                results = threads.map(pool.decode, [packets for _, packets in utterances])
                for pcm, right, (name, _) in zip(results, expected, utterances, strict=True):
                    assert np.array_equal(pcm, right), name
        status = pool.status()
    _check_counts(status, killer)


def test_a_hundred_tasks_are_bit_exact_under_kills() -> None:
    """`AsyncPool` with 100 tasks, a packet a call."""
    packets = speech_packets(3.0, seed=5)
    expected = golden(packets)

    async def speak(pool: opuspool.AsyncPool) -> None:
        async with pool.stream() as stream:
            pcm = [await stream.decode(packet) for packet in packets]
        assert np.array_equal(np.concatenate(pcm), expected)

    async def main() -> None:
        async with opuspool.AsyncPool(workers=2) as pool:
            loop = asyncio.get_running_loop()

            def status() -> dict[str, object]:
                return asyncio.run_coroutine_threadsafe(pool.status(), loop).result(30)

            with Killer(status, 12, seed=4) as killer:
                while not killer.done.is_set():
                    await asyncio.gather(*[speak(pool) for _ in range(100)])
                await asyncio.to_thread(killer.__exit__)
            _check_counts(await pool.status(), killer)

    asyncio.run(main())


def test_losses_fec_and_gain_survive_kills() -> None:
    """The journal holds every operation that changes a decoder, not only packets."""
    packets = speech_packets(4.0, fec=True, loss_percent=20, bitrate=24000)
    decoder = ReferenceDecoder()
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        for index, packet in enumerate(packets):
            lost = index % 7 == 6
            if index % 40 == 39:
                _kill_the_worker(pool)
            if lost and index % 2:
                assert np.array_equal(stream.decode(None), decoder.lost(320))
                continue
            if lost:
                assert np.array_equal(stream.decode(packet, fec=True), decoder.fec(packet, 320))
            assert np.array_equal(stream.decode(packet), decoder.decode(packet))
        assert pool.status()["counters"]["inexact_rebuilds"] == 0


def _kill_the_worker(pool: opuspool.Pool) -> None:
    import os
    import signal

    before = deaths(pool.status())
    os.kill(pool.status()["workers"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: deaths(pool.status()) > before, what="the death is counted")
