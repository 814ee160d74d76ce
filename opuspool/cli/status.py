"""`opuspool status`: what a daemon says of itself."""

from __future__ import annotations

import json
from typing import Any

import click

from opuspool.cli import messages, table
from opuspool.cli.options import config_option, endpoint_option
from opuspool.errors import OpusPoolError

__all__ = ["row", "status"]

DOWN = 2
_CODES = {"ok": 0, "degraded": 1, "down": DOWN}
_HEADS = ("slot", "pid", "generation", "state", "restarts", "streams", "memory", "uptime")


_EPILOG = """Exit codes: 0 ok, 1 degraded, 2 down or not reachable.

\b
Examples:
  opuspool status
  opuspool status --json --endpoint ipc:///run/opuspool/pool.sock
"""


@click.command(epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="The whole status, for programs.")
@endpoint_option
@config_option
def status(*, as_json: bool, endpoint: str | None, config: str | None) -> int:
    """Show a daemon's workers, counters and health.

    Without --endpoint, it is the one that the settings name.
    """
    try:
        report = _ask(endpoint, config)
    except OpusPoolError as error:
        if as_json:
            click.echo(json.dumps({"health": "down", "error": str(error)}))
        messages.complain(messages.describe(error))
        return DOWN
    if as_json:
        click.echo(json.dumps(report))
    else:
        _show(report)
    return _CODES.get(report["health"], DOWN)


def _ask(endpoint: str | None, config: str | None) -> dict[str, Any]:
    from opuspool.cli.reach import daemon

    with daemon(endpoint, config) as pool:
        return pool.status()


def _show(report: dict[str, Any]) -> None:
    supervisor, libopus = report["supervisor"], report["libopus"]
    click.echo(
        f"health {report['health']}; supervisor {supervisor['pid']}, version "
        f"{supervisor['version']}, up {messages.duration(supervisor['uptime_seconds'])}; "
        f"{libopus['version'] or 'no libopus yet'}"
    )
    rows = [row(slot) for slot in report["workers"]]
    rows += [row(slot, spare=True) for slot in report["spares"]]
    table.show(_HEADS, rows)
    click.echo(
        f"{messages.count(report['streams'], 'stream')}, {report['queue_depth']} queued, "
        f"{report['in_flight']} in flight"
    )
    for name, value in report["counters"].items():
        if text := _counter(value):
            click.echo(f"{name}: {text}")
    if "ever" in report:
        click.echo(_ever(report["ever"]))


def _ever(ever: dict[str, Any]) -> str:
    """What a daemon remembers of the time before its own start."""
    restarts = _counter(ever["worker_restarts"]) or "none"
    starts = messages.count(ever["supervisor_starts"], "start")
    return f"worker_restarts ever: {restarts} (since {ever['since'][:10]}, {starts} of the daemon)"


def row(slot: dict[str, Any], *, spare: bool = False) -> list[str]:
    """A slot's cells, as in `_HEADS`."""
    return [
        f"{slot['slot']} spare" if spare else str(slot["slot"]),
        str(slot["pid"] or "-"),
        str(slot["generation"]),
        slot["state"],
        str(slot["restarts"]),
        str(slot["streams"]),
        f"{slot['rss_bytes'] / 1e6:.1f} MB",
        messages.duration(slot["uptime_seconds"]),
    ]


def _counter(value: object) -> str:
    """A counter's number, or those of its parts that are not 0; "" where there is nothing."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items() if number)
    return f"{value:.10g}" if isinstance(value, float) and value else str(value or "")
