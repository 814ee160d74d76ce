"""Whether a worker's results fit its lease; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import ops
from opuspool.errors import WireError
from opuspool.wire import Status
from opuspool_supervisor.records import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opuspool.streamformat import StreamFormat
    from opuspool.wire import Row
    from opuspool_supervisor.records import Lease

_FAILED_OPS = int(Status.FAILED_OPS)


class ResultsError(Exception):
    """A worker's results do not fit its lease."""


def check(lease: Lease, results: Sequence[Row], data: bytes) -> None:
    """Check every result before any is used.

    Args:
        lease: what the worker had in hand.
        results: of its steps, each a `wire.Result` without names.
        data: their payloads, back to back.

    Raises:
        ResultsError: they do not fit.
    """
    if len(results) != len(lease.expects):
        raise ResultsError(f"{len(results)} results where {len(lease.expects)} are due")
    at, view = 0, memoryview(data)  # the PCM is not copied to be looked at
    for (step, what), (number, size, count, status) in zip(lease.expects, results, strict=True):
        if number != step:
            raise ResultsError(f"a result of step {number} where step {step} is due")
        if isinstance(what, Request):
            fmt = what.stream.format
            if count != what.count or status > _FAILED_OPS:
                raise ResultsError(f"step {step}: not the outcome of {what.count} operations")
            if count > 1 or not ops.is_whole(data, fmt.frame_bytes, fmt.capacity, at, size):
                _check_outcome(view[at : at + size], count, fmt)
        at += size


def _check_outcome(payload: memoryview, count: int, fmt: StreamFormat) -> None:
    try:
        ops.check_outcome(payload, count, fmt.frame_bytes, fmt.capacity)
    except WireError as error:
        raise ResultsError(str(error)) from None
