"""Messages over a real socket: whole and in order, however little the system takes or gives."""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_wire import REFUSED, messages
from waiting import wait_until

from opuspool import wire
from opuspool.errors import WireError
from opuspool.lanesocket import READ_BYTES, LaneSocket
from opuspool.watcher import Watcher
from opuspool.wire import Frames, Kind, Message, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Ends = tuple[LaneSocket, socket.socket]
"""A lane, and the socket at its other end."""

LENGTHS = struct.Struct("<II")
MOST_BYTES = 1 << 20

FIRST = wire.pack(Kind.REQUESTS, [Request(1, 2, 3, 5, 1, 0, 0)], [b"first"], tag=9)
SECOND = wire.pack_json(Kind.REPORT, {"second": 2}, tag=10)
PING = wire.pack_plain(Kind.PING)
GARBAGE = [case for case, (frames, _) in REFUSED.items() if len(frames) == 2]


def written(*sent: Frames) -> bytes:
    """What these messages are on the socket."""
    return b"".join(LENGTHS.pack(len(head), len(body)) + head + body for head, body in sent)


def parsed(*sent: Frames) -> list[Message]:
    return [wire.parse(frames) for frames in sent]


def noise(size: int, seed: int = 0) -> Frames:
    """A message with so many bytes of data, no two stretches of them alike."""
    return wire.pack_plain(Kind.REPORT, random.Random(seed).randbytes(size), tag=seed)


@contextmanager
def connected(most_bytes: int = MOST_BYTES) -> Iterator[Ends]:
    """A lane, and the socket at its other end, which never waits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, closing(LaneSocket(ours, most_bytes)) as lane:
        theirs.setblocking(False)
        yield lane, theirs


@contextmanager
def lanes() -> Iterator[tuple[LaneSocket, LaneSocket]]:
    """Two ends of one lane."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with (
        closing(LaneSocket(ours, MOST_BYTES)) as one,
        closing(LaneSocket(theirs, MOST_BYTES)) as two,
    ):
        yield one, two


@pytest.fixture
def ends() -> Iterator[Ends]:
    with connected() as made:
        yield made


def some(peer: socket.socket, most: int = 1 << 16) -> bytes:
    """What has come, at most so much; nothing if there is nothing."""
    try:
        return peer.recv(most)
    except BlockingIOError:
        return b""


def fill(lane: LaneSocket, size: int = 50_000) -> list[Frames]:
    """Send messages until the socket takes no more; returns them."""
    sent: list[Frames] = []
    while not lane.blocked:
        sent.append(noise(size, len(sent)))
        lane.send(sent[-1])
        assert len(sent) < 10_000, "the socket takes everything"
    return sent


def drained(lane: LaneSocket, peer: socket.socket) -> bytes:
    """Read and flush in turn until nothing is left; returns what was read."""
    arrived = bytearray()
    while lane.blocked and not lane.flush():
        piece = some(peer)
        assert piece, "the socket takes nothing, but there is nothing in it"
        arrived += piece
        assert len(arrived) < 1 << 26, "there is no end of it"
    while piece := some(peer):
        arrived += piece
    return bytes(arrived)


# ---- what is sent is received ---------------------------------------------------------------


@given(st.lists(messages(), min_size=1, max_size=5))
def test_messages_arrive_as_they_were_sent(sent: list[Frames]) -> None:
    """Several that wait are received by one look."""
    with lanes() as (one, two):
        for frames in sent:
            one.send(frames)
            assert not one.blocked
        assert two.receive() == parsed(*sent)
        assert two.receive() == []


def test_both_ends_send_and_receive() -> None:
    with lanes() as (one, two):
        one.send(FIRST)
        two.send(SECOND)
        assert (one.receive(), two.receive()) == (parsed(SECOND), parsed(FIRST))


def test_a_message_is_its_lengths_and_its_frames(ends: Ends) -> None:
    lane, peer = ends
    lane.send(FIRST)
    assert some(peer) == struct.pack("<II", len(FIRST[0]), 5) + FIRST[0] + b"first"


def test_a_lane_is_waited_for_by_its_descriptor() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, closing(LaneSocket(ours, MOST_BYTES)) as lane:
        assert lane.fd == ours.fileno()


def test_two_messages_cut_anywhere_arrive_whole() -> None:
    whole, end = written(FIRST, SECOND), len(written(FIRST))
    for cut in range(len(whole) + 1):
        with connected() as (lane, peer):
            peer.sendall(whole[:cut])
            got = lane.receive()
            assert len(got) == (cut >= end) + (cut == len(whole))
            peer.sendall(whole[cut:])
            assert got + lane.receive() == parsed(FIRST, SECOND)
            assert lane.receive() == []


def test_a_message_is_there_with_its_last_byte(ends: Ends) -> None:
    """Every byte comes alone."""
    lane, peer = ends
    got: list[tuple[int, Message]] = []
    for at, byte in enumerate(written(FIRST, SECOND, PING), 1):
        peer.sendall(bytes([byte]))
        got += [(at, message) for message in lane.receive()]
    arrivals = [len(written(FIRST)), len(written(FIRST, SECOND)), len(written(FIRST, SECOND, PING))]
    assert got == list(zip(arrivals, parsed(FIRST, SECOND, PING), strict=True))


@given(st.lists(messages(), min_size=1, max_size=6), st.lists(st.integers(0, 2000), max_size=8))
def test_any_messages_cut_at_any_places_arrive_whole(sent: list[Frames], cuts: list[int]) -> None:
    whole = written(*sent)
    places = sorted({0, len(whole), *(cut % len(whole) for cut in cuts)})
    got: list[Message] = []
    with connected() as (lane, peer):
        for start, end in pairwise(places):
            peer.sendall(whole[start:end])
            got += lane.receive()
    assert got == parsed(*sent)


@pytest.mark.parametrize("size", [READ_BYTES - 28, READ_BYTES - 27, READ_BYTES, MOST_BYTES])
def test_a_message_larger_than_a_read_arrives_whole(size: int) -> None:
    """With the messages around it; the first size fills one read to its end."""
    sent = [noise(size), FIRST, noise(size, 2), SECOND]
    got: list[Message] = []
    with lanes() as (one, two):
        for frames in sent:
            one.send(frames)

        def is_all() -> bool:
            if one.blocked:
                one.flush()
            got.extend(two.receive())
            return len(got) == len(sent)

        wait_until(is_all)
    assert got == parsed(*sent)


def test_lanes_that_share_what_they_read_into_do_not_mix() -> None:
    """Neither what has begun nor what was received changes when another one reads."""
    scratch = bytearray(READ_BYTES)
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(2)]
    (a, peer_a), (b, peer_b) = pairs
    with (
        peer_a,
        peer_b,
        closing(LaneSocket(a, MOST_BYTES, scratch)) as lane_a,
        closing(LaneSocket(b, MOST_BYTES, scratch)) as lane_b,
    ):
        sent_a, sent_b = [noise(300, 1), noise(300, 2)], [noise(300, 3), noise(300, 4)]
        peer_a.sendall(written(*sent_a)[:500])
        peer_b.sendall(written(*sent_b)[:400])
        got_a, got_b = lane_a.receive(), lane_b.receive()
        peer_b.sendall(written(*sent_b)[400:])
        peer_a.sendall(written(*sent_a)[500:])
        got_b += lane_b.receive()
        got_a += lane_a.receive()
        assert (got_a, got_b) == (parsed(*sent_a), parsed(*sent_b))


# ---- a peer that does not read --------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 50_000, 900_000])
def test_what_is_not_taken_is_kept(ends: Ends, size: int) -> None:
    """Of the smallest messages the socket takes all or nothing, of larger ones some bytes."""
    lane, peer = ends
    sent = fill(lane, size)
    assert not lane.flush()
    assert lane.blocked
    assert drained(lane, peer) == written(*sent)
    assert not lane.blocked


def test_later_messages_wait_behind_what_is_kept(ends: Ends) -> None:
    """Even when the socket would take them at once."""
    lane, peer = ends
    sent = fill(lane)
    arrived = some(peer, 100_000)
    sent += [FIRST, noise(70_000, 100), SECOND]
    for frames in sent[-3:]:
        lane.send(frames)
        assert lane.blocked
    arrived += drained(lane, peer)
    lane.send(PING)
    assert not lane.blocked
    assert arrived + some(peer) == written(*sent, PING)


def test_a_flush_tells_whether_it_was_all(ends: Ends) -> None:
    lane, peer = ends
    sent = [*fill(lane), noise(900_000, 1000)]
    lane.send(sent[-1])
    arrived = b""
    while len(arrived) < 300_000:
        arrived += some(peer)
        assert not lane.flush()
        assert lane.blocked
    assert arrived + drained(lane, peer) == written(*sent)


@given(
    st.lists(
        st.tuples(st.just("send"), st.integers(0, 60_000))
        | st.tuples(st.just("read"), st.integers(1, 60_000))
        | st.tuples(st.just("flush"), st.just(0)),
        max_size=30,
    )
)
def test_nothing_is_lost_however_it_is_read(steps: list[tuple[str, int]]) -> None:
    """Every byte arrives once and in order, through a socket that takes little."""
    sent: list[Frames] = []
    arrived = b""
    with connected() as (lane, peer):
        lane._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the system has a least
        for number, (step, size) in enumerate(steps):
            if step == "send":
                sent.append(noise(size, number))
                lane.send(sent[-1])
            elif step == "read":
                arrived += some(peer, size)
            elif lane.blocked:
                assert lane.flush() is not lane.blocked
        arrived += drained(lane, peer)
    assert arrived == written(*sent)


# ---- the last of it -------------------------------------------------------------------------


def test_finish_waits_for_a_peer_that_reads(ends: Ends) -> None:
    lane, peer = ends
    sent = [*fill(lane), noise(900_000, 1000)]
    lane.send(sent[-1])
    arrived = bytearray()

    def read() -> None:
        peer.settimeout(30)
        while piece := peer.recv(1 << 16):
            arrived.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    lane.finish(30)
    lane.close()
    reader.join()
    assert arrived == written(*sent)


def test_finish_gives_up_on_a_peer_that_does_not_read(ends: Ends) -> None:
    lane, _ = ends
    fill(lane)
    with pytest.raises(OSError, match="timed out"):
        lane.finish(0.01)


def test_what_is_not_sent_is_dropped_by_close(ends: Ends) -> None:
    """The peer gets what the socket had taken, then the end."""
    lane, peer = ends
    whole = written(*fill(lane))
    lane.close()
    arrived = b""
    while piece := peer.recv(1 << 16):
        arrived += piece
    assert whole.startswith(arrived)
    assert len(arrived) < len(whole)


def test_nothing_can_be_sent_to_a_peer_that_is_gone(ends: Ends) -> None:
    lane, peer = ends
    peer.close()
    with pytest.raises(ConnectionError):
        lane.send(PING)


@pytest.mark.parametrize("act", [LaneSocket.flush, partial(LaneSocket.finish, seconds=30)])
def test_what_is_kept_cannot_be_sent_to_a_peer_that_is_gone(
    ends: Ends, act: Callable[[LaneSocket], object]
) -> None:
    lane, peer = ends
    fill(lane)
    peer.close()
    with pytest.raises(ConnectionError):
        act(lane)


# ---- a peer that is gone --------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", LENGTHS.pack(20, 0)[:5], written(SECOND)[:-1]])
def test_a_peer_that_closes_has_ended_the_lane(ends: Ends, begun: bytes) -> None:
    """What it had sent whole is received before; what it had only begun is not."""
    lane, peer = ends
    peer.sendall(written(FIRST) + begun)
    peer.close()
    assert lane.receive() == parsed(FIRST)
    with pytest.raises(EOFError, match="closed"):
        lane.receive()


def test_a_reset_is_an_end(ends: Ends) -> None:
    """The system tells it so when the peer has closed without reading all."""
    lane, peer = ends
    lane.send(PING)
    peer.close()
    with pytest.raises(EOFError, match="reset"):
        lane.receive()


# ---- what is no message ---------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0, -1])
@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_is_refused(ends: Ends, case: str, cut: int) -> None:
    """Whether it comes at once or in pieces."""
    lane, peer = ends
    (head, body), words = REFUSED[case]
    whole = written((head, body))
    peer.sendall(whole[:cut])
    assert lane.receive() == []
    peer.sendall(whole[cut:])
    with pytest.raises(WireError, match=words):
        lane.receive()


@pytest.mark.parametrize("before", [b"", written(FIRST)])
@pytest.mark.parametrize(
    ("head", "body"),
    [(wire.MAX_HEADER_BYTES + 1, 0), (20, MOST_BYTES + 1), (0xFFFFFFFF, 0), (0, 0xFFFFFFFF)],
)
def test_frames_too_long_are_refused_by_their_lengths(
    ends: Ends, before: bytes, head: int, body: int
) -> None:
    """Nothing of them is waited for."""
    lane, peer = ends
    peer.sendall(before + LENGTHS.pack(head, body))
    with pytest.raises(WireError, match=f"frames of {head} and {body} bytes are too long"):
        lane.receive()


def test_the_longest_frames_are_not_refused(ends: Ends) -> None:
    lane, peer = ends
    peer.sendall(LENGTHS.pack(wire.MAX_HEADER_BYTES, MOST_BYTES))
    assert lane.receive() == []


# ---- waiting for descriptors on a thread ----------------------------------------------------


class Watched:
    """Two lanes' sockets that are watched, and how often each was found ready."""

    def __init__(self, watcher: Watcher, lane: LaneSocket, other: LaneSocket) -> None:
        self.watcher, self.lane, self.other = watcher, lane, other
        self._found: list[LaneSocket] = []
        self.watch(lane)
        self.watch(other)

    def watch(self, lane: LaneSocket) -> None:
        self.watcher.watch(lane.fd, lambda: self._found.append(lane))

    def found(self) -> list[LaneSocket]:
        """Which are ready now."""
        self._found.clear()
        self.watcher.wait(0)
        return list(self._found)


@pytest.fixture
def watched() -> Iterator[Watched]:
    """Two ends of one lane."""
    with lanes() as (one, two), closing(Watcher()) as watcher:
        yield Watched(watcher, one, two)


def test_what_is_readable_is_found(watched: Watched) -> None:
    """Alone, and again and again until it has been read."""
    assert watched.found() == []
    watched.lane.send(PING)
    assert watched.found() == watched.found() == [watched.other]
    watched.other.send(PING)
    assert set(watched.found()) == {watched.lane, watched.other}
    watched.other.receive()
    assert watched.found() == [watched.lane]


def test_what_is_ready_ends_a_wait(watched: Watched) -> None:
    sender = threading.Thread(target=watched.lane.send, args=(PING,))
    sender.start()
    watched.watcher.wait(60)
    sender.join()
    assert watched._found == [watched.other]


def test_a_wait_for_nothing_ends(watched: Watched) -> None:
    start = time.monotonic()
    watched.watcher.wait(0.02)
    assert time.monotonic() - start >= 0.02
    assert watched._found == []


def test_writing_is_watched_when_asked_for(watched: Watched) -> None:
    """A socket that takes something is found then, and no more afterwards."""
    watched.watcher.watch_writing(watched.lane.fd, on=True)
    assert watched.found() == watched.found() == [watched.lane]
    watched.watcher.watch_writing(watched.lane.fd, on=False)
    assert watched.found() == []


def test_a_full_socket_is_found_when_it_takes_more(watched: Watched) -> None:
    sent = fill(watched.lane)
    watched.watcher.watch_writing(watched.lane.fd, on=True)
    watched.watcher.forget(watched.other.fd)
    assert watched.found() == []
    got: list[Message] = []

    def read() -> list[LaneSocket]:
        got.extend(watched.other.receive())
        return watched.found()

    assert wait_until(read) == [watched.lane]
    assert watched.lane.flush()
    assert got + watched.other.receive() == parsed(*sent)


@pytest.mark.parametrize("on", [True, False])
def test_reading_is_watched_beside_writing(watched: Watched, on: bool) -> None:
    """A socket that is full is still found by what has come."""
    fill(watched.lane)
    watched.watcher.watch_writing(watched.lane.fd, on=on)
    watched.other.send(PING)
    assert watched.lane in watched.found()


def test_what_is_forgotten_is_not_found(watched: Watched) -> None:
    """The others are, and it may be watched again."""
    watched.lane.send(PING)
    watched.other.send(PING)
    watched.watcher.forget(watched.lane.fd)
    assert watched.found() == [watched.other]
    watched.watch(watched.lane)
    assert set(watched.found()) == {watched.lane, watched.other}


DEFENCELESS = """
import signal, socket
from opuspool.lanesocket import LaneSocket
signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as in a command-line tool, or an embedded Python
ours, theirs = socket.socketpair()
lane = LaneSocket(ours, 100)
while {blocked} and not lane.blocked:
    lane.send((b"h", bytes(100_000)))
theirs.close()
try:
    {call}
except OSError:
    print("told")
"""


@pytest.mark.parametrize(
    ("blocked", "call"),
    [(False, 'lane.send((b"h", b""))'), (True, "lane.flush()"), (True, "lane.finish(1.0)")],
    ids=["send", "flush", "finish"],
)
def test_a_peer_that_is_gone_is_an_error_and_no_sigpipe(blocked: bool, call: str) -> None:
    """It would end a process that has not said otherwise."""
    done = subprocess.run(
        [sys.executable, "-c", DEFENCELESS.format(blocked=blocked, call=call)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "told\n"), done.stderr
