"""The connection to a supervisor: sends what has gathered, hands answers out, outlives it.

Its thread does all of that, or an event loop what is done for every packet (eventloop.py) and the
thread only the rest: signs of life, deadlines, another connection after a loss. A caller whose call
is the only one does for it what the thread would (`run_alone`).

A supervisor may die, or drain and leave. Its successor is handed every stream's checkpoint and log,
then the calls that had no answer, in their order: to the callers it was a pause.
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

from opuspool import forks, wakeup, wire
from opuspool.channel import Address, Channel
from opuspool.errors import (
    AuthenticationError,
    OpusPoolError,
    PoolClosedError,
    SupervisorLostError,
    WireError,
)
from opuspool.exchange import Exchange
from opuspool.lane import Lane
from opuspool.version import VERSION
from opuspool.watcher import Watcher
from opuspool.wire import Kind

if TYPE_CHECKING:
    from opuspool.calls import Call
    from opuspool.eventloop import LoopDriver

ALONE_SECONDS = 0.002
"""A caller whose call is the only one takes its answer itself, if it comes so soon."""

WELCOME_SECONDS = 10.0
"""A supervisor that does not greet in this time is not there."""

GRACE_SECONDS = 1.0
"""How long after a call's deadline the supervisor's own answer is waited for."""

PING_SECONDS = 10.0
"""Time between two signs of life."""

SWEEP_SECONDS = 0.2
"""Time between two looks for passed deadlines."""

QUIET_SECONDS = 1.0
"""The longest sleep while no call is open."""

MESSAGES_A_TURN = 100
"""Messages received before the outbox has its turn."""


class Waiter(Protocol):
    """Tells whoever waits that calls are complete.

    Attributes:
        driver: the event loop that sends and receives; None: the connection's thread does.
    """

    driver: LoopDriver | None

    def complete(self, calls: list[Call]) -> None:
        """These calls have their answer or error; called on whatever thread takes the turn.

        It must not submit: the exchange may be held.
        """


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
        self._forks = forks.generation
        self._exchange = Exchange(self._open_lane, self._close_lane)
        self._outbox = self._exchange.outbox
        self._numbers = itertools.count(1)
        self._questions: deque[int] = deque()
        self._reports: dict[int, _Report] = {}
        self._error: OpusPoolError | None = None
        self._first_welcome = threading.Event()
        self._welcomed = False
        self._closing = False
        self._closed = False
        self._sleeping = False
        self._next_sweep = 0.0
        self._next_ping = 0.0
        self._wake_in, self._wake_out = wakeup.pair()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._watcher = Watcher()
        self._watcher.watch(self._wake_out.fileno(), self._empty_wake)
        self._channel_lock = threading.Lock()
        self._driver = waiter.driver
        self._eyes: LoopDriver | Watcher = self._driver or self._watcher
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
        if self._error is not None or self._forks != forks.generation:
            self.check()
        self._outbox.append(call)
        driver = self._driver
        if driver is None:
            self._wake_if_asleep()
        elif driver.due:
            return
        elif len(self._exchange) > 1:
            driver.nudge()  # others gather
        elif call.stream.lane is None:
            driver.turn()
        elif not self._send_alone():
            driver.nudge()

    def _send_alone(self) -> bool:
        """Send a call by its lane at once, as no others gather; whether a turn has no more to do.

        Not a turn, which would look for what has arrived; nothing else is under way.
        """
        exchange, channel = self._exchange, self._channel
        with self._channel_lock:
            if self._closed or not self._welcomed:
                return False
            refused = exchange.send(channel)
            done = not (channel.unsure or exchange.unsteady)
        if refused:
            self._waiter.complete(refused)
        return done

    def run_alone(self, call: Call) -> bool:
        """Send a call and take its answer on its caller's thread; False where others are under way.

        That spares two threads' waking. An answer that takes long is left to the connection's
        thread; the caller waits for its call's completion in any case. What cannot be sent is left
        to `submit`, which says why.
        """
        lane, lock = call.stream.lane, self._channel_lock
        if lane is None or lock.locked() or len(self._exchange) or not self.usable:
            return False
        with lock:  # by `acquire` and `try`, a signal's handler could come between
            if not self._may_run_alone(lane):
                return False
            try:
                self._outbox.append(call)
                self._run_alone(lane)
            except BaseException:  # a handler's: it may have struck anywhere
                self._exchange.repair(lane)
                self._wake()
                raise
        return True

    def _may_run_alone(self, lane: Lane) -> bool:
        if self._error is not None or not self._welcomed or len(self._exchange):
            return False
        return not lane.lost and lane.watched is None

    def _run_alone(self, lane: Lane) -> None:
        self._waiter.complete(self._exchange.send(self._channel))
        until = time.monotonic() + ALONE_SECONDS
        while lane.owes and lane.wait(until - time.monotonic()):
            complete: list[Call] = []
            self._receive_by_lane(lane, complete)
            self._waiter.complete(complete)
        if len(self._exchange) or self._exchange.owes:
            self._wake()

    def ask(self, what: str, timeout: float, **facts: object) -> dict[str, Any]:
        """Ask the supervisor for a report, or to do something.

        Args:
            what: "status"; "recycle", "restart" or "drain", with the fact `slot`.
            timeout: seconds.
            facts: what else is in the question.

        Raises:
            SupervisorLostError: no answer within `timeout` seconds.
        """
        self.check()
        number = next(self._numbers)
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
        if self._forks != forks.generation:
            raise PoolClosedError(
                "this pool belongs to the parent process: make one after the fork"
            )
        if self._error is not None:
            raise _copy(self._error)

    @property
    def usable(self) -> bool:
        """Whether anything can be sent."""
        return self._error is None and self._forks == forks.generation

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

    def _wake_if_asleep(self) -> None:
        if self._sleeping:
            self._sleeping = False  # once is enough: a wake-up costs more than all the rest
            self._wake()

    def _await_welcome(self) -> None:
        if self._first_welcome.wait(WELCOME_SECONDS) and self._error is None:
            return
        error = self._error or SupervisorLostError(
            f"no supervisor answers at {self._address.endpoint}: "
            "is `opuspool-supervise` running there?"
        )
        self.close()
        raise error

    # A turn: on the connection's thread, or on the event loop's

    def _turn(self) -> bool:
        """Send what has gathered, take what has arrived; True where another turn should follow.

        Several who had waited may have more to send, which should go as one message.
        """
        complete: list[Call] = []
        with self._channel_lock:
            if self._closed:
                return False
            if self._welcomed:
                self._ask_all()
                complete += self._exchange.send(self._channel)
            arrived = self._receive(complete)
            if arrived and self._welcomed and self._exchange.owes:
                complete += self._exchange.send(self._channel)
            unread = self._watch_lanes() or self._channel.unsure
        if complete:
            self._waiter.complete(complete)
        return len(complete) > 1 or unread

    def _take_rest(self) -> None:
        """Take what a supervisor answered before it went."""
        complete: list[Call] = []
        with self._channel_lock:
            self._channel.may_be_read()
            while self._receive(complete):
                pass
        if complete:
            self._waiter.complete(complete)

    def _receive(self, complete: list[Call]) -> bool:
        arrived = False
        for message in self._channel.receive(MESSAGES_A_TURN):
            arrived = True
            self._take(message, complete)
        for lane in self._exchange.ready():
            if self._receive_by_lane(lane, complete):
                return True  # its worker gets the next batch before another's answers are taken
        return arrived

    def _receive_by_lane(self, lane: Lane, complete: list[Call]) -> bool:
        arrived = False
        try:
            for message, calls in lane.receive(time.monotonic()):
                arrived = True
                complete += self._exchange.take_batch(lane, message, calls)
        except WireError:
            self._exchange.give_up(lane)
            arrived = True  # it has something to send now
        return arrived

    def _open_lane(self, serial: int, path: str, numbers: itertools.count[int]) -> Lane | None:
        try:
            return Lane(serial, path, numbers)
        except OSError:  # no descriptor is left, or it is gone: the supervisor can still be asked
            return None

    def _watch_lanes(self) -> bool:
        """Wait for what each lane waits for now; whether one of them may be read already."""
        ready = False
        for lane in list(self._exchange.lanes.values()):
            ready = ready or lane.ready
            unwatched = lane.lost or (self._driver is None and lane.idle)
            wanted = None if unwatched else lane.blocked
            if wanted == lane.watched:
                continue
            try:
                self._watch_lane(lane, wanted)
            except OSError:  # no descriptor is left for that
                self._exchange.give_up(lane)
        return ready

    def _watch_lane(self, lane: Lane, wanted: bool | None) -> None:
        if wanted is None:
            self._eyes.forget(lane.fd)
        else:
            if lane.watched is None:
                self._eyes.watch(lane.fd, lane.may_be_read)
                lane.watched = False
            if wanted != lane.watched:
                self._eyes.watch_writing(lane.fd, on=wanted)
        lane.watched = wanted

    def _close_lane(self, lane: Lane) -> None:
        if lane.watched is not None:
            self._eyes.forget(lane.fd)
        lane.close()

    def _ask_all(self) -> None:
        while self._questions:
            number = self._questions.popleft()
            report = self._reports.get(number)
            if report is not None:
                self._channel.send(wire.pack_json(Kind.ASK, report.question, number))

    def _take(self, message: wire.Message, complete: list[Call]) -> None:
        if message.kind is Kind.ANSWERS:
            complete += self._exchange.take(message)
        elif message.kind is Kind.REPORT:
            report = self._reports.get(message.tag)
            if report is not None:
                report.value = message.json()
                report.arrived.set()
        elif message.kind is Kind.WELCOME and not self._welcomed:
            self._welcomed = True
            self._first_welcome.set()
            self._questions = deque(self._reports)
            self._exchange.hand_over(self._channel)

    # The connection's thread

    def _run(self) -> None:
        self._open_channel()
        while not self._closing:
            if self._error is not None:
                self._fail_all(self._error)
            if self._channel.address != self._address:
                self._reconnect()
            self._keep_time()
            # Also where an event loop takes the turns: it may be blocked, and ZeroMQ tells of a
            # message only once, if need be whoever sends a PING.
            if not self._turn():
                self._sleep()
        self._end()

    def _open_channel(self) -> None:
        channel = self._channel
        self._watcher.watch(channel.monitor_fd, self._watch)
        if self._driver is not None:
            self._driver.start(self._turn)
        self._eyes.watch(channel.fd, channel.may_be_read)
        self._say_hello()
        self._watch()  # of what ZeroMQ tells first, its descriptor does not tell

    def _say_hello(self) -> None:
        hello = wire.pack_json(Kind.HELLO, {"version": VERSION, "pid": os.getpid()})
        with self._channel_lock:
            self._channel.send(hello)

    def _reconnect(self) -> None:
        self._take_rest()
        old = self._channel
        self._watcher.forget(old.monitor_fd)
        with self._channel_lock:
            self._exchange.drop_lanes()
            self._eyes.forget(old.fd)
            old.close()
            self._welcomed = False
            self._channel = Channel(self._context, self._address)
        self._open_channel()

    def _sleep(self) -> None:
        self._sleeping = True
        # Whoever appended before it saw the flag did not wake us: look once more.
        waits = self._questions or (self._outbox and self._driver is None)
        if not (self._welcomed and waits) and not self._closing:
            self._watcher.wait(SWEEP_SECONDS if len(self._exchange) else QUIET_SECONDS)
        self._sleeping = False

    def _empty_wake(self) -> None:
        with suppress(BlockingIOError):
            self._wake_out.recv(4096)

    def _watch(self) -> None:
        refused, lost = self._channel.events()
        if refused and not self._first_welcome.is_set():
            self._error = AuthenticationError(
                f"the supervisor at {self._address.endpoint} refused this client's keys"
            )
            self._first_welcome.set()
        elif lost and self._welcomed:
            self._reconnect()
        elif lost:  # by a supervisor that did not live to answer: its successor knows of nothing
            self._say_hello()

    def _keep_time(self) -> None:
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_SECONDS
            self._expire(now)
        if now >= self._next_ping and self._welcomed:
            self._next_ping = now + PING_SECONDS
            with self._channel_lock:
                self._channel.send(wire.pack_plain(Kind.PING))

    def _expire(self, now: float) -> None:
        """End the calls that the supervisor should have ended; sooner where there is none."""
        with self._channel_lock:
            late = now - GRACE_SECONDS if self._welcomed else now
            calls = self._exchange.expired(now, late)
            self._exchange.look_at_lanes(now)
        if not self._welcomed:
            for call in calls:
                call.error = SupervisorLostError(
                    f"the supervisor at {self._address.endpoint} is gone, "
                    "and none came back before the deadline"
                )
        if calls:
            self._waiter.complete(calls)

    def _fail_all(self, error: OpusPoolError) -> None:
        with self._channel_lock:
            calls = self._exchange.take_all()
        for call in calls:
            call.error = _copy(error)
        if calls:
            self._waiter.complete(calls)
        for report in list(self._reports.values()):
            report.arrived.set()

    def _end(self) -> None:
        self._fail_all(self._error or PoolClosedError("the pool was closed"))
        with self._channel_lock:
            self._closed = True
            self._exchange.drop_lanes()
            self._channel.send(wire.pack_plain(Kind.BYE))
            self._channel.close(linger_ms=100)
        if self._driver is not None:
            self._driver.leave()
        self._context.term()
        self._watcher.close()
        self._wake_in.close()
        self._wake_out.close()


def _copy(error: OpusPoolError) -> OpusPoolError:
    """One error object a caller: tracebacks must not mix."""
    return type(error)(*error.args)


class _Report:
    """The answer to one question, when it is there."""

    def __init__(self, question: dict[str, object]) -> None:
        self.question = question
        self.arrived = threading.Event()
        self.value: dict[str, Any] = {}
