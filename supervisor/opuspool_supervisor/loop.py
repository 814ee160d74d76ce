"""The supervisor's loop: wait, react, maintain; it carries out what the core decides."""

from __future__ import annotations

import gc
import os
import secrets
import signal
import time
from collections import deque
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import zmq

from opuspool import recorder, version, wakeup, wire
from opuspool.errors import ConfigError, WireError
from opuspool.frames import Port
from opuspool.wire import Kind, Status
from opuspool_supervisor import asking, reload, status
from opuspool_supervisor.core import Core
from opuspool_supervisor.instructions import (
    Kill,
    Refuse,
    Report,
    Retire,
    SendLease,
    Spawn,
    Tell,
)
from opuspool_supervisor.launch import Launcher
from opuspool_supervisor.outbox import Outbox
from opuspool_supervisor.process import Processes, WorkerLaunch
from opuspool_supervisor.reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool.config import Config
    from opuspool.parent import ParentWatch
    from opuspool_supervisor.death import Death
    from opuspool_supervisor.instructions import Instruction
    from opuspool_supervisor.listen import Listener
    from opuspool_supervisor.log import Log
    from opuspool_supervisor.monitor import Monitor

BUSY_WAIT_MS = 50
"""The longest wait while anything is going on: hangs and deadlines are looked for after it."""

QUIET_WAIT_MS = 500
"""The longest wait while nothing is."""

SIGHUP = getattr(signal, "SIGHUP", -1)  # there is none on Windows

MESSAGES_A_TURN = 200
"""Messages taken from one socket before the others have their turn."""

GARBAGE_THRESHOLD = 20_000
"""New objects after which the garbage collector looks at them; Python's own 700 cost 3 % here."""

MEASURE_SECONDS = 1.0
"""Time between two looks at the workers' memory."""

COUNT_SECONDS = 0.1
"""Time between two looks at what the workers have done by lanes."""

KILL_SECONDS = 5.0
"""At the end, a killed worker has this long to be gone."""


class Supervisor:
    """Serves clients with workers until told to stop, or its parent is gone.

    Args:
        config: all settings.
        listener: the bound sockets.
        log: what is written.
        parent: where the supervisor is a client's own, the watch over that client.
        monitor: where it is a daemon, what shows its state to others.
        launcher: starts workers; it may have started one ahead.
        reread: reads the settings anew, for SIGHUP; raises ConfigError where they are wrong.
    """

    def __init__(
        self,
        config: Config,
        listener: Listener,
        log: Log,
        *,
        parent: ParentWatch | None = None,
        monitor: Monitor | None = None,
        launcher: Launcher | None = None,
        reread: Callable[[], Config] | None = None,
    ) -> None:
        self._config = config
        self._listener = listener
        self._log = log
        self._monitor = monitor
        self._reread = reread
        self._core = Core(config, Random(secrets.randbits(64)))  # noqa: S311  for jitter
        self._started = time.monotonic()
        self._identities: dict[bytes, int] = {}
        self._addresses: dict[int, bytes] = {}
        self._front, self._back = Port(listener.front), Port(listener.back)
        self._outbox = Outbox(self._front)
        self._signals: deque[int] = deque()
        self._stop_at: float | None = None
        self._next_measure = 0.0
        self._next_count = 0.0
        self._memory_floor = 0
        self._reopened = False
        self._busy = True
        self._parent_fds = parent.filenos() if parent else []
        self._wake_in, self._wake_out = wakeup.pair()
        self._processes = Processes(_launch(config, listener), launcher or Launcher(), self._wake)
        self._reporter = Reporter(config.crashes, self._core.books, log)
        self._poller = zmq.Poller()
        self._do: dict[type[Instruction], Callable[[Any, float], None]] = {
            Spawn: self._spawn,
            SendLease: self._send_lease,
            Kill: self._kill,
            Retire: self._retire,
            Refuse: self._refuse,
            Tell: self._tell,
            Report: self._report,
        }

    # The loop

    def run(self) -> None:
        """Serve; returns when all is cleared up."""
        _collect_less_often()
        try:
            self._register()
            self._maintain()
            self._log.info("supervisor_started", endpoint=self._listener.endpoint)
            while not self._done():
                ready = self._wait()
                self._react(ready)
                self._maintain()
        finally:
            self._close()

    def handle_signals(self, *numbers: int) -> None:
        """Let these signals stop the supervisor: the first drains, the second stops now."""
        for number in numbers:
            signal.signal(number, self._on_signal)

    def _register(self) -> None:
        door = self._listener.door
        for waited in (door.socket, door.monitor, self._listener.back, self._wake_out.fileno()):
            self._poller.register(waited, zmq.POLLIN)
        if self._listener.gate is not None:
            self._poller.register(self._listener.gate.socket, zmq.POLLIN)
        for fd in self._parent_fds:
            self._poller.register(fd, zmq.POLLIN)

    def _done(self) -> bool:
        if self._stop_at is None:
            return False
        return self._core.open_requests == 0 or time.monotonic() >= self._stop_at

    def _wait(self) -> dict[Any, int]:
        # Whether all is quiet is asked only where the last wait was in vain: not for every message.
        busy = self._busy or self._is_moving()
        ready = dict(self._poller.poll(BUSY_WAIT_MS if busy else QUIET_WAIT_MS))
        self._busy = bool(ready)
        if not ready and self._core.health == "ok":  # time for what would delay the first PCM
            self._log.prepare()
        return ready

    def _is_moving(self) -> bool:
        core = self._core
        if core.dispatcher.lending:  # whoever hangs is to be found out soon
            return True
        return bool(core.open_requests or self._stop_at or self._outbox or core.health != "ok")

    def _react(self, ready: dict[Any, int]) -> None:
        listener = self._listener
        back, front = listener.back in ready, listener.front in ready
        if len(ready) > back + front:  # something that is rare
            if any(fd in ready for fd in self._parent_fds):
                self._stop_at = 0.0
                return
            if self._wake_out.fileno() in ready:
                with suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            self._watch_door(ready)
        exits = self._take_exits()
        if back or (exits and self._back.waits()):  # what a worker sent before its end comes first
            self._receive(self._back, self._from_worker)
        for exit_ in exits:
            self._on_exit(exit_)
        if front:
            self._receive(self._front, self._from_client)
        while self._signals:
            self._on_stop_signal(self._signals.popleft())

    def _maintain(self) -> None:
        now = time.monotonic()
        if self._next_measure <= now:
            self._next_measure = now + MEASURE_SECONDS
            self._measure()
        self._watch_progress(now)
        self._core.tick(now)
        while instructions := self._core.take_instructions():
            for instruction in instructions:
                self._do[type(instruction)](instruction, now)
        self._send_answers()
        if self._monitor is not None:
            self._monitor.beat(self._core, self._started, now)

    def _watch_progress(self, now: float) -> None:
        core = self._core
        lent = len(core.dispatcher.lending)
        for slot in core.slots:
            if slot.worker is None or not (lent or slot.lease is not None):
                continue
            process = self._processes.get(slot.worker.serial)
            if process is None:
                continue
            progress = process.progress()
            in_hand, _ = progress
            still = core.progress(process.serial, progress, now)
            by_lane = in_hand == recorder.LANE
            if still and (by_lane or slot.lease is not None):
                waited = process.waited_seconds(now)
                unseen = not in_hand and not process.is_stopped()
                core.stands_still(process.serial, waited, now, by_lane=by_lane, unseen=unseen)
        if self._next_count <= now:
            self._next_count = now + COUNT_SECONDS
            self._count_by_lane(now)

    def _count_by_lane(self, now: float) -> None:
        """Enter into the books what workers have done for clients by lanes."""
        for process in self._processes.running():
            self._core.by_lane(process.serial, process.by_lane(), now)

    def _watch_door(self, ready: dict[Any, int]) -> None:
        door, gate = self._listener.door, self._listener.gate
        if gate is not None and gate.socket in ready:
            gate.answer()
        if door.monitor in ready and door.look():
            self._keep_room()
        self._core.books.refused_peers = door.refused + (gate.refused if gate else 0)

    def _keep_room(self) -> None:
        if self._listener.door.keep_room():
            self._log.warning("descriptors", takes_clients=self._listener.door.takes_clients)

    def _measure(self) -> None:
        for slot in self._core.slots:
            if slot.worker is not None and slot.worker.serial:
                self._core.measured(slot.worker.serial, status.rss(slot.worker.pid))
        self._keep_room()
        self._keep_memory(status.rss(os.getpid()))

    def _keep_memory(self, rss_bytes: int) -> None:
        """Get rid of what peers have sent and never finished: ZeroMQ keeps it, without a limit.

        Clients come back by themselves and hand their streams over.
        """
        limit = self._config.limits.memory_bytes
        if self._reopened:
            self._memory_floor, self._reopened = rss_bytes, False
        if not limit or rss_bytes < max(limit, self._memory_floor + limit // 2):
            return
        self._log.error("clients_dropped", rss_bytes=rss_bytes, limit=limit)
        self._reopen_door()
        self._reopened = True

    def _reopen_door(self) -> None:
        door = self._listener.door
        for waited in (door.socket, door.monitor):
            self._poller.unregister(waited)
        for address in list(self._core.dispatcher.clients):
            self._core.dispatcher.drop_client(address)
        door.reopen()
        for waited in (door.socket, door.monitor):
            self._poller.register(waited, zmq.POLLIN)
        self._front = Port(door.socket)
        self._outbox = Outbox(self._front)

    # Messages

    def _receive(self, port: Port, take: Callable[[bytes, wire.Message | WireError], None]) -> None:
        """Take what has arrived; a message waits."""
        for _ in range(MESSAGES_A_TURN):
            received = port.take()
            address = received.pop(0)
            try:
                message: wire.Message | WireError = wire.parse(received)
            except WireError as error:
                message = error
            take(address, message)
            if not port.waits():
                return

    def _from_client(self, address: bytes, message: wire.Message | WireError) -> None:
        dispatcher = self._core.dispatcher
        now = time.monotonic()
        if isinstance(message, WireError):
            self._core.books.protocol_errors += 1
            self._log.warning("client_babbled", client=address.hex(), why=str(message))
        elif message.kind is Kind.REQUESTS:
            dispatcher.accept(address, message, now)
        elif message.kind is Kind.HELLO:
            dispatcher.client(address, now)
            welcome = {"version": version.VERSION, "endpoint": self._listener.endpoint}
            self._send(address, wire.pack_json(Kind.WELCOME, welcome))
        elif message.kind is Kind.PING:
            dispatcher.client(address, now)
            self._send(address, wire.pack_plain(Kind.PING))
        elif message.kind is Kind.ASK:
            reply = asking.answer(self._core, message, self._report_status, now)
            self._send(address, wire.pack_json(Kind.REPORT, reply, message.tag))
        elif message.kind is Kind.LANE:
            dispatcher.lending.reached(dispatcher.client(address, now), message.tag)
        elif message.kind is Kind.LOST:
            dispatcher.lending.lost(dispatcher.client(address, now), message.tag)
        elif message.kind is Kind.ENDED:
            self._core.books.add_ended(message)
        elif message.kind is Kind.BYE:
            dispatcher.drop_client(address)
            self._outbox.forget(address)
        else:
            self._core.books.protocol_errors += 1

    def _report_status(self) -> dict[str, Any]:
        now = time.monotonic()
        self._count_by_lane(now)
        report = self._monitor.report if self._monitor is not None else status.report
        return report(self._core, self._started, now)

    def _from_worker(self, identity: bytes, message: wire.Message | WireError) -> None:
        now = time.monotonic()
        serial = self._identities.get(identity)
        if serial is None:
            self._core.books.protocol_errors += 1
        elif isinstance(message, WireError):
            self._core.babbled(serial, str(message), now)
        elif message.kind is Kind.RESULTS:
            self._core.results(serial, message, now)
        elif message.kind is Kind.READY:
            try:
                self._core.ready(serial, message.json(), now)
            except WireError as error:
                self._core.babbled(serial, str(error), now)
        elif message.kind is not Kind.PING:
            self._core.babbled(serial, f"a worker does not send {message.kind.name}", now)

    def _send_answers(self) -> None:
        answers = self._core.dispatcher.answers
        if not answers and not self._outbox:
            return
        while answers:
            self._outbox.put(*answers.popitem())
        self._outbox.keep(self._core.dispatcher.clients)
        for address, why in self._outbox.send().items():
            self._drop(address, why)

    def _send(self, address: bytes, message: wire.Frames) -> None:
        try:
            self._front.send([address, *message])
        except zmq.Again:  # it does not read; what it has asked for goes without
            return
        except zmq.ZMQError as error:  # it is gone
            self._drop(address, error.strerror)

    def _drop(self, address: bytes, why: str) -> None:
        self._outbox.forget(address)
        self._core.dispatcher.drop_client(address)
        self._log.info("client_dropped", client=address.hex(), why=why)

    # Workers

    def _spawn(self, instruction: Spawn, now: float) -> None:
        identity = b"W" + secrets.token_bytes(16)
        lane = self._listener.lane(instruction.serial) if self._config.requests.lanes else ""
        try:
            process = self._processes.spawn(instruction.serial, identity, lane)
        except OSError as error:
            words = f"the system would not start a process: {error.strerror}"
            self._core.spawn_failed(instruction.slot, words, now)
            return
        self._identities[identity] = instruction.serial
        self._addresses[instruction.serial] = identity
        self._core.spawned(instruction.slot, instruction.serial, process.pid, now, lane)

    def _send_lease(self, instruction: SendLease, _now: float) -> None:
        address = self._addresses[instruction.serial]
        try:
            self._back.send([address, *instruction.lease.frames()])
        except zmq.ZMQError as error:  # its process is ending; the exit will be told
            self._log.info("lease_not_sent", lease=instruction.lease.id, why=error.strerror)

    def _kill(self, instruction: Kill, _now: float) -> None:
        process = self._processes.get(instruction.serial)
        if process is not None:
            self._log.debug("worker_killed", pid=process.pid, reason=instruction.reason)
            process.kill(dump=instruction.dump)

    def _retire(self, instruction: Retire, _now: float) -> None:
        self._tell_worker(instruction.serial, wire.pack_plain(Kind.STOP))

    def _refuse(self, instruction: Refuse, _now: float) -> None:
        self._tell_worker(instruction.serial, wire.pack_plain(Kind.REFUSE, instruction.packets))

    def _tell_worker(self, serial: int, message: wire.Frames) -> None:
        address = self._addresses.get(serial)
        if address is None:  # it has ended in this very turn
            return
        with suppress(zmq.ZMQError):  # its process is ending by itself
            self._back.send([address, *message])

    def _tell(self, instruction: Tell, _now: float) -> None:
        self._log.write(instruction.level, instruction.event, instruction.facts)

    def _report(self, instruction: Report, _now: float) -> None:
        self._reporter.report(instruction)

    def _take_exits(self) -> list[Any]:
        exits = []
        while not self._processes.exits.empty():
            exits.append(self._processes.exits.get())
        return exits

    def _on_exit(self, exit_: Any) -> None:
        process = self._processes.get(exit_.serial)
        pid = process.pid if process is not None else None
        self._processes.reap(exit_.serial)
        self._listener.forget_lane(exit_.serial)
        self._identities.pop(self._addresses.pop(exit_.serial), None)
        death: Death = exit_.death
        if death.fault_text:
            self._log.debug("worker_traceback", pid=pid, text=death.fault_text)
        self._core.exited(exit_.serial, death, time.monotonic())

    # Stopping

    def _wake(self) -> None:
        with suppress(BlockingIOError, OSError):
            self._wake_in.send(b"\0")

    def _on_signal(self, number: int, _frame: object) -> None:
        if number != SIGHUP or SIGHUP not in self._signals:  # a storm counts once
            self._signals.append(number)
        self._wake()

    def _on_stop_signal(self, number: int) -> None:
        now = time.monotonic()
        if number == SIGHUP:
            self._reload(now)
            return
        self._log.info("signal", name=signal.Signals(number).name)
        if self._stop_at is None:
            self._stop_at = now + self._config.supervisor.drain_seconds
            self._core.drain(now)
            if self._monitor is not None:
                self._monitor.stopping()
        else:
            self._stop_at = 0.0

    def _reload(self, now: float) -> None:
        """Take new settings; those that are wrong change nothing."""
        if self._reread is None or self._stop_at is not None:
            return
        if self._monitor is not None:
            self._monitor.reloading(now)
        try:
            read: Config | None = self._reread()
        except ConfigError as error:
            self._log.error("reload_refused", why=str(error))
            read = None
        if read is not None:
            self._take(read, now)
        if self._monitor is not None:
            self._monitor.reloaded(ok=read is not None)

    def _take(self, read: Config, now: float) -> None:
        config = reload.merged(self._config, read)
        applied = reload.changed(self._config, config)
        self._log.info("reloaded", changed=applied, need_restart=reload.changed(config, read))
        self._config = config
        self._log.set_level(config.supervisor.log_level)
        self._reporter.reconfigure(config.crashes)
        self._core.reconfigure(config, now)

    def _close(self) -> None:
        try:
            self._core.dispatcher.fail_all(Status.SHUTDOWN, "the supervisor has shut down")
            self._send_answers()
            self._listener.close()  # first: if this process is killed now, its orphans finish that
        finally:
            self._processes.kill_all(KILL_SECONDS)
        self._reporter.close()
        if self._monitor is not None:
            self._monitor.close()
        self._wake_in.close()
        self._wake_out.close()
        self._log.info("supervisor_stopped")


def _collect_less_often() -> None:
    """What has been imported stays; what every packet makes is not in cycles."""
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


def _launch(config: Config, listener: Listener) -> WorkerLaunch:
    files = listener.files
    return WorkerLaunch(
        endpoint=listener.back_endpoint,
        libopus=config.workers.libopus,
        socket=str(files.socket) if files else "",
        own_directory=bool(files and files.own_directory),
        curve=listener.keys.for_peer() if listener.keys else {},
    )
