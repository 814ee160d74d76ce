"""A worker's clients over real sockets: each has its turns, and none holds the others up."""

from __future__ import annotations

import os
import resource
import socket
import stat
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from selectors import DefaultSelector
from typing import TYPE_CHECKING

import psutil
import pytest
from opuspool_workers import clients
from opuspool_workers.clients import MESSAGE_BYTES, Client, Clients
from test_lanesocket import LENGTHS, noise, parsed, some, written
from waiting import wait_until

from opuspool import wire
from opuspool.wire import Frames, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGE = 1_000_000
"""Of data in an answer: more than a socket takes."""


def ping(tag: int) -> Frames:
    return wire.pack_plain(Kind.PING, tag=tag)


class Bench:
    """A worker's clients, served in this thread: what a socket was sent is there at once."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self.selector = stack.enter_context(DefaultSelector())
        self.clients = Clients(path, self.selector)
        stack.callback(self.clients.close)
        self._stack = stack

    def connect(self) -> socket.socket:
        """A client, which never waits."""
        peer = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        peer.setblocking(False)
        peer.connect(str(self.path))
        self.turn()
        return peer

    def turn(self) -> None:
        """Serve what is ready now."""
        for key, _ in self.selector.select(0):
            key.data()

    def take(self) -> dict[int, Client]:
        """Serve what is ready, then take a message of each client that has sent any, by tags."""
        self.turn()
        return {message.tag: client for client, message in self.clients.take()}

    def asks(self, peer: socket.socket, tag: int = 1) -> Client:
        """Have a client that owes nothing ask; returns who it is here."""
        peer.sendall(written(ping(tag)))
        [(got, client)] = self.take().items()
        assert got == tag
        return client

    def serves(self, peer: socket.socket, tag: int = 1) -> None:
        """Check that a client is asked and answered."""
        self.clients.answer(self.asks(peer, tag), ping(tag))
        assert some(peer) == written(ping(tag))

    def watched(self) -> int:
        """How many descriptors are waited for; one is where clients connect."""
        return len(self.selector.get_map())

    def rests(self) -> bool:
        """Whether nothing is ready, so that the worker would sleep."""
        return not self.clients.waiting and not self.selector.select(0)


@contextmanager
def serving() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        yield Bench(Path(folder) / "s", stack)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with serving() as made:
        yield made


# ---- turns and answers ----------------------------------------------------------------------


def test_clients_take_turns(bench: Bench) -> None:
    """One message of each a turn, in the order in which it has sent them."""
    one, two = bench.connect(), bench.connect()
    one.sendall(written(ping(1), ping(2), ping(3)))
    two.sendall(written(ping(11), ping(12)))
    assert bench.take().keys() == {1, 11}
    assert bench.clients.waiting
    assert bench.take().keys() == {2, 12}
    assert bench.clients.waiting
    assert bench.take().keys() == {3}
    assert bench.rests()
    assert bench.take() == {}


def test_who_comes_later_waits_for_a_turn_only(bench: Bench) -> None:
    one, two = bench.connect(), bench.connect()
    one.sendall(written(*map(ping, range(1, 1000))))
    assert bench.take().keys() == {1}
    two.sendall(written(ping(1000)))
    assert bench.take().keys() == {2, 1000}
    assert bench.take().keys() == {3}


def test_messages_are_taken_as_they_were_sent(bench: Bench) -> None:
    """Also those that come in pieces, and those that come while others wait."""
    peer, sent = bench.connect(), [noise(300, 1), noise(300, 2), noise(300, 3)]
    whole, got = written(*sent), []
    for piece in (whole[:400], whole[400:800], whole[800:]):
        peer.sendall(piece)
        bench.turn()
        got += [message for _, message in bench.clients.take()]
    assert got == parsed(*sent)


def test_an_answer_reaches_who_has_asked(bench: Bench) -> None:
    one, two = bench.connect(), bench.connect()
    one.sendall(written(ping(1)))
    two.sendall(written(ping(2)))
    for tag, client in bench.take().items():
        bench.clients.answer(client, noise(100, tag))
    assert some(one) == written(noise(100, 1))
    assert some(two) == written(noise(100, 2))
    assert bench.rests()


# ---- who does not read ----------------------------------------------------------------------


def test_who_does_not_read_is_not_read_and_gets_all_in_order_at_last(bench: Bench) -> None:
    """The others are served meanwhile; the worker sleeps when none of them asks.

    Nor is done what it has sent before: its answers would gather.
    """
    lazy, other = bench.connect(), bench.connect()
    lazy.sendall(written(ping(1), ping(2)))
    [(_, client)] = bench.take().items()
    bench.clients.answer(client, noise(LARGE, 1))
    lazy.sendall(written(ping(3)))
    for tag in range(10, 15):
        bench.serves(other, tag)
        assert bench.rests()

    arrived = bytearray()

    def is_taken() -> int | None:
        while piece := some(lazy):
            arrived.extend(piece)
        return next(iter(bench.take()), None)

    for tag in (2, 3):
        assert wait_until(is_taken) == tag
        bench.clients.answer(client, noise(LARGE, tag))
    wait_until(lambda: is_taken() is None and not client.lane.blocked)
    assert is_taken() is None
    assert bench.rests()
    assert arrived == written(noise(LARGE, 1), noise(LARGE, 2), noise(LARGE, 3))


def test_who_leaves_without_reading_is_forgotten(bench: Bench) -> None:
    lazy, other = bench.connect(), bench.connect()
    bench.clients.answer(bench.asks(lazy), noise(LARGE))
    lazy.close()
    bench.turn()
    assert bench.watched() == 2
    bench.serves(other)


# ---- who sends garbage ----------------------------------------------------------------------


@pytest.mark.parametrize("before", [b"", written(ping(1))], ids=["alone", "after a message"])
@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        LENGTHS.pack(20, 0) + bytes(20),
        LENGTHS.pack(20, MESSAGE_BYTES + 1),
    ],
    ids=["too long a header", "no header", "too long"],
)
def test_who_sends_garbage_is_dropped(bench: Bench, garbage: bytes, before: bytes) -> None:
    """It is told nothing; the others stay."""
    bad, other = bench.connect(), bench.connect()
    bad.sendall(before + garbage)
    assert bench.take() == {}
    assert bad.recv(100) == b""
    assert bench.watched() == 2
    bench.serves(other)
    assert bench.rests()


def test_the_largest_message_is_waited_for(bench: Bench) -> None:
    peer = bench.connect()
    peer.sendall(LENGTHS.pack(20, MESSAGE_BYTES))
    bench.turn()
    assert bench.watched() == 2


def test_garbage_behind_messages_is_seen_after_them(bench: Bench) -> None:
    bad = bench.connect()
    bad.sendall(written(ping(1), ping(2)))
    bench.turn()
    bad.sendall(b"garbage" * 5)
    assert [*bench.take(), *bench.take()] == [1, 2]
    assert bench.watched() == 2
    bench.turn()
    assert bench.watched() == 1


# ---- who leaves -----------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", written(ping(1))[:-1]], ids=["idle", "in a message"])
def test_who_leaves_is_forgotten(bench: Bench, begun: bytes) -> None:
    gone, other = bench.connect(), bench.connect()
    gone.sendall(begun)
    bench.turn()
    gone.close()
    assert bench.take() == {}
    assert bench.watched() == 2
    bench.serves(other)
    assert bench.rests()


def test_who_leaves_while_its_messages_wait_is_forgotten(bench: Bench) -> None:
    """Its first answer tells that it is gone; the messages behind are not taken any more."""
    gone, other = bench.connect(), bench.connect()
    gone.sendall(written(ping(1), ping(2), ping(3)))
    [(_, client)] = bench.take().items()
    gone.close()
    assert bench.clients.waiting
    bench.clients.answer(client, ping(1))
    assert bench.rests()
    assert bench.take() == {}
    assert bench.watched() == 2
    bench.serves(other)


def test_who_leaves_and_is_not_answered_is_forgotten_in_the_end(bench: Bench) -> None:
    gone = bench.connect()
    gone.sendall(written(ping(1), ping(2)))
    bench.turn()
    gone.close()
    assert [*bench.take(), *bench.take(), *bench.take()] == [1, 2]
    assert bench.watched() == 1


@pytest.mark.parametrize("noticed", [True, False])
def test_an_answer_to_who_has_left_is_dropped(bench: Bench, noticed: bool) -> None:
    """Quietly, and the next client, whose descriptor has the same number, does not get it."""
    gone = bench.connect()
    client = bench.asks(gone)
    gone.close()
    if noticed:
        bench.turn()
    bench.clients.answer(client, noise(100))
    assert bench.watched() == 1
    following = bench.connect()
    bench.clients.answer(client, noise(100))
    bench.serves(following)


# ---- who gets in ----------------------------------------------------------------------------


def test_more_than_the_most_are_turned_away(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before them stay, and when one has left another gets in."""
    monkeypatch.setattr(clients, "MAX_CLIENTS", 2)
    one, two, three = (bench.connect() for _ in range(3))
    assert three.recv(100) == b""
    bench.serves(one)
    bench.serves(two)
    one.close()
    bench.turn()
    bench.serves(bench.connect())
    bench.serves(two)


@pytest.mark.skipif(sys.platform != "linux", reason="needs SO_PEERCRED")
def test_another_users_process_is_turned_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = os.getuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: own + 1)
        assert bench.connect().recv(100) == b""
    bench.serves(bench.connect())


def test_without_a_descriptor_nobody_else_gets_in(bench: Bench) -> None:
    """Those who are in are served, and the worker does not try for ever."""
    inside = bench.connect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as outside:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            outside.connect(str(bench.path))
            bench.turn()
            assert bench.rests()
            bench.serves(inside)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("stale", ["nothing", "file", "socket"])
def test_the_socket_is_private_and_replaces_a_stale_one(stale: str) -> None:
    """Whatever this process makes otherwise is as open as its mask says."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder) / "s"
        if stale == "file":
            path.write_bytes(b"stale")
        elif stale == "socket":
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as old:
                old.bind(str(path))
        mask = os.umask(0)
        try:
            bench = Bench(path, stack)
        finally:
            left = os.umask(mask)
        assert left == 0
        assert path.stat().st_mode == stat.S_IFSOCK | 0o600
        bench.serves(bench.connect())


@pytest.mark.parametrize(
    ("name", "words"),
    [("missing/s", "No such file"), ("s" * 200, "too long")],
    ids=["folder", "name"],
)
def test_where_no_socket_can_be_there_is_none(name: str, words: str) -> None:
    with tempfile.TemporaryDirectory() as folder, DefaultSelector() as selector:
        with pytest.raises(OSError, match=words):
            Clients(Path(folder) / name, selector)
        assert len(selector.get_map()) == 0


# ---- the end --------------------------------------------------------------------------------


def test_the_last_answers_are_handed_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "LAST_SECONDS", 30)
    peers = [bench.connect(), bench.connect()]
    arrived = [bytearray(), bytearray()]
    for peer in peers:
        bench.clients.answer(bench.asks(peer), noise(LARGE))

    def read(peer: socket.socket, into: bytearray) -> None:
        peer.settimeout(30)
        while piece := peer.recv(1 << 16):
            into.extend(piece)

    readers = [
        threading.Thread(target=read, args=pair) for pair in zip(peers, arrived, strict=True)
    ]
    for reader in readers:
        reader.start()
    bench.clients.close()
    for reader in readers:
        reader.join()
    assert arrived == [written(noise(LARGE))] * 2


def test_who_does_not_read_its_last_answers_is_left(bench: Bench) -> None:
    """Nobody waits for it; the others' lanes end too, and nobody can connect any more."""
    lazy, other = bench.connect(), bench.connect()
    bench.clients.answer(bench.asks(lazy), noise(LARGE))
    bench.clients.close()
    assert other.recv(100) == b""
    with pytest.raises(ConnectionRefusedError):
        bench.connect()


def test_no_descriptor_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those who stay, leave, send garbage, do not read or are turned away."""
    monkeypatch.setattr(clients, "MAX_CLIENTS", 5)
    before = psutil.Process().num_fds()
    with serving() as bench:
        stay, leave, bad, lazy, gone = (bench.connect() for _ in range(5))
        bench.serves(stay)
        assert bench.connect().recv(100) == b""
        leave.close()
        bad.sendall(bytes(100))
        bench.clients.answer(bench.asks(lazy), noise(LARGE))
        gone.sendall(written(ping(1), ping(2)))
        [(_, client)] = bench.take().items()
        gone.close()
        bench.clients.answer(client, ping(1))
        assert bench.watched() == 3
    assert psutil.Process().num_fds() == before
