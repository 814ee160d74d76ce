"""Rows 12, 17 and 18: poison that is known, more work than can be done, work that is too late."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import faults
import numpy as np
import pytest
from matrix import PACKETS, UTTERANCE, scene
from recordings import speech_packets
from reference import golden
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from pathlib import Path

    from matrix import Settings

CALM = {"restart": {"period_seconds": 0.5}}


def _poison(pool: opuspool.Pool, packet: bytes) -> None:
    """Decode a killer on a stream of its own."""
    with pool.stream() as stream, pytest.raises(opuspool.PoisonPacketError):
        stream.decode(packet)


def test_a_known_killer_is_refused_without_a_death(faulty: Path) -> None:
    """Row 12: in another client's stream too, in the middle of its speech."""
    killer = faults.marker("segv")
    with scene(deaths=None) as here, opuspool.Pool(here.endpoint) as other:
        while not here.status()["quarantine"]:  # convicted by a worker that had done nothing else
            _poison(here.pool, killer)
        deaths = here.restarts()
        with other.stream() as stream:
            pcm = [stream.decode_many(PACKETS[:20])]
            with pytest.raises(opuspool.PoisonPacketError):
                stream.decode(killer)
            pcm.append(stream.decode_many(PACKETS[20:40]))
        assert np.array_equal(np.concatenate(pcm), golden(PACKETS[:40]))
        assert here.restarts() == deaths
        assert here.counters()["quarantine_hits"] == 1


def test_the_quarantine_is_bounded_and_forgets(faulty: Path) -> None:
    """Row 12: many digests: no more than are allowed; none after its time."""
    settings = {**CALM, "quarantine": {"packets": 2, "ttl_seconds": 2.0}}
    killers = [faults.marker("segv", like=packet) for packet in PACKETS[:6]]
    with scene(deaths=None, settings=settings) as here:
        sizes = []
        for killer in killers:
            _poison(here.pool, killer)
            sizes.append(here.status()["quarantine"])
        assert max(sizes) <= 2
        wait_until(lambda: not here.status()["quarantine"], what="all are forgotten")


def test_poison_in_one_streams_state_spares_the_others(faulty: Path) -> None:
    """Row 12: a packet that kills only a decoder with a past: elsewhere it is decoded."""
    packet = faults.marker("stateful", like=PACKETS[0])
    settings = {"quarantine": {"packets": 0}}  # else it would be refused everywhere
    with scene(deaths={"segv": 2}, settings=settings) as here:
        with here.pool.stream() as stream:
            stream.decode_many(speech_packets(0.2, seed=3))
            with pytest.raises(opuspool.PoisonPacketError):
                stream.decode(packet)
            assert stream.decode(PACKETS[1]).shape == (320,)
        with here.pool.stream() as stream:
            assert np.array_equal(stream.decode(packet), golden(PACKETS[:1]))


def test_a_client_that_keeps_killing_is_slowed_down(faulty: Path) -> None:
    """Row 12: it is held back, the others are not."""
    killers = [faults.marker("abort", like=packet) for packet in PACKETS[:8]]
    with scene(deaths=None, settings=CALM) as here, opuspool.Pool(here.endpoint) as vandal:
        with vandal.stream() as stream:
            for killer in killers:
                with pytest.raises(opuspool.PoisonPacketError):
                    stream.decode(killer)
        assert here.counters()["held_requests"] > 0
        assert set(here.restarts()) == {"abort"}


def test_bulk_work_does_not_delay_live_streams() -> None:
    """Row 17: seconds of work wait; live packets go before them, a share is theirs."""
    utterance = speech_packets(20.0) * 2
    right = golden(utterance)
    settings = {"requests": {"window_pieces": 64}}  # a whole utterance at a time
    with scene(deaths={}, settings=settings) as here, ThreadPoolExecutor(40) as threads:
        began = time.monotonic()
        for pcm in threads.map(here.pool.decode, [utterance] * 40):
            assert np.array_equal(pcm, right)
        seconds = time.monotonic() - began
        worst = max(bystander.worst for bystander in here.bystanders)
        assert worst < seconds / 3, f"{worst:.2f} s of {seconds:.2f} s"


AT_ONCE = 5.0
"""Seconds; a request that waits for its turn and a deadline takes 30."""

LIMITS: dict[str, dict[str, int]] = {
    "requests": {"queued_requests": 3},
    "bytes": {"queued_bytes": 1_000},
    "output": {"queued_output_bytes": 500_000},
    "streams": {"streams": 12},
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_too_much_is_refused_at_once(faulty: Path, limits: dict[str, int]) -> None:
    """Row 17: `OverloadedError` that says when to come again; what was accepted is decoded."""
    slow = faults.marker("slow", like=PACKETS[0])
    settings: Settings = {
        "limits": limits,
        "workers": {"count": 1},
        "requests": {"lease_packets": 2},
    }
    outcomes: list[str] = []
    with scene(deaths={}, bystanders=0, settings=settings) as here:

        def decode(_: int) -> None:
            began = time.monotonic()
            try:
                with here.pool.stream(48000, 2) as stream:
                    good = np.array_equal(stream.decode(slow), golden(PACKETS[:1], 48000, 2))
                outcomes.append("ok" if good else "wrong")
            except opuspool.OverloadedError as error:
                at_once = time.monotonic() - began < AT_ONCE
                outcomes.append("refused" if at_once and error.retry_after > 0 else "late")

        with ThreadPoolExecutor(60) as threads:
            list(threads.map(decode, range(60)))
        assert set(outcomes) == {"ok", "refused"}
        requests = here.counters()["requests"]
        assert requests["overloaded"] == outcomes.count("refused")


def test_what_is_too_late_in_the_queue_is_not_executed(faulty: Path, tokens: Path) -> None:
    """Row 18: answered as timeout at its deadline; no worker ever sees its packet."""
    slow = [faults.marker("slow", like=packet) for packet in PACKETS[:40]]  # 2 s
    late = faults.marker("negative-once")  # leaves a token where it is executed
    settings = {"workers": {"count": 1}, "requests": {"lease_packets": 4}}
    with scene(deaths={}, bystanders=0, settings=settings) as here:
        results: list[opuspool.pcm.Pcm] = []
        with here.pool.stream() as busy, here.pool.stream() as stream:
            thread = threading.Thread(target=lambda: results.append(busy.decode_many(slow)))
            thread.start()
            wait_until(lambda: here.status()["in_flight"], what="the worker is busy")
            with pytest.raises(opuspool.DecodeTimeoutError):
                stream.decode(late, timeout=0.2)
            assert not results, "the worker is busy still"
            thread.join()
            assert np.array_equal(stream.decode_many(UTTERANCE), golden(UTTERANCE))
        assert np.array_equal(results[0], golden(PACKETS[:40]))
        assert list(tokens.iterdir()) == []
