"""Fixtures for all tests; after each test nothing of it may be left."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import faults
import leaks
import pytest
from hypothesis import Phase, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# A run says of a commit what any other run says of it, and a failure as it was found: to shrink one
# takes minutes. "hunt" looks where none has looked before. No deadlines: a busy machine is no bug.
settings.register_profile(
    "steady", deadline=None, derandomize=True, phases=(Phase.explicit, Phase.generate)
)
settings.register_profile("hunt", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("steady")

_run_folder = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Give this run temporary folders of its own, so that runs side by side do not see each other.

    With `-n` every process of the run has its own, but the one that only hands tests out. The path
    is short: the name of a Unix socket ends at 107 bytes. pytest's own `tmp_path` stays where it
    was, to be looked at after a failure.
    """
    if config.getoption("numprocesses", None):
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a script
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start inherits it
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = Path(tempfile.mkdtemp(prefix="opt-"))
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    config.stash[_run_folder] = folder
    os.environ[leaks.MARK] = folder.name
    for name in ("TMPDIR", "TEMP", "TMP"):
        os.environ[name] = str(folder)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    os.environ["XDG_STATE_HOME"] = str(folder / "state")  # crash reports
    os.environ["OPUSPOOL_SUPERVISOR_HTTP"] = ""  # its port is one for the whole machine
    tempfile.tempdir = None  # look at the environment again


def pytest_unconfigure(config: pytest.Config) -> None:
    """Delete the run's temporary folders."""
    if folder := config.stash.get(_run_folder, None):
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """Fail the test that leaves a process, temporary file, descriptor or thread behind."""
    before = leaks.snapshot()
    yield
    left = leaks.leaks_since(before)
    if left:
        message = str(left)
        leaks.clean_up(left)
        pytest.fail(message, pytrace=False)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """Return the directory where "-once" faults note that they happened."""
    folder = tmp_path / "tokens"
    folder.mkdir()
    return folder


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, tokens: Path) -> Path:
    """Let processes started in this test decode with the faulting libopus; returns its path."""
    variables = faults.environment(tokens)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Path(variables["OPUSPOOL_LIBOPUS"])


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let daemons of this test serve HTTP, at a free port."""
    monkeypatch.setenv("OPUSPOOL_SUPERVISOR_HTTP", "127.0.0.1:0")


@pytest.fixture
def endpoint() -> Iterator[str]:
    """Return an address for a daemon of this test; its directory is not there yet."""
    folder = Path(os.environ["TMPDIR"]) / "d"
    yield f"ipc://{folder}/pool.sock"
    shutil.rmtree(folder, ignore_errors=True)
