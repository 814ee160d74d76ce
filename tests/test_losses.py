"""Packets with numbers to operations: what fills a gap, what is dropped, what is waited for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opuspool import toc
from opuspool.losses import UNITS_A_SECOND, LossCounts, Losses, Sequencer, Step
from opuspool.ops import OpKind

if TYPE_CHECKING:
    from collections.abc import Callable, Container

SILK_20, SILK_60, CELT_20 = 0x48, 0x58, 0x98
"""First bytes: wideband, mono, one frame of so many ms."""

MODULUS = 2**32


def plain(number: int, first: int = SILK_20) -> bytes:
    """A packet without FEC that can be told from others."""
    return bytes([first, 0]) + number.to_bytes(8, "little")


def with_fec(number: int, first: int = SILK_20) -> bytes:
    """The same with FEC: the LBRR flag, behind the flag of each SILK frame."""
    return bytes([first, 0x40 if first == SILK_20 else 0x10]) + number.to_bytes(8, "little")


class Ran(NamedTuple):
    """An operation that has run: its kind, and the number in its packet."""

    kind: str
    number: int


def names(ran: list[Ran]) -> list[str]:
    """Such as "5", "plc", "fec of 8"."""
    words = {"PACKET": "{}", "FEC": "fec of {}", "LOST": "plc"}
    return [words[op.kind].format(op.number) for op in ran]


class Receiver:
    """A sequencer whose operations all run, but for what is refused."""

    def __init__(self, *, refused: Container[int] = (), **losses: float) -> None:
        self.sequencer = Sequencer(Losses(**losses))  # type: ignore[arg-type]  # ints, too
        self.ran: list[Ran] = []
        self._refused = refused

    @property
    def counts(self) -> LossCounts:
        return self.sequencer.counts

    def take(self, seq: int, packet: bytes) -> list[str]:
        """Push a packet; what has run for it."""
        self.sequencer.push(seq, packet)
        return self._run(flush=False)

    def flush(self) -> list[str]:
        return self._run(flush=True)

    def _run(self, *, flush: bool) -> list[str]:
        before = len(self.ran)
        while step := self.sequencer.step(flush=flush):
            failed = set()
            for index, op in enumerate(step.ops):
                number = int.from_bytes(op.packet[2:], "little")
                if op.kind is not OpKind.LOST and number in self._refused:
                    failed.add(index)
                else:
                    self.ran.append(Ran(op.kind.name, number))
            self.sequencer.settle(step, failed)
        return names(self.ran[before:])


def take_all(
    receiver: Receiver, seqs: list[int], make: Callable[[int], bytes] = plain
) -> list[str]:
    return [name for seq in seqs for name in receiver.take(seq % MODULUS, make(seq))]


# ---- gaps -----------------------------------------------------------------------------------


def test_without_losses_every_packet_is_decoded() -> None:
    receiver = Receiver()
    assert take_all(receiver, [7, 8, 9]) == ["7", "8", "9"]
    assert receiver.counts == LossCounts(decoded=3)


def test_the_last_lost_packet_comes_from_the_next_ones_fec() -> None:
    receiver = Receiver()
    assert take_all(receiver, [1, 4], with_fec) == ["1", "plc", "fec of 4", "4"]
    assert receiver.counts == LossCounts(decoded=2, fec=1, plc=1)


def test_without_fec_a_gap_is_concealed() -> None:
    receiver = Receiver()
    assert take_all(receiver, [1, 4]) == ["1", "plc", "plc", "4"]
    assert receiver.counts == LossCounts(decoded=2, plc=2)


def test_fec_that_libopus_would_not_use_counts_as_concealed() -> None:
    """After CELT, and where its frame is longer than the gap's packets."""
    receiver = Receiver()
    receiver.take(1, plain(1, CELT_20))
    assert receiver.take(3, with_fec(3)) == ["plc", "3"]
    assert receiver.take(5, with_fec(5, SILK_60)) == ["plc", "5"]
    assert receiver.take(7, with_fec(7)) == ["fec of 7", "7"]
    assert receiver.counts == LossCounts(decoded=4, fec=1, plc=2)


def test_numbers_go_on_behind_their_last() -> None:
    """uint32; and the 16 bits of RTP."""
    assert take_all(Receiver(), [MODULUS - 1, MODULUS + 1]) == [
        str(MODULUS - 1),
        "plc",
        str(MODULUS + 1),
    ]
    rtp = Receiver(seq_bits=16)
    assert rtp.take(65535, plain(1)) + rtp.take(2, plain(2)) == ["1", "plc", "plc", "2"]


def test_a_longer_gap_than_is_filled_is_a_reset() -> None:
    """As soon as a second packet says so; the first may be a stray."""
    receiver = Receiver(max_fill_seconds=1.0)
    assert take_all(receiver, [0, 51]) == ["0", *["plc"] * 50, "51"]
    assert receiver.take(103, plain(103)) == []
    assert receiver.take(104, plain(104)) == ["103", "104"]
    assert receiver.counts == LossCounts(decoded=4, plc=50, reset=1)


def test_what_is_filled_at_most_goes_by_the_packets_length() -> None:
    receiver = Receiver(max_fill_seconds=1.0)
    receiver.take(0, plain(0, SILK_60))
    assert receiver.take(17, plain(17, SILK_60)) == [*["plc"] * 16, "17"]
    assert receiver.take(35, plain(35, SILK_60)) == []


def test_nothing_is_filled_where_that_is_wanted() -> None:
    receiver = Receiver(max_fill_seconds=0)
    assert take_all(receiver, [0, 1, 3, 4, 5]) == ["0", "1", "3", "4", "5"]
    assert receiver.counts == LossCounts(decoded=5, reset=1)


# ---- late, double, stray --------------------------------------------------------------------


def test_late_and_double_packets_are_dropped() -> None:
    receiver = Receiver()
    assert take_all(receiver, [1, 3, 2, 3, 1, 4]) == ["1", "plc", "3", "4"]
    assert receiver.counts == LossCounts(decoded=3, plc=1, late=1, double=2)


def test_one_number_from_nowhere_is_a_stray() -> None:
    receiver = Receiver()
    assert take_all(receiver, [1, 2, 10**6, 3, 5 * 10**6, 4]) == ["1", "2", "3", "4"]
    assert receiver.flush() == []
    assert receiver.counts == LossCounts(decoded=4, stray=2)


def test_a_sender_that_counts_anew_is_followed() -> None:
    """Without loss, also where the second packet of the new counting is lost."""
    receiver = Receiver()
    assert take_all(receiver, [5000, 0, 2, 3]) == ["5000", "0", "plc", "2", "3"]
    assert receiver.counts == LossCounts(decoded=4, plc=1, reset=1)
    assert receiver.take(2, plain(2)) == []
    assert receiver.counts.double == 1


def test_what_waits_comes_before_a_new_counting() -> None:
    receiver = Receiver(reorder_packets=2)
    assert take_all(receiver, [5000, 5002, 0, 1, 2]) == ["5000", "plc", "5002", "0", "1", "2"]
    assert receiver.counts == LossCounts(decoded=5, plc=1, reset=1)


# ---- reordering -----------------------------------------------------------------------------


def test_a_packet_that_is_overtaken_is_waited_for() -> None:
    receiver = Receiver(reorder_packets=2)
    assert receiver.take(1, plain(1)) == ["1"]
    assert receiver.take(3, plain(3)) == []
    assert receiver.take(4, plain(4)) == []
    assert receiver.take(3, plain(3)) == []
    assert receiver.take(2, plain(2)) == ["2", "3", "4"]
    assert receiver.counts == LossCounts(decoded=4, double=1)


def test_no_more_packets_wait_than_may() -> None:
    receiver = Receiver(reorder_packets=2)
    assert take_all(receiver, [1, 3, 4]) == ["1"]
    assert receiver.take(5, plain(5)) == ["plc", "3", "4", "5"]


def test_what_waits_does_not_make_a_number_look_far_off() -> None:
    receiver = Receiver(max_fill_seconds=0, reorder_packets=2)
    assert take_all(receiver, [1, 3, 4]) == ["1"]
    assert receiver.take(5, plain(5)) == ["3", "4", "5"]
    assert receiver.counts == LossCounts(decoded=4, reset=1)


def test_flush_waits_no_longer() -> None:
    receiver = Receiver(reorder_packets=2)
    assert take_all(receiver, [1, 3], with_fec) == ["1"]
    assert receiver.flush() == ["fec of 3", "3"]
    assert receiver.flush() == []


# ---- what has failed ------------------------------------------------------------------------


def test_a_refused_packets_time_is_filled_by_the_next() -> None:
    receiver = Receiver(refused={3})
    assert take_all(receiver, [1, 3, 4], with_fec) == ["1", "plc", "fec of 4", "4"]
    assert receiver.counts == LossCounts(decoded=2, fec=1, plc=1, refused=1)


def test_a_refused_packet_may_be_sent_again() -> None:
    receiver = Receiver(refused={3})
    take_all(receiver, [1, 2, 3])
    assert receiver.take(3, plain(33)) == ["33"]
    assert receiver.counts == LossCounts(decoded=3, refused=1)


def test_a_stream_that_begins_with_refused_packets_begins_with_the_first_decoded() -> None:
    receiver = Receiver(refused={1, 2})
    assert take_all(receiver, [1, 2, 3]) == ["3"]
    assert receiver.counts == LossCounts(decoded=1, refused=2)


def test_a_step_that_has_not_run_is_filled_by_the_next_or_given_again() -> None:
    for seq, ran in ((3, ["plc", "3"]), (4, ["plc", "plc", "4"])):
        receiver = Receiver()
        receiver.take(1, plain(1))
        receiver.sequencer.push(3, plain(3))
        step = receiver.sequencer.step()
        assert step is not None
        receiver.sequencer.drop(step)
        assert receiver.take(seq, plain(seq)) == ran


def test_a_gap_that_could_not_be_filled_is_filled_after_the_packet() -> None:
    """Its FEC was poison, the packet itself was not: the time stays true."""
    receiver = Receiver()
    receiver.take(1, with_fec(1))
    receiver.sequencer.push(3, with_fec(3))
    step = receiver.sequencer.step()
    assert step is not None
    receiver.sequencer.settle(step, {0})
    assert receiver.take(3, with_fec(3)) == []
    assert receiver.take(4, plain(4)) == ["plc", "4"]
    assert receiver.counts == LossCounts(decoded=3, plc=1, double=1)


# ---- arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_fill_seconds", -1),
        ("max_fill_seconds", 61),
        ("max_fill_seconds", float("nan")),
        ("reorder_packets", -1),
        ("reorder_packets", 51),
        ("seq_bits", 15),
        ("seq_bits", 65),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        Losses(**{name: value})  # type: ignore[arg-type]  # also wrong ones


def test_what_is_no_number_is_refused() -> None:
    sequencer = Sequencer(Losses())
    for seq in (-1, MODULUS):
        with pytest.raises(ValueError, match="seq must be 0 to 4294967295"):
            sequencer.push(seq, plain(1))
    for wrong in (None, "1", 1.0, True):
        with pytest.raises(TypeError, match="seq must be an int"):
            sequencer.push(wrong, plain(1))  # type: ignore[arg-type]  # on purpose


# ---- any network ----------------------------------------------------------------------------


class Network(NamedTuple):
    """What arrives of packets 0, 1, 2 ...; their numbers begin at `start`."""

    start: int
    arrivals: list[int]
    reorder: int


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """Loss, doubles and reordering by a few places; numbers anywhere, also around their end."""
    count = draw(st.integers(2, 60))
    lost = draw(st.sets(st.integers(1, count - 2))) if count > 2 else set()
    here = [n for n in range(count) if n not in lost]
    here += draw(st.lists(st.sampled_from(here), max_size=10))
    # sent at its number, late by so many packets' time
    delays = draw(st.lists(st.integers(0, 4), min_size=len(here), max_size=len(here)))
    delays[here.index(0)] = -1
    order = sorted(range(len(here)), key=lambda index: here[index] + delays[index] * 1.5)
    start = draw(st.sampled_from([0, 7, MODULUS - 20, MODULUS - 1, MODULUS // 2 - 10]))
    return Network(start, [here[i] for i in order], draw(st.integers(0, 3)))


@given(networks(), st.data())
def test_any_network_gives_the_time_that_was_sent(network: Network, data: st.DataObject) -> None:
    """Every number once, in order; all packets that came in time; FEC only before its packet."""
    make = data.draw(st.sampled_from([plain, with_fec]))
    receiver = Receiver(reorder_packets=network.reorder)
    for number in network.arrivals:
        receiver.take((network.start + number) % MODULUS, make(number))
    receiver.flush()

    newest = max(network.arrivals)
    assert len(receiver.ran) == newest + 1, "the time sent"
    for number, op in enumerate(receiver.ran):
        if op.kind == "PACKET":
            assert op.number == number
        elif op.kind == "FEC":
            assert op.number == number + 1
    _check_books(receiver.counts, receiver.ran, network.arrivals)


def _check_books(counts: LossCounts, ran: list[Ran], arrivals: list[int]) -> None:
    kinds = [op.kind for op in ran]
    assert counts.decoded == kinds.count("PACKET")
    assert counts.fec == kinds.count("FEC")
    assert counts.plc == kinds.count("LOST")
    assert counts.decoded + counts.late + counts.double == len(arrivals)
    decoded = {op.number for op in ran if op.kind == "PACKET"}
    times = [arrivals.count(number) for number in decoded]
    assert counts.double >= sum(times) - len(decoded)
    assert counts.reset == counts.stray == counts.refused == 0


@given(networks())
def test_with_no_loss_and_enough_patience_nothing_is_filled(network: Network) -> None:
    """Packets overtaken by no more than may wait cost nothing."""
    overtaken = max(
        len({m for m in network.arrivals[:at] if m > n}) for at, n in enumerate(network.arrivals)
    )
    arrived = set(network.arrivals)
    receiver = Receiver(reorder_packets=overtaken)
    renumbered = {number: index for index, number in enumerate(sorted(arrived))}
    for number in network.arrivals:
        receiver.take((network.start + renumbered[number]) % MODULUS, plain(number))
    receiver.flush()
    assert names(receiver.ran) == [str(number) for number in sorted(arrived)]


@given(
    st.lists(
        st.tuples(st.integers(0, MODULUS - 1), st.binary(max_size=4), st.booleans()), max_size=50
    ),
    st.integers(0, 3),
)
def test_any_numbers_at_all_keep_the_books_and_the_bounds(
    pushes: list[tuple[int, bytes, bool]], reorder: int
) -> None:
    """A hostile sender: nothing piles up, nothing runs longer than `max_fill_seconds`."""
    sequencer = Sequencer(Losses(max_fill_seconds=0.5, reorder_packets=reorder))
    for seq, packet, well in pushes:
        sequencer.push(seq % 300, packet)
        while step := sequencer.step():
            assert (len(step.ops) - 1) * sequencer._units <= 0.5 * UNITS_A_SECOND
            sequencer.settle(step, _refused(step, all_=not well))
        assert len(sequencer._held) <= reorder
    while step := sequencer.step(flush=True):
        sequencer.settle(step, _refused(step))
    counts = sequencer.counts
    dropped = counts.late + counts.double + counts.stray
    assert counts.decoded + counts.refused + dropped == len(pushes)


def _refused(step: Step, *, all_: bool = False) -> set[int]:
    """What a worker would refuse of it: a packet without a length."""
    return {
        index
        for index, op in enumerate(step.ops)
        if op.kind is not OpKind.LOST and (all_ or not toc.units(op.packet))
    }
