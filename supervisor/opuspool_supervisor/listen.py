"""The supervisor's two sockets: clients in front, workers at the back; who may connect."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from opuspool import curve, endpoint, wire
from opuspool.errors import ConfigError
from opuspool.rundir import RunFiles

if sys.platform == "linux":
    import resource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opuspool.curve import CurveKeys

HANDSHAKE_MS = 5000
"""A peer that does not finish ZeroMQ's handshake in this time is dropped."""

UNREAD_MESSAGES = 32
"""Of what a client does not read, ZeroMQ holds so many messages; the outbox holds the rest."""

RESERVED_DESCRIPTORS = 32
"""With fewer left no new client is taken: libzmq aborts where accept() on ipc finds none."""


@dataclass(slots=True)
class Listener:
    """The bound sockets.

    Attributes:
        endpoint: where clients connect, as ZeroMQ writes it.
        back_endpoint: where workers connect.
        gate: asks peers on tcp for their keys; None on ipc, where the directory decides.
    """

    context: zmq.Context[zmq.Socket[bytes]]
    front: zmq.Socket[bytes]
    back: zmq.Socket[bytes]
    endpoint: str
    back_endpoint: str
    files: RunFiles | None
    keys: CurveKeys | None
    gate: curve.ZapGate | None
    _lock: int | None = None
    _hidden: bool = False

    def keep_room(self) -> bool:
        """Take new clients only while there are descriptors for them; True where that changed.

        A client that is connected goes on; a new one finds no socket, and tries again.
        """
        if self.files is None or sys.platform != "linux":
            return False
        short = _descriptors_left() < RESERVED_DESCRIPTORS
        if short == self._hidden:
            return False
        old, new = self.files.socket, self.files.hidden
        try:
            old.rename(new) if short else new.rename(old)
        except OSError:  # somebody has removed it
            return False
        self._hidden = short
        return True

    @property
    def takes_clients(self) -> bool:
        """Whether new clients find the socket."""
        return not self._hidden

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
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
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
    front = _socket(context, used)
    front.setsockopt(zmq.SNDHWM, UNREAD_MESSAGES)
    back = _socket(context, used)
    with _private_files():
        for socket, where in ((front, address), (back, back_address)):
            try:
                socket.bind(where)
            except zmq.ZMQError as error:
                raise ConfigError(f"cannot listen on {where}: {error.strerror}") from None
    return Listener(context, front, back, _bound(front), _bound(back), files, used, gate, lock)


def _prepare(files: RunFiles | None) -> int | None:
    if files is None:
        return None
    try:
        return files.prepare()
    except OSError as error:
        raise ConfigError(f"cannot use {files.socket.parent}: {error.strerror}") from None


def _socket(context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys | None) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_DATA_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    if keys is not None:
        keys.serve(socket)
    elif sys.platform == "linux":
        socket.setsockopt(zmq.IPC_FILTER_UID, os.getuid())
    return socket


def _raise_descriptor_limit() -> None:
    """Every client costs one: use what the system allows."""
    if sys.platform == "linux":
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _descriptors_left() -> int:
    if sys.platform == "linux":
        with suppress(OSError):  # there is not even one for this look
            used = sum(1 for _ in Path("/proc/self/fd").iterdir())
            return resource.getrlimit(resource.RLIMIT_NOFILE)[0] - used
    return 0


def _bound(socket: zmq.Socket[bytes]) -> str:
    name = socket.getsockopt(zmq.LAST_ENDPOINT)
    return name.rstrip(b"\0").decode() if isinstance(name, bytes) else str(name)


@contextmanager
def _private_files() -> Iterator[None]:
    """Sockets made meanwhile can be used by this user only."""
    old = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(old)
