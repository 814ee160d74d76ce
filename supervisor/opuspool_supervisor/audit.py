"""The audit: whether a running supervisor's books balance (P8); pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opuspool_supervisor.core import Core


def discrepancies(core: Core) -> list[str]:
    """Every equation that does not hold, in words; an empty list where all do."""
    books, dispatcher = core.books, core.dispatcher
    finished = sum(books.requests.values())
    alive = sum(slot.worker is not None for slot in core.slots)
    ended = sum(books.worker_restarts.values())
    open_ = [request for request in dispatcher.open_requests() if not request.answered]
    leased = sum(request.leased for request in open_)
    equations = {
        "accepted = finished + queued + in flight": (
            books.accepted,
            finished + dispatcher.admission.queued + dispatcher.in_flight,
        ),
        "queued = requests that wait": (dispatcher.admission.queued, len(open_) - leased),
        "in flight = requests that are leased": (dispatcher.in_flight, leased),
        "spawned = alive + ended": (books.spawns, alive + ended),
        "streams = streams of all clients": (
            dispatcher.admission.streams,
            sum(len(client.streams) for client in dispatcher.clients.values()),
        ),
    }
    return [f"{words}: {a} is not {b}" for words, (a, b) in equations.items() if a != b]
