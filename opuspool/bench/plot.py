"""Bars of packets a second, one picture for all loads; needs matplotlib."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from opuspool.bench.loads import LOADS
from opuspool.bench.rivals import RIVALS

if TYPE_CHECKING:
    from opuspool.bench.report import Report
    from opuspool.bench.summary import Row

__all__ = ["draw", "missing"]


def missing() -> str | None:
    """What to do before `draw` can work, or None."""
    if importlib.util.find_spec("matplotlib") is not None:
        return None
    return 'drawing needs matplotlib, which is not installed: pip install "opuspool[bench]"'


def draw(report: Report, path: str) -> None:
    """Write a picture; its format is as the path ends.

    Raises:
        OSError: it cannot be written.
    """
    from matplotlib.figure import Figure

    loads = [name for name in report.plan.loads if any(row.load == name for row in report.rows)]
    figure = Figure(figsize=(10, 1 + 2.6 * len(loads)), layout="constrained")
    for axes, load in zip(figure.subplots(len(loads), squeeze=False)[:, 0], loads, strict=True):
        axes.set_title(LOADS[load].title, loc="left")
        _bars(axes, [row for row in report.rows if row.load == load])
    machine = report.machine
    figure.supxlabel(
        f"packets/s, median and range of {report.plan.rounds} rounds; {machine.cores} cores, "
        f"Python {machine.python}, {machine.libopus}, opuspool {machine.opuspool}"
    )
    figure.savefig(path, dpi=120)


def _bars(axes: Any, rows: list[Row]) -> None:
    rates = [row.packets_per_second for row in rows]
    low = [row.packets_per_second - row.slowest for row in rows]
    high = [row.fastest - row.packets_per_second for row in rows]
    colours = ["tab:blue" if row.rival.startswith("opuspool") else "tab:grey" for row in rows]
    axes.barh([RIVALS[row.rival].title for row in rows], rates, xerr=[low, high], color=colours)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
