"""Options that several commands have."""

from __future__ import annotations

import click

__all__ = ["config_option", "endpoint_option"]

endpoint_option = click.option(
    "--endpoint",
    metavar="ADDRESS",
    help="The daemon's address, as ipc:///run/opuspool/pool.sock, or auto.",
)
config_option = click.option(
    "--config", metavar="FILE", help="Settings (TOML); without it, the defaults."
)
