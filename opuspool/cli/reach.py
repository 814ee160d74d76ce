"""Whether anything listens at an endpoint, told at once: ZeroMQ itself would wait for it."""

from __future__ import annotations

import socket

from opuspool.errors import SupervisorLostError

__all__ = ["check_reachable"]

_SECONDS = 2.0


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
        if path is not None:
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
