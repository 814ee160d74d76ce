"""Answers to a client's questions and an operator's wishes; pure.

{"what": "status"}               everything that `status()` tells
{"what": "recycle", "slot": 1}   replace the slot's worker when it is idle
{"what": "restart", "slot": 1}   kill it now; a drained slot gets its next worker
{"what": "drain", "slot": 1}     empty the slot when its worker is idle, until it is restarted
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
    acts = {"recycle": core.recycle, "restart": core.restart, "drain": core.drain_slot}
    act = acts.get(str(what))
    if act is None:
        known = f"status, {', '.join(acts)}"
        return {"error": f"this supervisor knows {known}: use equal releases"}
    if not isinstance(number, int) or isinstance(number, bool):
        return {"error": f"{what} needs a slot's number"}
    why_not = act(number, now)
    return {"error": why_not} if why_not else {"slot": number}
