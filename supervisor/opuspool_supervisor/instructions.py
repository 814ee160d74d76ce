"""What the core wants done; the loop carries it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opuspool_supervisor.autopsy import Autopsy
    from opuspool_supervisor.death import Death
    from opuspool_supervisor.records import Lease
    from opuspool_supervisor.slots import Slot


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker for a slot."""

    slot: Slot
    serial: int


@dataclass(frozen=True, slots=True)
class SendLease:
    """Send a lease to a worker."""

    serial: int
    lease: Lease


@dataclass(frozen=True, slots=True)
class Kill:
    """End a worker; with `dump` it may write its traceback first."""

    serial: int
    reason: str
    dump: bool = False


@dataclass(frozen=True, slots=True)
class Retire:
    """Ask an idle worker to leave."""

    serial: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Tell a worker which packets it may not decode for clients."""

    serial: int
    packets: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """Write an event to the log."""

    level: str
    event: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Report:
    """Write a report of a death that was not planned."""

    reason: str
    death: Death
    autopsy: Autopsy


Instruction = Spawn | SendLease | Kill | Retire | Refuse | Tell | Report
