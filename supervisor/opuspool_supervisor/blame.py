"""Blame: which packet killed a worker, and what follows for its stream and client; pure.

Two deaths at the same place of a stream's work, or one after a packet that had to be given up,
are the stream's own doing; deaths at different places are chance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import ops
from opuspool.ops import OpKind
from opuspool.wire import Action
from opuspool_supervisor.journal import Trust
from opuspool_supervisor.records import Fatal, Request, Stream

if TYPE_CHECKING:
    from opuspool.recorder import Position
    from opuspool_supervisor.books import Books
    from opuspool_supervisor.quarantine import Quarantine
    from opuspool_supervisor.records import Client, Lease, Loss

FREE_KILLS = 4
"""Deaths within the period for which a client is not slowed down."""

KILL_PERIOD_SECONDS = 10.0
FIRST_PENALTY_SECONDS = 0.05
MAX_PENALTY_SECONDS = 1.0


class Blame:
    """Finds the packet in hand at a death and notes what it has done.

    Args:
        max_attempts: deaths after which a packet is poison.
        quarantine: told of poison that is surely to blame.
        books: counts poison.
    """

    def __init__(self, max_attempts: int, quarantine: Quarantine, books: Books) -> None:
        self._max_attempts = max_attempts
        self._quarantine = quarantine
        self._books = books

    def reconfigure(self, max_attempts: int) -> None:
        """Count against another number of attempts."""
        self._max_attempts = max_attempts

    def lay(self, lease: Lease, loss: Loss) -> tuple[Stream | None, bool]:
        """Blame the operation that the flight recorder names.

        Returns:
            Its stream, where there is one; whether what killed is to be run again.

        What had been executed by then may have done the damage: it gets leases of its own.
        """
        if loss.garbage:
            self._garbled(lease)
            return None, False
        position = loss.position
        if position is None or position.lease != lease.id or position.record >= len(lease.rows):
            return None, False
        request, stream = _in_hand(lease, position.record)
        if stream is None:
            return None, False
        fatal = request is not None and self._operation(request, position.op, loss)
        _isolate(lease, position.record)
        if loss.weight == 1:
            place = _place(lease, stream, request, position)
            last = request is not None and self._is_last(request, position.op)
            _suspect(stream, place, rebuilding=request is None, fatal=fatal, last=last)
            _punish(stream.client, loss.now)
        return stream, not fatal

    def lay_by_lane(self, stream: Stream, request: Request | None, loss: Loss) -> None:
        """Blame what a worker was running for a client; that has sent it again, or will.

        Args:
            stream: the stream that is lent, or was.
            request: what has come again already, if it has.
            loss: the worker's death.
        """
        position = loss.position
        if position is None:
            return
        if request is not None:
            if position.op < request.count and request.kind(position.op) != OpKind.POISONED:
                self._note(request, position.op, loss.weight, final=not request.leased)
        elif position.request:  # 0: a checkpoint was made
            stream.fatal = Fatal(position.request, position.op, loss.weight)
        if loss.weight == 1:
            _suspect(stream, (position.request, position.op))
            _punish(stream.client, loss.now)

    def came_back(self, request: Request) -> bool:
        """A request that its client sends again; True: it has killed, and may try again."""
        fatal = request.stream.fatal
        if fatal is None or fatal.request != request.id:
            return False
        request.stream.fatal = None
        if fatal.op >= request.count:
            return False
        used_up = self._note(request, fatal.op, fatal.weight)
        request.stream.gave_up |= used_up
        return not used_up

    def _garbled(self, lease: Lease) -> None:
        """No packet is surely to blame for garbage: try each request by itself, then give it up."""
        isolated = lease.isolated
        for request in lease.requests():
            request.garbled += isolated
            request.alone = True
            if request.garbled >= self._max_attempts:
                for index in range(request.count):
                    request.blob = ops.poisoned(request.blob, request.count, index)
                self._books.poison_packets += request.count

    def _operation(self, request: Request, index: int, loss: Loss) -> bool:
        """Note a death of one operation; True where its attempts are used up by it."""
        if index >= request.count or request.kind(index) == OpKind.POISONED:
            return False
        packet = ops.unpack(request.blob, request.count)[index].packet
        if not self._note(request, index, loss.weight):
            return False
        if loss.fresh and loss.weight == 1:  # nothing else can have done it: others are warned
            self._quarantine.add(packet, loss.now)
        return True

    def _is_last(self, request: Request, index: int) -> bool:
        """Whether an operation, or what comes after one that was given up, has one attempt left."""
        spent = request.blame.get(index, 0.0) if request.blame else 0.0
        return spent + 1 >= self._max_attempts

    def _note(self, request: Request, index: int, weight: float, *, final: bool = True) -> bool:
        """Add to an operation's blame; True where it is poison by it, and marked as that.

        What a worker has in hand just now is not `final`: it may yet be decoded.
        """
        blame = request.blame = request.blame or {}
        blame[index] = blame.get(index, 0.0) + weight
        if blame[index] < self._max_attempts or not final:
            return False
        request.blob = ops.poisoned(request.blob, request.count, index)
        del blame[index]
        request.blame = blame or None  # what is left of it has killed nobody
        self._books.poison_packets += 1
        return True


def _in_hand(lease: Lease, record: int) -> tuple[Request | None, Stream | None]:
    """The request that a step runs, if it runs one, and the step's stream."""
    expected = dict(lease.expects).get(record)
    if isinstance(expected, Request):
        return expected, expected.stream
    key = lease.step(record)[0].stream
    for _, what in lease.expects:
        stream = what if isinstance(what, Stream) else what.stream
        if stream.key == key:
            return None, stream
    return None, None


def _place(
    lease: Lease, stream: Stream, request: Request | None, position: Position
) -> tuple[int, ...]:
    """Where in a stream's work it died; every attempt has the same places.

    A death in the making of the decoder is no chance: its place is that of the death before.
    """
    if request is not None:
        return request.id, position.op
    record = position.record
    if lease.step(record)[0].action in {Action.RESTORE, Action.OPEN}:
        return stream.died_at
    first = next(n for n, row in enumerate(lease.rows) if row[0] == stream.key)
    return 0, record - first, position.op


def _isolate(lease: Lease, record: int) -> None:
    for step, what in lease.expects:
        if isinstance(what, Request) and step <= record:
            what.alone = True


def _suspect(
    stream: Stream,
    place: tuple[int, ...],
    *,
    rebuilding: bool = False,
    fatal: bool = False,
    last: bool = False,
) -> None:
    """Note a death of a stream's worker, and how far its journal is to be trusted now.

    A packet that kills again is guilty, and the journal is not, until it has been given up. Behind
    it the `last` attempt of a packet uses nothing of the journal: one of the two is innocent.
    """
    suspected = stream.gave_up or stream.trust is not Trust.ALL
    cleared = fatal and (not suspected or stream.trust is Trust.NOTHING)
    again = suspected or (rebuilding and stream.died_at == place)
    stream.deaths = stream.deaths + 1 if again and not cleared else 1
    stream.died_at = place
    stream.gave_up = fatal
    stream.suspect = True
    if cleared:
        stream.trust = Trust.ALL
    elif stream.deaths > 1:
        with_checkpoint = stream.trust is Trust.ALL and stream.journal.checkpoint is not None
        stream.trust = Trust.LOG if with_checkpoint and not last else Trust.NOTHING


def _punish(client: Client, now: float) -> None:
    """Note a death that a client's packet has caused; when they come thick, slow it down."""
    kills = client.kills
    kills.append(now)
    while kills[0] <= now - KILL_PERIOD_SECONDS:
        kills.popleft()
    if len(kills) > FREE_KILLS:
        seconds = FIRST_PENALTY_SECONDS * 2 ** min(len(kills) - FREE_KILLS, 10)
        client.penalty_until = now + min(seconds, MAX_PENALTY_SECONDS)
