"""Rows 1, 2, 4, 6, 8 and 9: what a packet can do to its worker; crashes are a table."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import faults
import numpy as np
import psutil
import pytest
from leaks import alive
from matrix import PACKETS, scene
from reference import golden
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from pathlib import Path

QUICK = {"workers": {"hang_seconds": 1.0}, "restart": {"period_seconds": 0.5}}
"""Hangs are found soon, and many deaths in a row are replaced without delay."""

CRASHES = {
    1: ["segv", "abort", "bus", "ill", "fpe"],
    4: ["stack", "overrun"],
    6: ["loop", "sleep"],
    8: ["badreturn", "exit", "exit0"],
}
"""Row to its faults; the reason under which each is counted is in faults.FAULTS."""


def _reasons(names: list[str], times: int) -> Counter[str]:
    return Counter([faults.FAULTS[name] or "" for name in names] * times)


@pytest.mark.parametrize(("row", "names"), CRASHES.items())
def test_a_killer_costs_its_own_packet(faulty: Path, row: int, names: list[str]) -> None:
    """Tried on two workers, then poison; its stream, and those beside it, lose nothing else."""
    parts = [PACKETS[at : at + 20] for at in range(0, 20 * len(names), 20)]
    with scene(deaths=_reasons(names, 2), settings=QUICK) as here, here.pool.stream() as stream:
        pcm = []
        for name, packets in zip(names, parts, strict=True):
            pcm.append(stream.decode_many(packets))
            with pytest.raises(opuspool.PoisonPacketError):
                stream.decode(faults.marker(name))
        assert np.array_equal(np.concatenate(pcm), golden([p for part in parts for p in part]))
        assert here.counters()["poison_packets"] == len(names)


def test_a_passing_fault_costs_nothing(faulty: Path) -> None:
    """Row 2: the second attempt succeeds, the caller has every sample."""
    names = [name for names in CRASHES.values() for name in names]
    packets = PACKETS[: 2 * len(names)]
    doomed = [faults.marker(f"{n}-once", like=p) for n, p in zip(names, packets[1::2], strict=True)]
    with scene(deaths=_reasons(names, 1), settings=QUICK) as here, here.pool.stream() as stream:
        pcm = []
        for good, bad in zip(packets[::2], doomed, strict=True):
            pcm += [stream.decode(good), stream.decode(bad)]
        assert np.array_equal(np.concatenate(pcm), golden(packets))


def test_a_worker_that_answers_and_dies_has_answered(faulty: Path) -> None:
    """Row 9: what has arrived is taken, what has not is decoded again: right in both cases."""
    doomed = [faults.marker("after-once", like=packet) for packet in PACKETS[:6]]
    with scene(deaths={"killed": 6}) as here, here.pool.stream() as stream:
        pcm = []
        for number, packet in enumerate(doomed, start=1):
            pcm.append(stream.decode(packet))
            here.await_restarts(killed=number)
        assert np.array_equal(np.concatenate(pcm), golden(PACKETS[:6]))


def await_end(process: psutil.Process) -> None:
    """Wait until it has ended, though its parent may not have noticed."""
    wait_until(lambda: not alive(process), what="it has died")


def test_a_worker_that_is_to_leave_dies_as_it_answers(faulty: Path) -> None:
    """Row 9: where the supervisor hears of both in one turn, it asks nobody to leave."""
    slow = [faults.marker("slow", like=packet) for packet in PACKETS[6:20]]
    with (
        scene(deaths=None, bystanders=0, settings={"requests": {"lanes": False}}) as here,
        ThreadPoolExecutor(1) as threads,
    ):
        for packet in PACKETS[:6]:
            with here.pool.stream() as stream:
                packets = [*slow, faults.marker("after-once", like=packet)]
                call = threads.submit(stream.decode_many, packets, timeout=60)
                worker = psutil.Process(here.busy_pid())
                slots = here.status()["workers"]
                [slot] = [one["slot"] for one in slots if one["pid"] == worker.pid]
                here.pool.replace_worker(slot)
                here.supervisor.suspend()
                await_end(worker)
                here.supervisor.resume()
                assert np.array_equal(call.result(60), golden([*PACKETS[6:20], packet]))
            here.await_health()
