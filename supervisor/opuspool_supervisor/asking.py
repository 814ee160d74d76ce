"""Answers to a client's questions and an operator's wishes; pure.

{"what": "status"}               everything that `status()` tells
{"what": "recycle", "slot": 1}   replace the slot's worker when it is idle
{"what": "restart", "slot": 1}   kill it now
anything else, or what cannot be  {"error": why}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opuspool.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool import wire
    from opuspool_supervisor.core import Core


def answer(
    core: Core, message: wire.Message, report: Callable[[], dict[str, Any]], now: float
) -> dict[str, Any]:
    """Do what is asked for, and say so.

    Args:
        core: the supervisor's state.
        message: an ASK.
        report: makes the status.
        now: monotonic.
    """
    try:
        question = message.json()
    except WireError as error:
        core.books.protocol_errors += 1
        return {"error": str(error)}
    what, number = question.get("what"), question.get("slot")
    if what == "status":
        return report()
    if what not in ("recycle", "restart"):
        return {"error": "this supervisor knows status, recycle and restart: use equal releases"}
    if not isinstance(number, int) or isinstance(number, bool):
        return {"error": f"{what} needs a slot's number"}
    act = core.recycle if what == "recycle" else core.restart
    why_not = act(number, now)
    return {"error": why_not} if why_not else {"slot": number}
