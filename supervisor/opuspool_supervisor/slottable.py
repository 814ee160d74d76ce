"""The table of slots: which there are, and which are to go."""

from __future__ import annotations

from itertools import count

from opuspool_supervisor.slots import EMPTY, VACANT, Slot, SlotEvent


class SlotTable(list[Slot]):
    """Worker slots, then spare slots.

    Args:
        workers, spares: how many of each.
    """

    def __init__(self, workers: int, spares: int) -> None:
        super().__init__(Slot(n, spare=n >= workers) for n in range(workers + spares))

    def resize(self, workers: int, spares: int) -> None:
        """Have so many of each; what is too many goes as soon as its worker is idle."""
        self._resize(workers, spare=False)
        self._resize(spares, spare=True)
        self.sort(key=lambda slot: (slot.spare, slot.number))

    def _resize(self, wanted: int, *, spare: bool) -> None:
        """Keep the lowest slots of a kind, but drained ones last; leaving ones come back first."""
        kind = [slot for slot in self if slot.spare is spare]
        kind.sort(key=lambda slot: slot.drain)  # stable
        for index, slot in enumerate(kind):
            slot.set_leaving(leaving=index >= wanted)
        taken = {slot.number for slot in self}
        free = (number for number in count() if number not in taken)
        self += [Slot(next(free), spare=spare) for _ in range(wanted - len(kind))]

    def drop_left(self) -> None:
        """Forget the slots that were leaving and have no process any more."""
        self[:] = [slot for slot in self if not (slot.leaving and slot.state in EMPTY)]

    def keep_empty(self) -> None:
        """Close the slots that are to be empty, and are."""
        for slot in self:
            if slot.drain and slot.state in VACANT:
                slot.advance(SlotEvent.EMPTIED)

    def find(self, number: int) -> Slot | str:
        """The slot of that number, or in words which there are."""
        slot = next((slot for slot in self if slot.number == number), None)
        if slot is not None:
            return slot
        known = ", ".join(str(slot.number) for slot in self)
        return f"there is no slot {number}: they are {known}"

    def with_ready_worker(self, number: int) -> Slot | str:
        """The slot of that number, or in words why its worker cannot be replaced."""
        slot = self.find(number)
        if isinstance(slot, str):
            return slot
        if slot.worker is None or slot.worker.ready is None or slot.doomed:
            return f"slot {number} is {slot.state}: it has no worker that could be replaced"
        return slot
