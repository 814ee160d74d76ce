"""The supervisor's two sockets: clients in front, workers at the back; who may connect."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import zmq

from opuspool import curve, endpoint
from opuspool.errors import ConfigError
from opuspool.rundir import RunFiles
from opuspool_supervisor import router
from opuspool_supervisor.door import BACKLOG, Door, bound

if sys.platform == "linux":
    import resource

if TYPE_CHECKING:
    from opuspool.curve import CurveKeys

UNREAD_MESSAGES = 32
"""Of what a client does not read, ZeroMQ holds so many messages; the outbox holds the rest."""


class IoThread(IntEnum):
    """ZeroMQ's threads, as bits of `ZMQ_AFFINITY`: neither side waits for the other's messages."""

    FRONT = 1
    BACK = 2


@dataclass(slots=True)
class Listener:
    """The bound sockets.

    Attributes:
        door: where clients connect; its socket may be replaced.
        back_endpoint: where workers connect.
        gate: asks peers on tcp for their keys; None on ipc, where the directory decides.
    """

    context: zmq.Context[zmq.Socket[bytes]]
    door: Door
    back: zmq.Socket[bytes]
    back_endpoint: str
    files: RunFiles | None
    keys: CurveKeys | None
    gate: curve.ZapGate | None
    _lock: int | None = None

    @property
    def endpoint(self) -> str:
        """Where clients connect, as ZeroMQ writes it."""
        return self.door.endpoint

    @property
    def front(self) -> zmq.Socket[bytes]:
        """The clients' socket, as it is now."""
        return self.door.socket

    def lane(self, serial: int) -> str:
        """The socket of the worker with this number, for clients' lanes; empty: none, on tcp."""
        path = self.files.lane(serial) if self.files else None
        return str(path) if path and endpoint.fits(path) else ""

    def forget_lane(self, serial: int) -> None:
        """A worker is gone: remove what it leaves."""
        if self.files is not None:
            self.files.lane(serial).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the sockets and remove their files."""
        self.context.destroy(linger=200)  # ms, for the last answers
        if self.files is not None:
            self.files.remove()
        if self._lock is not None:
            os.close(self._lock)


def listen(address: str, keys: CurveKeys | None, *, own_directory: bool = False) -> Listener:
    """Bind both sockets.

    Raises:
        ConfigError: the endpoint cannot be had; says why.
    """
    _raise_descriptor_limit()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=len(IoThread))
    try:
        return _listen(context, address, keys, own_directory=own_directory)
    except BaseException:
        context.destroy(linger=0)
        raise


def _listen(
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    keys: CurveKeys | None,
    *,
    own_directory: bool,
) -> Listener:
    path = endpoint.ipc_path(address)
    files = RunFiles(path, own_directory or not path.parent.exists()) if path else None
    back_address = f"ipc://{files.back}" if files else "tcp://127.0.0.1:*"
    if files is None and keys is None:
        raise ConfigError(f"{address}: tcp needs keys; set [supervisor] keys to a key file's path")
    lock = _prepare(files)
    used = keys if files is None else None
    gate = curve.ZapGate(context, used) if used else None
    back = _bind(_socket(context, used, IoThread.BACK), back_address)

    def open_front(where: str) -> zmq.Socket[bytes]:
        front = _socket(context, used, IoThread.FRONT)
        front.setsockopt(zmq.SNDHWM, UNREAD_MESSAGES)
        front.setsockopt(zmq.BACKLOG, BACKLOG)
        return _bind(front, where)

    door = Door(open_front, address, files)
    return Listener(context, door, back, bound(back), files, used, gate, lock)


def _bind(socket: zmq.Socket[bytes], address: str) -> zmq.Socket[bytes]:
    try:
        router.bind(socket, address)
    except zmq.ZMQError as error:
        raise ConfigError(f"cannot listen on {address}: {error.strerror}") from None
    return socket


def _prepare(files: RunFiles | None) -> int | None:
    if files is None:
        return None
    try:
        return files.prepare()
    except OSError as error:
        raise ConfigError(f"cannot use {files.socket.parent}: {error.strerror}") from None


def _socket(
    context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys | None, io_thread: IoThread
) -> zmq.Socket[bytes]:
    socket = router.make(context, keys)
    socket.setsockopt(zmq.AFFINITY, io_thread)
    return socket


def _raise_descriptor_limit() -> None:
    """Every client costs one: use what the system allows."""
    if sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
