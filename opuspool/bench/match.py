"""The match: every rival does every load, in turn, several times."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from opuspool.bench.client import Runner, RunnerError
from opuspool.bench.loads import LOADS
from opuspool.bench.messages import Cell  # noqa: TC001  msgspec reads the annotation
from opuspool.bench.rival import Setup  # noqa: TC001  msgspec reads the annotation
from opuspool.bench.rivals import RIVALS

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Plan", "Results", "play"]


class Plan(msgspec.Struct, frozen=True):
    """What is to be measured.

    Attributes:
        setup: what the rivals are told.
        rivals, loads: their names.
        rounds: how often each rival does each load.
        seconds: that count of one load.
    """

    setup: Setup
    rivals: list[str]
    loads: list[str]
    rounds: int
    seconds: float

    @property
    def cells(self) -> int:
        """How many measurements it comes to."""
        pairs = [r for r in self.rivals for name in self.loads if RIVALS[r].takes(LOADS[name])]
        return self.rounds * len(pairs)


class Results(msgspec.Struct):
    """What was measured.

    Attributes:
        cells: by load, rival and round.
        failed: why rivals have failed, by name; they are given nothing more.
    """

    cells: dict[str, dict[str, dict[int, Cell]]]
    failed: dict[str, str]


def play(plan: Plan, step: Callable[[str], None]) -> Results:
    """Measure.

    Rivals take turns within each load, in another order in each round, so that what else the
    machine does meets all of them; each round has fresh processes.

    Args:
        plan: what to do.
        step: called before each measurement with what it is.
    """
    results = Results({name: {} for name in plan.loads}, {})
    for number in range(plan.rounds):
        turned = plan.rivals[number % len(plan.rivals) :] + plan.rivals[: number % len(plan.rivals)]
        quiet = [name for name in turned if not RIVALS[name].noisy]
        _Round(plan, number, results, step).play(quiet)
        for name in turned:
            if RIVALS[name].noisy:
                _Round(plan, number, results, step).play([name])
    return results


class _Round:
    """One round of some rivals, whose processes live as long as it."""

    def __init__(
        self, plan: Plan, number: int, results: Results, step: Callable[[str], None]
    ) -> None:
        self._plan = plan
        self._number = number
        self._results = results
        self._step = step

    def play(self, rivals: list[str]) -> None:
        with ExitStack() as ends:
            runners = [runner for name in rivals if (runner := self._start(name, ends)) is not None]
            for load in self._plan.loads:
                for runner in runners:
                    if RIVALS[runner.rival].takes(LOADS[load]):
                        self._measure(runner, load)

    def _start(self, name: str, ends: ExitStack) -> Runner | None:
        if name in self._results.failed:
            return None
        try:
            runner = Runner(name, self._plan.setup, check=self._number == 0)
        except RunnerError as error:
            self._results.failed[name] = str(error)
            return None
        ends.callback(runner.close)
        return runner

    def _measure(self, runner: Runner, load: str) -> None:
        self._step(f"{LOADS[load].title}: {RIVALS[runner.rival].title}")
        if runner.rival in self._results.failed:
            return
        try:
            cell = runner.measure(load, self._plan.seconds)
        except RunnerError as error:
            self._results.failed[runner.rival] = str(error)
            return
        self._results.cells[load].setdefault(runner.rival, {})[self._number] = cell
