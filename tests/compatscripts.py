"""One script, run on an original library and on its drop-in: every answer must be the same."""

from __future__ import annotations

import ctypes.util
import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import pytest
import reference
from recordings import speech_packets

from opuspool import compat
from opuspool.compat.defaultpool import default_pool
from opuspool.config import load

Script: TypeAlias = Callable[[Any], Iterator[tuple[str, object]]]
"""Gives (what was done, the answer) for each step, with a library."""


@contextmanager
def shared_pool() -> Iterator[None]:
    """The drop-ins' pool, up and warm: what a test starts afterwards must be gone at its end."""
    patient = load(overrides={"requests": {"timeout_seconds": 120}})
    compat.configure(workers=1, spares=0, config=patient)
    default_pool().decode(speech_packets(0.5))
    yield
    compat.close()
    compat.configure()


def original(library: str) -> Any:
    """Import an original library so that it loads the libopus that opuspool chooses."""
    path = str(reference.real_libopus())
    found = ctypes.util.find_library
    ctypes.util.find_library = lambda name: path if name == "opus" else found(name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # their own matter
            return importlib.import_module(library)
    except ImportError:
        pytest.skip(f"{library} is not installed: pip install opuspool[test]")
    finally:
        ctypes.util.find_library = found


def answer(call: Callable[..., object], *arguments: object) -> object:
    """What a call returns, or its error: type and, where it has a code, that and its words."""
    try:
        value = call(*arguments)
    except Exception as error:  # noqa: BLE001  whichever it is, the drop-in's must be the same
        code = getattr(error, "code", None)
        words = "" if code is None else str(error)
        return (type(error).__name__, code, words)
    return bytes(value) if isinstance(value, memoryview) else value


def same(script: Script, theirs: Any, ours: Any) -> int:
    """Assert that a script has the same answers on both; returns how many they are."""
    both = list(zip(script(theirs), script(ours), strict=True))
    different = [
        f"{step}: {_short(expected)}, not {_short(found)}"
        for (step, expected), (_, found) in both
        if found != expected or type(found) is not type(expected)
    ]
    assert not different, "\n".join(different[:40])
    return len(both)


def _short(value: object) -> str:
    return f"{len(value)} bytes, {hash(value):x}" if isinstance(value, bytes) else repr(value)
