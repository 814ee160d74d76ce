"""Settings for a pool that lives as long as one command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opuspool.config import Config

__all__ = ["quiet"]


def quiet(path: str | None) -> Config:
    """The settings, with a private supervisor's log at "error" unless it was set.

    The command tells of failures itself, in one line each; the log's JSON would bury them.

    Args:
        path: a TOML file; None: the defaults.

    Raises:
        ConfigError: a setting is wrong.
    """
    import msgspec

    from opuspool import config as configs

    settings = configs.load(path)
    # "warning" is the default; it cannot be told from the same word in a file.
    if settings.supervisor.embedded_log_level != "warning":
        return settings
    supervisor = msgspec.structs.replace(settings.supervisor, embedded_log_level="error")
    return msgspec.structs.replace(settings, supervisor=supervisor)
