"""What a service manager hears, on a real datagram socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import daemons
import pytest
from opuspool_supervisor.notify import Notifier
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no systemd")


class Manager:
    """Stands in for systemd: the other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.heard: list[str] = []

    def hear(self) -> list[str]:
        """All that has been said so far."""
        with suppress(BlockingIOError):
            while True:
                self.heard += self.socket.recv(4096).decode().split("\n")
        return self.heard


@pytest.fixture
def manager() -> Iterator[Manager]:
    """A service manager that listens."""
    path = Path(os.environ["TMPDIR"]) / "notify"
    listening = Manager(path)
    yield listening
    listening.socket.close()
    path.unlink()


def test_a_daemon_tells_its_life(
    tmp_path: Path, endpoint: str, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY when a worker has proved itself, WATCHDOG while the loop runs, STOPPING at the end."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process:
        wait_until(lambda: "READY=1" in manager.hear(), what="it is ready")
        wait_until(lambda: manager.hear().count("WATCHDOG=1") >= 3, what="the loop runs")
        wait_until(
            lambda: any("STATUS=ok: 2 of 2" in said for said in manager.hear()), what="status"
        )
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: not _more(manager), what="all that was sent is heard")
        beats = manager.heard.count("WATCHDOG=1")
        manager.socket.settimeout(1.5)
        with pytest.raises(TimeoutError):
            manager.socket.recv(4096)
        manager.socket.setblocking(False)
        os.kill(process.pid, signal.SIGCONT)
        wait_until(lambda: manager.hear().count("WATCHDOG=1") > beats, what="it beats again")
    assert "STOPPING=1" in manager.hear()


def _said(manager: Manager, words: str) -> bool:
    return any(words in said for said in manager.hear())


def _more(manager: Manager) -> bool:
    before = len(manager.heard)
    return len(manager.hear()) > before


def test_without_a_worker_it_is_not_ready(
    tmp_path: Path, endpoint: str, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status says why; the watchdog is content, for the loop runs."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    monkeypatch.setenv("OPUSPOOL_LIBOPUS", "/nowhere/libopus.so")
    process = subprocess.Popen(
        daemons.daemon_command("--config", daemons.settings_for(tmp_path, endpoint)),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _said(manager, "no worker can start"), what="it is said")
        assert "WATCHDOG=1" in manager.hear()
        assert "READY=1" not in manager.hear()
    finally:
        process.terminate()
        process.wait(20)


def test_the_environment_is_not_passed_on() -> None:
    """Workers shall not speak for the daemon; another process's watchdog is not ours."""
    environ = {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    notifier = Notifier(environ)
    assert not environ
    assert notifier.watchdog_seconds is None
    assert notifier.send("READY=1") is False, "nobody listens: to be told again"
    notifier.close()


def test_without_a_manager_nothing_is_said() -> None:
    """And nothing is to be repeated."""
    notifier = Notifier({})
    assert notifier.send("READY=1")
    notifier.close()
