"""Reloading: which settings a running supervisor takes; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from opuspool.config import Config

FIXED = {
    "supervisor": ("endpoint", "http", "keys", "embedded_log_level"),
    "workers": ("libopus",),
    "crashes": ("directory", "reports", "bytes"),
}
"""Keys that are used at the start only: a change of them needs a restart."""


def changed(old: Config, new: Config) -> list[str]:
    """The keys whose values differ, as "[section] key"."""
    return [
        f"[{section.name}] {key.name}"
        for section in msgspec.structs.fields(type(old))
        for key in msgspec.structs.fields(section.type)
        if getattr(getattr(old, section.name), key.name)
        != getattr(getattr(new, section.name), key.name)
    ]


def merged(old: Config, new: Config) -> Config:
    """The new settings, but for what needs a restart."""
    sections = {
        name: msgspec.structs.replace(
            getattr(new, name), **{key: getattr(getattr(old, name), key) for key in keys}
        )
        for name, keys in FIXED.items()
    }
    return msgspec.structs.replace(new, **sections)
