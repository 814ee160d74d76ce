"""Files without a name, also where Python or the system cannot make them in memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from opuspool import unnamedfile


def _without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)


def _forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)


@pytest.mark.parametrize("how", [None, _without, _forbidden])
def test_a_file_is_empty_private_and_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch, how: object
) -> None:
    if callable(how):
        how(monkeypatch)
    before = set(Path(tempfile.gettempdir()).glob("try*"))
    fd = unnamedfile.create("try")
    try:
        assert os.fstat(fd).st_size == 0
        assert not os.get_inheritable(fd)
        assert os.write(fd, b"x") == 1
        assert set(Path(tempfile.gettempdir()).glob("try*")) == before
    finally:
        os.close(fd)
