"""Lending: a client may send a stream's packets straight to its worker, by a lane; pure.

    supervisor                      client
    LANE: where a worker is    ──▶  connects to it
                               ◀──  LANE: it answers
    LEND to the worker, LENT   ──▶
                               ◀──  TAKE: its packets go there now, and its client has its journal
    GONE or RECALL             ──▶
                               ◀──  RESTORE, REPLAY, and the requests that have no answer

Until TAKE has come the supervisor goes on as if it had offered nothing. What a client has taken it
can hand back at any time. All that is rare comes the slow way: a stream's first packet, and every
packet from a death of its worker until it has decoded again.
"""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING

from opuspool.recorder import LANE
from opuspool.wire import GONE, LENDING, TOKEN, Action, Answer, Status, Step
from opuspool_supervisor.journal import Journal, Trust

if TYPE_CHECKING:
    from collections.abc import Iterable

    from opuspool.config import Config
    from opuspool.recorder import Position
    from opuspool_supervisor.answers import Answers
    from opuspool_supervisor.books import Books
    from opuspool_supervisor.records import Client, Lease, Stream
    from opuspool_supervisor.slots import Slot, Worker


FORMER = 1000
"""So many tokens stay known: a worker may die running what has been called back."""

SILENT_SECONDS = 2.0
"""A client gives up a lane that owes it answers for so long, or for twice what a hang may take."""


class Lending:
    """Which streams are offered to their clients, and which these have taken.

    Args:
        config: all settings.
        answers: what is told to clients is put there.
        books: counts what is taken.
    """

    def __init__(self, config: Config, answers: dict[bytes, Answers], books: Books) -> None:
        self._answers = answers
        self._books = books
        self._offered: dict[int, Stream] = {}
        self._former: OrderedDict[int, Stream] = OrderedDict()
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Go by other settings from now on; what is lent stays lent."""
        # A report that can be replayed needs the packets, and what was before them.
        self._wanted = config.requests.lanes and not config.crashes.keep_packets
        silent_seconds = max(SILENT_SECONDS, 2 * config.workers.hang_seconds)
        self._limits = (
            config.recovery.checkpoint_packets,
            config.limits.queued_requests,
            int(silent_seconds * 1000),
        )

    def __len__(self) -> int:
        return len(self._offered)

    def reached(self, client: Client, serial: int) -> None:
        """A client has a lane to this worker."""
        if serial in client.told:
            client.lanes.add(serial)

    def lost(self, client: Client, serial: int) -> None:
        """A client has no lane to this worker any more; it may be told of it again."""
        client.told.discard(serial)
        client.lanes.discard(serial)
        for stream in client.streams.values():
            if stream.token and not stream.lent:
                self.forget(stream)

    def offer(self, stream: Stream, slot: Slot, lease: Lease) -> None:
        """Offer a stream that this lease decodes, if it may be lent and its client has a lane."""
        worker, client = slot.worker, stream.client
        if worker is None or stream.bulk or stream.token or not self._wanted:
            return
        if worker.serial not in client.lanes:
            self._tell(client, worker)
            return
        healthy = not (stream.deaths or stream.suspect or stream.fatal or slot.suspects)
        healthy = healthy and not stream.unseen
        plain = not (stream.closing or stream.held or lease.isolated)
        exact = stream.journal.exact and stream.trust is Trust.ALL
        if not (healthy and plain and exact):
            return
        stream.token = secrets.randbits(64) or 1
        self._offered[stream.token] = stream
        payload = TOKEN.pack(stream.token)
        lease.add([(Step(stream.key, len(payload), 0, 0, Action.LEND), payload)])
        lease.offers.append((stream, stream.token))

    def settled(self, lease: Lease, worker: Worker) -> None:
        """The worker knows the tokens of this lease: now their clients may."""
        for stream, token in lease.offers:
            if self._offered.get(token) is not stream:
                continue
            if stream.unseen:
                self.forget(stream)
            else:
                payload = LENDING.pack(worker.serial, token, *self._limits)
                self._say(stream.client, stream.id, Status.LENT, payload)

    def take(self, client: Client, stream_id: int, token: int) -> None:
        """A client sends a stream's packets to its worker from now on, and has its journal."""
        stream = client.streams.get(stream_id)
        if stream is None:
            return
        stream.lent = True
        stream.journal = Journal()
        self._books.streams_lent += 1
        if self._offered.get(token) is not stream or stream.pending:  # it was moved meanwhile
            self._say(client, stream_id, Status.RECALL, TOKEN.pack(token))

    def recall(self, stream: Stream) -> None:
        """Have a client hand a stream back; its worker is well."""
        if not stream.recalled:
            stream.recalled = True
            self._say(stream.client, stream.id, Status.RECALL, TOKEN.pack(stream.token))

    def forget(self, stream: Stream) -> None:
        """The stream's decoder is no longer where it was offered."""
        if self._offered.pop(stream.token, None) is not None:
            self._former[stream.token] = stream
            if len(self._former) > FORMER:
                self._former.popitem(last=False)
        stream.token = 0

    def in_hand(self, position: Position | None) -> Stream | None:
        """The stream that a worker was decoding for a client when it died, if it was."""
        if position is None or position.lease != LANE:
            return None
        found = self._offered.get(position.token) or self._former.get(position.token)
        # What was handed back meanwhile has a record of its own now.
        return found and found.client.streams.get(found.id)

    def worker_gone(
        self, clients: Iterable[Client], worker: Worker, position: Position | None
    ) -> None:
        """Tell its clients that a worker is gone; they hand its streams back."""
        stream = self.in_hand(position)
        for client in clients:
            if worker.serial not in client.told:
                continue
            client.told.discard(worker.serial)
            client.lanes.discard(worker.serial)
            its = position is not None and stream is not None and stream.client is client
            batch, record = (position.batch, position.record) if position and its else (0, 0)
            payload = GONE.pack(batch, min(record, 0xFFFFFFFF))
            self._say(client, worker.serial, Status.GONE, payload)

    def _tell(self, client: Client, worker: Worker) -> None:
        """Tell a client where a worker is, once."""
        if worker.lane and worker.serial not in client.told:
            client.told.add(worker.serial)
            self._say(client, worker.serial, Status.LANE, os.fsencode(worker.lane))

    def _say(self, client: Client, number: int, status: Status, payload: bytes) -> None:
        self._answers[client.key].add(Answer(number, len(payload), 0, status), payload)
