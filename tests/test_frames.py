"""A port: whole messages through a ZeroMQ socket, never waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import zmq

from opuspool.frames import Port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_MS = 5000


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """A ROUTER and a DEALER that is connected to it."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.bind(f"ipc://{tmp_path}/port")
        with context.socket(zmq.DEALER) as dealer:
            dealer.setsockopt(zmq.IDENTITY, b"D")
            dealer.connect(f"ipc://{tmp_path}/port")
            yield router, dealer


def test_messages_come_whole_and_in_order(
    pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    router, dealer = pair
    sent = [[b"one"], [b"", b""], [b"head", b"x" * 100_000], [b"a", b"b", b"c", b"d"]]
    for message in sent:
        Port(dealer).send(message)
    port = Port(router)
    for message in sent:
        assert router.poll(WAIT_MS)
        assert port.waits()
        assert port.take() == [b"D", *message]
    assert not port.waits()


def test_what_is_taken_are_bytes_of_their_own(
    pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    router, dealer = pair
    data = bytearray(b"before")
    Port(dealer).send([data])
    assert router.poll(WAIT_MS)
    data[:] = b"after!"
    taken = Port(router).take()
    assert taken == [b"D", b"before"]
    assert [type(frame) for frame in taken] == [bytes, bytes]


def test_a_port_without_a_message_does_not_wait(
    pair: tuple[zmq.Socket[bytes], zmq.Socket[bytes]],
) -> None:
    port = Port(pair[0])
    assert not port.waits()
    with pytest.raises(zmq.Again):
        port.take()


def test_a_port_whose_peer_takes_nothing_says_so(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as lonely:
        lonely.setsockopt(zmq.LINGER, 0)
        lonely.bind(f"ipc://{tmp_path}/lonely")  # nobody connects
        with pytest.raises(zmq.Again):
            Port(lonely).send([b"one", b"two"])


def test_a_closed_socket_is_told(tmp_path: Path) -> None:
    with zmq.Context() as context:
        socket = context.socket(zmq.DEALER)
        port = Port(socket)
        socket.close()
        with pytest.raises(zmq.ZMQError):
            port.waits()
        with pytest.raises(zmq.ZMQError):
            port.take()
