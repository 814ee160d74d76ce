"""However a process ends, nothing of its pool is left within a second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from waiting import wait_until

import opuspool

SCRIPT = """
import os, sys
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
    pool.stream().decode(PACKET)
    print(pool.status()["supervisor"]["pid"], flush=True)

main()
""".replace(
    "{packet}",
    "48b2fcc4edf5a3cca1385049a351f0c1cc6ab81046344e68531fb019254b8007"
    "d338f2565aa4419356877ef9bbbc04c778440cbb53fb9a7d9780",
)


def _start(how: str) -> tuple[subprocess.Popen[str], int, list[psutil.Process]]:
    """A process with a pool; its supervisor's pid, and the supervisor with all its workers."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        family = []
    return process, pid, family


def _dead(family: list[psutil.Process]) -> bool:
    return not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def _gone(family: list[psutil.Process]) -> bool:
    return _dead(family) and not list(Path(tempfile.gettempdir()).glob("opuspool*"))


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    "how",
    ["exception", "exit without close", "sys.exit with an open stream", "os._exit"],
)
def test_a_process_that_ends_takes_its_pool_along(how: str) -> None:
    """An exception inside `with`, an exit without `close()`."""
    process, _, family = _start(how)
    process.wait(10)
    wait_until(lambda: _gone(family), timeout=1, what="nothing is left")
    _end(process)


def test_kill_9_of_the_embedding_process_leaves_nothing() -> None:
    """The supervisor sees its parent go."""
    process, _, family = _start("wait")
    assert len(family) >= 4  # a worker that boots may have a helper of its own
    process.kill()
    wait_until(lambda: _gone(family), timeout=1, what="nothing is left")
    _end(process)


def test_kill_9_of_the_supervisor_leaves_nothing() -> None:
    """Its workers see it go, its directory is cleared away; the pool starts another."""
    process, pid, family = _start("wait")
    (directory,) = Path(tempfile.gettempdir()).glob("opuspool*")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _dead(family) and not directory.exists(), timeout=1, what="all is gone")
    _end(process)


def test_kill_9_of_both_leaves_nothing() -> None:
    """The orphaned workers clear up."""
    process, pid, family = _start("wait")
    os.kill(pid, signal.SIGKILL)
    process.kill()
    wait_until(lambda: _gone(family), timeout=1, what="nothing is left")
    _end(process)


def test_a_forgotten_pool_is_closed() -> None:
    """Garbage collection ends it like `close()`."""
    process, _, family = _start("forgotten")
    wait_until(lambda: _gone(family), timeout=2, what="nothing is left")
    _end(process)


def test_kill_9_while_the_pool_starts_leaves_nothing() -> None:
    """At any moment of the start."""
    for delay in (0.05, 0.15, 0.25, 0.35):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, "wait"], stdout=subprocess.PIPE)
        time.sleep(delay)  # the moment is what is tested
        family = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.communicate()
        wait_until(lambda family=family: _gone(family), timeout=2, what="nothing is left")  # type: ignore[misc]  # bound now


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
