"""Fixtures of the Windows lane; on other systems its tests are not collected."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

collect_ignore_glob = [] if sys.platform == "win32" else ["test_*.py"]


@pytest.fixture(autouse=True, scope="module")
def nothing_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail the module that leaves a process, or a file in the temporary folder, behind."""
    folder = str(tmp_path_factory.mktemp("temp"))
    before = os.environ.get("TEMP"), os.environ.get("LOCALAPPDATA")
    os.environ["TEMP"] = os.environ["TMP"] = folder
    os.environ["LOCALAPPDATA"] = str(tmp_path_factory.mktemp("local"))
    tempfile.tempdir = None
    yield
    wait_until(lambda: not pythons(), 60, "no child is left")
    left = [path.name for path in Path(folder).iterdir() if path.name.startswith("opuspool")]
    for name, value in zip(("TEMP", "LOCALAPPDATA"), before, strict=True):
        if value is not None:
            os.environ[name] = value
    tempfile.tempdir = None
    assert not left


def pythons() -> list[int]:
    """Pids of all Python processes of this Wine prefix but this one."""
    if sys.platform == "win32":
        from windows import processes

        own = {"python.exe", "launcher.exe"}
        return [
            pid for pid, name in processes.names().items() if name in own and pid != os.getpid()
        ]
    else:  # noqa: RET505  # mypy reads it
        return []
