"""The pool that all drop-ins of a process share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import psutil
import pytest
import reference
from daemons import daemon, settings_for
from recordings import speech_packets
from waiting import wait_until

import opuspool
from opuspool import compat
from opuspool.compat.defaultpool import _shared, default_pool
from opuspool.compat.opuslib_next import Decoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _shared_pool() -> Iterator[None]:
    compat.configure(workers=1, spares=0)
    yield
    compat.close()
    compat.configure()


def _decodes(pool: opuspool.Pool) -> bool:
    packets = speech_packets()[:5]
    return bool((pool.decode(packets) == reference.golden(packets)).all())


def test_it_starts_once_at_first_use_from_any_number_of_threads() -> None:
    """All threads get the same pool, and it decodes."""
    pools: list[opuspool.Pool] = []
    begin = threading.Barrier(8)

    def use() -> None:
        begin.wait()
        pools.append(default_pool())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pools) == 8
    assert len(set(map(id, pools))) == 1
    assert _decodes(pools[0])


def test_configured_after_first_use_is_an_error() -> None:
    """The error says what to do; the pool goes on."""
    pool = default_pool()
    with pytest.raises(RuntimeError, match="too late"):
        compat.configure(workers=2)
    assert default_pool() is pool


def test_what_is_configured_is_what_starts() -> None:
    """Two workers are asked for; a wrong setting is told at once."""
    compat.configure(workers=2, spares=0)
    with pytest.raises(opuspool.ConfigError):
        compat.configure(workers=-1)
    assert len(default_pool().status()["workers"]) == 2


def test_a_daemons_pool_serves_drop_ins_too(tmp_path: Path, endpoint: str) -> None:
    """No private supervisor is started; the daemon counts the decoder's stream."""
    compat.configure(endpoint)
    with daemon(settings_for(tmp_path, endpoint)) as process:
        decoder = Decoder(16000, 1)
        pcm = [decoder.decode(packet, 960) for packet in speech_packets()]
        assert b"".join(pcm) == reference.golden(speech_packets(), dtype="int16").tobytes()
        status = default_pool().status()
        assert (status["supervisor"]["pid"], status["streams"]) == (process.pid, 1)
        assert status["counters"]["audio_seconds"] == pytest.approx(len(speech_packets()) / 50)
        compat.close()


def test_a_pool_that_works_no_more_has_a_successor() -> None:
    """Whoever closes it, or whatever ends it: the next user gets another."""
    first = default_pool()
    first.close()
    second = default_pool()
    assert second is not first
    assert _decodes(second)


def test_a_start_that_fails_is_tried_again() -> None:
    """The error of the first try is not the last word."""
    compat.configure("ipc:///nowhere/pool.sock")
    with pytest.raises(opuspool.SupervisorLostError):
        default_pool()
    compat.configure(workers=1, spares=0)
    assert _decodes(default_pool())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_gets_its_own_and_leaves_the_parents_alone() -> None:
    """Parent and child decode side by side, each with its pool."""
    pool = default_pool()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 7 if default_pool() is not pool and _decodes(default_pool()) else 2
            compat.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert default_pool() is pool
    assert _decodes(pool)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_while_another_thread_starts_it_does_not_lock_the_child() -> None:
    """The child has the lock of a thread that it does not have."""
    starter = threading.Thread(target=default_pool)
    with _shared.lock:
        starter.start()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 7 if _decodes(default_pool()) else 2
                compat.close()
            finally:
                os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    starter.join()


SERVICE = """
import psutil
from opuspool.compat.opuslib_next import Decoder
kept, cycle = Decoder(16000, 1), Decoder(16000, 1)
cycle.itself = cycle
for decoder in (kept, cycle):
    decoder.decode(b"", 320)
print(*[child.pid for child in psutil.Process().children(recursive=True)])
"""


def test_it_ends_with_the_interpreter() -> None:
    """Nobody closes it or its decoders, nothing of them is left, and no complaint."""
    done = subprocess.run(
        [sys.executable, "-c", SERVICE], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    pids = [int(word) for word in done.stdout.split()]
    assert pids
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), what="all processes are gone")


def test_import_opuspool_does_not_load_it() -> None:
    """Those who want no drop-in do not pay for it."""
    code = "import sys, opuspool; opuspool.Pool; print('opuspool.compat' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
