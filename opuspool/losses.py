"""Packets with sequence numbers to decoder operations: gaps are filled, so that time stays true.

Pure: packets in, operations out; no socket, no clock.

    number   gives, without reordering
    5        5
    6        6
    8        FEC of 8 (that is 7), 8     where 8 has FEC
    7        nothing: late
    11       PLC, PLC, 11                where 11 has no FEC
    11       nothing: double

Of a gap's packets the last comes from the next packet's in-band FEC, where that has some; all
others are concealed (PLC). Each takes as long as the last packet did: only the sender knows how
long a packet was that never came. What a call has not given back (refused, timed out) counts as
lost, and the next call fills it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from opuspool import toc
from opuspool.fec import CELT, has_fec
from opuspool.ops import Op, OpKind

if TYPE_CHECKING:
    from collections.abc import Container

LATE_PACKETS = 100
"""A packet so many numbers old is late; an older one belongs to another counting (MAX_MISORDER of
RFC 3550, appendix A.1)."""

UNITS_A_SECOND = 400
"""Units of 2.5 ms."""

_USUAL_UNITS = 8
"""20 ms, while no packet has told its length."""

_LOST = Op(OpKind.LOST, b"")


@dataclass(frozen=True, slots=True)
class Losses:
    """How a stream deals with losses; for `Pool.stream(losses=...)`.

    Attributes:
        max_fill_seconds: a longer gap is not filled: the stream goes on as if there were none, and
            counts a `reset`. It bounds what one packet can cost: 5 s of 20 ms packets are 250
            operations, about 5 ms of a worker.
        reorder_packets: so many packets wait for a missing one, at most. 0 waits for none: right
            for TCP and WebSocket, which reorder nothing, and for the least latency. Over UDP 1 to 3
            save most that are overtaken, and cost as many packets of latency at each loss.
        seq_bits: numbers have so many bits, after which they begin again at 0; RTP's have 16.

    Raises:
        ValueError: a value is out of range.
    """

    max_fill_seconds: float = 5.0
    reorder_packets: int = 0
    seq_bits: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.max_fill_seconds <= 60:
            raise ValueError(f"max_fill_seconds must be 0 to 60, not {self.max_fill_seconds}")
        if not 0 <= self.reorder_packets <= LATE_PACKETS // 2:
            raise ValueError(
                f"reorder_packets must be 0 to {LATE_PACKETS // 2}, not {self.reorder_packets}"
            )
        if not 16 <= self.seq_bits <= 64:
            raise ValueError(f"seq_bits must be 16 to 64, not {self.seq_bits}")


@dataclass(slots=True)
class LossCounts:
    """What became of a stream's packets, and of those that did not come.

    Attributes:
        decoded: packets decoded.
        fec: lost packets taken from the next one's FEC.
        plc: lost packets concealed.
        late: packets that came after their time had been filled; dropped.
        double: packets that had come before; dropped.
        refused: packets that libopus refused, or poison; their time is filled.
        reset: gaps that were too long to fill, and new countings.
        stray: packets whose number fits no counting; dropped.
    """

    decoded: int = 0
    fec: int = 0
    plc: int = 0
    late: int = 0
    double: int = 0
    refused: int = 0
    reset: int = 0
    stray: int = 0


class Step(NamedTuple):
    """Operations to run at once: what fills a gap, and the packet after it.

    Attributes:
        position: of its packet: the number without its wrap-around.
        seq: the packet's number.
        ops: what fills the gap, then the packet.
    """

    position: int
    seq: int
    ops: list[Op]


class Sequencer:
    """The order of one stream: `push` a packet, then run each `step` and tell how it went.

    Attributes:
        counts: so far.
    """

    def __init__(self, losses: Losses) -> None:
        self.counts = LossCounts()
        self._modulus = 1 << losses.seq_bits
        self._reorder = losses.reorder_packets
        self._fill_units = int(losses.max_fill_seconds * UNITS_A_SECOND)
        self._begun = False
        self._due = 0  # the position that comes next
        self._shift = 0  # number + shift = position, but for the wrap-around
        self._held: dict[int, bytes] = {}  # by position, not decoded yet
        self._done: deque[int] = deque(maxlen=LATE_PACKETS)  # positions decoded
        self._stray: tuple[int, bytes] | None = None
        self._units = 0  # length of the last packet decoded; 0: there is none
        self._celt = False  # whether it was CELT

    def push(self, seq: int, packet: bytes) -> None:
        """Take a packet, or drop it: late, double or stray.

        Raises:
            ValueError: the number has too many bits.
            TypeError: it is no number.
        """
        self._check(seq)
        if not self._begun:
            self._begun, self._due = True, seq
        ahead = self._ahead(seq)
        if 0 <= ahead <= self._reach():
            self._hold(self._due + ahead, packet)
        elif -LATE_PACKETS <= ahead < 0:
            self._drop_old(self._due + ahead)
        else:
            self._jump(seq, packet)

    def step(self, *, flush: bool = False) -> Step | None:
        """What is to run next; None: nothing, or a missing packet is waited for.

        Args:
            flush: wait for none.
        """
        if not self._held:
            if flush:
                self._lose_stray()
            return None
        position = min(self._held)
        gap = position - self._due
        if gap and len(self._held) <= self._reorder and not flush:
            return None
        packet = self._held[position]
        seq = (position - self._shift) % self._modulus
        return Step(position, seq, [*self._fill(gap, packet), Op(OpKind.PACKET, packet)])

    def settle(self, step: Step, failed: Container[int] = ()) -> None:
        """Take note that a step has run.

        Args:
            step: the last one that `step` gave.
            failed: indices of those of its operations that were refused or are poison.
        """
        packet = self._held.pop(step.position)
        filled = [op for index, op in enumerate(step.ops[:-1]) if index not in failed]
        by_fec = sum(op.kind is OpKind.FEC for op in filled)
        self.counts.fec += by_fec
        self.counts.plc += len(filled) - by_fec
        if len(step.ops) - 1 in failed:
            self.counts.refused += 1
            self._due += len(filled)
            return
        if len(step.ops) == 1 and self._due < step.position and self._units:
            self.counts.reset += 1
        self.counts.decoded += 1
        self._done.append(step.position)
        # what could not be filled before this packet is filled after it: the time stays true
        self._due = step.position + 1 - (len(step.ops) - 1 - len(filled))
        self._units = toc.units(packet)
        self._celt = bool(packet[0] & CELT)

    def drop(self, step: Step) -> None:
        """Take note that a step has not run, or that its PCM is lost: its packet is lost too."""
        del self._held[step.position]

    def _check(self, seq: int) -> None:
        if isinstance(seq, bool) or not isinstance(seq, int):
            raise TypeError(f"seq must be an int, not {type(seq).__name__}")
        if not 0 <= seq < self._modulus:
            raise ValueError(f"seq must be 0 to {self._modulus - 1}, not {seq}")

    def _ahead(self, seq: int) -> int:
        """How far a number is ahead of the one due, the shorter way round."""
        ahead = (seq + self._shift - self._due) % self._modulus
        return ahead - self._modulus if ahead >= self._modulus // 2 else ahead

    def _fillable(self) -> int:
        """Packets of the longest gap that is filled."""
        return self._fill_units // (self._units or _USUAL_UNITS)

    def _reach(self) -> int:
        """So far ahead a number may be and still belong to this counting."""
        return max(self._fillable(), self._reorder) + len(self._held)

    def _hold(self, position: int, packet: bytes) -> None:
        if position in self._held or position in self._done:
            self.counts.double += 1
        else:
            self._held[position] = packet

    def _drop_old(self, position: int) -> None:
        if position in self._done:
            self.counts.double += 1
        else:
            self.counts.late += 1

    def _jump(self, seq: int, packet: bytes) -> None:
        """A number out of reach: the next one tells whether it was a stray or a new counting.

        RFC 3550, appendix A.1, asks for two in sequence as well.
        """
        stray, self._stray = self._stray, (seq, packet)
        if stray is None:
            return
        first, first_packet = stray
        onward = (seq - first) % self._modulus
        if not 0 < onward <= max(1, self._fillable()):
            self.counts.stray += 1
            return
        self._stray = None
        self.counts.reset += 1
        start = max(self._held, default=self._due - 1) + 1
        self._shift = start - first
        self._held[start] = first_packet
        self._held[start + onward] = packet

    def _lose_stray(self) -> None:
        self.counts.stray += self._stray is not None
        self._stray = None

    def _fill(self, gap: int, packet: bytes) -> list[Op]:
        """The operations that fill a gap before a packet."""
        if not gap or not self._units or gap > self._fillable():
            return []
        # libopus takes FEC after CELT, or of a frame longer than the gap's, for plain concealment
        fits = toc.FRAME_UNITS[packet[0]] <= self._units if packet else False
        by_fec = fits and not self._celt and has_fec(packet)
        return [_LOST] * (gap - 1) + [Op(OpKind.FEC, packet) if by_fec else _LOST]
