"""What both pools share: settings, the supervisor, the connection, and their end."""

from __future__ import annotations

import itertools
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from opuspool import calls, curve, endpoint
from opuspool import config as configs
from opuspool.calls import Call
from opuspool.channel import Address
from opuspool.connection import Connection
from opuspool.embedded import PrivateSupervisor
from opuspool.errors import OpusPoolError, StreamClosedError, SupervisorLostError
from opuspool.wire import Flag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opuspool import files
    from opuspool.calls import Packet, Piece, StreamState
    from opuspool.config import Config
    from opuspool.connection import Waiter
    from opuspool.oggopus import Source
    from opuspool.streamformat import SampleType


MAX_SUCCESSORS = 10
"""Private supervisors that may die within `SUCCESSOR_SECONDS` before the pool gives up."""

SUCCESSOR_SECONDS = 60.0

CLOSE_SECONDS = 60.0
"""A stream's end that could not be sent for so long is forgotten."""


class Backend:
    """A supervisor and the connection to it: started, used, closed once.

    A private supervisor that dies has a successor, to which the connection hands all streams.

    Args:
        endpoint_: a daemon's address; None: start a private supervisor.
        config: all settings.
        waiter: told of complete calls.
    """

    def __init__(self, endpoint_: str | None, config: Config, waiter: Waiter) -> None:
        self._pid = os.getpid()
        self._config = config
        self._lock = threading.Lock()
        self._closed = False
        self._deaths: deque[float] = deque(maxlen=MAX_SUCCESSORS)
        self._supervisor: PrivateSupervisor | None = None
        self.connection: Connection | None = None
        if endpoint_ is None:
            self._supervisor = PrivateSupervisor(config, self._lost)
            address = self._supervisor.address
        else:
            address = _daemons(endpoint_, config)
        try:
            self.connection = Connection(address, waiter)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End both; does nothing in a forked child, whose parent still needs them."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            self._closed = True
            supervisor, self._supervisor = self._supervisor, None
        if self.connection is not None:
            self.connection.close()
        if supervisor is not None:
            supervisor.stop()

    def _lost(self, error: SupervisorLostError) -> None:
        """The private supervisor has died: start another. Runs on the dead one's own thread."""
        now = time.monotonic()
        self._deaths.append(now)
        often = len(self._deaths) == MAX_SUCCESSORS and now - self._deaths[0] < SUCCESSOR_SECONDS
        with self._lock:
            if self._closed or self.connection is None:
                return
            if often:
                self.connection.lose(SupervisorLostError(f"{error}, as {MAX_SUCCESSORS} before it"))
                return
            try:
                self._supervisor = PrivateSupervisor(self._config, self._lost)
            except OpusPoolError as failure:
                self._supervisor = None
                self.connection.lose(failure)
                return
            self.connection.move(self._supervisor.address)


def replace_worker(connection: Connection, slot: int, timeout: float, *, at_once: bool) -> None:
    """Ask for it; see `Pool.replace_worker`."""
    _wish(connection, "restart" if at_once else "recycle", slot, timeout)


def drain_slot(connection: Connection, slot: int, timeout: float) -> None:
    """Ask for it; see `Pool.drain_slot`."""
    _wish(connection, "drain", slot, timeout)


def _wish(connection: Connection, what: str, slot: int, timeout: float) -> None:
    """Ask for something to be done to a slot.

    Raises:
        ValueError: the supervisor says why not.
    """
    answer = connection.ask(what, timeout, slot=slot)
    if "error" in answer:
        raise ValueError(answer["error"])


def plan_file(
    source: Source, sample_rate: int, channels: int | None, dtype: SampleType
) -> files.Plan:
    """Read a whole file; see `files.Plan`, which is imported for the first one."""
    from opuspool import files

    return files.Plan(source, sample_rate, channels, dtype)


def _daemons(endpoint_: str, config: Config) -> Address:
    address = endpoint.resolve(endpoint_)
    keys = curve.key_file(endpoint_, config.supervisor.keys)
    return Address(address, curve.read(keys) if keys else None)


def settings(
    config: Config | str | os.PathLike[str] | None,
    workers: int | None,
    spares: int | None,
    libopus: str | os.PathLike[str] | None,
) -> Config:
    """Settings from a file (or as they are), with a pool's own arguments over them.

    Raises:
        ConfigError: a setting is wrong.
    """
    asked: dict[str, object] = {"count": workers, "spares": spares}
    if libopus is not None:
        asked["libopus"] = os.fspath(libopus)
    given = {key: value for key, value in asked.items() if value is not None}
    if isinstance(config, configs.Config):
        workers_config = msgspec.structs.replace(config.workers, **given)
        return msgspec.structs.replace(config, workers=workers_config)
    return configs.load(config, overrides={"workers": given})


class PoolBase:
    """The common part of `Pool` and `AsyncPool`."""

    def __init__(
        self,
        endpoint: str | None,
        workers: int | None,
        spares: int | None,
        libopus: str | os.PathLike[str] | None,
        config: Config | str | os.PathLike[str] | None,
    ) -> None:
        self._endpoint = endpoint
        self._config = settings(config, workers, spares, libopus)
        self._stream_ids = itertools.count(1)
        self._backend: Backend | None = None
        self._end: Callable[[], Any] | None = None

    def _open(self, waiter: Waiter) -> None:
        backend = Backend(self._endpoint, self._config, waiter)
        self._backend = backend
        # Also at interpreter exit, and when the pool is forgotten without close().
        self._end = weakref.finalize(self, backend.close)

    @property
    def usable(self) -> bool:
        """Whether it can decode: not closed, its supervisor not lost, no fork in between."""
        backend = self._backend
        return backend is not None and backend.connection is not None and backend.connection.usable

    def _shut(self) -> None:
        if self._end is not None:
            self._end()

    def _pieces(self, packets: Iterable[Packet]) -> list[Piece]:
        """What decodes packets, in requests' sizes."""
        return calls.packed_pieces(packets, self._config.requests.piece_packets)

    def _deadline(self, timeout: float | None) -> float:
        """The monotonic time at which a call with this timeout (seconds) must have ended."""
        if timeout is None:
            timeout = self._config.requests.timeout_seconds
        elif isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout must be seconds, not {type(timeout).__name__}")
        elif not timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
        return time.monotonic() + timeout


def check_open(stream: StreamState) -> None:
    """Refuse to use a closed stream.

    Raises:
        StreamClosedError: it is closed.
    """
    if stream.closed:
        raise StreamClosedError("the stream was closed: open another with pool.stream()")


def close_stream(connection: Connection, stream: StreamState) -> None:
    """Have the supervisor drop a stream, where it knows it; a second time does nothing."""
    if stream.closed:
        return
    stream.closed = True
    if stream.used and connection.usable:
        connection.submit(Call(stream, b"", 0, Flag.CLOSE, time.monotonic() + CLOSE_SECONDS))
