"""Rows 5, 24, 28 and 29: memory, descriptors, processes and pipes that run out."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
import psutil
import pytest
import zmq
from matrix import PACKETS, scene
from reference import golden
from waiting import wait_until

from opuspool import wire

if TYPE_CHECKING:
    from matrix import Scene

CALM = {"restart": {"period_seconds": 0.5}}


def test_a_worker_without_memory_costs_no_packet() -> None:
    """Row 5: its address space is full; what it cannot do others do, no packet is poison."""
    with scene(deaths=None) as here:
        for slot in (0, 1):
            pid = here.pid(slot)
            full = psutil.Process(pid).memory_info().vms
            resource.prlimit(pid, resource.RLIMIT_AS, (full, full))
        streams = [here.pool.stream(48000, 2) for _ in range(40)]
        for stream in streams:
            assert np.array_equal(stream.decode_many(PACKETS[:40]), golden(PACKETS[:40], 48000, 2))
        for stream in streams:
            stream.close()
        assert here.restarts() == {"killed": 2}, "both have run out of memory"
        assert here.counters()["poison_packets"] == 0


def test_a_flood_on_stderr_is_drained_and_cut(faulty: Path) -> None:
    """Row 24: 120 MB of text; nobody waits for it, little of it stays. stdout goes nowhere."""
    flood = [faults.marker("stderr", like=packet) for packet in PACKETS[:120]]
    with scene(deaths={}) as here, here.pool.stream() as stream:
        assert np.array_equal(stream.decode_many(flood), golden(PACKETS[:120]))


RECYCLED: dict[str, dict[str, Any]] = {
    "recycled_memory": {"memory_bytes": 100 << 20},
    "recycled_requests": {"requests": 100, "memory_bytes": 0},
    "recycled_age": {"age_seconds": 5.0, "memory_bytes": 0},
}


@pytest.mark.parametrize("reason", RECYCLED)
def test_a_worker_is_recycled_at_its_limit(faulty: Path, reason: str) -> None:
    """Row 29: between requests, as a planned end; its streams move, nothing is lost."""
    settings = {"recycle": RECYCLED[reason]}
    with scene(deaths=None, settings=settings, bystanders=2) as here:
        with here.pool.stream() as stream:
            leaking = [faults.marker("leak", like=packet) for packet in PACKETS[:150]]
            packets = leaking if reason == "recycled_memory" else PACKETS[:150]
            pcm = [stream.decode(packet) for packet in packets]
            here.await_restarts(**{reason: 1})
            pcm.append(stream.decode_many(PACKETS[150:200]))
        assert np.array_equal(np.concatenate(pcm), golden(PACKETS[:200]))
        assert set(here.restarts()) == {reason}
        assert here.counters()["inexact_rebuilds"] == 0
        assert here.counters()["retries"] == 0


class Strain:
    """The supervisor with less room than it would like; `limit` is one of RLIMIT_*."""

    def __init__(self, here: Scene, limit: int, room: int) -> None:
        self._process = here.supervisor
        self._limit = limit
        self._old = resource.prlimit(here.supervisor.pid, limit)
        used = (
            self._descriptors()
            if limit == resource.RLIMIT_NOFILE
            else self._process.memory_info().vms
        )
        resource.prlimit(here.supervisor.pid, limit, (used + room, self._old[1]))
        self._since = (time.monotonic(), self._cpu())

    def end(self) -> None:
        """Give it room again; meanwhile it must not have spun."""
        seconds = time.monotonic() - self._since[0]
        share = (self._cpu() - self._since[1]) / seconds
        resource.prlimit(self._process.pid, self._limit, self._old)
        assert share < 0.7, f"it spins: {share:.0%} of a processor in {seconds:.1f} s"

    def _cpu(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def _descriptors(self) -> int:
        """The limit that leaves no room: one more than the highest in use."""
        return max(int(fd.name) for fd in Path(f"/proc/{self._process.pid}/fd").iterdir()) + 1


SHORT = {
    "descriptors": (resource.RLIMIT_NOFILE, 0),
    "address space": (resource.RLIMIT_AS, 4 << 20),  # no room for another thread's stack
}


@pytest.mark.parametrize(("limit", "room"), SHORT.values(), ids=SHORT)
def test_a_supervisor_without_room_for_workers_heals(limit: int, room: int) -> None:
    """Row 28: it neither spins nor ends; when there is room again, so are its workers."""
    settings = {"restart": {"backoff_max_seconds": 0.5}}
    with scene(deaths=None, settings=settings) as here:
        strain = Strain(here, limit, room)
        wait_until(lambda: _kill_till_none_starts(here), 60, what="no room for a worker")
        strain.end()
        here.await_health()
        assert set(here.restarts()) == {"killed", "boot"}


def _kill_till_none_starts(here: Scene) -> bool:
    """Kill a worker whenever all live; what a dead one leaves may be room for the next."""
    if here.restarts()["boot"] >= 3:
        return True
    status = here.status()
    pids = [slot["pid"] for slot in status["workers"] + status["spares"]]
    if all(pids):
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pids[0]).kill()
    return False


def test_a_supervisor_without_descriptors_takes_no_clients() -> None:
    """Row 28: clients for whom it has no room wait and are served later; the others go on."""
    with scene(deaths={}) as here, zmq.Context() as context:
        strain = Strain(here, resource.RLIMIT_NOFILE, 64)
        clients = [_say_hello(context, here.endpoint) for _ in range(100)]
        wait_until(lambda: not Path(here.endpoint.removeprefix("ipc://")).exists())
        here.decodes()
        strain.end()
        for client in clients:
            assert client.poll(30_000), "not served when there was room again"
            client.close(linger=0)


def test_a_burst_of_connections_leaves_room() -> None:
    """Row 28: all at once, more than there are descriptors; nothing is aborted, others go on."""
    with scene(deaths={}) as here:
        strain = Strain(here, resource.RLIMIT_NOFILE, 600)
        path = here.endpoint.removeprefix("ipc://")
        burst = []
        for _ in range(1000):
            peer = socket.socket(socket.AF_UNIX)
            peer.setblocking(False)
            burst.append(peer)
            with suppress(OSError):  # the backlog is full, or the path is hidden
                peer.connect(path)
        here.decodes()
        for peer in burst:
            peer.close()
        strain.end()
        wait_until(Path(path).exists, what="clients are taken again")


def _say_hello(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    """A client that has been welcomed, or is still waiting to be."""
    client = context.socket(zmq.DEALER)
    client.reconnect_ivl = 50
    client.connect(endpoint)
    client.send_multipart(wire.pack_json(wire.Kind.HELLO, {}))
    client.poll(20)
    return client
