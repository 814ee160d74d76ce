"""The supervisor's log: one event a line on standard error, JSON where that is no terminal."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import structlog


class Log:
    """Writes events, with their facts, that are severe enough.

    structlog does that. It is imported by `prepare`, or for the first event: to import it, with the
    colours of its console, takes a third of a supervisor's start.

    Args:
        level: the lowest level that is written: debug, info, warning or error.
    """

    def __init__(self, level: str) -> None:
        self._structlog: Any = None
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Write nothing less severe than this from now on."""
        self._lowest = _severity(level)

    def prepare(self) -> None:
        """Be ready to write, also where later nothing could be imported any more."""
        if self._structlog is None:
            self._structlog = _structlog()

    def debug(self, event: str, **facts: object) -> None:
        """What only a developer wants to know."""
        self.write("debug", event, facts)

    def info(self, event: str, **facts: object) -> None:
        """What is as it should be."""
        self.write("info", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        """What is mended already."""
        self.write("warning", event, facts)

    def error(self, event: str, **facts: object) -> None:
        """What needs a look."""
        self.write("error", event, facts)

    def write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        """Write an event, if its level is severe enough."""
        if _severity(level) >= self._lowest:
            self.prepare()
            getattr(self._structlog, level)(event, **facts)


def _severity(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _structlog() -> Any:
    import structlog

    # Python has no standard error in a window program or a service (Windows): nobody would read it.
    stream = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # to the end
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if stream.isatty():
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger("opuspool.supervisor")
