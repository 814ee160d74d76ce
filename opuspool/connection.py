"""The connection to a supervisor: one thread that sends what has gathered and hands answers out.

Callers append to the outbox, from any thread; the thread takes all that has gathered and sends it
as one message. While that is under way the next batch gathers: nothing waits for a batch to fill.

A supervisor may die. Its successor is handed every stream's checkpoint and log, then the calls
that had no answer, in their order: to the callers it was a pause.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import zmq

from opuspool import wakeup, wire
from opuspool.channel import Address, Channel
from opuspool.errors import (
    AuthenticationError,
    OpusPoolError,
    PoolClosedError,
    SupervisorLostError,
)
from opuspool.version import VERSION
from opuspool.wire import Flag, Kind, Request, Status

if TYPE_CHECKING:
    from opuspool.calls import Call, StreamState

WELCOME_SECONDS = 10.0
"""A supervisor that does not greet in this time is not there."""

GRACE_SECONDS = 1.0
"""How long after a call's deadline the supervisor's own answer is waited for."""

PING_SECONDS = 10.0
"""Time between two signs of life."""

SWEEP_MS = 200
"""Time between two looks for passed deadlines."""

QUIET_MS = 1000
"""The longest sleep while no call is open."""

MESSAGES_A_TURN = 100
"""Messages received before the outbox has its turn."""


class Waiter(Protocol):
    """Tells whoever waits that calls are complete."""

    def complete(self, calls: list[Call]) -> None:
        """These calls have their answer or error; called on the connection's thread."""


class Connection:
    """One client's connection.

    Args:
        address: where the supervisor listens.
        waiter: told of complete calls.

    Raises:
        SupervisorLostError: no supervisor answers there.
        AuthenticationError: it refused the keys.
    """

    def __init__(self, address: Address, waiter: Waiter) -> None:
        self._address = address
        self._waiter = waiter
        self._pid = os.getpid()
        self._ids = itertools.count(1)
        self._outbox: deque[Call] = deque()
        self._questions: deque[int] = deque()
        self._pending: dict[int, Call] = {}
        self._streams: dict[int, StreamState] = {}
        self._reports: dict[int, _Report] = {}
        self._error: OpusPoolError | None = None
        self._first_welcome = threading.Event()
        self._welcomed = False
        self._closing = False
        self._sleeping = False
        self._next_sweep = 0.0
        self._next_ping = 0.0
        self._wake_in, self._wake_out = wakeup.pair()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._channel = Channel(self._context, address)
        self._thread = threading.Thread(target=self._run, daemon=True, name="opuspool-connection")
        self._thread.start()
        self._await_welcome()

    # Callers' side, any thread

    def submit(self, call: Call) -> None:
        """Send a call.

        Raises:
            PoolClosedError, SupervisorLostError: it cannot be sent any more.
        """
        self.check()
        self._outbox.append(call)
        if self._sleeping:
            self._sleeping = False  # once is enough: a wake-up costs more than all the rest
            self._wake()

    def ask(self, what: str, timeout: float, **facts: object) -> dict[str, Any]:
        """Ask the supervisor for a report, or to do something.

        Args:
            what: "status"; "recycle" or "restart", with the fact `slot`.
            timeout: seconds.
            facts: what else is in the question.

        Raises:
            SupervisorLostError: no answer within `timeout` seconds.
        """
        self.check()
        number = next(self._ids)
        report = self._reports[number] = _Report({"what": what, **facts})
        self._questions.append(number)
        self._wake()
        arrived = report.arrived.wait(timeout)
        self._reports.pop(number, None)
        self.check()
        if not arrived:
            raise SupervisorLostError(
                f"the supervisor at {self._address.endpoint} has not answered within {timeout:g} s"
            )
        return report.value

    def check(self) -> None:
        """Raise why nothing can be sent, if so.

        Raises:
            PoolClosedError, SupervisorLostError, AuthenticationError: as it is.
        """
        if self._pid != os.getpid():
            raise PoolClosedError(
                "this pool belongs to the parent process: make one after the fork"
            )
        if self._error is not None:
            raise _copy(self._error)

    @property
    def usable(self) -> bool:
        """Whether anything can be sent."""
        return self._error is None and self._pid == os.getpid()

    def move(self, address: Address) -> None:
        """Another supervisor has taken the place of a dead one: go on there."""
        self._address = address
        self._wake()

    def lose(self, error: OpusPoolError) -> None:
        """There will be no supervisor any more: open calls and later ones get this error."""
        if self._error is None:
            self._error = error
        self._wake()

    def close(self) -> None:
        """Say goodbye and end the thread; open calls get `PoolClosedError`."""
        if self._error is None:
            self._error = PoolClosedError("the pool was closed")
        self._closing = True
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _wake(self) -> None:
        with suppress(OSError):
            self._wake_in.send(b"\0")

    def _await_welcome(self) -> None:
        if self._first_welcome.wait(WELCOME_SECONDS) and self._error is None:
            return
        error = self._error or SupervisorLostError(
            f"no supervisor answers at {self._address.endpoint}: "
            "is `opuspool-supervise` running there?"
        )
        self.close()
        raise error

    # The connection's thread

    def _run(self) -> None:
        self._poller.register(self._wake_out.fileno(), zmq.POLLIN)
        self._channel.register(self._poller)
        self._say_hello()
        while not self._closing:
            if self._error is not None:
                self._fail_all(self._error)
            if self._channel.address != self._address:
                self._reconnect()
            moved = self._welcomed and self._send()
            moved = self._receive() or moved
            self._keep_time()
            if not moved:
                self._sleep()
        self._end()

    def _sleep(self) -> None:
        self._sleeping = True
        # Whoever appended before it saw the flag did not wake us: look once more.
        if not (self._welcomed and (self._outbox or self._questions)) and not self._closing:
            busy = self._pending or self._outbox
            ready = dict(self._poller.poll(SWEEP_MS if busy else QUIET_MS))
            if self._wake_out.fileno() in ready:
                with suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            if self._channel.monitor in ready:
                self._watch()
        self._sleeping = False

    def _watch(self) -> None:
        refused, lost = self._channel.events()
        if refused and not self._first_welcome.is_set():
            self._error = AuthenticationError(
                f"the supervisor at {self._address.endpoint} refused this client's keys"
            )
            self._first_welcome.set()
        elif lost and self._welcomed:
            self._reconnect()

    def _reconnect(self) -> None:
        self._poller.unregister(self._channel.socket)
        self._poller.unregister(self._channel.monitor)
        self._channel.close()
        self._welcomed = False
        self._channel = Channel(self._context, self._address)
        self._channel.register(self._poller)
        self._say_hello()

    def _say_hello(self) -> None:
        self._channel.send(wire.pack_json(Kind.HELLO, {"version": VERSION, "pid": os.getpid()}))

    def _send(self) -> bool:
        moved = False
        while self._questions:
            moved = self._ask(self._questions.popleft()) or moved
        if self._outbox:
            moved = self._send_calls() or moved
        return moved

    def _ask(self, number: int) -> bool:
        report = self._reports.get(number)
        if report is None:
            return False
        return self._channel.send(wire.pack_json(Kind.ASK, report.question, number))

    def _send_calls(self) -> bool:
        outbox = self._outbox
        calls = [outbox.popleft() for _ in range(min(len(outbox), wire.MAX_RECORDS))]
        now = time.monotonic()
        records = [self._record(next(self._ids), call, now) for call in calls]
        if not self._channel.send(wire.pack(Kind.REQUESTS, records, [c.blob for c in calls])):
            outbox.extendleft(reversed(calls))
            return False
        for record, call in zip(records, calls, strict=True):
            if call.count:
                self._pending[record.id] = call
                self._streams[record.stream] = call.stream
            else:
                self._streams.pop(record.stream, None)
        return True

    def _record(self, number: int, call: Call, now: float) -> Request:
        stream = call.stream
        left = max(1, min(int((call.deadline - now) * 1000), 0xFFFFFFFF))
        return Request(
            number, stream.id, left, len(call.blob), call.count, stream.format.code, call.flags
        )

    def _hand_over(self) -> None:
        """Give a new supervisor all streams, then the calls that have no answer."""
        now = time.monotonic()
        self._questions = deque(self._reports)
        records: list[Request] = []
        payloads: list[bytes] = []
        for stream in self._streams.values():
            if stream.opened:
                _add_stream(stream, records, payloads)
        for number, call in self._pending.items():
            records.append(self._record(number, call, now))
            payloads.append(call.blob)
        for at in range(0, len(records), wire.MAX_RECORDS):
            to = at + wire.MAX_RECORDS
            self._channel.send(wire.pack(Kind.REQUESTS, records[at:to], payloads[at:to]))

    def _receive(self) -> bool:
        complete: list[Call] = []
        got = False
        for message in self._channel.receive(MESSAGES_A_TURN):
            got = True
            self._take(message, complete)
        if complete:
            self._waiter.complete(complete)
        return got

    def _take(self, message: wire.Message, complete: list[Call]) -> None:
        if message.kind is Kind.ANSWERS:
            self._take_answers(message, complete)
        elif message.kind is Kind.REPORT:
            report = self._reports.get(message.tag)
            if report is not None:
                report.value = message.json()
                report.arrived.set()
        elif message.kind is Kind.WELCOME and not self._welcomed:
            self._welcomed = True
            self._first_welcome.set()
            self._hand_over()

    def _take_answers(self, message: wire.Message, complete: list[Call]) -> None:
        pending = self._pending
        for answer, payload in zip(message.records, message.payloads(), strict=True):
            if answer.status == Status.CHECKPOINT:
                stream = self._streams.get(answer.id)
                if stream is not None:
                    stream.log.save(payload)
                continue
            call = pending.pop(answer.id, None)
            if call is not None:
                call.answered(Status(answer.status), payload)
                complete.append(call)

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_MS / 1000
            self._expire(now)
        if now >= self._next_ping and self._welcomed:
            self._next_ping = now + PING_SECONDS
            self._channel.send(wire.pack_plain(Kind.PING))

    def _expire(self, now: float) -> None:
        """End the calls that the supervisor should have ended; sooner where there is none."""
        late = now - GRACE_SECONDS if self._welcomed else now
        expired = [n for n, call in self._pending.items() if call.deadline < late]
        calls = [self._pending.pop(number) for number in expired]
        while self._outbox and self._outbox[0].deadline < late:
            calls.append(self._outbox.popleft())
        if not self._welcomed:
            for call in calls:
                call.error = SupervisorLostError(
                    f"the supervisor at {self._address.endpoint} is gone, "
                    "and none came back before the deadline"
                )
        if calls:
            self._waiter.complete(calls)

    def _fail_all(self, error: OpusPoolError) -> None:
        calls = list(self._pending.values())
        self._pending.clear()
        while self._outbox:
            calls.append(self._outbox.popleft())
        for call in calls:
            call.error = _copy(error)
        if calls:
            self._waiter.complete(calls)
        for report in list(self._reports.values()):
            report.arrived.set()

    def _end(self) -> None:
        self._fail_all(self._error or PoolClosedError("the pool was closed"))
        self._channel.send(wire.pack_plain(Kind.BYE))
        self._channel.close(linger_ms=100)
        self._context.term()
        self._wake_in.close()
        self._wake_out.close()


def _add_stream(stream: StreamState, records: list[Request], payloads: list[bytes]) -> None:
    """Append what makes another supervisor know a stream."""
    code = stream.format.code
    checkpoint = stream.log.checkpoint or b""
    records.append(Request(0, stream.id, 0, len(checkpoint), 0, code, Flag.RESTORE))
    payloads.append(checkpoint)
    for blob, count in stream.log.entries:
        records.append(Request(0, stream.id, 0, len(blob), count, code, Flag.REPLAY))
        payloads.append(blob)


def _copy(error: OpusPoolError) -> OpusPoolError:
    """One error object a caller: tracebacks must not mix."""
    return type(error)(*error.args)


class _Report:
    """The answer to one question, when it is there."""

    def __init__(self, question: dict[str, object]) -> None:
        self.question = question
        self.arrived = threading.Event()
        self.value: dict[str, Any] = {}
