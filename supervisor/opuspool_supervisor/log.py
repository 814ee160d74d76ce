"""The supervisor's log: one event a line on standard error, JSON where that is no terminal."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog


class _Threshold:
    """Drops what is less severe than the level in force, which may change."""

    level = logging.INFO

    def __call__(self, _logger: Any, name: str, event: Any) -> Any:
        if logging.getLevelNamesMapping()[name.upper()] < self.level:
            raise structlog.DropEvent
        return event


_threshold = _Threshold()


def set_level(level: str) -> None:
    """Write nothing less severe than debug, info, warning or error from now on."""
    _threshold.level = getattr(logging, level.upper())


def configure(level: str) -> Any:
    """Set structlog up and return the supervisor's logger.

    Args:
        level: the lowest level that is written: debug, info, warning or error.
    """
    set_level(level)
    # Python has no standard error in a window program or a service (Windows): nobody would read it.
    stream = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123  # to the end
    processors: list[structlog.typing.Processor] = [
        _threshold,
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
