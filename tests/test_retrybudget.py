"""The retry budget: second attempts of what kills are bounded, and nobody fails for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import faults
import pytest
from coremodel import KILLER, World, packet, packets
from hypothesis import given
from hypothesis import strategies as st
from killing import check_books
from opuspool_supervisor.books import Books
from opuspool_supervisor.records import Client, Stream
from opuspool_supervisor.retrybudget import SAVED_SECONDS, RetryBudget

import opuspool
from opuspool import config as configs
from opuspool.streamformat import StreamFormat
from opuspool.wire import Status

if TYPE_CHECKING:
    from pathlib import Path

    from coremodel import Sent

START = 1000.0


def budget(per_second: float = 1.0, share: float = 0.0) -> tuple[RetryBudget, Books]:
    books = Books()
    return RetryBudget(rates(per_second, share), books), books


def rates(per_second: float, share: float = 0.0) -> configs.RequestsConfig:
    wishes: dict[str, dict[str, object]] = {
        "requests": {"retry_per_second": per_second, "retry_share": share}
    }
    return configs.load(environ={}, overrides=wishes).requests


def stream(kills: int = 0) -> Stream:
    """One that holds a request back, of a client with so many kills."""
    client = Client(b"anna", START)
    client.kills.extend([START] * kills)
    made = Stream(1, client, 1, StreamFormat(16000, 1, "float32"))
    made.held = 1
    return made


def test_the_default_lets_a_full_lease_of_faults_pass() -> None:
    """Ordinary faults come one by one: each costs one, whatever was in the lease."""
    books = Books()
    retries = RetryBudget(configs.load(environ={}).requests, books)
    assert all(retries.take(stream(), START) for _ in range(20))
    assert not retries.take(stream(), START)
    assert books.delayed_retries == 1


def test_it_grows_with_time_and_with_requests() -> None:
    """Up to what is saved."""
    retries, books = budget(per_second=1.0, share=0.5)
    for _ in range(10):
        assert retries.take(stream(), START)
    assert retries.left(START) == 0
    assert retries.left(START + 2.0) == 2.0
    books.accepted += 4
    assert retries.left(START + 2.0) == 4.0
    books.accepted += 1000
    assert retries.left(START + 2.0) == SAVED_SECONDS


def test_other_rates_hold_from_their_reload_on() -> None:
    """What is left counts as far as it can be saved."""
    retries, _ = budget(per_second=10.0)
    retries.reconfigure(rates(0.2), START)
    assert retries.left(START) == 2.0
    retries.reconfigure(rates(1.0), START + 5.0)
    assert retries.left(START + 5.0) == 2.0


def test_the_client_that_has_killed_least_goes_first() -> None:
    """Among equals, who came first."""
    retries, _ = budget()
    while retries.take(spent := stream(), START):
        pass
    waiting = [stream(5), stream(1), stream(5), stream(1)]
    for one in waiting:
        assert not retries.take(one, START)
    spent.held = 0  # its request has timed out: it costs nothing
    assert retries.freed(START + 0.5) == []
    assert retries.freed(START + 1.0) == [waiting[1]]
    assert retries.freed(START + 4.0) == [waiting[3], waiting[0], waiting[2]]
    assert retries.left(START + 4.0) == 0


@given(
    per_second=st.floats(0.1, 50.0),
    share=st.floats(0.0, 1.0),
    history=st.lists(
        st.tuples(st.floats(0.0, 5.0), st.integers(0, 20), st.integers(0, 8)), max_size=40
    ),
)
def test_no_span_of_time_has_more_than_the_bound(
    per_second: float, share: float, history: list[tuple[float, int, int]]
) -> None:
    """What is saved, and what that span has earned; and all that waits gets its turn."""
    retries, books = budget(per_second, share)
    now = START
    spent: list[tuple[float, int, int]] = []  # when, requests accepted by then, attempts
    asked = 0
    for pause, requests, deaths in history:
        now += pause
        books.accepted += requests
        granted = len(retries.freed(now))
        granted += sum(retries.take(stream(), now) for _ in range(deaths))
        asked += deaths
        spent.append((now, books.accepted, granted))
    most = max(1.0, SAVED_SECONDS * per_second)
    for first in range(len(spent)):
        for last in range(first, len(spent)):
            earned = per_second * (spent[last][0] - spent[first][0])
            earned += share * (spent[last][1] - spent[first][1])
            attempts = sum(part[2] for part in spent[first : last + 1])
            assert attempts <= most + earned + 1e-6
    waiting = asked - sum(part[2] for part in spent)
    for _ in range(waiting):
        now += 1.001 / per_second
        assert retries.freed(now)
    assert retries.freed(now + 1000.0) == []


# In the core


def flooded(per_second: float = 0.5) -> World:
    """A pool in which one slot's restarts are never given up."""
    world = World(
        {
            "workers": {"count": 1, "spares": 1},
            "restart": {"intensity": 10_000, "backoff_max_seconds": 0.01},
            "requests": {"retry_per_second": per_second, "retry_share": 0.0},
            "quarantine": {"packets": 0},
        }
    )
    world.boot()
    return world


def killer(world: World, client: bytes, number: int) -> Sent:
    """The only request of a new stream, which kills its worker."""
    return world.send(world.stream(client), [packet(KILLER + bytes([number]))], 30.0)


def test_a_flood_of_killers_kills_hardly_more_than_once_each() -> None:
    """Without a budget each kills twice; its neighbours' requests are all done."""
    world = flooded()
    live = world.stream(b"bert")
    good = []
    flood = []
    for number in range(60):
        flood.append(killer(world, b"anna", number))
        good.append(world.send(live, packets("a")))
        world.work(4, seconds=0.1)
    deaths = world.books.worker_restarts["segv"]
    second = world.books.poison_packets
    assert 60 <= deaths <= 60 + 5 + 0.5 * 24 + 1
    assert second == sum(sent.status is Status.FAILED_OPS for sent in flood) >= 5
    assert world.books.delayed_retries >= 40
    assert all(sent.status is Status.OK for sent in good)
    world.work(40, seconds=1.0)
    assert {sent.status for sent in flood} == {Status.FAILED_OPS, Status.TIMEOUT}
    assert world.dispatcher.admission.queued == world.dispatcher.in_flight == 0


def test_another_clients_passing_fault_is_tried_again_soon() -> None:
    """Though the budget is spent, and many wait for it."""
    world = flooded()
    for number in range(20):
        killer(world, b"anna", number)
        world.work(4, seconds=0.02)
    assert world.dispatcher.retries.left(world.now) < 1
    live = world.stream(b"bert")
    sent = world.send(live, packets("ab"))
    behind = world.send(live, packets("cd"))
    world.turn()
    world.die(world.worker_of(live), "segv", _first_step(world, live))
    for _ in range(5):
        world.work(3, seconds=0.2)
    assert (sent.status, behind.status) == (Status.OK, Status.OK)


def _first_step(world: World, track: Any) -> Any:
    from opuspool.recorder import Position

    lease = world.worker_of(track).lease
    assert lease is not None
    record = next(n for n, step in enumerate(lease.records) if step.ops)
    return Position(lease.tag, record, 0, 1)


def test_requests_that_come_meanwhile_stay_behind_it_in_order() -> None:
    """The world checks the order, and the PCM."""
    world = flooded()
    for number in range(6):
        killer(world, b"anna", number)
        world.work(4)
    track = world.stream()
    sent = [world.send(track, [packet(KILLER)])]
    world.work(6, seconds=0.02)
    assert world.core_stream(track).held == 1
    sent += [world.send(track, packets("abc")) for _ in range(3)]
    world.work(2)
    assert world.core_stream(track).held == 4
    world.work(60, seconds=0.5)
    assert [one.status for one in sent] == [Status.FAILED_OPS, *[Status.OK] * 3]


def test_a_stream_whose_waiting_request_timed_out_goes_on() -> None:
    """Nothing holds the next one back."""
    world = flooded(per_second=0.1)
    killer(world, b"anna", 0)
    world.work(4)
    track = world.stream()
    late = world.send(track, [packet(KILLER)], 2.0)
    world.work(4)
    assert world.core_stream(track).held == 1
    world.turn(2.5)
    assert late.status is Status.TIMEOUT
    for number in range(1, 7):  # its client is slowed down, for a second at most
        killer(world, b"anna", number)
        world.work(4, seconds=0.02)
    following = world.send(track, packets("ab"))
    assert world.core_stream(track).held == 1
    world.work(10, seconds=0.3)
    assert following.status is Status.OK


def test_a_client_that_goes_takes_what_waits_along() -> None:
    """And spends nothing."""
    world = flooded(per_second=0.1)
    for number in range(4):
        killer(world, b"anna", number)
        world.work(4)
    assert world.books.delayed_retries == 3
    world.client_goes(b"anna")
    world.turn(11.0)
    assert world.dispatcher.retries.left(world.now) == 1.0
    assert world.dispatcher.retries.freed(world.now) == []


# With real workers


def test_killers_beyond_the_budget_wait(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second attempt each, in the end; the status tells what is left."""
    monkeypatch.setenv("OPUSPOOL_REQUESTS_RETRY_PER_SECOND", "0.1")
    monkeypatch.setenv("OPUSPOOL_REQUESTS_RETRY_SHARE", "0")
    monkeypatch.setenv("OPUSPOOL_QUARANTINE_PACKETS", "0")
    with opuspool.Pool(workers=1) as pool:
        assert pool.status()["retry_budget"] == 1.0
        with pool.stream() as stream, pytest.raises(opuspool.PoisonPacketError):
            stream.decode(faults.marker("segv"))
        assert pool.status()["retry_budget"] < 1.0
        with pool.stream() as stream, pytest.raises(opuspool.DecodeTimeoutError):
            stream.decode(faults.marker("segv"), timeout=1.0)
        counters = pool.status()["counters"]
        assert (counters["delayed_retries"], counters["poison_packets"]) == (1, 1)
        assert counters["worker_restarts"]["segv"] == 3
        check_books(pool.status())
