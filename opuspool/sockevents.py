"""What ZeroMQ tells of a socket's connections, on its monitor socket.

pyzmq's own `zmq.utils.monitor` does the same, and imports asyncio: a tenth of a process's start.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import zmq

_HEAD = struct.Struct("=Hi")
"""zmq_socket_monitor(3): the first frame is 16 bits of event and 32 bits of value."""


def events(monitor: zmq.Socket[bytes]) -> Iterator[int]:
    """The events (`zmq.EVENT_...`) that have happened since the last look; never waits."""
    while monitor.poll(0):
        head, _address = monitor.recv_multipart()
        yield int(_HEAD.unpack(head)[0])
