"""What a client makes of a connection that does not come about."""

from __future__ import annotations

import socket
from contextlib import closing
from functools import partial

import zmq
from waiting import wait_until

from opuspool.channel import HANDSHAKES, Address, Channel
from opuspool.curve import CurveKeys


def test_a_handshake_that_is_broken_off_is_no_refusal_at_first() -> None:
    """A supervisor that is too busy for it ends the connection; wrong keys end every one."""
    keys = CurveKeys.generate()
    with socket.create_server(("127.0.0.1", 0)) as server, zmq.Context() as context:
        server.settimeout(10)
        address = Address(f"tcp://127.0.0.1:{server.getsockname()[1]}", keys)
        with closing(Channel(context, address)) as channel:
            for number in range(1, HANDSHAKES + 1):
                server.accept()[0].close()
                wait_until(partial(channel.monitor.poll, 0), what="the client has noticed")
                refused, _ = channel.events()
                assert refused == (number == HANDSHAKES)
