"""The supervisor's log: one event a line on standard error, JSON where that is no terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


def configure(level: str) -> Any:
    """Set structlog up and return the supervisor's logger.

    Args:
        level: the lowest level that is written: debug, info, warning or error.
    """
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if sys.stderr.isatty():
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger("opuspool.supervisor")
