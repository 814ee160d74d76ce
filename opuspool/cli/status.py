"""`opuspool status`: what a daemon says of itself."""

from __future__ import annotations

import json
from typing import Any

import click

from opuspool.cli import messages, table
from opuspool.cli.options import config_option, endpoint_option
from opuspool.errors import OpusPoolError

__all__ = ["status"]

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
    from opuspool import config as configs
    from opuspool.cli.reach import check_reachable
    from opuspool.pool import Pool

    settings = configs.load(config)
    address = endpoint or settings.supervisor.endpoint
    check_reachable(address)
    with Pool(address, config=settings) as pool:
        return pool.status()


def _show(report: dict[str, Any]) -> None:
    supervisor, libopus = report["supervisor"], report["libopus"]
    click.echo(
        f"health {report['health']}; supervisor {supervisor['pid']}, version "
        f"{supervisor['version']}, up {_time(supervisor['uptime_seconds'])}; "
        f"{libopus['version'] or 'no libopus yet'}"
    )
    rows = [_row(slot) for slot in report["workers"]]
    rows += [_row(slot, spare=True) for slot in report["spares"]]
    table.show(_HEADS, rows)
    click.echo(
        f"{messages.count(report['streams'], 'stream')}, {report['queue_depth']} queued, "
        f"{report['in_flight']} in flight"
    )
    for name, value in report["counters"].items():
        if text := _counter(value):
            click.echo(f"{name}: {text}")


def _row(slot: dict[str, Any], *, spare: bool = False) -> list[str]:
    return [
        f"{slot['slot']} spare" if spare else str(slot["slot"]),
        str(slot["pid"] or "-"),
        str(slot["generation"]),
        slot["state"],
        str(slot["restarts"]),
        str(slot["streams"]),
        f"{slot['rss_bytes'] / 1e6:.1f} MB",
        _time(slot["uptime_seconds"]),
    ]


def _counter(value: object) -> str:
    """A counter's number, or those of its parts that are not 0; "" where there is nothing."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {number}" for name, number in value.items() if number)
    return str(value) if value else ""


def _time(seconds: float) -> str:
    """Such as "12 s", "3 min", "5 h" or "2 d"."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
