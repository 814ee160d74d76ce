"""HTTP of a real daemon: probes, metrics, page; what it refuses; decoding never waits for it."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import daemons
import pytest
from opuspool_supervisor import probes
from opuspool_supervisor.books import OUTCOMES, RESTART_REASONS
from opuspool_supervisor.monitor import Snapshot
from opuspool_supervisor.slots import SlotState
from prometheus_client.parser import text_string_to_metric_families
from recordings import speech_packets
from waiting import wait_until

import opuspool
from opuspool.exitcodes import ExitCode

pytestmark = pytest.mark.usefixtures("http")


def get(address: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    """Ask; the connection is closed."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def samples(address: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """All metrics, by name and label values."""
    _, body = get(address, "/metrics")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_every_label_value_is_there_from_the_start(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0, so that the first increase is seen; no other label value ever comes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process:
        address = daemons.http_address(process)
        wait_until(lambda: get(address, "/readyz")[0].status == 200, what="it is ready")
        found = samples(address)
        restarts = {
            k[1][0]: v for k, v in found.items() if k[0] == "opuspool_worker_restarts_total"
        }
        assert restarts == dict.fromkeys(RESTART_REASONS, 0)
        outcomes = {k[1][0]: v for k, v in found.items() if k[0] == "opuspool_requests_total"}
        assert outcomes == dict.fromkeys(OUTCOMES, 0)
        states = {k[1][0] for k in found if k[0] == "opuspool_workers"}
        assert states == {str(state) for state in SlotState}
        assert found["opuspool_supervisor_starts_total", ()] == 1


def test_metrics_count_what_is_decoded_and_killed(tmp_path: Path, endpoint: str) -> None:
    """Packets, seconds of audio, leases, and a death with its recovery."""
    packets = speech_packets()
    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process:
        address = daemons.http_address(process)
        with opuspool.Pool(endpoint) as pool:
            pcm = pool.decode(packets, sample_rate=16000)
            victim = pool.status()["workers"][0]["pid"]
            os.kill(victim, signal.SIGSEGV)
            wait_until(
                lambda: samples(address)["opuspool_worker_restarts_total", ("segv",)] == 1,
                what="the death is counted",
            )
            found = samples(address)
        assert found["opuspool_packets_decoded_total", ()] == len(packets)
        assert found["opuspool_audio_seconds_total", ()] == pytest.approx(len(pcm) / 16000)
        assert found["opuspool_decode_seconds_count", ()] > 0
        assert found["opuspool_access_violations_total", ()] == 1


def test_the_page_asks_for_nothing_from_elsewhere(tmp_path: Path, endpoint: str) -> None:
    """A strict policy, and no inline script or style that it would stop."""
    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process:
        address = daemons.http_address(process)
        response, body = get(address, "/")
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy
        assert not re.search(rb"https?://|\sstyle=|\son\w+=|<style|<script>", body)
        for path in ("/page.js", "/page.css", "/api/status", "/livez"):
            assert get(address, path)[0].status == 200, path
        assert get(address, "/nothing")[0].status == 404
        assert get(address, "/", Host="evil.example")[0].status == 421


def test_slow_and_many_peers_hold_up_nothing(tmp_path: Path, endpoint: str) -> None:
    """Peers that never finish their request cost neither probes nor decoding."""
    packets = speech_packets()
    with (
        daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process,
        ExitStack() as open_,
        opuspool.Pool(endpoint) as pool,
    ):
        address = daemons.http_address(process)
        host, _, port = address.rpartition(":")
        for _ in range(30):
            peer = open_.enter_context(socket.create_connection((host, int(port)), 5))
            peer.sendall(b"GET /metrics HTTP/1.1\r\nHost: loc")
        assert get(address, "/livez")[0].status == 200
        assert len(pool.decode(packets, sample_rate=16000, timeout=20))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_more_than_1024_descriptors_are_no_limit(tmp_path: Path, endpoint: str) -> None:
    """Where select() ends: a daemon with many clients is still to be watched."""
    import resource

    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most[1] < 3000:
        pytest.skip("needs 3000 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3000, most[1]))
    try:
        with (
            daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process,
            ExitStack() as open_,
        ):
            address = daemons.http_address(process)
            for _ in range(1100):
                peer = open_.enter_context(socket.socket(socket.AF_UNIX))
                peer.connect(endpoint.removeprefix("ipc://"))
            held = Path(f"/proc/{process.pid}/fd")
            wait_until(lambda: sum(1 for _ in held.iterdir()) > 1100, what="they are accepted")
            for _ in range(3):
                assert get(address, "/livez")[0].status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_who_holds_a_connection_for_long_is_cut(tmp_path: Path, endpoint: str) -> None:
    """However busy it looks: a byte now and then is no request."""
    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process, ExitStack() as open_:
        address = daemons.http_address(process)
        host, _, port = address.rpartition(":")
        peers = [
            open_.enter_context(socket.create_connection((host, int(port)), 5)) for _ in range(300)
        ]
        for peer in peers:
            peer.sendall(b"GET / HTTP/1.1\r\nX: ")

        def cut() -> bool:
            return not _trickle(peers[0])

        wait_until(cut, 30, what="the first one is cut")
        assert get(address, "/livez")[0].status == 200


def _trickle(peer: socket.socket) -> bool:
    """Send one more byte; False where the other end has closed."""
    try:
        peer.sendall(b"a")
        peer.setblocking(False)
        return peer.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        peer.setblocking(True)


def test_ready_is_only_who_decodes(
    tmp_path: Path, endpoint: str, faulty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers that cannot start: live, not ready, and it says why; ready when that is mended."""
    libopus = tmp_path / "libopus.so"
    monkeypatch.setenv("OPUSPOOL_LIBOPUS", str(libopus))
    settings = daemons.settings_for(tmp_path, endpoint, "[restart]\nbackoff_max_seconds = 0.5\n")
    with daemons.daemon(settings, wait_for="worker_ended") as process:
        address = daemons.http_address(process)
        wait_until(lambda: b"libopus" in get(address, "/readyz")[1], what="it says why")
        assert get(address, "/readyz")[0].status == 503
        assert get(address, "/livez")[0].status == 200
        libopus.symlink_to(faulty)
        wait_until(lambda: get(address, "/readyz")[0].status == 200, 20, what="it is ready")


@pytest.mark.parametrize("address", ["127.0.0.1:{taken}", "192.0.2.1:9464"])
def test_an_address_that_cannot_be_had_is_told(tmp_path: Path, endpoint: str, address: str) -> None:
    """At start, with an exit code of its own, and what to do."""
    settings = daemons.settings_for(tmp_path, endpoint)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = address.format(taken=taken.getsockname()[1])
        done = subprocess.run(
            daemons.daemon_command("--config", settings),
            env={**os.environ, "OPUSPOOL_SUPERVISOR_HTTP": where},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == ExitCode.HTTP
    assert where in done.stderr
    assert "[supervisor] http" in done.stderr


def _report(**changes: Any) -> dict[str, Any]:
    worker = {"state": "IDLE", "proved_ago_seconds": 1.0}
    report = {"draining": False, "boot_error": None, "health": "ok", "workers": [worker]}
    return {**report, **changes}


@pytest.mark.parametrize(
    ("report", "age", "failing"),
    [
        (_report(), 0.1, set()),
        (_report(), 6.0, {"loop"}),
        (_report(draining=True, health="down"), 0.1, {"draining"}),
        (_report(workers=[], health="down"), 0.1, {"decode"}),
        (_report(workers=[], health="down", boot_error="no libopus"), 0.1, {"decode", "start"}),
        (_report(boot_error="one slot has none"), 0.1, set()),
        (_report(workers=[{"state": "IDLE", "proved_ago_seconds": 20.0}]), 0.1, {"decode"}),
        (_report(workers=[{"state": "BACKOFF", "proved_ago_seconds": 1.0}]), 0.1, {"decode"}),
        (_report(health="down"), 0.1, {"workers"}),
    ],
)
def test_readiness_names_what_fails(report: dict[str, Any], age: float, failing: set[str]) -> None:
    """Ready is only who has decoded lately."""
    found = probes.ready(Snapshot(100.0, report), canary_seconds=5.0, now=100.0 + age)
    assert found.keys() == failing


def test_nothing_is_ready_before_the_loop_runs() -> None:
    """Nor live."""
    assert probes.live(None, 1.0)
    assert probes.ready(None, 5.0, 1.0)
