"""What clients ask beside decoding: the status, and an operator's wishes (`opuspool restart`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opuspool.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool import wire
    from opuspool_supervisor.core import Core

    Answer = dict[str, Any]


def answer(
    core: Core, question: wire.Message, now: float, status: Callable[[], Answer]
) -> tuple[Answer, dict[str, Any] | None]:
    """Answer an ASK message.

    Args:
        core: carries out wishes.
        question: JSON {"what": "status"}, or {"what": "restart" or "recycle", "slot": number}.
        now: monotonic.
        status: gives the status.

    Returns:
        the answer (with "error", in words, where there is none), and of a wish what the log says.
    """
    try:
        asked = question.json() if question.data else {}
    except WireError as error:
        core.books.protocol_errors += 1
        return {"error": str(error)}, None
    what = asked.get("what", "status")
    if what == "status":
        return status(), None
    wishes = {"restart": core.restart, "recycle": core.recycle}
    wish = wishes.get(what) if isinstance(what, str) else None
    if wish is None:
        return {"error": "this supervisor does not know that question"}, None
    number = asked.get("slot")
    slot = next((slot for slot in core.slots if slot.number == number), None)
    if slot is None or isinstance(number, bool):
        return {"error": f"there is no such slot; they are 0 to {len(core.slots) - 1}"}, None
    if slot.worker is None:
        return {"error": f"slot {slot.number} has no worker now: it is {slot.state}"}, None
    facts = {"slot": slot.number, "generation": slot.generation, "pid": slot.worker.pid}
    wish(slot, now)
    return facts, {"what": what, **facts}
