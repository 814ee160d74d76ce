"""The directory, sockets and lock of a supervisor: who owns them, and who clears them away.

One file, `<socket>.lock`, is locked (`flock`) for as long as a supervisor lives. ZeroMQ would bind
over a living supervisor's socket without a word, so the lock decides. Whoever gets the lock of a
dead supervisor may remove what it left: the next supervisor, or one of its own orphaned workers.

Windows has no ipc and needs none of this: on tcp it is the port that only one can have.
"""

from __future__ import annotations

import glob
import os
import stat
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from opuspool.errors import ConfigError

if sys.platform != "win32":
    import fcntl

PRIVATE_TOKEN_BYTES = 8
"""The name of a private supervisor's directory is "opuspool-" and so many random bytes, in hex."""

LOCK_WAIT_SECONDS = 1.0
"""A dead supervisor's lock may be held for a moment: by what is left of it, by its orphans."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The files of a supervisor on ipc.

    Attributes:
        socket: where clients connect.
        own_directory: the supervisor made the socket's directory; it goes with it, when empty.
    """

    socket: Path
    own_directory: bool = False

    @property
    def back(self) -> Path:
        """Where workers connect."""
        return self.socket.with_name(self.socket.name + ".w")

    @property
    def hidden(self) -> Path:
        """Where the clients' socket is while no new client can be taken."""
        return self.socket.with_name(self.socket.name + ".full")

    def lane(self, number: int) -> Path:
        """Where clients connect to a worker."""
        return self.socket.with_name(f"{self.socket.name}.w{number}")

    def _lanes(self) -> list[Path]:
        """Those that are there; a worker that was killed leaves its own."""
        return list(self.socket.parent.glob(f"{glob.escape(self.socket.name)}.w[0-9]*"))

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.socket.with_name(self.socket.name + ".lock")

    def prepare(self) -> int:
        """Make the directory, take the lock, remove own stale sockets; returns the lock's fd.

        Raises:
            ConfigError: another supervisor lives there, or the path is somebody else's.
        """
        fd = self._take_lock()
        try:
            for path in (self.socket, self.back, self.hidden, *self._lanes()):
                _remove_stale_socket(path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _take_lock(self) -> int:
        until = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            # Each time: whoever clears up after a dead supervisor may take the directory away.
            fd = try_lock(self.lock, create=True) if _made_directory(self.socket.parent) else None
            if fd is not None:
                return fd
            if time.monotonic() > until:
                raise ConfigError(
                    f"another supervisor serves {self.socket} already (its lock {self.lock} is "
                    "held): stop it, or choose another [supervisor] endpoint"
                )
            time.sleep(0.02)

    def remove(self) -> None:
        """Remove what `prepare` and the sockets' binding made, the lock last; it must be held."""
        for path in (self.socket, self.back, self.hidden, *self._lanes(), self.lock):
            with suppress(OSError):
                path.unlink()
        self._remove_directory()

    def sweep(self, patience_seconds: float = 0.0) -> bool:
        """Remove what a dead supervisor left; False: another does it, or one is alive there.

        A dying process lets go of its files one after another: its pipes may end before its lock.
        """
        until = time.monotonic() + patience_seconds
        while (fd := try_lock(self.lock, create=False)) is None:
            if not os.path.lexists(self.lock):
                self._remove_directory()  # who removed the rest may have died before this
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)
        self.remove()
        os.close(fd)
        return True

    def _remove_directory(self) -> None:
        if self.own_directory:
            with suppress(OSError):  # not empty, or gone
                self.socket.parent.rmdir()


def new_private_directory() -> Path:
    """A name for the sockets' directory of a private supervisor, which makes it."""
    import tempfile

    return Path(tempfile.gettempdir()) / f"opuspool-{os.urandom(PRIVATE_TOKEN_BYTES).hex()}"


def private_files(directory: Path) -> RunFiles:
    """The files of a private supervisor in its directory."""
    return RunFiles(directory / "pool.sock", own_directory=True)


def sweep_private(folder: Path) -> None:
    """Remove what dead private supervisors of this user have left there (POSIX).

    Their workers do that; but where all of them died with it, busy or killed too, nobody did.
    """
    for directory in folder.glob("opuspool-" + "[0-9a-f]" * 2 * PRIVATE_TOKEN_BYTES):
        with suppress(OSError):  # its owner has just removed it
            info = directory.lstat()
            if stat.S_ISDIR(info.st_mode) and info.st_uid == user_id():
                private_files(directory).sweep()


if sys.platform == "win32":

    def try_lock(path: Path, *, create: bool) -> int | None:  # noqa: ARG001
        """There is nothing to lock."""
        return None

else:

    def try_lock(path: Path, *, create: bool) -> int | None:
        """Lock a file without waiting; None where another process holds it, or it is not there.

        Raises:
            ConfigError: the lock file cannot be made or opened.
        """
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            fd = os.open(path, flags, 0o600)
        except FileNotFoundError:
            return None
        except OSError as error:
            if not create:
                return None
            raise ConfigError(f"cannot lock {path}: {error.strerror}") from None
        if create and os.fstat(fd).st_uid != user_id():
            os.close(fd)
            raise ConfigError(f"the lock file {path} belongs to another user: change the endpoint")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), path.lstat()):
                return fd
        except OSError:
            pass
        os.close(fd)
        return None


def user_id() -> int:
    """This user's number; 0 on Windows, where all files have that owner."""
    if sys.platform == "win32":
        return 0
    else:  # noqa: RET505  # mypy reads it
        return os.getuid()


def _made_directory(directory: Path) -> bool:
    """Make it, or find it good; False where it has been removed meanwhile.

    Raises:
        ConfigError: it is another user's, or others may write to it.
        OSError: it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_directory(directory)
    except (FileNotFoundError, FileExistsError):
        if os.path.lexists(directory) and not directory.is_dir():
            raise
        return False
    return True


def _check_directory(directory: Path) -> None:
    """Refuse a directory in which others could put a socket in our socket's place.

    Raises:
        ConfigError: it is another user's, or others may write to it.
    """
    info = directory.stat()
    if info.st_uid not in {user_id(), 0}:
        raise ConfigError(f"{directory} belongs to another user: change the endpoint")
    sticky = info.st_mode & stat.S_ISVTX  # as /tmp: others cannot touch what is ours
    if info.st_mode & 0o022 and not sticky:
        raise ConfigError(
            f"others may write to {directory}: take that right away, `chmod go-w {directory}`, "
            "or change the endpoint"
        )


def _remove_stale_socket(path: Path) -> None:
    """Remove a socket of ours; anything else at its path is left alone and told.

    Raises:
        ConfigError: something else is there.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(info.st_mode):
        raise ConfigError(f"{path} is there and is not a socket: remove it, or change the endpoint")
    if info.st_uid != user_id():
        raise ConfigError(f"{path} belongs to another user: change the endpoint")
    path.unlink()
