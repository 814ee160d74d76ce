"""`opuspool top`: a daemon's workers, rates and restarts, live."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from opuspool.cli import messages, rates
from opuspool.cli.options import config_option, endpoint_option
from opuspool.cli.status import row
from opuspool.errors import SupervisorLostError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from opuspool.pool import Pool

__all__ = ["top"]

Report = dict[str, Any]

_FRAME_SECONDS = 0.5
"""Between the two readings of the one frame that a pipe gets."""

_COLOURS = {"ok": "green", "degraded": "yellow", "down": "red", "IDLE": "green", "BUSY": "green"}
_COLOURS |= {"STARTING": "yellow", "DRAINING": "yellow", "BACKOFF": "yellow", "FAILED": "red"}
_COLOURS["DRAINED"] = "cyan"
_ENDS = 8


@click.command()
@click.option(
    "--interval",
    type=click.FloatRange(0.2, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two readings.",
)
@endpoint_option
@config_option
def top(*, interval: float, endpoint: str | None, config: str | None) -> int:
    """Watch a daemon: workers, streams, rates, latencies, restarts.

    q or Ctrl-C leaves. Where the output is no terminal, one frame is written.
    """
    from opuspool.cli.reach import daemon

    with daemon(endpoint, config) as pool:
        if sys.stdout is not None and sys.stdout.isatty():
            return _live(pool, interval)
        before = pool.status()
        time.sleep(_FRAME_SECONDS)
        _print_plain(before, pool.status())
    return 0


def _live(pool: Pool, interval: float) -> int:
    from rich.live import Live

    from opuspool.cli.keys import keys

    before: Report | None = None
    with keys() as key, Live(screen=True, auto_refresh=False) as live:
        while True:
            try:
                now = pool.status(timeout=max(interval, 2.0))
            except SupervisorLostError as error:
                live.update(f"{messages.describe(error)}\n(trying again; q leaves)", refresh=True)
            else:
                live.update(frame(before, now), refresh=True)
                before = now
            try:
                if key(interval) in ("q", "Q", "\x1b"):
                    return 0
            except KeyboardInterrupt:
                return 0


def _print_plain(before: Report, now: Report) -> None:
    from rich.console import Console

    Console(file=sys.stdout, width=100, color_system=None).print(frame(before, now, plain=True))


def frame(before: Report | None, now: Report, *, plain: bool = False) -> RenderableType:
    """One picture of the daemon; rates need an earlier reading."""
    from rich.console import Group
    from rich.text import Text

    parts = [_head(now), _rates(before, now), Text(), _workers(now, plain=plain), Text()]
    parts.append(_restarts(now))
    if now["history"]["ends"]:
        parts += [Text(), _ends(now, plain=plain)]
    return Group(*parts)


def _head(now: Report) -> RenderableType:
    from rich.text import Text

    supervisor = now["supervisor"]
    text = Text("opuspool ", "bold")
    text.append(now["health"], f"bold {_COLOURS[now['health']]}")
    text.append(f"  {supervisor['version']}, pid {supervisor['pid']}", "dim")
    text.append(f", up {messages.duration(supervisor['uptime_seconds'])}", "dim")
    text.append(f", {now['libopus']['version'] or 'no libopus yet'}", "dim")
    if now["boot_error"]:
        text.append(f"\n{now['boot_error']}", "red")
    return text


def _rates(before: Report | None, now: Report) -> RenderableType:
    from rich.text import Text

    def often(counter: str) -> str:
        value = rates.rate(before, now, counter)
        return "-" if value is None else f"{value:,.0f}"

    def slow(timing: str, percent: int) -> str:
        value = rates.percentile(before, now, timing, percent)
        return f"p{percent} -" if value is None else f"p{percent} <= {value * 1000:g} ms"

    facts = [
        f"{often('packets_decoded')} packets/s",
        f"{often('audio_seconds')} x real time",
        messages.count(now["streams"], "stream"),
        messages.count(now["clients"], "client"),
        f"{now['queue_depth']} queued",
        f"{now['in_flight']} in flight",
    ]
    times = [
        f"lease {slow('decode_seconds', 50)}, {slow('decode_seconds', 99)}",
        f"recovery {slow('recovery_seconds', 99)}",
    ]
    return Text(f"{', '.join(facts)}\n{'; '.join(times)}")


def _workers(now: Report, *, plain: bool) -> RenderableType:
    from rich.text import Text

    table = _table(plain=plain)
    for name in ("slot", "pid", "generation", "state", "restarts", "streams", "memory", "uptime"):
        table.add_column(name, justify="left" if name in ("slot", "state") else "right")
    for slot in now["workers"] + now["spares"]:
        cells: list[RenderableType] = list(row(slot, spare=slot in now["spares"]))
        cells[3] = Text(slot["state"], _COLOURS[slot["state"]])
        table.add_row(*cells)
    return table


def _restarts(now: Report) -> RenderableType:
    from rich.text import Text

    counts = {name: n for name, n in now["counters"]["worker_restarts"].items() if n}
    words = ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
    return Text.assemble(("restarts  ", "bold"), words)


def _ends(now: Report, *, plain: bool) -> RenderableType:
    table = _table(plain=plain)
    for name in ("ago", "slot", "reason", "cause"):
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for end in now["history"]["ends"][:_ENDS]:
        ago = messages.duration(end["ago_seconds"])
        table.add_row(ago, str(end["slot"]), end["reason"], messages.shown(end["cause"]))
    return table


def _table(*, plain: bool) -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=None if plain else box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
