"""Real daemons for tests."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def settings_for(folder: Path, endpoint: str, more: str = "") -> Path:
    path = folder / "config.toml"
    path.write_text(f'[supervisor]\nendpoint = "{endpoint}"\n{more}')
    return path


def daemon_command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "opuspool_supervisor", *map(str, arguments)]


def http_address(process: subprocess.Popen[str]) -> str:
    """Where a daemon serves HTTP, as its log tells."""
    lines: list[str] = process.log  # type: ignore[attr-defined]  # `daemon` has put it there
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return next(str(event["address"]) for event in events if event["event"] == "http_started")


@contextmanager
def daemon(settings: Path, wait_for: str = "worker_ready") -> Iterator[subprocess.Popen[str]]:
    """A running daemon; what it logs is read, so that it never blocks."""
    process = subprocess.Popen(
        daemon_command("--config", settings), stderr=subprocess.PIPE, text=True, bufsize=1
    )
    lines: list[str] = []
    process.log = lines  # type: ignore[attr-defined]  # for the test to read
    assert process.stderr is not None
    reader = threading.Thread(target=lines.extend, args=(process.stderr,))
    reader.start()
    try:
        wait_until(
            lambda: any(wait_for in line for line in lines) or process.poll() is not None,
            what=f"the daemon has logged {wait_for}",
        )
        yield process
    finally:
        process.terminate()
        process.wait(20)
        reader.join()
        process.stderr.close()
