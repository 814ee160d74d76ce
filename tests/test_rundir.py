"""One supervisor a socket: who holds the lock, what may be removed, and what is left alone."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import leaks
import pytest

from opuspool import rundir
from opuspool.errors import ConfigError
from opuspool.rundir import RunFiles, try_lock

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ipc is not there on Windows")

NOBODY = 65534

as_root = pytest.mark.skipif(
    sys.platform == "win32" or os.getuid() != 0, reason="only root may give files away"
)


@pytest.fixture
def files() -> Iterator[RunFiles]:
    """Files in a short folder of their own: a socket's path ends at 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="run-") as folder:
        yield RunFiles(Path(folder) / "pool.sock")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for a lock that nobody gives up."""
    monkeypatch.setattr(rundir, "LOCK_WAIT_SECONDS", 0.05)


def make_socket(path: Path) -> None:
    """Leave a socket as a dead process does."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def names(files: RunFiles) -> set[str]:
    return {path.name for path in files.socket.parent.iterdir()}


@contextmanager
def prepared(files: RunFiles) -> Iterator[int]:
    """As a living supervisor has them."""
    fd = files.prepare()
    try:
        yield fd
    finally:
        os.close(fd)


HOLD = """
import sys
from pathlib import Path
from opuspool.rundir import RunFiles
lock = RunFiles(Path(sys.argv[1])).prepare()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def another_supervisor(files: RunFiles) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(files.socket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


# ---- the lock -------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_second_supervisor_is_told_that_there_is_one(files: RunFiles) -> None:
    with another_supervisor(files):
        make_socket(files.socket)
        with pytest.raises(ConfigError, match="another supervisor serves") as caught:
            files.prepare()
        assert "stop it" in str(caught.value)
        assert files.socket.exists(), "a living supervisor's socket was removed"


@pytest.mark.usefixtures("impatient")
def test_the_lock_excludes_a_second_one_in_the_same_process_too(files: RunFiles) -> None:
    with prepared(files), pytest.raises(ConfigError, match="another supervisor"):
        files.prepare()


def test_the_lock_of_a_killed_supervisor_is_free(files: RunFiles) -> None:
    with another_supervisor(files) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        with prepared(files):
            assert names(files) == {"pool.sock.lock"}


def test_a_lock_that_an_orphan_gives_up_soon_is_waited_for(files: RunFiles) -> None:
    held = files.prepare()
    release = threading.Timer(0.1, os.close, [held])
    release.start()
    with prepared(files):
        release.join()


def test_the_lock_is_not_inherited(files: RunFiles) -> None:
    """Else a worker would hold it longer than its supervisor lives."""
    with prepared(files) as fd:
        assert not os.get_inheritable(fd)


def test_a_lock_file_that_was_removed_meanwhile_does_not_count(
    files: RunFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sweeps unlinks the file it has locked: the next one would lock a file of nobody."""
    lock = fcntl.flock

    def lose(fd: int, how: int) -> None:
        lock(fd, how)
        files.lock.unlink()

    monkeypatch.setattr(fcntl, "flock", lose)
    assert try_lock(files.lock, create=True) is None


def test_a_lock_that_is_not_there_is_not_made_unless_asked_for(files: RunFiles) -> None:
    assert try_lock(files.lock, create=False) is None
    assert names(files) == set()


NO_LOCK_FILES: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to(path.with_name("elsewhere")),
    "a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("make", NO_LOCK_FILES.values(), ids=NO_LOCK_FILES)
def test_what_is_no_lock_file_is_refused_and_left_alone(
    files: RunFiles, make: Callable[[Path], object]
) -> None:
    make(files.lock)
    with pytest.raises(ConfigError, match="cannot lock"):
        files.prepare()
    assert try_lock(files.lock, create=False) is None
    assert names(files) == {"pool.sock.lock"}


@as_root
def test_another_users_lock_file_is_refused(files: RunFiles) -> None:
    """In /tmp anybody can put one there first; who owns it could hold it, or take it away."""
    files.socket.parent.chmod(0o1777)
    files.lock.touch(0o666)
    os.chown(files.lock, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="another user"):
        os.close(files.prepare())


# ---- the sockets ----------------------------------------------------------------------------


def test_stale_sockets_of_ours_are_removed(files: RunFiles) -> None:
    make_socket(files.socket)
    make_socket(files.back)
    with prepared(files):
        assert names(files) == {"pool.sock.lock"}


def link_to_a_socket(path: Path) -> None:
    make_socket(path.with_name("real"))
    path.symlink_to(path.with_name("real"))


NO_SOCKETS: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("a thesis"),
    "a link to a socket": link_to_a_socket,
    "a dangling link": lambda path: path.symlink_to(path.with_name("nothing")),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("make", NO_SOCKETS.values(), ids=NO_SOCKETS)
@pytest.mark.parametrize("which", ["socket", "back"])
def test_what_is_no_socket_is_refused_and_left_alone(
    files: RunFiles, make: Callable[[Path], object], which: str
) -> None:
    path: Path = getattr(files, which)
    make(path)
    before = path.lstat()
    with pytest.raises(ConfigError, match="not a socket") as caught:
        files.prepare()
    assert str(path) in str(caught.value)
    assert os.path.samestat(path.lstat(), before)
    fd = try_lock(files.lock, create=True)
    assert fd is not None, "the lock is still held"
    os.close(fd)


@as_root
def test_another_users_socket_is_refused_and_left_alone(files: RunFiles) -> None:
    make_socket(files.socket)
    os.chown(files.socket, NOBODY, NOBODY)
    with pytest.raises(ConfigError, match="another user"):
        files.prepare()
    assert files.socket.exists()


# ---- the directory --------------------------------------------------------------------------


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def test_a_missing_directory_is_made_for_its_owner_alone(files: RunFiles) -> None:
    inner = RunFiles(files.socket.parent / "own" / "pool.sock")
    with umask(0), prepared(inner):
        assert stat.S_IMODE(inner.socket.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(inner.lock.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("mode", "refused"),
    [(0o700, False), (0o755, False), (0o770, True), (0o702, True), (0o1777, False)],
)
def test_a_directory_that_others_may_write_to_is_refused_unless_sticky(
    files: RunFiles, mode: int, refused: bool
) -> None:
    files.socket.parent.chmod(mode)
    if refused:
        with pytest.raises(ConfigError, match="chmod go-w"):
            files.prepare()
        assert names(files) == set()
    else:
        with prepared(files):
            pass


@as_root
@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_another_users_directory_is_refused(files: RunFiles, mode: int) -> None:
    """The sticky bit does not bind a directory's owner: they may replace our socket."""
    os.chown(files.socket.parent, NOBODY, NOBODY)
    files.socket.parent.chmod(mode)
    with pytest.raises(ConfigError, match="another user"):
        os.close(files.prepare())


# ---- clearing up ----------------------------------------------------------------------------


LIMIT = 10.0
"""Seconds; what is waited for takes milliseconds."""


def left_by_the_dead(files: RunFiles) -> None:
    os.close(files.prepare())
    make_socket(files.socket)
    make_socket(files.back)


def test_what_a_dead_supervisor_left_is_swept(files: RunFiles) -> None:
    left_by_the_dead(files)
    files.sweep()
    assert names(files) == set()
    with prepared(files):
        pass


def test_nothing_is_swept_while_a_supervisor_lives(files: RunFiles) -> None:
    """Its successor may be up before the last orphan goes."""
    with another_supervisor(files):
        make_socket(files.socket)
        make_socket(files.back)
        before = names(files)
        files.sweep()
        assert names(files) == before == {"pool.sock", "pool.sock.w", "pool.sock.lock"}


def test_without_a_lock_file_nothing_is_swept(files: RunFiles) -> None:
    """Somebody has cleared up already; what is there now is somebody else's."""
    make_socket(files.socket)
    files.sweep()
    assert names(files) == {"pool.sock"}


def test_sweeping_gives_the_lock_back(files: RunFiles) -> None:
    left_by_the_dead(files)
    before = leaks.snapshot().descriptors
    files.sweep()
    assert leaks.snapshot().descriptors == before


@pytest.mark.parametrize("own", [True, False])
def test_the_directory_goes_with_the_files_where_it_is_the_supervisors_own(
    files: RunFiles, own: bool
) -> None:
    inner = RunFiles(files.socket.parent / "inner" / "pool.sock", own_directory=own)
    left_by_the_dead(inner)
    inner.sweep()
    assert inner.socket.parent.exists() != own


def test_a_directory_goes_whose_supervisor_died_while_it_cleared_up(files: RunFiles) -> None:
    inner = RunFiles(files.socket.parent / "inner" / "pool.sock", own_directory=True)
    inner.socket.parent.mkdir()
    assert inner.sweep()
    assert not inner.socket.parent.exists()


def test_a_lock_that_is_let_go_a_moment_later_is_waited_for(files: RunFiles) -> None:
    """A process that dies closes its pipes, which its orphans see, before its lock, or after."""
    fd = files.prepare()
    make_socket(files.socket)
    assert not files.sweep()
    swept: list[bool] = []
    thread = threading.Thread(target=lambda: swept.append(files.sweep(LIMIT)))
    thread.start()
    os.close(fd)
    thread.join()
    assert swept == [True]
    assert names(files) == set()


def test_a_directory_with_something_else_in_it_stays(files: RunFiles) -> None:
    inner = RunFiles(files.socket.parent / "inner" / "pool.sock", own_directory=True)
    left_by_the_dead(inner)
    inner.socket.with_name("thesis.txt").touch()
    inner.sweep()
    assert names(inner) == {"thesis.txt"}


def test_removing_what_is_gone_already_does_nothing(files: RunFiles) -> None:
    with prepared(files):
        files.remove()
        files.remove()
    assert names(files) == set()


def test_a_directory_that_is_swept_meanwhile_is_made_again(tmp_path: Path) -> None:
    """An orphan clears a dead supervisor's directory away while the next one wants it."""
    files = RunFiles(tmp_path / "run" / "pool.sock", own_directory=True)
    stop = threading.Event()

    def sweep() -> None:
        while not stop.wait(0.002):  # or it would leave the other no turn
            for _ in range(20):
                files.sweep()

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        for _ in range(500):
            os.close(files.prepare())
    finally:
        stop.set()
        thread.join()
