"""Endpoints: where the supervisor listens and clients connect, `ipc://path` or `tcp://host:port`."""

from __future__ import annotations

import ipaddress
import os
import sys
from pathlib import Path

from opuspool import rundir
from opuspool.errors import ConfigError

__all__ = ["check", "fits", "has_ipc", "ipc_path", "is_loopback", "resolve"]

_AUTO_TCP = "tcp://127.0.0.1:9463"
_IPC_BYTES = 107  # sockaddr_un holds 108 with the final zero
_WILDCARDS = ("*", "0.0.0.0", "[::]")  # noqa: S104 - refused, not bound


def resolve(endpoint: str) -> str:
    """The checked address that `[supervisor] endpoint` stands for.

    Args:
        endpoint: an address, or `"auto"`: `pool.sock` in the folder `opuspool` of the user's
            runtime directory, else in `opuspool-<uid>` of the temporary one; loopback tcp where
            ZeroMQ has no ipc. The folders are not created here.

    Raises:
        ConfigError: the address cannot work, see `check`.
    """
    address = _automatic() if endpoint == "auto" else endpoint
    check(address)
    return address


def check(endpoint: str) -> None:
    """Refuse an address that cannot work, or not for both supervisor and client.

    Raises:
        ConfigError: an unknown transport; an ipc path that is relative, abstract or longer than
            107 bytes, or ipc where ZeroMQ has none; tcp without host or port, or with a wildcard.
    """
    transport, separator, address = endpoint.partition("://")
    if separator and transport == "ipc":
        _check_ipc(endpoint, address)
    elif separator and transport == "tcp":
        _check_tcp(endpoint, address)
    else:
        raise ConfigError(
            f'endpoint "{endpoint}": unknown transport; use ipc:///path/to/pool.sock, '
            'tcp://127.0.0.1:9463 or "auto"'
        )


def is_loopback(endpoint: str) -> bool:
    """Whether only this machine can reach a checked address: all ipc, and tcp on loopback."""
    transport, _, address = endpoint.partition("://")
    if transport == "ipc":
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def ipc_path(endpoint: str) -> Path | None:
    """The socket's path of an ipc address; None for other transports."""
    transport, _, address = endpoint.partition("://")
    return Path(address) if transport == "ipc" else None


def fits(path: Path) -> bool:
    """Whether a socket may have this path."""
    return len(os.fsencode(path)) <= _IPC_BYTES


def _automatic() -> str:
    if not has_ipc():
        return _AUTO_TCP
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # After `su` it may still name another user's, where nothing can be written.
    if Path(runtime).is_absolute() and Path(runtime).is_dir() and os.access(runtime, os.W_OK):
        return f"ipc://{runtime}/opuspool/pool.sock"
    import tempfile

    return f"ipc://{tempfile.gettempdir()}/opuspool-{rundir.user_id()}/pool.sock"


def has_ipc() -> bool:
    """Whether ZeroMQ has ipc, and the system what `rundir` needs for it."""
    import zmq

    return sys.platform != "win32" and bool(zmq.has("ipc"))


def _check_ipc(endpoint: str, path: str) -> None:
    size = len(os.fsencode(path))
    if size > _IPC_BYTES:
        raise ConfigError(
            f'endpoint "{endpoint}": its path has {size} bytes, a socket\'s at most {_IPC_BYTES}; '
            "set [supervisor] endpoint to a shorter one"
        )
    # Abstract names (@) have no owner and mode, so anyone could connect.
    if not path.startswith("/") or path.endswith("/"):
        raise ConfigError(
            f'endpoint "{endpoint}": needs the full path of a socket, as ipc:///run/opuspool/pool.sock'
        )
    if not has_ipc():
        raise ConfigError(
            f'endpoint "{endpoint}": ZeroMQ has no ipc on this system; use {_AUTO_TCP}'
        )


def _check_tcp(endpoint: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    if host in _WILDCARDS or port in ("*", "0"):
        raise ConfigError(
            f'endpoint "{endpoint}": clients cannot connect to a wildcard; name one address and '
            f"port, as {_AUTO_TCP}"
        )
    if not _is_host(host) or not _is_port(port):
        raise ConfigError(
            f'endpoint "{endpoint}": tcp needs a host and a port from 1 to 65535, as {_AUTO_TCP}'
        )


def _is_host(host: str) -> bool:
    """A name, an IPv4 address, or an IPv6 address in brackets."""
    bracketed = host.startswith("[") and host.endswith("]")
    return bool(host.strip("[]")) and (bracketed or ":" not in host) and host == host.strip()


def _is_port(port: str) -> bool:
    return port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535
