"""`opuspool top`, `restart` and `recycle` against a real daemon."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import daemons
import pytest
from recordings import speech_packets
from waiting import wait_until

import opuspool
from opuspool.cli import rates

if TYPE_CHECKING:
    from pathlib import Path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "opuspool", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def ready(pool: opuspool.Pool) -> dict[str, Any]:
    """The status, once every worker and spare is there."""

    def report() -> dict[str, Any] | None:
        found = pool.status()
        slots = found["workers"] + found["spares"]
        return found if all(slot["state"] == "IDLE" for slot in slots) else None

    found = wait_until(report, what="all workers are ready")
    assert found is not None
    return found


@pytest.mark.parametrize(("command", "reason"), [("restart", "killed"), ("recycle", "exit")])
def test_a_worker_is_replaced_under_a_stream(
    tmp_path: Path, endpoint: str, command: str, reason: str
) -> None:
    """The stream goes on bit for bit; the cause is counted, and no packet is blamed."""
    packets = speech_packets()
    with opuspool.Pool() as whole:
        expected = whole.decode(packets)
    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)), opuspool.Pool(endpoint) as pool:
        ready(pool)
        with pool.stream() as stream:
            heard = [stream.decode_many(packets[:50])]
            (slot,) = [slot for slot in pool.status()["workers"] if slot["streams"]]
            done = run(command, str(slot["slot"]), "--endpoint", endpoint)
            assert done.returncode == 0, done.stderr
            assert re.search(rf"slot {slot['slot']}: worker {slot['pid']} replaced by", done.stdout)
            heard.append(stream.decode_many(packets[50:]))
        counters = pool.status()["counters"]
        assert counters["worker_restarts"][reason] == 1
        assert sum(counters["worker_restarts"].values()) == 1
        assert counters["crash_reports"] == 0
        assert pool.status()["history"]["ends"][0]["cause"] == "asked for by an operator"
    assert b"".join(part.tobytes() for part in heard) == expected.tobytes()


def test_a_slot_that_is_not_there_is_told(tmp_path: Path, endpoint: str) -> None:
    """With the numbers that are."""
    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)), opuspool.Pool(endpoint) as pool:
        ready(pool)
        done = run("restart", "7", "--endpoint", endpoint)
        assert done.returncode == 1
        assert "there is no slot 7: they are 0, 1, 2" in done.stderr
        with pytest.raises(ValueError, match="needs a slot's number"):
            pool.replace_worker("0")  # type: ignore[arg-type]  # as a wrong client would
        assert pool._connection.ask("dance", 5.0).keys() == {"error"}


def test_top_into_a_pipe_is_one_plain_frame(tmp_path: Path, endpoint: str) -> None:
    """Without colours or control characters."""
    with daemons.daemon(daemons.settings_for(tmp_path, endpoint)):
        done = run("top", "--endpoint", endpoint)
    assert done.returncode == 0, done.stderr
    assert "packets/s" in done.stdout
    assert len(re.findall(r"^\d( spare)? +\d+ ", done.stdout, re.MULTILINE)) == 3
    assert done.stdout.replace("\n", "").isprintable()


def test_top_without_a_daemon_says_so(endpoint: str) -> None:
    """At once."""
    done = run("top", "--endpoint", endpoint)
    assert done.returncode == 1
    assert "no supervisor answers" in done.stderr


@pytest.mark.skipif(shutil.which("setsid") is None, reason="needs setsid (util-linux)")
@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_top_on_a_terminal_leaves_by_a_key(tmp_path: Path, endpoint: str, key: bytes) -> None:
    """And gives the terminal back."""
    import pty
    import termios

    ours, theirs = pty.openpty()
    try:
        before = termios.tcgetattr(theirs)
        with daemons.daemon(daemons.settings_for(tmp_path, endpoint)):
            process = subprocess.Popen(
                [
                    "setsid",
                    "--ctty",
                    sys.executable,
                    "-m",
                    "opuspool",
                    "top",
                    "--endpoint",
                    endpoint,
                ],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"},
            )
            seen = b""

            def reads(words: bytes) -> bool:
                nonlocal seen
                while select.select([ours], [], [], 0)[0]:
                    seen += os.read(ours, 65536)
                return words in seen

            wait_until(lambda: reads(b"packets/s"), 20, what="a frame is shown")
            os.write(ours, key)
            wait_until(lambda: reads(b"\x1b[?1049l") and process.poll() is not None, what="it left")
        assert process.returncode == 0
        assert b"\x1b[" in seen, "in colour"
        assert termios.tcgetattr(theirs) == before
    finally:
        os.close(ours)
        os.close(theirs)


def _reading(pid: int, uptime: float, packets: int, counts: list[int]) -> dict[str, Any]:
    return {
        "supervisor": {"pid": pid, "uptime_seconds": uptime},
        "counters": {"packets_decoded": packets},
        "timings": {"decode_seconds": {"bounds": [0.1, 1.0], "counts": counts, "sum": 0.0}},
    }


def test_rates_need_two_readings_of_one_daemon() -> None:
    """A restart between them is no negative rate."""
    now = _reading(2, 10.0, 500, [1, 0, 0])
    assert rates.rate(None, now, "packets_decoded") is None
    assert rates.rate(_reading(1, 8.0, 900, [0, 0, 0]), now, "packets_decoded") is None
    assert rates.rate(_reading(2, 8.0, 100, [0, 0, 0]), now, "packets_decoded") == 200.0


def test_percentiles_are_of_the_time_between() -> None:
    """Of all, where nothing came between."""
    before, now = _reading(1, 1.0, 0, [100, 0, 0]), _reading(1, 2.0, 0, [100, 2, 0])
    assert rates.percentile(None, now, "decode_seconds", 50) == 0.1
    assert rates.percentile(before, now, "decode_seconds", 50) == 1.0
    assert rates.percentile(now, now, "decode_seconds", 50) == 0.1
    assert rates.percentile(None, _reading(1, 1.0, 0, [0, 0, 0]), "decode_seconds", 50) is None
    assert rates.percentile(None, _reading(1, 1.0, 0, [0, 0, 3]), "decode_seconds", 50) == 1.0
