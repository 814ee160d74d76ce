"""However a process ends, nothing of its pool is left: within a second, more on a busy machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from leaks import alive
from recordings import speech_packets
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = 5.0
"""Seconds: the second that is promised, on a machine with other work."""

SCRIPT = """
import os, sys, time
import opuspool

PACKET = bytes.fromhex("{packet}")

def main():
    how = sys.argv[1]
    if how == "exception":
        with opuspool.Pool() as pool:
            ready(pool)
            raise SystemError("on purpose")
    pool = opuspool.Pool()
    ready(pool)
    if how == "exit without close":
        return
    if how == "sys.exit with an open stream":
        stream = pool.stream()
        stream.decode(PACKET)
        sys.exit(0)
    if how == "os._exit":
        os._exit(0)
    if how == "forgotten":
        del pool
    sys.stdin.read()

def ready(pool):
    with pool.stream() as stream:
        stream.decode(PACKET)
    while not all(slot["state"] == "IDLE" for slot in slots(pool.status())):
        time.sleep(0.01)
    print(pool.status()["supervisor"]["pid"], flush=True)

def slots(status):
    return status["workers"] + status["spares"]

main()
""".replace(
    "{packet}",
    "48b2fcc4edf5a3cca1385049a351f0c1cc6ab81046344e68531fb019254b8007"
    "d338f2565aa4419356877ef9bbbc04c778440cbb53fb9a7d9780",
)


@dataclass(frozen=True)
class Embedding:
    """A process with a pool, all of whose workers are idle.

    Attributes:
        process: the process itself.
        supervisor: its private supervisor.
        workers: the workers, spare included; none where the process had ended before the look.
        directory: where their sockets are.
    """

    process: subprocess.Popen[bytes]
    supervisor: psutil.Process | None
    workers: list[psutil.Process]
    directory: Path | None

    def dead(self) -> bool:
        """Supervisor and workers have ended."""
        family = [*self.workers, *([self.supervisor] if self.supervisor else [])]
        return not any(alive(process) for process in family)

    def gone(self) -> bool:
        """They have ended, and no directory of theirs, or of a successor's, is there."""
        return self.dead() and not _directories()


def _directories() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("opuspool*"))


@contextmanager
def embedding(how: str) -> Iterator[Embedding]:
    """A process that ends as `how` says; killed at the end, if it is still there."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how],
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            assert process.stdout is not None
            pid = int(process.stdout.readline())
            yield _look(process, pid)
        finally:
            process.kill()


def _look(process: subprocess.Popen[bytes], pid: int) -> Embedding:
    try:
        supervisor = psutil.Process(pid)
        workers = supervisor.children()
    except psutil.NoSuchProcess:
        return Embedding(process, None, [], None)
    return Embedding(process, supervisor, workers, next(iter(_directories()), None))


@pytest.mark.parametrize(
    "how",
    ["exception", "exit without close", "sys.exit with an open stream", "os._exit"],
)
def test_a_process_that_ends_takes_its_pool_along(how: str) -> None:
    """An exception inside `with`, an exit without `close()`."""
    with embedding(how) as here:
        here.process.wait(10)
        wait_until(here.gone, SOON, what="nothing is left")


def test_kill_9_of_the_embedding_process_leaves_nothing() -> None:
    """The supervisor sees its parent go."""
    with embedding("wait") as here:
        assert len(here.workers) == 3
        here.process.kill()
        wait_until(here.gone, SOON, what="nothing is left")


def test_kill_9_of_the_supervisor_leaves_nothing() -> None:
    """Its workers see it go, its directory is cleared away; the pool starts another."""
    with embedding("wait") as here:
        assert here.supervisor
        assert here.directory
        directory = here.directory
        here.supervisor.kill()
        wait_until(lambda: here.dead() and not directory.exists(), SOON, what="all is gone")


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.008])
def test_kill_9_of_both_leaves_nothing(delay: float) -> None:
    """The orphaned workers clear up, or end what their supervisor has begun."""
    with embedding("wait") as here:
        assert here.supervisor
        here.process.kill()
        time.sleep(delay)  # until the supervisor is about to end its workers, or in the midst
        here.supervisor.kill()
        wait_until(here.gone, SOON, what="nothing is left")


def test_what_nobody_was_left_to_clear_away_goes_with_the_next_pool() -> None:
    """Kill -9 of them all at once, as by the kernel for a whole group that is out of memory."""
    with embedding("wait") as here:
        assert here.supervisor
        assert here.directory
        here.supervisor.suspend()  # it must not start others
        for worker in here.workers:
            worker.kill()
        here.process.kill()
        here.supervisor.kill()
        wait_until(here.dead, what="all are dead")
        here.process.wait(10)
        assert here.directory.exists()
        with opuspool.Pool(workers=1, spares=0):
            assert not here.directory.exists()


def test_a_forgotten_pool_is_closed() -> None:
    """Garbage collection ends it like `close()`."""
    with embedding("forgotten") as here:
        wait_until(here.gone, SOON, what="nothing is left")


@pytest.mark.parametrize("delay", [0.05, 0.15, 0.25, 0.35])
def test_kill_9_while_the_pool_starts_leaves_nothing(delay: float) -> None:
    """At any moment of the start."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "wait"], stdout=subprocess.PIPE
    ) as process:
        time.sleep(delay)  # the moment is what is tested
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    started = Embedding(process, None, family, None)
    wait_until(started.gone, SOON, what="nothing is left")


def test_a_forked_child_may_not_use_the_pool_and_cannot_end_it() -> None:
    """The child is told so; the parent's pool goes on."""
    with opuspool.Pool(workers=1, spares=0) as pool:
        pool.status()
        pid = os.fork()
        if pid == 0:
            try:
                pool.status()
            except opuspool.PoolClosedError:
                pool.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert pool.status()["health"] in {"ok", "down"}  # down: the worker is still starting


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_does_not_end_a_private_supervisor_that_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A terminal sends it to all; it is the client's to handle."""

    class Struck(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.send_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Struck)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    packet = speech_packets(0.02)[0]

    with opuspool.Pool(workers=1, spares=0) as pool:
        assert len(pool.decode([packet])) == 320
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
        (worker,) = pool.status()["workers"]
        os.kill(pool.status()["supervisor"]["pid"], signal.SIGINT)  # nor does it later
        os.kill(worker["pid"], signal.SIGINT)
        assert len(pool.decode([packet])) == 320
        assert pool.status()["workers"][0]["pid"] == worker["pid"]


def test_close_is_final_and_may_be_repeated() -> None:
    """A closed pool refuses with `PoolClosedError`."""
    pool = opuspool.Pool(workers=1, spares=0)
    stream = pool.stream()
    pool.close()
    pool.close()
    stream.close()
    with pytest.raises(opuspool.PoolClosedError):
        pool.decode([b"\x48\x00"])
    with pytest.raises(opuspool.PoolClosedError):
        pool.stream()
    with pytest.raises(opuspool.PoolClosedError):
        pool.status()
