"""`opuspool bench`: opuspool beside the other ways to decode, on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opuspool.cli import messages, table
from opuspool.cli.options import config_option, endpoint_option

if TYPE_CHECKING:
    from opuspool.bench.match import Plan, Results
    from opuspool.bench.report import Report

__all__ = ["bench"]

_LOADS = ("stream", "10-streams", "100-streams", "500-streams", "utterances", "files")
_RIVALS = (
    "c",
    "lock",
    "unlocked",
    "multiprocessing",
    "executor",
    "pebble",
    "ray",
    "multiprocessing-async",
    "executor-async",
    "pebble-async",
    "ffmpeg",
    "opuspool",
    "opuspool-async",
)

_EPILOG = """Ctrl-C ends it and leaves no process behind.

\b
Examples:
  opuspool bench --quick
  opuspool bench --only lock --only opuspool --load utterances
  opuspool bench --rounds 7 --json bench.json --plot bench.png
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--only", multiple=True, metavar="NAME", type=click.Choice(_RIVALS), help="Rivals; repeatable."
)
@click.option(
    "--load", "loads", multiple=True, type=click.Choice(_LOADS), help="Loads; repeatable."
)
@click.option("--rounds", type=click.IntRange(1, 1000), help="How often each is measured: 5.")
@click.option("--seconds", type=click.FloatRange(0.05, 600), help="Of each measurement: 1.")
@click.option("--quick", is_flag=True, help="One round of 0.2 s: does it work, not how fast.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    help="Processes of each rival: as many as cores, opuspool one more.",
)
@click.option("--json", "json_file", metavar="FILE", help="Also write the figures there.")
@click.option("--plot", metavar="FILE.png", help="Also draw them; needs matplotlib.")
@endpoint_option
@config_option
def bench(
    only: tuple[str, ...],
    loads: tuple[str, ...],
    rounds: int | None,
    seconds: float | None,
    *,
    quick: bool,
    workers: int | None,
    json_file: str | None,
    plot: str | None,
    endpoint: str | None,
    config: str | None,
) -> int:
    """Measure opuspool beside libopus in C, in-process PyOgg, and process pools.

    Rivals that are not installed are skipped, and named. Each one's PCM is compared with libopus's
    own first.
    """
    if endpoint is not None and workers is not None:
        raise click.UsageError(
            "--workers is for an own pool; the daemon at --endpoint has its own."
        )
    _check_outputs(json_file, plot)
    setup, libopus = _setup(endpoint, config, workers)

    from opuspool.bench import report as reports
    from opuspool.bench.match import Plan

    present, skipped = _present(only or _RIVALS)
    plan = Plan(
        setup=setup,
        rivals=present,
        loads=list(loads or _LOADS),
        rounds=rounds or (1 if quick else 5),
        seconds=seconds or (0.2 if quick else 1.0),
    )
    report = reports.make(plan, _play(plan), skipped, libopus)
    _show(report)
    _write(report, json_file, plot)
    return 1 if report.failed else 0


def _check_outputs(json_file: str | None, plot: str | None) -> None:
    """Refuse what would fail after minutes of work.

    Raises:
        click.UsageError: matplotlib is missing, or an output's folder.
    """
    if plot is not None:
        from opuspool.bench.plot import missing

        if (what := missing()) is not None:
            raise click.UsageError(what)
    for path in (json_file, plot):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise click.UsageError(f"{messages.shown(path)}: there is no such folder; make it.")


def _setup(endpoint: str | None, config: str | None, workers: int | None) -> tuple[Any, str]:
    """What the rivals are told, and libopus's version: asked of a pool that has decoded."""
    from opuspool.bench import speech
    from opuspool.bench.rival import Setup
    from opuspool.cli import settings
    from opuspool.cli.reach import check_reachable
    from opuspool.pool import Pool

    if endpoint is not None:
        check_reachable(endpoint)
    with Pool(endpoint, config=settings.quiet(config)) as pool:
        pool.decode(speech.packets()[:1])
        status = pool.status()
    cores = os.cpu_count() or 1
    own = len(status["workers"]) if endpoint is not None else workers or cores + 1
    libopus = status["libopus"]
    return Setup(libopus["path"], workers or cores, own, endpoint, config), libopus["version"]


def _present(names: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    from opuspool.bench.rivals import RIVALS

    skipped = {name: why for name in names if (why := RIVALS[name].missing()) is not None}
    return [name for name in RIVALS if name in names and name not in skipped], skipped


def _play(plan: Plan) -> Results:
    from opuspool.bench.match import play
    from opuspool.cli.progress import steps

    with steps("bench", plan.cells) as step:
        return play(plan, step)


def _show(report: Report) -> None:
    from opuspool.bench import report as reports
    from opuspool.bench.loads import LOADS

    machine = report.machine
    click.echo(
        f"{machine.system}, {messages.count(machine.cores, 'core')}, Python {machine.python}, "
        f"{machine.libopus}, opuspool {machine.opuspool}; "
        f"{messages.count(report.plan.rounds, 'round')} of {report.plan.seconds:g} s, "
        f"{messages.count(report.plan.setup.own_workers, 'worker')}, "
        f"other pools {report.plan.setup.workers}"
    )
    for load in report.plan.loads:
        if rows := [reports.words(row) for row in report.rows if row.load == load]:
            click.echo(f"\n{LOADS[load].title}")
            table.show(reports.HEADS, rows)
    if report.claims:
        click.echo("")
    for verdict in report.claims:
        click.echo(reports.sentence(verdict))
    for name, why in report.skipped.items():
        click.echo(f"skipped: {name} ({why})", err=True)
    for why in report.failed.values():
        messages.complain(why)


def _write(report: Report, json_file: str | None, plot: str | None) -> None:
    import msgspec

    if json_file is not None:
        Path(json_file).write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if plot is not None:
        from opuspool.bench.plot import draw

        draw(report, plot)
