"""What is public is what `__all__` says, and each name is there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import opuspool
from opuspool import errors


@pytest.mark.parametrize("name", opuspool.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """`from opuspool import name` works."""
    assert getattr(opuspool, name) is not None


def test_every_error_is_public_and_has_one_base() -> None:
    """One `except OpusPoolError` catches them all."""
    for name in errors.__all__:
        assert name in opuspool.__all__
        assert issubclass(getattr(opuspool, name), opuspool.OpusPoolError)


def test_unknown_names_are_refused() -> None:
    """As a module does."""
    with pytest.raises(AttributeError, match="Decoder"):
        _ = opuspool.Decoder


def test_import_is_light() -> None:
    """Importing the package loads neither numpy nor ZeroMQ until a name is used."""
    code = "import opuspool, sys; print({'numpy', 'zmq', 'msgspec'} & set(sys.modules))"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "set()"
