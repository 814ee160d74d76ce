"""The pure core of a supervisor: events and `now` in, instructions out.

It joins the slots, the restart policy and the dispatcher. No socket, process, clock or log is
used here; the loop (loop.py) carries out what `take_instructions` gives.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from opuspool import digests
from opuspool.wire import Status
from opuspool_supervisor import autopsy, canary, recycle
from opuspool_supervisor.books import Books
from opuspool_supervisor.death import Death
from opuspool_supervisor.dispatch import Dispatcher
from opuspool_supervisor.history import End, History
from opuspool_supervisor.instructions import (
    Instruction,
    Kill,
    Refuse,
    Report,
    Retire,
    SendLease,
    Spawn,
    Tell,
)
from opuspool_supervisor.records import Lease, Loss
from opuspool_supervisor.restart import RestartPolicy, Verdict
from opuspool_supervisor.results import ResultsError
from opuspool_supervisor.slots import (
    HOPELESS,
    SERVING,
    VACANT,
    Slot,
    SlotEvent,
    SlotState,
    Watch,
    Worker,
)
from opuspool_supervisor.slottable import SlotTable
from opuspool_supervisor.timings import Timings

if TYPE_CHECKING:
    import random

    from opuspool import wire
    from opuspool.config import Config
    from opuspool.recorder import LaneCounts, Position

DUMP_SECONDS = 0.25
"""A hung worker has this long to write its traceback before it is killed."""

STILL_SHARE = 0.25
"""Of `[workers] hang_seconds`, after which a worker that stands still is looked at more closely."""

UNSEEN_SECONDS = 2.0
"""A lease may be on its way so long, or twice `hang_seconds`: on a busy machine the threads that
carry messages wait for a processor as well, and that is nobody's hang."""

SWEEP_SECONDS = 0.1
"""Time between two looks for passed deadlines, unequal load, and what else is due."""

SOON_SECONDS = 0.2
"""A slot whose next worker is started within this time is waited for by suspects."""

STALL_SECONDS = 2.0
"""Time between two turns after which the supervisor itself, not a worker, had been stopped."""

RETIRE_SECONDS = 2.0
"""A worker that is asked to leave has this long."""

STALE_CANARIES = 3
"""A worker whose last real decode is older than this many canary intervals does not count."""

DOUBTFUL_DEATHS = 2
"""After so many workers that died before any work, a slot's next one must decode a canary first."""

ASKED_FOR = "asked for by an operator"
ASKED_REASONS = frozenset({"exit", "killed"})
"""Reasons for which a planned end is counted that an operator has asked for."""

BLAME_WEIGHT = {"killed": 0.5}
"""How surely the packet in hand caused a death, by reason; 1 where it is not named.

SIGKILL comes from outside (or from the kernel, when memory is out): not poison at the first time.
"""


class Core:
    """All decisions of a supervisor.

    Attributes:
        slots: worker slots, then spare slots.
        dispatcher: clients, streams, requests.
        books: the counters.
        timings: how long leases and recoveries took.
        history: the latest ends of workers.
        boot_error: why the last worker could not start; None once one has.
        draining: nothing new is taken.
    """

    def __init__(self, config: Config, rng: random.Random) -> None:
        self._config = config
        self._policy = RestartPolicy(config.restart, rng)
        workers, spares = config.workers.count, config.workers.spares
        self.slots = SlotTable(workers, spares)
        self.books = Books()
        self.timings = Timings()
        self.history = History()
        self.dispatcher = Dispatcher(config, self.slots, self.books, self.timings)
        self.boot_error: str | None = None
        self.draining = False
        self._serials = count(1)
        self._by_serial: dict[int, Slot] = {}
        self._kill_after: dict[int, float] = {}
        self._next_sweep = 0.0
        self._refused = 0
        self._now = 0.0
        self._instructions: list[Instruction] = []

    # Events

    def spawned(self, slot: Slot, serial: int, pid: int, now: float, lane: str = "") -> None:
        """A worker process has been started; clients may connect to it at `lane`, if anywhere."""
        slot.worker = Worker(serial, pid, now, lane=lane)
        slot.generation += 1
        self.books.spawns += 1
        self._by_serial[serial] = slot

    def spawn_failed(self, slot: Slot, words: str, now: float) -> None:
        """The system would not start a process."""
        slot.worker = Worker(0, 0, now)
        self.books.spawns += 1
        self._ended(slot, slot.worker, Death("boot", words), now)

    def ready(self, serial: int, info: dict[str, Any], now: float) -> None:
        """A worker has proved itself by a test decode and wants work."""
        slot = self._by_serial.get(serial)
        if slot is None or slot.worker is None or slot.doomed or slot.worker.ready is not None:
            return
        slot.worker.ready = slot.worker.proved = now  # by its self-test
        slot.worker.info = info
        if not info.get("lanes"):
            slot.worker.lane = ""
        if self.dispatcher.quarantine:
            self._refuse(slot)
        slot.hopeless = 0
        slot.advance(SlotEvent.READY)
        self.boot_error = None
        if not self.draining:
            self.dispatcher.admission.refusal = None
        facts = _facts(slot)
        self._tell("info", "worker_ready", {**facts, "boot_seconds": now - slot.worker.started})
        self._retire_if_due(slot, now)
        self._staff(now)

    def results(self, serial: int, message: wire.Message, now: float) -> None:
        """A worker has sent the results of its lease."""
        slot = self._by_serial.get(serial)
        if slot is None or slot.worker is None or slot.doomed:
            return
        lease = slot.lease
        if lease is None or lease.id != message.tag:
            self.babbled(serial, f"results of lease {message.tag}, which is not in hand", now)
            return
        try:
            self._settle(slot, lease, message)
        except ResultsError as error:
            self.babbled(serial, str(error), now)
            return
        slot.lease = None
        self.timings.settled(lease, now)
        slot.worker.proved = now
        slot.worker.tainted = lease.isolated
        slot.advance(SlotEvent.SETTLED)
        if lease.canary:
            self._staff(now)
        else:
            slot.worker.settled += 1
            slot.worker.served += len(lease.expects)
            autopsy.remember(slot.worker, lease)
        self._retire_if_due(slot, now)

    def babbled(self, serial: int, words: str, now: float) -> None:
        """A worker has sent what cannot be: it is replaced."""
        self.books.protocol_errors += 1
        slot = self._by_serial.get(serial)
        if slot is not None and slot.worker is not None:
            self._tell("error", "worker_babbled", {**_facts(slot), "why": words})
            slot.worker.babbled = True
            self._kill(slot, "exit", now, dump=False)

    def exited(self, serial: int, death: Death, now: float) -> None:
        """A worker process has ended, for whatever reason."""
        if death.by_lane is not None:
            self.by_lane(serial, death.by_lane, now)
        slot = self._by_serial.pop(serial, None)
        self._kill_after.pop(serial, None)
        if slot is None or slot.worker is None or slot.worker.serial != serial:
            return
        self._ended(slot, slot.worker, death, now)

    def progress(self, serial: int, progress: tuple[int, int], now: float) -> bool:
        """What a busy worker's flight recorder shows now; True: tell `stands_still` of it too.

        Args:
            serial: its number.
            progress: what it has in hand, and how far it has counted; if either changes, it moves.
            now: monotonic, seconds.
        """
        slot = self._by_serial.get(serial)
        if slot is None or slot.worker is None:
            return False
        watch = slot.worker.watch
        if watch.progress != progress or self._stalled(now):
            watch.progress = progress
            watch.moved = now
            watch.waited = None
        return now - watch.moved > self._config.workers.hang_seconds * STILL_SHARE

    def stands_still(
        self,
        serial: int,
        waited: float,
        now: float,
        *,
        by_lane: bool = False,
        unseen: bool = False,
    ) -> None:
        """A busy worker's flight recorder has not moved for a while: it hangs, or has not been let.

        Args:
            serial: its number.
            waited: seconds of its life in which it was ready to run and another process ran.
            now: monotonic, seconds.
            by_lane: what it has in hand came by a lane.
            unseen: it has nothing in hand: its lease is on the way there, or the results are back.
        """
        slot = self._by_serial.get(serial)
        if slot is None or slot.worker is None:
            return
        watch = slot.worker.watch
        hang_seconds = self._config.workers.hang_seconds
        most = max(UNSEEN_SECONDS, 2 * hang_seconds) if unseen else hang_seconds
        if watch.waited is None:
            watch.waited = waited
            if now - watch.moved > most:  # looked at too late: who knows how long it has waited
                watch.moved = now - hang_seconds * STILL_SHARE
        could_run = now - watch.moved - (waited - watch.waited)
        if could_run > most:
            idle = not by_lane and slot.lease is not None and slot.lease.canary
            self._kill(slot, "heartbeat" if idle else "hang", now, dump=True)

    def by_lane(self, serial: int, counts: LaneCounts, now: float) -> None:
        """What a worker has done for clients by lanes, since its start."""
        slot = self._by_serial.get(serial)
        if slot is None or slot.worker is None:
            return
        worker = slot.worker
        done = counts.since(worker.by_lane)
        if done is None or not done.batches:
            return
        worker.by_lane = counts
        worker.served += done.requests
        worker.packets += done.packets
        if done.packets:
            worker.proved = now
        self.timings.by_lane(done)
        self.books.add_by_lane(done)

    def measured(self, serial: int, rss_bytes: int) -> None:
        """A worker's memory, as the system tells it."""
        slot = self._by_serial.get(serial)
        if slot is not None and slot.worker is not None:
            slot.worker.rss_bytes = rss_bytes

    def recycle(self, number: int, now: float) -> str | None:
        """Replace a slot's worker as soon as it is idle; returns why not, where it cannot be."""
        slot = self.slots.with_ready_worker(number)
        if isinstance(slot, str):
            return slot
        if slot.worker is not None and slot.worker.recycle is None:
            slot.worker.recycle = "exit"
            self._tell("info", "recycle_asked_for", _facts(slot))
            self._retire_if_due(slot, now)
        return None

    def restart(self, number: int, now: float) -> str | None:
        """Kill a slot's worker now, without blame, or end a slot's drain; returns why not."""
        slot = self.slots.find(number)
        if isinstance(slot, Slot) and slot.drain:
            self._resume(slot, now)
            return None
        slot = self.slots.with_ready_worker(number)
        if isinstance(slot, str) or slot.worker is None:
            return str(slot)
        slot.worker.recycle = "killed"
        self._tell("warning", "restart_asked_for", _facts(slot))
        self._kill(slot, "killed", now, dump=False)
        return None

    def drain_slot(self, number: int, now: float) -> str | None:
        """Empty a slot as soon as its worker is idle; returns why not, where it cannot be.

        It stays empty until it is restarted. The last slot that serves is not drained.
        """
        slot = self.slots.find(number)
        if isinstance(slot, str):
            return slot
        if not slot.spare and not any(s.serving for s in self.slots if s is not slot):
            return f"no other slot than {number} serves: the pool would be down"
        if not slot.drain:
            slot.drain = True
            self._tell("info", "drain_asked_for", _facts(slot))
            slot.let_go()
            self._retire_if_due(slot, now)
        return None

    def reconfigure(self, config: Config, now: float) -> None:
        """Go by other settings from now on: slots come, or go as soon as their workers are idle."""
        self._config = config
        self._policy.reconfigure(config.restart)
        self.dispatcher.reconfigure(config, now)
        self.slots.resize(config.workers.count, config.workers.spares)
        for slot in self.slots:
            self._retire_if_due(slot, now)
        self._staff(now)

    def drain(self, now: float) -> None:
        """Take nothing new; what has been accepted is still done."""
        self.draining = True
        self.dispatcher.admission.refusal = (Status.SHUTDOWN, "the supervisor is shutting down")
        self._staff(now)
        self._fail_if_none_is_left()
        self._tell("info", "draining", {"open_requests": self.open_requests, "at": now})

    # Time passes

    def tick(self, now: float) -> None:
        """Do what is due: starts, kills, deadlines, balance; then hand out leases."""
        if self._stalled(now):
            self._forgive(now)
        self._now = now
        at_rest = [slot for slot in self.slots if slot.state not in SERVING]
        if at_rest:
            self._tend(now)
        if self._kill_after:
            self._kill_late(now)
        if self.dispatcher.quarantine.changes != self._refused:
            self._refuse_all()
        if self._next_sweep <= now:
            self._next_sweep = now + SWEEP_SECONDS
            self._sweep(now)
        if self.dispatcher.came_back:
            self._staff(now)
        self._lease(now)

    def take_instructions(self) -> list[Instruction]:
        """What is to be done; each instruction is given once."""
        instructions, self._instructions = self._instructions, []
        return instructions

    # State

    @property
    def open_requests(self) -> int:
        """Requests that have no answer yet."""
        return self.dispatcher.admission.queued + self.dispatcher.in_flight

    @property
    def health(self) -> str:
        """`ok`: every worker slot serves; `degraded`: some do; `down`: none.

        A worker counts while its last real decode, or the self-test before it was READY, is recent.
        """
        workers = [slot for slot in self.slots if not slot.spare and not slot.leaving]
        serving = sum(slot.serving and self._is_proved(slot) for slot in workers)
        if not serving or self.draining:
            return "down"
        return "ok" if serving == len(workers) else "degraded"

    # Insides

    def _resume(self, slot: Slot, now: float) -> None:
        """End a drain: a worker that is on its way out has a successor."""
        slot.drain = False
        self._tell("info", "resumed", _facts(slot))
        if slot.state is SlotState.DRAINED:
            slot.advance(SlotEvent.RESUMED)
            slot.due = now
        if not self.draining:
            self.dispatcher.admission.refusal = None
        self._staff(now)

    def _tend(self, now: float) -> None:
        """Do what is due to slots that do not serve: start their workers, or close them."""
        self.slots.drop_left()
        self.slots.keep_empty()
        for slot in self.slots:
            if slot.state in VACANT and slot.due <= now and not self.draining:
                slot.advance(SlotEvent.SPAWNED)
                self._instructions.append(Spawn(slot, next(self._serials)))
            elif slot.state is SlotState.STARTING and slot.worker is not None:
                late = now - slot.worker.started > self._config.workers.start_seconds
                if late:
                    self._kill(slot, "boot", now, dump=True)

    def _kill_late(self, now: float) -> None:
        """Kill the workers whose time to leave, or to write a traceback, is over."""
        for serial, due in list(self._kill_after.items()):
            if due <= now:
                del self._kill_after[serial]
                slot = self._by_serial[serial]
                reason = slot.worker.killed_for if slot.worker else None
                self._instructions.append(Kill(serial, reason or "hang"))

    def _lease(self, now: float) -> None:
        for slot in self.slots:
            if slot.state is not SlotState.IDLE or slot.worker is None or slot.doomed:
                continue
            waits = slot.live or slot.bulk or slot.closes
            if waits and not slot.worker.tainted:
                lease = self.dispatcher.lease(slot, now)
            elif (
                slot.worker.tainted
                or self._is_doubtful(slot)
                or now - slot.worker.proved > self._config.health.canary_seconds
            ):
                lease = Lease(self.dispatcher.next_lease_id(), now, canary=True)
                lease.add(canary.steps())
                self.books.canaries += 1
            else:
                continue
            if lease is not None:
                slot.lease = lease
                slot.worker.watch = Watch(now)
                slot.advance(SlotEvent.LEASED)
                self._instructions.append(SendLease(slot.worker.serial, lease))

    def _settle(self, slot: Slot, lease: Lease, message: wire.Message) -> None:
        if not lease.canary:
            self.dispatcher.settle(slot, lease, message)
            return
        fault = canary.fault(message.rows, message.data)
        if fault is not None:
            raise ResultsError(fault)

    def _is_proved(self, slot: Slot) -> bool:
        if slot.worker is None or self._is_doubtful(slot):
            return False
        return self._now - slot.worker.proved < STALE_CANARIES * self._config.health.canary_seconds

    def _is_doubtful(self, slot: Slot) -> bool:
        """In a crash loop a self-test proves nothing: the workers before had passed it too."""
        worker = slot.worker
        fruitless = slot.fruitless >= DOUBTFUL_DEATHS
        return fruitless and worker is not None and worker.proved == worker.ready

    def _sweep(self, now: float) -> None:
        self.dispatcher.expire(now)
        self.timings.look(now)
        self.dispatcher.release_held(now)
        self.dispatcher.quarantine.expire(now)
        self.dispatcher.rebalance()
        if self.dispatcher.unplaced:
            self._staff(now)
        self._drop_silent_clients(now)
        for slot in self.slots:
            worker = slot.worker
            if worker is not None and worker.ready is not None and worker.recycle is None:
                worker.recycle = recycle.reason(worker, self._config.recycle, now)
                self._retire_if_due(slot, now)

    def _retire_if_due(self, slot: Slot, now: float) -> None:
        """Replace an idle worker that is to be recycled; its streams move."""
        worker = slot.worker
        if worker is None or worker.recycle is None or slot.state is not SlotState.IDLE:
            return
        if slot.doomed or self.draining:
            return
        slot.advance(SlotEvent.DRAIN)
        worker.killed_for = worker.recycle
        self._instructions.append(Retire(worker.serial))
        self._kill_after[worker.serial] = now + RETIRE_SECONDS
        self._tell_clients(worker, None)
        self.dispatcher.lost(slot, Loss(now))
        self._staff(now)

    def _stalled(self, now: float) -> bool:
        return now - self._now > STALL_SECONDS

    def _forgive(self, now: float) -> None:
        """The supervisor had been stopped (SIGSTOP, suspend): no worker is late for that."""
        for slot in self.slots:
            if slot.worker is None:
                continue
            slot.worker.watch.moved = now
            if slot.state is SlotState.STARTING:
                slot.worker.started = now
        for client in self.dispatcher.clients.values():
            client.seen = now

    def _ended(self, slot: Slot, worker: Worker, death: Death, now: float) -> None:
        booting = worker.ready is None
        reason = worker.killed_for or death.reason
        if booting:
            of_its_own = reason in {"exit", "boot"}
            reason = "boot" if of_its_own else reason
            slot.hopeless += HOPELESS if of_its_own else 1
        self.books.worker_ended(reason)
        self.timings.died(slot.lease, now)
        slot.restarts += 1
        planned = worker.recycle == worker.killed_for == reason and not worker.babbled
        cause = ASKED_FOR if planned and reason in ASKED_REASONS else death.words
        facts = {**_facts(slot), "reason": reason, "cause": cause}
        self.history.add(End(now, **facts))
        slot.advance(SlotEvent.EXITED)
        slot.worker = None
        verdict = Verdict(now) if planned else self._policy.judge(slot, worker, now)
        slot.due = verdict.due
        if verdict.failed:
            slot.advance(SlotEvent.GAVE_UP)
        facts["next_start_seconds"] = None if slot.drain else round(verdict.due - now, 3)
        if booting:
            self.boot_error = death.words
        loss = Loss(now)
        if not planned:
            weight = BLAME_WEIGHT.get(reason, 1.0)
            fresh, garbage = worker.settled == 0 and not worker.by_lane.requests, worker.babbled
            loss = Loss(now, death.position, weight, fresh=fresh, garbage=garbage)
            lent = self.dispatcher.lending.in_hand(death.position)
            found = autopsy.examine(slot, worker, death, lent, weight=weight, now=now)
            self._instructions.append(Report(reason, death, found))
            facts["client"], facts["stream"] = found.client, found.stream
            facts["digest"] = found.in_hand.digest if found.in_hand else None
        self._tell_clients(worker, None if planned else death.position)
        level = "error" if verdict.failed else "info" if planned else "warning"
        self._tell(level, "worker_ended", facts)
        self.dispatcher.lost(slot, loss)
        self._staff(now)
        self._give_up_if_none_can_start()

    def _tell_clients(self, worker: Worker, position: Position | None) -> None:
        """They hand back what was lent to them there."""
        clients = self.dispatcher.clients.values()
        self.dispatcher.lending.worker_gone(clients, worker, position)

    def _refuse_all(self) -> None:
        """Tell every worker which packets are refused now."""
        self._refused = self.dispatcher.quarantine.changes
        for slot in self.slots:
            if slot.worker is not None and slot.worker.ready is not None:
                self._refuse(slot)

    def _refuse(self, slot: Slot) -> None:
        worker = slot.worker
        if worker is not None and worker.lane and not slot.doomed:
            packets = digests.pack(self.dispatcher.quarantine.latest())
            self._instructions.append(Refuse(worker.serial, packets))

    def _staff(self, now: float) -> None:
        """Put ready spares into empty worker slots, and waiting requests into serving slots."""
        wanted = [s for s in self.slots if not s.spare and not s.leaving and not s.drain]
        empty = [slot for slot in wanted if slot.state in VACANT]
        spares = [s for s in self.slots if s.spare and s.state is SlotState.IDLE and not s.doomed]
        for slot, spare in zip(empty, spares, strict=False):
            self._promote(slot, spare, now)
        self.dispatcher.replace_lost(
            another_comes=any(self._soon_serves(slot, now) for slot in self.slots)
        )

    def _soon_serves(self, slot: Slot, now: float) -> bool:
        """Whether a worker slot is about to have a worker."""
        if slot.spare or slot.leaving or slot.drain or self.draining:
            return False
        starts = slot.state is SlotState.BACKOFF and slot.due < now + SOON_SECONDS
        return starts or slot.doomed or slot.state is SlotState.STARTING

    def _promote(self, slot: Slot, spare: Slot, now: float) -> None:
        worker = spare.worker
        if worker is None:
            return
        spare.worker = None
        spare.advance(SlotEvent.EXITED)
        spare.due = max(now, slot.due)  # the dead worker's backoff, so that none is left out
        slot.worker = worker
        slot.generation += 1
        slot.boot_failures = slot.hopeless = 0
        slot.advance(SlotEvent.PROMOTED)
        slot.set_leaving(leaving=False)
        self._by_serial[worker.serial] = slot
        self._tell("info", "spare_promoted", _facts(slot))

    def _give_up_if_none_can_start(self) -> None:
        """With every slot empty after boot failures, waiting is of no use: say why."""
        if self.draining:
            self._fail_if_none_is_left()
            return
        if self.boot_error is None:
            return
        wanted = [slot for slot in self.slots if not slot.drain]
        if all(slot.state in VACANT and slot.hopeless >= HOPELESS for slot in wanted):
            self.dispatcher.admission.refusal = (Status.BOOT, self.boot_error)
            self.dispatcher.fail_waiting(*self.dispatcher.admission.refusal)

    def _fail_if_none_is_left(self) -> None:
        """In a drain no worker is started: without any, what waits will not be done."""
        if self.dispatcher.admission.refusal and not any(slot.worker for slot in self.slots):
            self.dispatcher.fail_waiting(*self.dispatcher.admission.refusal)

    def _kill(self, slot: Slot, reason: str, now: float, *, dump: bool) -> None:
        worker = slot.worker
        if worker is None or worker.killed_for:
            return
        worker.killed_for = reason
        self._instructions.append(Kill(worker.serial, reason, dump=dump))
        if dump:
            self._kill_after[worker.serial] = now + DUMP_SECONDS

    def _drop_silent_clients(self, now: float) -> None:
        oldest = now - self._config.limits.client_ttl_seconds
        silent = [key for key, client in self.dispatcher.clients.items() if client.seen < oldest]
        for key in silent:
            self._tell("info", "client_dropped", {"client": key.hex(), "why": "silent"})
            self.dispatcher.drop_client(key)

    def _tell(self, level: str, event: str, facts: dict[str, Any]) -> None:
        self._instructions.append(Tell(level, event, facts))


def _facts(slot: Slot) -> dict[str, Any]:
    pid = slot.worker.pid if slot.worker else None
    return {"slot": slot.number, "generation": slot.generation, "pid": pid}
