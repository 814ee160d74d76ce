"""A supervisor that dies is a pause, not an error; streams go on bit for bit."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import faults
import numpy as np
import psutil
import pytest
import zmq
from daemons import daemon, settings_for
from killing import check_books
from recordings import speech_packets
from reference import ReferenceDecoder, golden
from waiting import wait_until, wait_until_async

import opuspool

PACKETS = speech_packets(20.0, bitrate=6000)
EXPECTED = golden(PACKETS)


def _kill_supervisor(pool: opuspool.Pool) -> int:
    pid: int = pool.status()["supervisor"]["pid"]
    os.kill(pid, signal.SIGKILL)
    return pid


def test_a_stream_outlives_its_supervisors() -> None:
    """Every call returns PCM, every sample is right, over five kills."""
    pcm = []
    with opuspool.Pool(workers=2) as pool, pool.stream() as stream:
        for index, packet in enumerate(PACKETS):
            if index % 200 == 150:
                pid = _kill_supervisor(pool)
            pcm.append(stream.decode(packet))
        assert pool.status()["supervisor"]["pid"] != pid
        assert pool.status()["counters"]["streams_handed_over"] == 1
        assert pool.status()["counters"]["inexact_rebuilds"] == 0
        check_books(pool.status())
    assert np.array_equal(np.concatenate(pcm), EXPECTED)


def test_losses_fec_and_poison_are_handed_over(faulty: Path) -> None:
    """What the client keeps is what was executed."""
    packets = speech_packets(3.0, fec=True, loss_percent=20, bitrate=24000)
    decoder = ReferenceDecoder()
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        for index, packet in enumerate(packets):
            if index in {31, 77}:
                _kill_supervisor(pool)
            if index == 30:
                with pytest.raises(opuspool.PoisonPacketError):
                    stream.decode(faults.marker("segv"))
            if index % 9 == 8:
                assert np.array_equal(stream.decode(None), decoder.lost(320))
                assert np.array_equal(stream.decode(packet, fec=True), decoder.fec(packet, 320))
            assert np.array_equal(stream.decode(packet), decoder.decode(packet))


def test_a_call_under_way_is_retried_by_the_successor(faulty: Path) -> None:
    """The supervisor is killed while a slow packet is being decoded."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        stream.decode(PACKETS[0])
        pcm: list[opuspool.pcm.Pcm] = []
        slow = [faults.marker("slow", like=packet) for packet in PACKETS[1:11]]
        thread = threading.Thread(target=lambda: pcm.append(stream.decode_many(slow)))
        thread.start()
        wait_until(lambda: pool.status()["in_flight"], what="the call is under way")
        _kill_supervisor(pool)
        thread.join()
        assert np.array_equal(pcm[0], EXPECTED[320 : 320 * 11])


def test_utterances_and_tasks_go_on() -> None:
    """`AsyncPool`: 30 streams and whole utterances, two kills meanwhile."""

    async def main() -> None:
        async with opuspool.AsyncPool(workers=2) as pool:

            async def speak() -> None:
                async with pool.stream() as stream:
                    pcm = [await stream.decode(packet) for packet in PACKETS[:300]]
                assert np.array_equal(np.concatenate(pcm), EXPECTED[: 300 * 320])

            async def utter() -> None:
                for _ in range(3):
                    assert np.array_equal(await pool.decode(PACKETS), EXPECTED)

            async def kill() -> None:
                for _ in range(2):
                    before = (await pool.status(timeout=20))["supervisor"]["pid"]
                    os.kill(before, signal.SIGKILL)
                    await wait_until_async(lambda pid=before: not psutil.pid_exists(pid))  # type: ignore[misc]
                    await pool.status(timeout=20)

            await asyncio.gather(kill(), *[speak() for _ in range(30)], utter(), utter())

    asyncio.run(main())


def test_a_daemon_that_comes_back_is_handed_the_streams(tmp_path: Path, endpoint: str) -> None:
    """Its clients connect again by themselves."""
    settings = settings_for(tmp_path, endpoint)
    pcm = []
    with daemon(settings) as process:
        pool = opuspool.Pool(endpoint)
        stream = pool.stream()
        pcm += [stream.decode(packet) for packet in PACKETS[:333]]
        process.kill()
        process.wait()
        with pytest.raises(opuspool.SupervisorLostError, match="before the deadline"):
            pool.decode(PACKETS[:1], timeout=0.3)
    with pool, daemon(settings):
        pcm += [stream.decode(packet) for packet in PACKETS[333:]]
        stream.close()
    assert np.array_equal(np.concatenate(pcm), EXPECTED)


def test_a_supervisor_that_leaves_before_it_greets_is_a_pause(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The greeting that it took along is sent to its successor again."""
    monkeypatch.setattr("opuspool.connection.WELCOME_SECONDS", 60.0)  # for a busy machine
    Path(endpoint.removeprefix("ipc://")).parent.mkdir(mode=0o700)
    with zmq.Context() as context, ThreadPoolExecutor(1) as threads:
        with context.socket(zmq.ROUTER) as silent:
            silent.bind(endpoint)
            pool = threads.submit(opuspool.Pool, endpoint)
            assert silent.poll(10_000), "the client has said hello"
            silent.recv_multipart()
        with daemon(settings_for(tmp_path, endpoint)), pool.result() as welcomed:
            assert np.array_equal(welcomed.decode(PACKETS), EXPECTED)


def test_a_daemon_that_is_restarted_is_a_pause(tmp_path: Path, endpoint: str, faulty: Path) -> None:
    """As `systemctl restart` does: what comes while the old one drains is done by the new one."""
    # By a lane, all would be spoken before the old one has drained.
    settings = settings_for(tmp_path, endpoint, "[requests]\nlanes = false\n")
    spoken = PACKETS[:400]
    pcm: list[opuspool.pcm.Pcm] = []
    slow = [faults.marker("slow", like=PACKETS[0])] * 20  # a second

    def speak(pool: opuspool.Pool) -> None:
        with pool.stream() as stream:
            for packet in spoken:
                pcm.append(stream.decode(packet))  # noqa: PERF401  it is watched while it grows

    with ThreadPoolExecutor(2) as threads:
        with daemon(settings) as process:
            pool = opuspool.Pool(endpoint)
            speaking = threads.submit(speak, pool)
            slowly = threads.submit(pool.decode, slow)
            wait_until(lambda: len(pcm) > 100, what="the stream is under way")
            process.terminate()
            assert process.wait(30) == 0
            assert len(pcm) < len(spoken)
        with pool, daemon(settings):
            speaking.result()
            slowly.result()
            assert pool.status()["counters"]["streams_handed_over"] == 1
    assert np.array_equal(np.concatenate(pcm), golden(spoken))


def test_a_supervisor_that_keeps_dying_is_given_up() -> None:
    """Not for ever: after ten deaths in a minute calls say why."""
    with opuspool.Pool(workers=1, spares=0) as pool:
        with suppress(opuspool.SupervisorLostError):
            for _ in range(12):
                _kill_supervisor(pool)
        with pytest.raises(opuspool.SupervisorLostError, match="SIGKILL"):
            pool.decode(PACKETS)
