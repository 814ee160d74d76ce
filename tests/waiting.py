"""Wait for a condition instead of for a time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 30, what: str = "") -> T:
    """Call `condition` until it returns something true, and return that.

    Fails the test after `timeout` seconds; `what` says what was waited for.
    """
    for pause in _pauses(timeout):
        if value := condition():
            return value
        time.sleep(pause)
    return _last_try(condition, timeout, what)


async def wait_until_async(condition: Callable[[], T], timeout: float = 30, what: str = "") -> T:  # noqa: ASYNC109 - the same call as above
    """Do the same as `wait_until`, and let the event loop run meanwhile."""
    for pause in _pauses(timeout):
        if value := condition():
            return value
        await asyncio.sleep(pause)
    return _last_try(condition, timeout, what)


def _pauses(timeout: float) -> Iterator[float]:
    """Seconds to pause between tries: 1 ms at first, 50 ms at most, until `timeout` is over."""
    end = time.monotonic() + timeout
    pause = 0.001
    while time.monotonic() < end:
        yield pause
        pause = min(pause * 1.5, 0.05)


def _last_try(condition: Callable[[], T], timeout: float, what: str) -> T:
    value = condition()
    if not value:
        name = what or getattr(condition, "__name__", "the condition")
        raise AssertionError(f"after {timeout} s still not: {name} (last value: {value!r})")
    return value
