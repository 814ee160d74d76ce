"""The canary: a known packet that an idle worker decodes now and then; pure.

It is how a worker proves that it still decodes, and how one that does not answer is found. Health
rests on it: a worker counts only while its last real decode is recent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opuspool import ops
from opuspool.knownpacket import PACKET, SAMPLES
from opuspool.ops import Op, OpKind
from opuspool.streamformat import StreamFormat
from opuspool.wire import Action, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opuspool.wire import Row

STREAM = 0
"""Key of the canary's stream; real streams count from 1."""

_FORMAT = StreamFormat(16000, 1, "int16")
_BLOB = ops.pack([Op(OpKind.PACKET, PACKET)])


def steps() -> list[tuple[Step, bytes]]:
    """The steps of a canary lease; the second gives the result."""
    code = _FORMAT.code
    return [
        (Step(STREAM, 0, 0, code, Action.OPEN), b""),
        (Step(STREAM, len(_BLOB), 1, code, Action.DECODE), _BLOB),
        (Step(STREAM, 0, 0, code, Action.CLOSE), b""),
    ]


RESULT_STEP = 1


def fault(results: Sequence[Row], payload: bytes) -> str | None:
    """What is wrong with a canary's results, in words; None where nothing is."""
    if [(step, count) for step, _, count, _ in results] != [(RESULT_STEP, 1)]:
        return "not the results of a canary"
    expected = 4 + SAMPLES * _FORMAT.frame_bytes
    if len(payload) != expected or int.from_bytes(payload[:4], "little") != SAMPLES:
        return f"a canary decoded to {len(payload)} bytes, not {expected}"
    if not any(payload[4:]):
        return "a canary decoded to silence"
    return None
