"""`opuspool crashes`: the reports of workers' deaths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opuspool.cli import crashfiles, crashview, messages, table
from opuspool.cli.options import config_option
from opuspool.errors import OpusPoolError

if TYPE_CHECKING:
    from opuspool.cli.crashfiles import Crash

__all__ = ["crashes"]

KILLED = 1
CANNOT = 2

_directory_option = click.option(
    "--directory", metavar="FOLDER", help="Where the reports are; default: where settings say."
)

_EPILOG = """\b
Examples:
  opuspool crashes
  opuspool crashes show 20260131T12
  opuspool crashes replay 20260131T12 --gdb
"""


@click.group(invoke_without_command=True, epilog=_EPILOG)
@click.pass_context
def crashes(context: click.Context) -> int:
    """Show why workers died; without a command, list the reports."""
    return context.invoke(list_) if context.invoked_subcommand is None else 0


@crashes.command("list")
@click.option("--json", "as_json", is_flag=True, help="The whole reports, for programs.")
@_directory_option
@config_option
def list_(*, as_json: bool = False, directory: str | None = None, config: str | None = None) -> int:
    """List the reports, the newest first."""
    where = _where(directory, config)
    found = crashfiles.read_all(where)
    if as_json:
        click.echo(json.dumps(found))
    elif found:
        table.show(crashview.HEADS, [crashview.row(crash) for crash in found])
    else:
        click.echo(f"no crash reports in {messages.shown(str(where))}")
    return 0


@crashes.command("show")
@click.argument("report_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="The report as it is written.")
@_directory_option
@config_option
def show(report_id: str, *, as_json: bool, directory: str | None, config: str | None) -> int:
    """Show one report; the beginning of its ID suffices."""
    crash = crashfiles.find(_where(directory, config), report_id)
    if as_json:
        click.echo(json.dumps(crash, indent=2))
    else:
        crashview.show(crash)
    return 0


@crashes.command(
    "replay",
    epilog="Exit codes: 0 the worker lived, 1 it was killed, or hung, 2 nothing can be replayed.",
)
@click.argument("report_id", metavar="ID")
@click.option("--gdb", is_flag=True, help="Under gdb: shows the native stack.")
@click.option("--libopus", metavar="FILE", help="The library to load; default: the report's.")
@click.option(
    "--timeout",
    default=10.0,
    show_default=True,
    type=click.FloatRange(min=0.1, max=3600),
    help="Seconds after which it hangs.",
)
@_directory_option
@config_option
def replay(
    report_id: str,
    *,
    gdb: bool,
    libopus: str | None,
    timeout: float,
    directory: str | None,
    config: str | None,
) -> int:
    """Run the packet of a report again, in one throw-away worker process.

    The report must hold it: [crashes] keep_packets.
    """
    from opuspool.cli import replay as replays

    try:
        crash = crashfiles.find(_where(directory, config), report_id)
        job = replays.job_of(crash, libopus or _libopus(crash, config))
        ending = (replays.run_under_gdb if gdb else replays.run)(job, timeout)
    except OpusPoolError as error:
        messages.complain(messages.describe(error))
        return CANNOT
    click.echo(f"{crash['id']}: {ending.words}")
    for line in ending.details.splitlines():
        click.echo(f"  {messages.shown(line.expandtabs())}")
    return 0 if ending.survived else KILLED


def _where(directory: str | None, config: str | None) -> Path:
    from opuspool import config as configs
    from opuspool import statedir

    if directory is not None:
        return Path(directory)
    return statedir.crash_directory(configs.load(config).crashes.directory)


def _libopus(crash: Crash, config: str | None) -> str:
    """The library that the dead worker had, else the one that workers have now."""
    from opuspool import config as configs

    path = str((crash.get("versions") or {}).get("libopus_path") or "")
    if path and Path(path).exists():
        return path
    if path:
        messages.complain(f"{messages.shown(path)} is gone; another libopus is used")
    return configs.load(config).workers.libopus
