"""`opuspool drain`: a slot is emptied and stays empty, nothing is lost, the pool stays up."""

from __future__ import annotations

import re
import signal
import threading
from typing import TYPE_CHECKING

import daemons
import numpy as np
import pytest
from coremodel import World, packets
from killing import all_idle, check_books
from matrix import scene
from opuspool_supervisor.slots import SlotState
from recordings import speech_packets
from reference import golden
from test_cli_operations import run
from test_reload import numbers, sized
from waiting import wait_until

import opuspool
from opuspool.recorder import Position
from opuspool.wire import Status

if TYPE_CHECKING:
    from pathlib import Path

    from coremodel import Track


def booted(workers: int = 2, spares: int = 0) -> World:
    world = World({"workers": {"count": workers, "spares": spares, "hang_seconds": 2.0}})
    world.boot()
    return world


def states(world: World) -> list[str]:
    return [str(slot.state) for slot in world.core.slots]


def told(world: World) -> list[str]:
    return [event.event for event in world.told]


def number_of(world: World, track: Track) -> int:
    slot = world.core_stream(track).slot
    assert slot is not None
    return slot.number


def test_a_busy_slot_finishes_then_its_streams_move() -> None:
    """What it has in hand is answered by it; what waits behind is done elsewhere."""
    world = booted()
    track = world.stream()
    first = world.send(track, packets("ab"))
    world.turn()
    second = world.send(track, packets("cd"))
    here = number_of(world, track)
    worker = world.worker_of(track)
    assert world.core.drain_slot(here, world.now) is None
    world.send(world.stream(b"carl"), packets("much" * 5))  # the other slot has more to do
    other = world.stream(b"bert")
    world.send(other, packets("x"))
    assert number_of(world, other) != here, "it takes nothing new"
    world.finish(worker)
    world.work(4)
    assert (first.status, second.status) == (Status.OK, Status.OK)
    assert number_of(world, track) != here
    assert world.core.slots[here].state is SlotState.DRAINED
    assert world.books.worker_restarts["exit"] == 1
    assert world.books.retries == 0


def test_a_drained_slot_stays_empty_until_it_is_restarted() -> None:
    """Neither its own next worker nor a spare goes there; health tells that one is missing."""
    world = booted(spares=1)
    assert world.core.drain_slot(0, world.now) is None
    world.work(5)
    world.turn(60.0)
    world.work(2)
    assert states(world) == ["DRAINED", "IDLE", "IDLE"]
    assert world.core.health == "degraded"
    assert world.core.restart(0, world.now) is None
    world.work(2)
    assert states(world) == ["IDLE", "IDLE", "IDLE"]
    assert world.core.health == "ok"
    assert told(world).count("drain_asked_for") == told(world).count("resumed") == 1


def test_a_second_drain_says_nothing_new() -> None:
    """It is no error either."""
    world = booted()
    for _ in range(2):
        assert world.core.drain_slot(0, world.now) is None
        world.work(2)
    assert told(world).count("drain_asked_for") == 1


def test_the_last_slot_that_serves_is_not_drained() -> None:
    """A spare does not serve, a dead one neither."""
    world = booted(spares=1)
    assert world.core.drain_slot(1, world.now) is None
    world.work(3)
    why_not = world.core.drain_slot(0, world.now)
    assert why_not == "no other slot than 0 serves: the pool would be down"
    assert world.core.drain_slot(2, world.now) is None, "a spare is no loss"
    world.work(3)
    assert states(world) == ["IDLE", "DRAINED", "DRAINED"]
    assert "there is no slot 7" in str(world.core.drain_slot(7, world.now))


def test_the_last_slot_that_serves_still_heals_itself() -> None:
    """Its worker's death is none of the drained slots' business."""
    world = booted()
    assert world.core.drain_slot(0, world.now) is None
    world.work(3)
    (worker,) = world.workers.values()
    world.die(worker)
    world.work(3)
    assert states(world) == ["DRAINED", "IDLE"]


@pytest.mark.parametrize("reason", ["segv", "exit"])
def test_a_worker_that_dies_while_it_drains_is_not_replaced(reason: str) -> None:
    """Its requests are done elsewhere; the death is reported as any other, and so is blame.

    Also where it ends as it would have when asked to: it had not been asked yet.
    """
    world = booted()
    track = world.stream()
    sent = world.send(track, packets("ab"))
    world.turn()
    here = number_of(world, track)
    worker = world.worker_of(track)
    assert world.core.drain_slot(here, world.now) is None
    assert worker.lease is not None
    world.die(worker, reason, Position(worker.lease.tag, 1, 0, 1))
    [request] = world.dispatcher.open_requests()
    assert request.blame == {0: 1.0}
    world.work(4)
    assert sent.status is Status.OK
    assert world.core.slots[here].state is SlotState.DRAINED
    assert len(world.reports) == 1
    (ended,) = [event.facts for event in world.told if event.event == "worker_ended"]
    assert ended["next_start_seconds"] is None


def test_a_drain_that_is_taken_back_lets_requests_in_again() -> None:
    """Where the only other slot has no worker that starts; also before the drain had emptied it."""
    world = booted()
    world.send(world.stream(b"anna"), packets("a"))
    world.send(world.stream(b"bert"), packets("b"))
    world.turn()
    first, second = world.workers.values()
    assert world.core.drain_slot(1, world.now) is None
    world.die(first)
    world.turn()
    [booting] = [worker for worker in world.workers.values() if worker is not second]
    world.die(booting, "boot")
    world.turn()
    track = world.stream(b"carl")
    refused = world.send(track, packets("c"))
    world.turn()
    assert refused.status is Status.BOOT
    assert world.core.restart(1, world.now) is None
    world.turn()
    sent = world.send(track, packets("d"))
    world.finish(second)
    world.work(4)
    assert sent.status is Status.OK


def test_a_drain_that_is_taken_back_at_once_replaces_the_worker() -> None:
    """Also when it was on its way out already."""
    world = booted()
    assert world.core.drain_slot(0, world.now) is None
    assert states(world)[0] == "DRAINING"
    assert world.core.restart(0, world.now) is None
    world.work(4)
    assert states(world) == ["IDLE", "IDLE"]
    assert world.core.slots[0].generation == 2


def test_a_slot_whose_workers_cannot_start_is_drained() -> None:
    """Then nothing is started for it any more."""
    world = booted()
    world.spawn_error = "no room"
    (first, _) = world.workers.values()
    world.die(first)
    world.turn()
    assert states(world)[0] == "BACKOFF"
    assert world.core.drain_slot(0, world.now) is None
    world.turn()
    assert states(world)[0] == "DRAINED"
    world.spawn_error = ""
    spawns = world.books.spawns
    world.turn(60.0)
    assert world.books.spawns == spawns


def test_a_resumed_slot_ends_a_refusal() -> None:
    """A worker may start there, so that it is of use to wait again."""
    world = booted()
    assert world.core.drain_slot(0, world.now) is None
    world.work(3)
    world.spawn_error = "no room"
    (worker,) = world.workers.values()
    world.die(worker)
    world.turn(5.0)
    refused = world.send(world.stream(), packets("a"))
    world.turn()
    assert refused.status is Status.BOOT
    world.spawn_error = ""
    assert world.core.restart(0, world.now) is None
    waits = world.send(world.stream(), packets("a"))
    world.work(4)
    assert waits.status is Status.OK


def test_a_reload_keeps_a_drain_and_takes_drained_slots_away_first() -> None:
    """The slots that serve go on; a slot that comes later is a new one."""
    world = booted(workers=3)
    assert world.core.drain_slot(0, world.now) is None
    world.core.reconfigure(sized(3, 0), world.now)
    world.work(4)
    assert states(world) == ["DRAINED", "IDLE", "IDLE"]
    workers = set(world.workers)
    world.core.reconfigure(sized(2, 0), world.now)
    world.work(4)
    assert numbers(world) == [(1, False), (2, False)]
    assert set(world.workers) == workers
    world.core.reconfigure(sized(3, 0), world.now)
    world.work(4)
    assert states(world) == ["IDLE", "IDLE", "IDLE"]


def test_a_reload_while_a_slot_drains_does_not_keep_its_worker() -> None:
    """It is busy, and leaves when it is not."""
    world = booted()
    track = world.stream()
    world.send(track, packets("ab"))
    world.turn()
    here = number_of(world, track)
    assert world.core.drain_slot(here, world.now) is None
    world.core.reconfigure(sized(2, 0), world.now)
    world.work(4)
    assert world.core.slots[here].state is SlotState.DRAINED


def test_drain_and_restart_under_load(tmp_path: Path, endpoint: str) -> None:
    """By the command; live streams and bulk work beside it notice nothing, a reload neither."""
    spoken = speech_packets(2.0)
    expected = golden(spoken)
    over = threading.Event()
    wrong: list[object] = []

    def decode(pool: opuspool.Pool) -> None:
        while not over.is_set():
            try:
                if not np.array_equal(pool.decode(spoken), expected):
                    wrong.append("other PCM")
            except opuspool.OpusPoolError as error:
                wrong.append(error)

    patient = "[workers]\nhang_seconds = 30.0\n"  # on a busy machine a worker may stand still
    with (
        daemons.daemon(daemons.settings_for(tmp_path, endpoint, patient)) as process,
        scene(endpoint, deaths=None),
        opuspool.Pool(endpoint) as pool,
    ):
        bulk = threading.Thread(target=decode, args=(pool,))
        bulk.start()
        try:
            wait_until(lambda: pool.status()["health"] == "ok", what="both slots serve")
            done = run("drain", "0", "--endpoint", endpoint)
            assert done.returncode == 0, done.stderr
            assert re.search(r"slot 0: worker \d+ has left; empty until", done.stdout)
            with pytest.raises(ValueError, match="no other slot than 1 serves"):
                pool.drain_slot(1)
            process.send_signal(signal.SIGHUP)
            decoded = pool.status()["counters"]["packets_decoded"]
            wait_until(
                lambda: pool.status()["counters"]["packets_decoded"] > decoded + 1000,
                what="the other slot does the work",
            )
            (slot, _) = pool.status()["workers"]
            assert (slot["state"], slot["pid"], slot["streams"]) == ("DRAINED", None, 0)
            top = run("top", "--endpoint", endpoint).stdout
            assert re.search(r"^0 +- .*DRAINED", top, re.MULTILINE)
            assert pool.status()["health"] == "degraded"
            done = run("restart", "0", "--endpoint", endpoint)
            assert done.returncode == 0, done.stderr
            assert re.search(r"slot 0: worker \d+ started", done.stdout)
        finally:
            over.set()
            bulk.join()
        wait_until(lambda: all_idle(pool.status()), what="all is quiet")
        counters = pool.status()["counters"]
        assert counters["worker_restarts"]["exit"] == sum(counters["worker_restarts"].values()) == 1
        check_books(pool.status())
    assert not wrong


@pytest.mark.usefixtures("http")
def test_a_drained_slot_is_in_the_metrics(tmp_path: Path, endpoint: str) -> None:
    """As a state of its own, and ready stays ready."""
    from test_web import get

    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process:
        address = daemons.http_address(process)
        with opuspool.Pool(endpoint) as pool:
            wait_until(lambda: all_idle(pool.status()), what="all have started")
            pool.drain_slot(1)
            told = b'opuspool_workers{state="DRAINED"} 1.0'
            wait_until(lambda: told in get(address, "/metrics")[1], what="the metric is there")
        assert get(address, "/readyz")[0].status == 200
