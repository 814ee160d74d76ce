"""A running daemon; that none listens is told at once: ZeroMQ itself would wait for it."""

from __future__ import annotations

import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opuspool.errors import SupervisorLostError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opuspool.pool import Pool

__all__ = ["check_reachable", "daemon"]

_SECONDS = 2.0


@contextmanager
def daemon(endpoint: str | None, config: str | None) -> Iterator[Pool]:
    """A pool of the daemon at an endpoint, by default at the one that the settings name.

    Raises:
        ConfigError: the settings or the address are wrong.
        SupervisorLostError: nothing listens there.
    """
    from opuspool import config as configs
    from opuspool.pool import Pool

    settings = configs.load(config)
    address = endpoint or settings.supervisor.endpoint
    check_reachable(address)
    with Pool(address, config=settings) as pool:
        yield pool


def check_reachable(endpoint_: str) -> None:
    """Refuse an endpoint where no process listens.

    Raises:
        ConfigError: the address cannot work.
        SupervisorLostError: nothing listens there.
    """
    from opuspool import endpoint

    address = endpoint.resolve(endpoint_)
    path = endpoint.ipc_path(address)
    try:
        if path is not None and sys.platform != "win32":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(_SECONDS)
                probe.connect(str(path))
        else:
            host, _, port = address.removeprefix("tcp://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), _SECONDS).close()
    except OSError as error:
        raise SupervisorLostError(
            f"no supervisor answers at {address} ({error.strerror or error}); start one with "
            "`opuspool-supervise`, or check --endpoint"
        ) from None
