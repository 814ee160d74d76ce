"""Encoders, which opuspool has none of: they are taken from the library that is stood in for."""

from __future__ import annotations

import importlib
from typing import Any


def encoder(drop_in: str, original: str, names: frozenset[str], name: str) -> Any:
    """What `from drop_in import name` gives for a name that the drop-in does not have.

    Args:
        drop_in: the module that was asked.
        original: the module that it stands in for; imported if it is asked for an encoder.
        names: the original's encoders.
        name: what was asked for.

    Raises:
        ImportError: it is an encoder, and the original cannot be imported.
        AttributeError: it is none: decoding in this process is what a drop-in is there to avoid.
    """
    if name not in names:
        raise AttributeError(f"module {drop_in!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(original)
    except Exception as error:  # opuslib raises a bare one where libopus is missing
        raise ImportError(
            f"opuspool only decodes; {name} is that of {original}, which cannot be had: {error}"
        ) from error
    return getattr(module, name)
