"""Whether a worker's results fit its lease; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import ops
from opuspool.errors import WireError
from opuspool.wire import Status
from opuspool_supervisor.records import Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opuspool.wire import Row
    from opuspool_supervisor.records import Lease

_FAILED_OPS = int(Status.FAILED_OPS)


class ResultsError(Exception):
    """A worker's results do not fit its lease."""


def check(lease: Lease, results: Sequence[Row], payloads: list[bytes]) -> None:
    """Check every result before any is used.

    Raises:
        ResultsError: they do not fit.
    """
    if len(results) != len(lease.expects):
        raise ResultsError(f"{len(results)} results where {len(lease.expects)} are due")
    for (step, what), (number, _, count, status), payload in zip(
        lease.expects, results, payloads, strict=True
    ):
        if number != step:
            raise ResultsError(f"a result of step {number} where step {step} is due")
        if isinstance(what, Request):
            if count != what.count or status > _FAILED_OPS:
                raise ResultsError(f"step {step}: not the outcome of {what.count} operations")
            fmt = what.stream.format
            try:
                ops.check_outcome(payload, count, fmt.frame_bytes, fmt.capacity)
            except WireError as error:
                raise ResultsError(str(error)) from None
