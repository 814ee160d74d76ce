"""`opuspool-supervise`, driven as ops drive it."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from daemons import daemon, daemon_command, settings_for
from killing import check_books, deaths
from recordings import speech_packets
from reference import golden
from waiting import wait_until

import opuspool

PACKETS = speech_packets(2.0)


def test_clients_share_a_daemon_and_sigterm_ends_it(tmp_path: Path, endpoint: str) -> None:
    """Two pools on one daemon; after SIGTERM exit code 0 and nothing is left."""
    with daemon(settings_for(tmp_path, endpoint)) as process:
        socket_path = Path(endpoint.removeprefix("ipc://"))
        assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
        assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700
        with opuspool.Pool(endpoint) as one, opuspool.Pool(endpoint) as two:
            assert np.array_equal(one.decode(PACKETS), golden(PACKETS))
            assert np.array_equal(two.decode(PACKETS), golden(PACKETS))
            assert one.status()["supervisor"]["pid"] == process.pid
            assert one.status()["clients"] == 2
            os.kill(one.status()["workers"][0]["pid"], signal.SIGKILL)
            wait_until(lambda: deaths(two.status()) == 1, what="the death is counted")
            check_books(one.status())
    assert process.returncode == 0
    assert not socket_path.parent.exists()
    events = [json.loads(line) for line in process.log]  # type: ignore[attr-defined]
    assert [e["reason"] for e in events if e["event"] == "worker_ended"] == ["killed"]
    assert events[-1]["event"] == "supervisor_stopped"


def test_kill_9_of_a_daemon_leaves_nothing(tmp_path: Path, endpoint: str) -> None:
    """Workers, sockets and directory are gone within a second; a new daemon starts."""
    settings = settings_for(tmp_path, endpoint)
    with daemon(settings) as process:
        with opuspool.Pool(endpoint) as pool:
            pool.decode(PACKETS)
            process.kill()
            process.wait()
            with pytest.raises(opuspool.SupervisorLostError, match="is gone"):
                pool.decode(PACKETS, timeout=0.5)
        folder = Path(endpoint.removeprefix("ipc://")).parent
        wait_until(lambda: not folder.exists(), timeout=5, what="the sockets are gone")
    with daemon(settings), opuspool.Pool(endpoint) as pool:
        assert np.array_equal(pool.decode(PACKETS), golden(PACKETS))


def test_sigterm_finishes_what_was_accepted(tmp_path: Path, endpoint: str, faulty: Path) -> None:
    """Draining: the slow requests under way are answered, the daemon leaves with 0."""
    import faults

    results: list[int] = []
    with daemon(settings_for(tmp_path, endpoint)) as process, opuspool.Pool(endpoint) as pool:
        pool.decode(PACKETS[:1])
        slow = [faults.marker("slow")] * 10  # half a second

        def decode() -> None:
            results.append(len(pool.decode(slow)))

        thread = threading.Thread(target=decode)
        thread.start()
        wait_until(lambda: pool.status()["in_flight"], what="the request is under way")
        process.terminate()
        thread.join()
        assert process.wait(30) == 0
    assert results == [3200]


def test_a_second_daemon_is_refused_and_the_first_unharmed(tmp_path: Path, endpoint: str) -> None:
    """Exit code 73, and why."""
    settings = settings_for(tmp_path, endpoint)
    with daemon(settings), opuspool.Pool(endpoint) as pool:
        second = subprocess.run(
            daemon_command("--config", settings),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert second.returncode == 73
        assert "another supervisor serves" in second.stderr
        assert np.array_equal(pool.decode(PACKETS), golden(PACKETS))


@pytest.mark.parametrize("what", ["file", "symlink"])
def test_what_is_not_our_socket_is_left_alone(tmp_path: Path, endpoint: str, what: str) -> None:
    """A file at the endpoint's path is not removed."""
    path = Path(endpoint.removeprefix("ipc://"))
    path.parent.mkdir(mode=0o700)
    if what == "file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    run = subprocess.run(
        daemon_command("--config", settings_for(tmp_path, endpoint)),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert run.returncode == 73
    assert "not a socket" in run.stderr
    assert path.is_symlink() or path.read_text() == "precious"


def test_a_stale_socket_is_replaced(tmp_path: Path, endpoint: str) -> None:
    """One that nobody listens on."""
    path = Path(endpoint.removeprefix("ipc://"))
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with daemon(settings_for(tmp_path, endpoint)), opuspool.Pool(endpoint) as pool:
        assert np.array_equal(pool.decode(PACKETS), golden(PACKETS))


WRONG = {
    "unknown key": ("[workers]\ncuont = 2\n", "the nearest is [workers] count"),
    "range": ("[workers]\ncount = 0\n", "a whole number from 1 to 256"),
    "type": ('[workers]\nspares = "many"\n', "spares"),
    "not TOML": ("[workers\n", "not valid TOML"),
    "tcp without keys": ('[supervisor]\nendpoint = "tcp://127.0.0.1:19463"\n', "keys"),
    "transport": ('[supervisor]\nendpoint = "udp://x"\n', "unknown transport"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG.keys())
def test_check_says_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    """Exit code 64, one clear message, no traceback."""
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    run = subprocess.run(
        daemon_command("--config", path, "--check"), capture_output=True, text=True, check=False
    )
    assert run.returncode == 64
    assert words in run.stderr
    assert "Traceback" not in run.stderr


def test_check_of_goodsettings_for(tmp_path: Path, endpoint: str) -> None:
    """Exit code 0, and where it would listen."""
    run = subprocess.run(
        daemon_command("--config", settings_for(tmp_path, endpoint), "--check"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0
    assert endpoint in run.stdout


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_tcp_asks_for_keys(tmp_path: Path) -> None:
    """With the daemon's key file a client is served; with another's it is refused."""
    keys, other = tmp_path / "keys", tmp_path / "other"
    address = f"tcp://127.0.0.1:{_free_port()}"
    settings = settings_for(tmp_path, address, f'keys = "{keys}"\n')
    with daemon(settings):
        assert stat.S_IMODE(keys.stat().st_mode) == 0o600
        with opuspool.Pool(address, config=settings) as pool:
            assert np.array_equal(pool.decode(PACKETS), golden(PACKETS))
        from opuspool import curve

        curve.read_or_create(other)
        foreign = tmp_path / "foreign.toml"
        foreign.write_text(f'[supervisor]\nkeys = "{other}"\n')
        for wrong in (foreign, None):
            with pytest.raises((opuspool.AuthenticationError, opuspool.SupervisorLostError)):
                opuspool.Pool(address, config=wrong)


def test_no_daemon_is_told(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`SupervisorLostError` that says what to start."""
    monkeypatch.setattr("opuspool.connection.WELCOME_SECONDS", 0.3)
    with pytest.raises(opuspool.SupervisorLostError, match="opuspool-supervise"):
        opuspool.Pool(endpoint)
