"""Real daemons for tests."""

from __future__ import annotations

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


@contextmanager
def daemon(settings: Path) -> Iterator[subprocess.Popen[str]]:
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
            lambda: any("worker_ready" in line for line in lines) or process.poll() is not None,
            what="the daemon has a worker",
        )
        yield process
    finally:
        process.terminate()
        process.wait(60)
        reader.join()
        process.stderr.close()
