"""A real Prometheus: what it reads of a daemon under load and kills; rules, dashboard, promtool."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import urllib.parse
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import daemons
import pytest
from recordings import speech_packets
from test_web import get
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).resolve().parent.parent / "deploy"
KILLS = {"segv": signal.SIGSEGV, "abort": signal.SIGABRT, "killed": signal.SIGKILL}
HISTOGRAM_PARTS = re.compile(r"_(bucket|sum|count)$")

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)"
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool (Debian: prometheus)"
)


def promtool(*arguments: str | Path, given: bytes | None = None) -> None:
    """Run it; fail with what it says."""
    command = ["promtool", *map(str, arguments)]
    done = subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert not done.stderr, done.stderr.decode()  # `check metrics` only complains there


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus that scrapes the target every second; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    job = {"job_name": "opuspool", "static_configs": [{"targets": [target]}]}
    settings = {
        "global": {"scrape_interval": "1s"},
        "rule_files": [str(DEPLOY / "prometheus/rules.yml")],
        "scrape_configs": [job],
    }
    path = folder / "prometheus.yml"
    path.write_text(json.dumps(settings))  # JSON is YAML
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ]
    )
    try:
        wait_until(lambda: _is_up(address), 30, what="Prometheus is ready")
        yield address
    finally:
        process.terminate()
        process.wait(20)


def _is_up(address: str) -> bool:
    try:
        return get(address, "/-/ready")[0].status == 200
    except OSError:
        return False


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """Ask Prometheus's API."""
    path = "/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    answer = json.loads(get(address, path)[1])
    assert answer["status"] == "success", answer
    return list(answer["data"]["result"])


def restarts(address: str) -> dict[str, int]:
    """The restart counters that are not 0, as Prometheus has them."""
    found = query(address, "opuspool_worker_restarts_total > 0")
    return {series["metric"]["reason"]: int(series["value"][1]) for series in found}


@contextmanager
def load(endpoint: str) -> Iterator[list[Exception]]:
    """Decode without a pause; gives what has failed."""
    over = threading.Event()
    failed: list[Exception] = []
    packets = speech_packets()

    def run() -> None:
        with opuspool.Pool(endpoint) as pool:
            while not over.is_set():
                try:
                    pool.decode(packets)
                except opuspool.OpusPoolError as error:
                    failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield failed
    finally:
        over.set()
        thread.join(30)


@needs_prometheus
@pytest.mark.usefixtures("http")
def test_prometheus_has_the_kills_that_were_made(tmp_path: Path, endpoint: str) -> None:
    """Under load, by cause, one by one; no request fails for it."""
    made = dict.fromkeys(KILLS, 0)
    with (
        daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process,
        prometheus(tmp_path, daemons.http_address(process)) as server,
        load(endpoint) as failed,
        opuspool.Pool(endpoint) as pool,
    ):
        for reason in ("segv", "killed", "segv", "abort", "killed", "segv"):
            slots = pool.status()["workers"]
            victim = next(slot["pid"] for slot in slots if slot["state"] in ("IDLE", "BUSY"))
            before = sum(pool.status()["counters"]["worker_restarts"].values())
            os.kill(victim, KILLS[reason])
            made[reason] += 1
            wait_until(
                lambda n=before: (  # type: ignore[misc]  # mypy cannot type a lambda's default
                    sum(pool.status()["counters"]["worker_restarts"].values()) > n
                    and pool.status()["health"] == "ok"
                ),
                what="the worker is replaced",
            )
        wait_until(lambda: restarts(server) == made, 20, what=f"Prometheus has {made}")
        assert query(server, "sum(opuspool_recovery_seconds_count)")
        assert not failed


@needs_promtool
def test_promtool_accepts_rules_and_settings() -> None:
    """And every alert fires on its fault, and keeps quiet without."""
    promtool("check", "rules", DEPLOY / "prometheus/rules.yml")
    promtool("test", "rules", DEPLOY / "prometheus/rules_test.yml")
    promtool("check", "config", DEPLOY / "prometheus/prometheus.yml")


def _named(text: str) -> set[str]:
    """The metrics that expressions use; `process_` ones come with the client library."""
    names = re.findall(r"\b(?:opuspool|process)_\w+", text)
    return {HISTOGRAM_PARTS.sub("", name) for name in names}


@pytest.mark.usefixtures("http")
def test_rules_and_dashboard_use_what_there_is(tmp_path: Path, endpoint: str) -> None:
    """Every metric in them is in a scrape."""
    rules = (DEPLOY / "prometheus/rules.yml").read_text(encoding="utf-8")
    dashboard = json.loads((DEPLOY / "grafana/opuspool.json").read_text(encoding="utf-8"))
    panels = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])
    ]
    expressions = re.findall(r"expr: >-\n(.*)", rules)
    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process:
        address = daemons.http_address(process)
        wait_until(lambda: get(address, "/readyz")[0].status == 200, what="it is ready")
        body = get(address, "/metrics")[1]
    there = {HISTOGRAM_PARTS.sub("", n) for n in re.findall(r"^(\w+)", body.decode(), re.MULTILINE)}
    assert len(panels) > 20
    assert len(expressions) > 10
    assert _named("\n".join(panels + expressions)) <= there
    ours = {name for name in there if name.startswith("opuspool_")}
    assert ours <= _named("\n".join(panels))  # none is hidden
    labels = set(re.findall(r'(\w+)="([^"]*)"', body.decode()))
    used = re.findall(
        r'\b(reason|outcome|state|health)[=!]~?"([^"$]+)"', "\n".join([*panels, rules])
    )
    assert len(used) > 8
    for label, alternatives in used:
        for value in alternatives.split("|"):
            assert any(name == label and re.fullmatch(value, known) for name, known in labels), (
                value
            )
    if shutil.which("promtool"):
        promtool("check", "metrics", given=body)
