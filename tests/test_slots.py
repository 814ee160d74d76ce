"""Slots: the table of their states, walked from end to end."""

from __future__ import annotations

from itertools import product

import pytest
from opuspool_supervisor.slots import EMPTY, SERVING, TABLE, VACANT, Slot, SlotEvent, SlotState

NEW = SlotState.BACKOFF
"""What a slot begins as."""

ARROWS = {
    "BACKOFF": {
        "SPAWNED": "STARTING",
        "PROMOTED": "IDLE",
        "GAVE_UP": "FAILED",
        "EMPTIED": "DRAINED",
    },
    "FAILED": {"SPAWNED": "STARTING", "PROMOTED": "IDLE", "EMPTIED": "DRAINED"},
    "DRAINED": {"RESUMED": "BACKOFF"},
    "STARTING": {"READY": "IDLE", "DRAIN": "DRAINING", "EXITED": "BACKOFF"},
    "IDLE": {"LEASED": "BUSY", "DRAIN": "DRAINING", "EXITED": "BACKOFF"},
    "BUSY": {"SETTLED": "IDLE", "DRAIN": "DRAINING", "EXITED": "BACKOFF"},
    "DRAINING": {"READY": "DRAINING", "SETTLED": "DRAINING", "EXITED": "BACKOFF"},
}
"""The drawing at the top of slots.py, written down a second time."""


def slot_in(state: SlotState, *, spare: bool = False) -> Slot:
    return Slot(7, spare=spare, state=state, generation=3)


@pytest.mark.parametrize(("state", "event"), list(product(SlotState, SlotEvent)))
def test_an_event_leads_where_the_drawing_says_or_raises(
    state: SlotState, event: SlotEvent
) -> None:
    """A pair without an arrow raises, names the slot and leaves it as it was."""
    slot = slot_in(state)
    target = ARROWS[state].get(event)
    if target is None:
        with pytest.raises(RuntimeError, match=f"slot 7 .*{event} while {state}"):
            slot.advance(event)
        assert slot.state is state
    else:
        slot.advance(event)
        assert slot.state == target


def test_a_new_slot_waits_for_its_first_worker() -> None:
    """It has no process, and its first one is due at once."""
    slot = Slot(0, spare=False)
    assert (slot.state, slot.worker, slot.due, slot.generation) == (NEW, None, 0.0, 0)


def test_every_state_can_be_reached_and_left() -> None:
    """From a new slot there is a way to each state, and from each a way back."""
    reached = {NEW}
    while more := {to for (state, _), to in TABLE.items() if state in reached} - reached:
        reached |= more
    assert reached == set(SlotState)
    home = {NEW}
    while more := {state for (state, _), to in TABLE.items() if to in home} - home:
        home |= more
    assert home == set(SlotState)


def test_states_with_and_without_a_process_are_told_apart() -> None:
    """Only a state with a process has an end; only one without has a start."""
    ends = {state for state, event in TABLE if event is SlotEvent.EXITED}
    starts = {state for state, event in TABLE if event is SlotEvent.SPAWNED}
    assert starts == VACANT
    assert VACANT < EMPTY
    assert ends == set(SlotState) - EMPTY
    assert ends > SERVING


@pytest.mark.parametrize("state", SlotState)
def test_streams_are_placed_only_where_a_worker_slot_serves(state: SlotState) -> None:
    """Idle and busy worker slots serve; a spare never does."""
    assert slot_in(state).serving == (state in {SlotState.IDLE, SlotState.BUSY})
    assert not slot_in(state, spare=True).serving
