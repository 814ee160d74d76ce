"""Requests out and answers in, without a thread or a wait; its owner lets one thread in at a time.

Callers append to the outbox, from any thread; a turn takes all that has gathered and sends it as
one message. While that is under way the next batch gathers: nothing waits for a batch to fill.

Calls of a stream that this client has taken go to its worker by a lane, all others to the
supervisor. A stream that has to go back is handed over as to a new supervisor: checkpoint and log,
then the calls that have no answer.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from typing import TYPE_CHECKING

from opuspool import ops, wire
from opuspool.calls import LOG_LIMIT
from opuspool.wire import Flag, Kind, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from opuspool.calls import Call, StreamState
    from opuspool.channel import Channel
    from opuspool.lane import Lane

_OK = int(Status.OK)
_CHECKPOINT = int(Status.CHECKPOINT)
_SHUTDOWN = int(Status.SHUTDOWN)
_TIMEOUT = int(Status.TIMEOUT)

_NO_OFFER = (0, 0, 0, 0, 0)

_MOST_MS = 0xFFFFFFFF

STILL_SECONDS = 1.0
"""While calls are open the lanes are looked at several times a second, unless nothing runs here."""

LETTER_BYTES = 1 << 20
"""A message of what is handed over is closed when it has as many bytes."""


class Exchange:
    """The calls of one client that are not complete, its streams, and its lanes.

    Args:
        open_lane: makes a lane from a worker's number, its socket's path and a source of numbers.
        close_lane: ends one.

    Attributes:
        outbox: calls to send.
        lanes: by the worker's number.
    """

    def __init__(
        self,
        open_lane: Callable[[int, str, itertools.count[int]], Lane | None],
        close_lane: Callable[[Lane], None],
    ) -> None:
        self.outbox: deque[Call] = deque()
        self.lanes: dict[int, Lane] = {}
        self._open_lane = open_lane
        self._close_lane = close_lane
        self._ids = itertools.count(1)
        self._batches = itertools.count(1)
        self._pending: dict[int, Call] = {}
        self._streams: dict[int, StreamState] = {}
        self._looked = 0.0
        self._ends_waited = False
        self._letters: deque[wire.Frames] = deque()
        self._notices: dict[int, Callable[[int, bytes], None]] = {
            Status.CHECKPOINT: self._save,
            Status.LANE: self._connect,
            Status.GONE: self._gone,
            Status.LENT: self._offered,
            Status.RECALL: self._recalled,
        }

    def __len__(self) -> int:
        return len(self._pending) + len(self.outbox)

    # Out

    @property
    def owes(self) -> bool:
        """Whether something waits to be sent that no caller will tell of."""
        if self._letters or self._ends_waited:
            return True
        return any(lane.waiting for lane in self.lanes.values())

    @property
    def unsteady(self) -> bool:
        """Whether what is waited for of a lane has changed since its connection last looked."""
        return any(x.lost or x.ready or x.watched != x.blocked for x in self.lanes.values())

    def send(self, channel: Channel) -> list[Call]:
        """Send what has gathered, as far as it is taken; returns calls that are refused."""
        while self._letters:
            if not channel.send(self._letters[0]):
                return []
            self._letters.popleft()
        refused: list[Call] = []
        self._ends_waited = False
        if self.outbox:
            self._send(channel, refused)
        if refused:
            self._letters.append(wire.pack_json(Kind.ENDED, {"overloaded": len(refused)}))
        if self.lanes:
            now = time.monotonic()
            for lane in self.lanes.values():
                if lane.waiting or lane.blocked:
                    lane.send(now)
        return refused

    def _send(self, channel: Channel, refused: list[Call]) -> None:
        outbox = self.outbox
        now = time.monotonic()
        numbers, pending, streams = self._ids, self._pending, self._streams
        calls: list[Call] = []
        rows: list[wire.Row] = []
        for _ in range(min(len(outbox), wire.MAX_RECORDS)):
            call = outbox.popleft()
            stream = call.stream
            if not call.count and self._is_held(call):
                continue
            call.number = number = next(numbers)
            if call.count:
                lane = stream.lane
                if lane is not None and len(lane.waiting) >= stream.most_waiting:
                    _refuse(call, lane, refused)
                    continue
                pending[number] = call
                stream.pending += 1
                if lane is not None:
                    lane.waiting.append(call)
                    continue
                if not stream.opened:
                    streams[stream.id] = stream
            rows.append(_row(call, now))
            calls.append(call)
        if not rows or channel.send(wire.pack(Kind.REQUESTS, rows, [call.blob for call in calls])):
            return
        for call in calls:
            if pending.pop(call.number, None) is not None:
                call.stream.pending -= 1
        outbox.extendleft(reversed(calls))

    def _is_held(self, last: Call) -> bool:
        """Whether a stream's end has to wait: it must not overtake what is under way by a lane."""
        stream = last.stream
        if stream.lane is not None and stream.pending:
            stream.last = last
            return True
        self._leave(stream)
        self._streams.pop(stream.id, None)
        return False

    # In

    def take(self, message: wire.Message) -> list[Call]:
        """Take a supervisor's message of answers; returns the calls that are complete by it."""
        complete: list[Call] = []
        for row, payload in zip(message.rows, message.payloads(), strict=True):
            number, _, _, status = row
            if status >= _CHECKPOINT:
                notice = self._notices.get(status)
                if notice is not None:
                    notice(number, payload)
                continue
            if status == _SHUTDOWN:
                continue  # not done here: the successor, if one comes in time, is handed the call
            call = self._pending.get(number)
            if call is not None and not call.batch:
                self._complete(call, status, payload, complete)
        return complete

    def ready(self) -> list[Lane]:
        """The lanes that may be read; who is first now will be last the next time."""
        found = [lane for lane in self.lanes.values() if lane.ready]
        if len(found) > 1:
            first = found[0].serial
            self.lanes[first] = self.lanes.pop(first)
        return found

    def take_batch(self, lane: Lane, message: wire.Message, calls: list[Call]) -> list[Call]:
        """Take what a worker has answered by a lane; returns the calls that are complete by it.

        Done for every packet of a live stream, so in one loop without a call of ours in it.
        """
        complete: list[Call] = []
        lane.heard = time.monotonic()
        if message.kind is not Kind.ANSWERS:
            self._greeted(lane)
            return complete
        pending, batch = self._pending, message.tag
        rows, payloads = message.rows, message.payloads()
        whole = ops.are_whole(payloads, [call.stream.format for call in calls])
        back: dict[int, StreamState] = {}
        for call, row, payload, is_whole in zip(calls, rows, payloads, whole, strict=False):
            if call.batch != batch:
                continue
            stream = call.stream
            usual = is_whole and row == (call.number, len(payload), 1, _OK) and call.count == 1
            if usual and not (back or call.ended or stream.last is not None):
                call.payload, call.status, call.whole = payload, _OK, True
                log = stream.log
                log.entries.append((call.blob, 1))
                log.packets += 1
                if log.packets >= stream.full_at:
                    _log_is_full(lane, stream)
                stream.pending -= 1
                del pending[call.number]
                complete.append(call)
            elif stream.id in back or not call.fits(row, payload):
                back[stream.id] = stream
            else:
                self._complete(call, row[3], payload, complete)
        for row, payload in zip(rows[len(calls) :], payloads[len(calls) :], strict=True):
            saved = lane.streams.get(row[0])
            if saved is not None and payload and saved.id not in back and row[3] == _CHECKPOINT:
                saved.log.save(bytes(payload))
                saved.full_at = _log_room(saved)
        if back:  # the supervisor will say what is wrong with it
            self._take_back(lane, list(back.values()))
        return complete

    def _greeted(self, lane: Lane) -> None:
        """A worker has answered a PING."""
        if not lane.open:
            lane.open = True
            self._letters.append(wire.pack_plain(Kind.LANE, tag=lane.serial))

    def _complete(self, call: Call, status: int, payload: bytes, complete: list[Call]) -> None:
        call.answered(status, payload)
        stream = call.stream
        if stream.lane is not None and stream.log.packets >= stream.full_at:
            _log_is_full(stream.lane, stream)
        if status == _TIMEOUT:
            # It may be executed yet, where only the supervisor knows of it.
            call.stream.offer = None
        if not call.ended:
            complete.append(call)
        self._forget(call)

    def _forget(self, call: Call) -> None:
        """A call is over; its stream may have waited for that."""
        del self._pending[call.number]
        call.batch = 0  # an answer that may come yet is not wanted
        stream = call.stream
        stream.pending -= 1
        if stream.pending:
            return
        if stream.last is not None:
            self.outbox.appendleft(stream.last)
            stream.last = None
            self._ends_waited = True
        elif stream.offer is not None:
            self._take_offer(stream)

    # What a supervisor tells besides

    def _save(self, number: int, checkpoint: bytes) -> None:
        stream = self._streams.get(number)
        if stream is not None and stream.lane is None:
            stream.log.save(checkpoint)

    def _connect(self, serial: int, path: bytes) -> None:
        """A worker may be reached there."""
        if serial in self.lanes:  # a supervisor that had forgotten this client
            if self.lanes[serial].open:
                self._letters.append(wire.pack_plain(Kind.LANE, tag=serial))
        else:
            lane = self._open_lane(serial, os.fsdecode(path), self._batches)
            if lane is not None:
                self.lanes[serial] = lane
            else:  # it may be told of it again
                self._letters.append(wire.pack_plain(Kind.LOST, tag=serial))

    def _gone(self, serial: int, payload: bytes) -> None:
        """A worker is gone, and what was lent there goes back."""
        if len(payload) == wire.GONE.size and serial in self.lanes:
            self._end_lane(self.lanes[serial], *wire.GONE.unpack(payload))

    def _offered(self, number: int, payload: bytes) -> None:
        """A stream may be taken."""
        stream = self._streams.get(number)
        if stream is None or len(payload) != wire.LENDING.size:
            return
        stream.offer = wire.LENDING.unpack(payload)
        if not stream.pending:
            self._take_offer(stream)

    def _recalled(self, number: int, payload: bytes) -> None:
        """A stream is to go back."""
        stream = self._streams.get(number)
        if stream is None or stream.lane is None or len(payload) != wire.TOKEN.size:
            return
        if wire.TOKEN.unpack(payload) == (stream.token,):
            self._take_back(stream.lane, [stream])

    def _take_offer(self, stream: StreamState) -> None:
        serial, token, checkpoint_packets, most_waiting, silent_ms = stream.offer or _NO_OFFER
        stream.offer = None
        lane = self.lanes.get(serial)
        if lane is None or not lane.open or stream.closed or stream.lane is not None:
            return
        stream.lane, stream.token, stream.most_waiting = lane, token, most_waiting
        stream.checkpoint_packets = min(checkpoint_packets, LOG_LIMIT)
        # Streams that were taken together would all be saved together, again and again.
        stream.full_at = _log_room(stream, token)
        lane.streams[token] = stream
        lane.silent_seconds = silent_ms / 1000
        row = (token, stream.id, 0, 0, 0, stream.format.code, int(Flag.TAKE))
        self._letters.append(wire.pack(Kind.REQUESTS, [row], []))

    def _leave(self, stream: StreamState) -> None:
        """A stream is no longer used by a lane."""
        if stream.lane is not None:
            stream.lane.streams.pop(stream.token, None)
        stream.lane, stream.token, stream.offer = None, 0, None

    # Handing over

    def look_at_lanes(self, now: float) -> None:
        """Give up the lanes that are silent; none where this process itself has stood still."""
        stood_still = now - self._looked > STILL_SECONDS
        self._looked = now
        for lane in list(self.lanes.values()):
            if stood_still:
                lane.heard = now  # what has been answered may not have been read
            if lane.busy and now - lane.heard > lane.silent_seconds:
                self.give_up(lane)

    def drop_lanes(self) -> None:
        """End every lane; their streams are to be handed over."""
        for lane in self.lanes.values():
            for stream in list(lane.streams.values()):
                self._leave(stream)
            self._close_lane(lane)
        self.lanes.clear()
        self._letters.clear()
        for call in self._pending.values():
            call.batch = 0

    def hand_over(self, channel: Channel) -> None:
        """Give a new supervisor all streams, then the calls that have no answer."""
        self.drop_lanes()
        self._forget_ended()
        needed = {call.stream.id for call in self._pending.values()}
        streams = []
        for stream in self._streams.values():
            stream.offer = None
            if stream.opened and (not stream.closed or stream.id in needed):
                streams.append(stream)
        self._give(streams, list(self._pending.values()))
        self.send(channel)

    def give_up(self, lane: Lane) -> None:
        """End a lane whose worker is silent, or not to be trusted; another may be made."""
        self._letters.append(wire.pack_plain(Kind.LOST, tag=lane.serial))
        self._end_lane(lane)

    def repair(self, lane: Lane) -> None:
        """End a lane in whose turn something has struck: what it holds, nobody knows any more."""
        for stream in lane.streams.values():
            stream.pending = sum(call.stream is stream for call in self._pending.values())
        if self.lanes.get(lane.serial) is lane:
            self.give_up(lane)

    def _end_lane(self, lane: Lane, batch: int = 0, record: int = 0) -> None:
        """End a lane; its worker died running that record of that batch (0: it did not)."""
        del self.lanes[lane.serial]
        sent = lane.calls_of(batch)
        streams = list(lane.streams.values())
        self._take_back(lane, streams, set(sent[: record + 1]), sent[record : record + 1])
        self._close_lane(lane)

    def _take_back(
        self,
        lane: Lane,
        streams: list[StreamState],
        ran: Collection[Call] = (),
        in_hand: Collection[Call] = (),
    ) -> None:
        """Hand streams back to the supervisor, and their calls.

        Args:
            lane: they were taken there.
            streams: all of them, or some.
            ran: calls that the worker had run, or was running, when it died.
            in_hand: that of them which it was running; its stream's calls go first.
        """
        for stream in streams:
            self._leave(stream)
        numbers = {stream.id for stream in streams}
        lane.drop_streams(numbers)
        self._forget_ended(numbers)
        calls = [call for call in self._pending.values() if call.stream.id in numbers]
        first = [call.stream.id for call in calls if call in in_hand]
        calls.sort(key=lambda call: call.stream.id not in first)  # stable
        self._give(streams, calls, ran)

    def _give(
        self, streams: list[StreamState], calls: list[Call], ran: Collection[Call] = ()
    ) -> None:
        """Write to the supervisor what it has to know of streams, then their calls."""
        now = time.monotonic()
        rows: list[wire.Row] = []
        payloads: list[bytes] = []
        for stream in streams:
            _add_stream(stream, rows, payloads)
        for call in calls:
            retried = Flag.RETRIED if call.batch else 0
            suspect = Flag.SUSPECT if call in ran else 0
            rows.append(_row(call, now, retried | suspect))
            payloads.append(call.blob)
            call.batch = 0
        self._write(rows, payloads)

    def _forget_ended(self, numbers: Iterable[int] | None = None) -> None:
        """Forget the calls whose deadline has passed, of these streams or of all."""
        for call in [call for call in self._pending.values() if call.ended]:
            if numbers is None or call.stream.id in numbers:
                self._forget(call)

    def _write(self, rows: list[wire.Row], payloads: list[bytes]) -> None:
        """Make letters of rows; each is small enough not to hold up others for long."""
        start = size = 0
        for at, payload in enumerate(payloads):
            size += len(payload)
            if size > LETTER_BYTES or at - start >= wire.MAX_RECORDS - 1:
                self._letters.append(
                    wire.pack(Kind.REQUESTS, rows[start : at + 1], payloads[start : at + 1])
                )
                start, size = at + 1, 0
        if start < len(rows):
            self._letters.append(wire.pack(Kind.REQUESTS, rows[start:], payloads[start:]))

    # Ends

    def expired(self, now: float, late: float) -> list[Call]:
        """The calls whose deadline (monotonic) has passed.

        Args:
            now: of those that are the client's own to end, which go by lanes.
            late: of those that the supervisor should have ended.
        """
        ended: list[Call] = []
        own = 0
        for call in list(self._pending.values()):
            stream = call.stream
            by_lane = stream.lane is not None
            if call.ended or call.deadline >= (now if by_lane else late):
                continue
            ended.append(call)
            own += by_lane
            call.ended = True  # it may be executed all the same: its answer is for the stream's log
            if stream.lane is not None and not call.batch:  # it has not been sent
                stream.lane.drop(call)
                self._forget(call)
        while self.outbox and self.outbox[0].deadline < late:
            call = self.outbox.popleft()
            if call.count:
                ended.append(call)
        if own:
            self._letters.append(wire.pack_json(Kind.ENDED, {"timeout": own}))
        return ended

    def take_all(self) -> list[Call]:
        """Take out every call; returns those that somebody waits for, as nobody does for an end."""
        calls = [call for call in self._pending.values() if not call.ended]
        for call in self._pending.values():
            call.batch = 0
        self._pending.clear()
        for lane in self.lanes.values():
            lane.waiting.clear()
        while self.outbox:
            call = self.outbox.popleft()
            if call.count:
                calls.append(call)
        return calls


def _refuse(call: Call, lane: Lane, refused: list[Call]) -> None:
    words = f"{len(lane.waiting)} requests wait for the worker: send less, or later"
    call.refuse(Status.OVERLOADED, words)
    refused.append(call)


def _row(call: Call, now: float, flags: int = 0) -> tuple[int, ...]:
    """A call as a `wire.Request`."""
    left = int((call.deadline - now) * 1000)
    stream = call.stream
    return (
        call.number,
        stream.id,
        left if 0 < left < _MOST_MS else max(1, min(left, _MOST_MS)),
        len(call.blob),
        call.count,
        stream.format.code,
        call.flags | flags,
    )


def _log_room(stream: StreamState, token: int = 0) -> int:
    """Operations in a stream's log at which its checkpoint is asked for, or the log is cut.

    Args:
        stream: the stream.
        token: where it has just been taken; others that were taken with it are saved elsewhere.
    """
    every = stream.checkpoint_packets
    if not every:
        return LOG_LIMIT + 1
    return min(every, every - token % every + stream.log.packets)


def _log_is_full(lane: Lane, stream: StreamState) -> None:
    """Ask for a stream's checkpoint; where there is none to be had, keep the log short."""
    stream.log.cut(LOG_LIMIT)
    if stream.checkpoint_packets:
        lane.unsaved.append(stream)
    stream.full_at = stream.log.packets + max(1, stream.checkpoint_packets)


def _add_stream(stream: StreamState, rows: list[wire.Row], payloads: list[bytes]) -> None:
    """Append what makes a supervisor know a stream."""
    code = stream.format.code
    log = stream.log
    checkpoint = log.checkpoint or b""
    rows.append((0, stream.id, 0, len(checkpoint), int(not log.exact), code, int(Flag.RESTORE)))
    payloads.append(checkpoint)
    gain = [(log.gain, 1)] if log.gain is not None and not log.exact else []
    for blob, count in [*gain, *log.joined()]:
        rows.append((0, stream.id, 0, len(blob), count, code, int(Flag.REPLAY)))
        payloads.append(blob)
