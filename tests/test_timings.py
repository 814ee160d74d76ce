"""Timings and history: what is counted when; pure."""

from __future__ import annotations

from opuspool_supervisor.history import ENDS, MINUTES, End, History
from opuspool_supervisor.records import Client, Lease, Request, Stream
from opuspool_supervisor.timings import Histogram, Timings

from opuspool.streamformat import StreamFormat


def request() -> Request:
    stream = Stream(1, Client(b"c", 0.0), 1, StreamFormat())
    return Request(1, stream, 1, b"", 10.0)


def lease(*requests: Request, made: float = 0.0, canary: bool = False) -> Lease:
    expects: list[tuple[int, Request | Stream]] = list(enumerate(requests))
    return Lease(1, made, expects=expects, canary=canary)


def test_a_bound_belongs_to_its_bucket() -> None:
    """As Prometheus's `le` has it."""
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 2.5):
        histogram.observe(value)
    assert histogram.as_dict() == {"bounds": [1.0, 2.0], "counts": [2, 2, 1], "sum": 7.5}


def test_leases_count_and_canaries_do_not() -> None:
    """From the making to the results."""
    timings = Timings()
    timings.settled(lease(made=1.0), 1.5)
    timings.settled(lease(made=1.0, canary=True), 1.5)
    assert sum(timings.decode.as_dict()["counts"]) == 1
    assert timings.decode.as_dict()["sum"] == 0.5


def test_a_recovery_lasts_until_the_last_answer() -> None:
    """However it comes: with PCM, or by the deadline."""
    timings = Timings()
    first, second = request(), request()
    timings.died(lease(first, second), 10.0)
    first.answered = True
    timings.settled(lease(first), 11.0)
    assert timings.recovery.as_dict()["sum"] == 0
    second.answered = True
    timings.look(13.0)
    timings.look(14.0)
    assert timings.recovery.as_dict()["sum"] == 3.0
    assert sum(timings.recovery.as_dict()["counts"]) == 1


def test_an_idle_death_needs_no_recovery() -> None:
    """Nor one whose requests have had their answers."""
    timings = Timings()
    timings.died(None, 1.0)
    done = request()
    done.answered = True
    timings.died(lease(done), 1.0)
    timings.look(2.0)
    assert sum(timings.recovery.as_dict()["counts"]) == 0


def test_history_is_bounded_and_the_newest_comes_first() -> None:
    """In ends and in minutes."""
    history = History()
    for n in range(200):
        history.add(End(60.0 * n, 0, n, 100 + n, "segv", "SIGSEGV"))
    told = history.as_dict(60.0 * 199 + 5)
    assert len(told["ends"]) == ENDS
    assert len(told["minutes"]) == MINUTES
    assert told["ends"][0]["generation"] == 199
    assert told["ends"][0]["ago_seconds"] == 5.0
    assert told["minutes"][-1] == {"ago": 0, "reasons": {"segv": 1}}


def test_what_is_older_than_an_hour_is_not_told() -> None:
    """However few ends there were since."""
    history = History()
    history.add(End(0.0, 0, 1, 1, "segv", "SIGSEGV"))
    assert history.as_dict(3601.0)["minutes"] == []
