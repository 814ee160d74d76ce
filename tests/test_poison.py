"""A packet that kills costs at most itself."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
import pytest
from killing import check_books, deaths
from oggfiles import audio, head, headers, write
from recordings import speech_packets
from reference import golden

import opuspool
from opuspool import config

if TYPE_CHECKING:
    from pathlib import Path

PACKETS = speech_packets(2.0)
EXPECTED = golden(PACKETS)

KILLERS = ["segv", "abort", "bus", "ill", "fpe", "stack", "overrun", "exit", "badreturn", "loop"]


@pytest.mark.parametrize("fault", KILLERS)
def test_a_killer_is_tried_on_two_workers_and_refused_alone(faulty: Path, fault: str) -> None:
    """`PoisonPacketError` for that packet; every other sample of the stream is right."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        before = [stream.decode(packet) for packet in PACKETS[:30]]
        with pytest.raises(opuspool.PoisonPacketError, match="killed its workers") as caught:
            stream.decode(faults.marker(fault))
        after = [stream.decode(packet) for packet in PACKETS[30:]]
        status = pool.status()
    assert caught.value.code == -100
    assert np.array_equal(np.concatenate(before + after), EXPECTED)
    assert status["counters"]["worker_restarts"][faults.FAULTS[fault]] == 2
    assert status["counters"]["poison_packets"] == 1
    assert deaths(status) == 2
    check_books(status)


def test_a_killer_among_others_loses_only_itself(faulty: Path) -> None:
    """The error of `decode_many` carries the PCM of all the other packets."""
    packets = [*PACKETS[:10], faults.marker("segv"), *PACKETS[10:]]
    with (
        opuspool.Pool(workers=2) as pool,
        pool.stream() as stream,
        pytest.raises(opuspool.PoisonPacketError) as caught,
    ):
        stream.decode_many(packets)
    error = caught.value
    assert (error.index, error.failures) == (10, {10: -100})
    assert error.pcm is not None
    assert np.array_equal(error.pcm, EXPECTED)


def test_killers_in_a_row_cost_themselves_alone(faulty: Path) -> None:
    """Packet by packet and in one call; what comes behind them is right to the bit."""
    killers = [faults.marker("segv"), faults.marker("abort"), faults.marker("fpe")]
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        parts = [stream.decode(packet) for packet in PACKETS[:30]]
        for packet in killers:
            with pytest.raises(opuspool.PoisonPacketError):
                stream.decode(packet)
        with pytest.raises(opuspool.PoisonPacketError) as caught:
            stream.decode_many([*PACKETS[30:40], *killers, *PACKETS[40:60]])
        assert list(caught.value.failures) == [10, 11, 12]
        assert caught.value.pcm is not None
        parts += [caught.value.pcm, *[stream.decode(packet) for packet in PACKETS[60:]]]
        status = pool.status()
    assert np.array_equal(np.concatenate(parts), EXPECTED)
    assert status["counters"]["poison_packets"] + status["counters"]["quarantine_hits"] == 6
    check_books(status)


def test_neighbours_of_a_killer_notice_nothing(faulty: Path) -> None:
    """Other streams of the same worker go on, bit for bit."""
    with opuspool.Pool(workers=1) as pool:
        streams = [pool.stream() for _ in range(6)]
        killer = pool.stream()
        pcm: list[list[opuspool.pcm.Pcm]] = [[] for _ in streams]
        for index, packet in enumerate(PACKETS):
            if index in {20, 50}:
                with pytest.raises(opuspool.PoisonPacketError):
                    killer.decode(faults.marker("abort"))
            for number, stream in enumerate(streams):
                pcm[number].append(stream.decode(packet))
        for stream in streams:
            stream.close()
        for parts in pcm:
            assert np.array_equal(np.concatenate(parts), EXPECTED)


@pytest.mark.parametrize("fault", ["segv", "abort", "kill"])
def test_a_fault_that_does_not_come_again_is_not_noticed(faulty: Path, fault: str) -> None:
    """The second attempt succeeds, and the caller gets PCM."""
    with opuspool.Pool(workers=2) as pool, pool.stream() as stream:
        for packet in PACKETS[:10]:
            stream.decode(packet)
        assert stream.decode(faults.marker(f"{fault}-once")).shape == (320,)
        status = pool.status()
    assert status["counters"]["worker_restarts"][faults.FAULTS[fault]] == 1
    assert status["counters"]["retries"] == 1


DAMAGED: dict[str, tuple[bool, int]] = {
    "lane, checkpoint": (True, 5),
    "lane, log alone": (True, 0),
    "supervisor, checkpoint": (False, 5),
    "supervisor, log alone": (False, 0),
}


@pytest.mark.parametrize(("lanes", "checkpoint_packets"), DAMAGED.values(), ids=DAMAGED)
def test_damage_that_shows_later_costs_one_packet(
    faulty: Path, lanes: bool, checkpoint_packets: int
) -> None:
    """The packet in hand at the death is lost, the stream goes on with the next.

    What smashes the heap is replayed then: it must not be a checkpoint's last, which would do
    without it, and nothing would be lost.
    """
    settings: dict[str, dict[str, object]] = {
        "recovery": {"checkpoint_packets": checkpoint_packets},
        "requests": {"lanes": lanes},
        "workers": {"count": 2},
    }
    with opuspool.Pool(config=config.load(overrides=settings)) as pool, pool.stream() as stream:
        packets, state = iter(PACKETS), stream._state
        for packet in islice(packets, 10):
            stream.decode(packet)
        while lanes and (state.lane is None or 0 < checkpoint_packets <= state.log.packets + 1):
            stream.decode(next(packets))
        assert stream.decode(faults.marker("smash")).shape == (320,)
        with pytest.raises(opuspool.PoisonPacketError):
            stream.decode(PACKETS[10])
        assert stream.decode(PACKETS[11]).shape == (320,)
        assert pool.status()["counters"]["inexact_rebuilds"] >= 1


def test_sigkill_by_a_packet_takes_twice_the_deaths_to_blame(faulty: Path) -> None:
    """SIGKILL mostly comes from outside: one or two of them blame nobody."""
    with opuspool.Pool(workers=2) as pool, pool.stream() as stream:
        with pytest.raises(opuspool.PoisonPacketError):
            stream.decode(faults.marker("kill"))
        assert pool.status()["counters"]["worker_restarts"]["killed"] == 4


def test_a_killer_in_a_file_with_a_gain_is_quarantined(faulty: Path) -> None:
    """As in one without: the gain is not a request of its own, which would settle before it."""
    packets = [*PACKETS[:3], faults.marker("segv"), *PACKETS[3:60]]
    file = write(headers(head_=head(gain=-256)) + audio(packets))

    async def decode_three_times() -> dict[str, Any]:
        async with opuspool.AsyncPool(workers=1) as pool:
            for _ in range(3):
                with pytest.raises(opuspool.PoisonPacketError) as caught:
                    await pool.decode_file(file)
                assert caught.value.index == 3
            return await pool.status()

    status = asyncio.run(decode_three_times())
    assert deaths(status) == 2
    assert status["counters"]["quarantine_hits"] == 2
    check_books(status)
