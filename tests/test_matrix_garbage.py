"""Row 8: what a worker sends is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import problemworker
import pytest
import zmq
from matrix import PACKETS, scene
from reference import golden
from waiting import wait_until

import opuspool
from opuspool import wire
from opuspool.wire import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matrix import Scene

CALM: dict[str, dict[str, object]] = {
    "restart": {"period_seconds": 0.5},
    "requests": {"lanes": False},
}
"""What a worker sends to the supervisor is looked at, so that all goes past that."""


def test_a_worker_that_sends_garbage_is_replaced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A protocol error; its work is done elsewhere, no sample reaches the wrong stream."""
    problemworker.install(monkeypatch, tmp_path)
    names = list(problemworker.PROBLEMS)
    packets = PACKETS[: len(names)]
    marked = [problemworker.marker(n, like=p) for n, p in zip(names, packets, strict=True)]
    with scene(deaths={"exit": len(names)}, settings=CALM) as here, here.pool.stream() as stream:
        pcm = []
        for number, packet in enumerate(marked, start=1):
            pcm.append(stream.decode(packet))
            here.await_restarts(exit=number)
        assert np.array_equal(np.concatenate(pcm), golden(packets))
        assert here.counters()["protocol_errors"] == len(names)
        assert here.counters()["poison_packets"] == 0


def test_a_packet_of_which_every_worker_sends_garbage_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Alone in its lease it has `max_attempts`; the packets around it are decoded."""
    problemworker.install(monkeypatch, tmp_path)
    name = problemworker.ALWAYS + "one result less"
    bad = problemworker.marker(name, like=PACKETS[1])
    with scene(deaths=None, settings=CALM) as here, here.pool.stream() as stream:
        pcm = [stream.decode(PACKETS[0])]
        with pytest.raises(opuspool.PoisonPacketError):
            stream.decode(bad)
        pcm.append(stream.decode(PACKETS[1]))
        assert np.array_equal(np.concatenate(pcm), golden(PACKETS[:2]))
        assert here.counters()["poison_packets"] == 1
        assert set(here.restarts()) == {"exit"}
        assert here.restarts()["exit"] <= 3, "one in company, two alone"


@pytest.fixture
def stranger() -> Iterator[zmq.Socket[bytes]]:
    """A socket of somebody whom the supervisor has not started."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        yield socket


def test_a_stranger_at_the_workers_socket_is_not_heard(stranger: zmq.Socket[bytes]) -> None:
    """Only identities that the supervisor has given out: READY and RESULTS are counted, dropped."""
    ready = wire.pack_json(Kind.READY, {"pid": 1, "libopus": {"path": "/x", "version": "x"}})
    with scene(deaths={}) as here:
        before = here.counters()["protocol_errors"]
        stranger.connect(f"ipc://{_back(here)}")
        for tag in range(100):
            stranger.send_multipart(wire.pack(Kind.RESULTS, [], [], tag))
        stranger.send_multipart(ready)
        wait_until(lambda: here.counters()["protocol_errors"] == before + 101, what="all counted")
        assert here.status()["libopus"]["path"] != "/x"


def _back(here: Scene) -> Path:
    sockets = [Path(str(c.laddr)) for c in here.supervisor.net_connections("unix")]
    return next(path for path in sockets if path.name.endswith(".sock.w"))
