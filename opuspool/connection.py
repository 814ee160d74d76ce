"""The connection to a supervisor: one thread that sends what has gathered and hands answers out.

Callers append to the outbox, from any thread; the thread takes all that has gathered and sends it
as one message. While that is under way the next batch gathers: nothing waits for a batch to fill.
"""

from __future__ import annotations

import itertools
import os
import socket as sockets
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

from opuspool import wire
from opuspool.errors import (
    AuthenticationError,
    OpusPoolError,
    PoolClosedError,
    SupervisorLostError,
    WireError,
)
from opuspool.version import VERSION
from opuspool.wire import Kind, Request, Status

if TYPE_CHECKING:
    from opuspool.calls import Call
    from opuspool.curve import CurveKeys

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

_REFUSED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_EVENTS = _REFUSED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED


class Waiter(Protocol):
    """Tells whoever waits that calls are complete."""

    def complete(self, calls: list[Call]) -> None:
        """These calls have their answer or error; called on the connection's thread."""


class Connection:
    """One client's connection.

    Args:
        endpoint: a resolved address.
        keys: CURVE keys, on tcp.
        waiter: told of complete calls.

    Raises:
        SupervisorLostError: no supervisor answers there.
        AuthenticationError: it refused the keys.
    """

    def __init__(self, endpoint: str, keys: CurveKeys | None, waiter: Waiter) -> None:
        self._endpoint = endpoint
        self._waiter = waiter
        self._pid = os.getpid()
        self._ids = itertools.count(1)
        self._outbox: deque[Call] = deque()
        self._questions: deque[tuple[Kind, int, dict[str, Any]]] = deque()
        self._pending: dict[int, Call] = {}
        self._reports: dict[int, _Report] = {}
        self._error: OpusPoolError | None = None  # for good
        self._away: OpusPoolError | None = None  # until it is back
        self._welcome = threading.Event()
        self._closing = False
        self._sleeping = False
        self._next_sweep = 0.0
        self._next_ping = 0.0
        self._wake_in, self._wake_out = sockets.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._connect(keys)
        self._monitor = self._socket.get_monitor_socket(_EVENTS)
        self._thread = threading.Thread(target=self._run, daemon=True, name="opuspool-connection")
        self._thread.start()
        self._greet()

    # Callers' side, any thread

    def submit(self, call: Call) -> None:
        """Send a call.

        Raises:
            PoolClosedError, SupervisorLostError: it cannot be sent any more.
        """
        self.check()
        self._outbox.append(call)
        if self._sleeping:
            self._wake()

    def ask(self, what: str, timeout: float) -> dict[str, Any]:
        """Ask the supervisor for a report.

        Raises:
            SupervisorLostError: no answer within `timeout` seconds.
        """
        self.check()
        number = next(self._ids)
        report = self._reports[number] = _Report()
        self._questions.append((Kind.ASK, number, {"what": what}))
        self._wake()
        arrived = report.arrived.wait(timeout)
        self._reports.pop(number, None)
        self.check()
        if not arrived:
            raise SupervisorLostError(f"no answer from {self._endpoint} within {timeout:g} s")
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
        error = self._error or self._away
        if error is not None:
            raise type(error)(*error.args)

    @property
    def usable(self) -> bool:
        """Whether anything can be sent."""
        return (self._error or self._away) is None and self._pid == os.getpid()

    def lose(self, error: OpusPoolError) -> None:
        """The supervisor is gone for good: every open call and every later one gets this error."""
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

    def _greet(self) -> None:
        self._questions.append((Kind.HELLO, 0, {"version": VERSION, "pid": os.getpid()}))
        self._wake()
        if self._welcome.wait(WELCOME_SECONDS) and self._error is None:
            return
        error = self._error or SupervisorLostError(
            f"no supervisor answers at {self._endpoint}: is `opuspool-supervise` running there?"
        )
        self.close()
        raise error

    def _connect(self, keys: CurveKeys | None) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_DATA_BYTES)
        socket.setsockopt(zmq.RECONNECT_IVL, 10)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        if keys is not None:
            keys.join(socket)
        socket.connect(self._endpoint)
        return socket

    # The connection's thread

    def _run(self) -> None:
        poller = zmq.Poller()
        for waited in (self._socket, self._monitor, self._wake_out.fileno()):
            poller.register(waited, zmq.POLLIN)
        while not self._closing:
            if self._error is not None:
                self._fail_all(self._error)
            moved = self._send()
            moved = self._receive() or moved
            self._keep_time()
            if not moved:
                self._sleep(poller)
        self._end()

    def _sleep(self, poller: zmq.Poller) -> None:
        self._sleeping = True
        # Whoever appended before it saw the flag did not wake us: look once more.
        if not (self._outbox or self._questions or self._closing):
            ready = dict(poller.poll(SWEEP_MS if self._pending else QUIET_MS))
            if self._wake_out.fileno() in ready:
                with suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            if self._monitor in ready:
                self._watch()
        self._sleeping = False

    def _send(self) -> bool:
        moved = False
        while self._questions:
            kind, number, value = self._questions.popleft()
            moved = self._put(wire.pack_json(kind, value, number)) or moved
        if self._outbox:
            moved = self._send_calls() or moved
        return moved

    def _send_calls(self) -> bool:
        outbox = self._outbox
        calls = [outbox.popleft() for _ in range(min(len(outbox), wire.MAX_RECORDS))]
        now = time.monotonic()
        records = []
        for call in calls:
            number = next(self._ids)
            left = max(1, min(int((call.deadline - now) * 1000), 0xFFFFFFFF))
            stream = call.stream
            records.append(
                Request(
                    number, stream.id, left, len(call.blob), call.count, stream.format.code,
                    call.flags,
                )
            )  # fmt: skip
            if call.count:
                self._pending[number] = call
        if self._put(wire.pack(Kind.REQUESTS, records, [call.blob for call in calls])):
            return True
        for record in records:
            self._pending.pop(record.id, None)
        outbox.extendleft(reversed(calls))
        return False

    def _put(self, frames: wire.Frames) -> bool:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _receive(self) -> bool:
        complete: list[Call] = []
        turns = 0
        for turns in range(MESSAGES_A_TURN):  # noqa: B007  counted
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            with suppress(WireError):  # not from a supervisor of this version: the call times out
                self._take(wire.parse(frames), complete)
        if complete:
            self._waiter.complete(complete)
        return turns > 0

    def _take(self, message: wire.Message, complete: list[Call]) -> None:
        if message.kind is Kind.ANSWERS:
            pending = self._pending
            for answer, payload in zip(message.records, message.payloads(), strict=True):
                call = pending.pop(answer.id, None)
                if call is not None:
                    call.answered(Status(answer.status), payload)
                    complete.append(call)
        elif message.kind is Kind.REPORT:
            report = self._reports.get(message.tag)
            if report is not None:
                report.value = message.json()
                report.arrived.set()
        elif message.kind is Kind.WELCOME:
            self._welcome.set()

    def _watch(self) -> None:
        """Read what ZeroMQ says of the connection."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())["event"]
            if event & _REFUSED and not self._welcome.is_set():
                self._error = AuthenticationError(
                    f"the supervisor at {self._endpoint} refused this client's keys"
                )
                self._welcome.set()
            elif event & zmq.EVENT_DISCONNECTED and self._welcome.is_set():
                self._away = SupervisorLostError(f"the supervisor at {self._endpoint} is gone")
                self._fail_all(self._away)
            elif event & zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._away = None

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_MS / 1000
            late = now - GRACE_SECONDS
            expired = [n for n, call in self._pending.items() if call.deadline < late]
            if expired:
                self._waiter.complete([self._pending.pop(n) for n in expired])
            self._expire_outbox(late)
        if now >= self._next_ping and self._welcome.is_set():
            self._next_ping = now + PING_SECONDS
            self._put(wire.pack_plain(Kind.PING))

    def _expire_outbox(self, late: float) -> None:
        while self._outbox and self._outbox[0].deadline < late:
            self._waiter.complete([self._outbox.popleft()])

    def _fail_all(self, error: OpusPoolError) -> None:
        calls = list(self._pending.values())
        self._pending.clear()
        while self._outbox:
            calls.append(self._outbox.popleft())
        for call in calls:
            call.error = type(error)(*error.args)
        if calls:
            self._waiter.complete(calls)
        for report in list(self._reports.values()):
            report.arrived.set()

    def _end(self) -> None:
        self._fail_all(self._error or PoolClosedError("the pool was closed"))
        self._put(wire.pack_plain(Kind.BYE))
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=100)  # ms, for the goodbye
        self._context.term()
        self._wake_in.close()
        self._wake_out.close()


class _Report:
    """The answer to one question, when it is there."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.value: dict[str, Any] = {}
