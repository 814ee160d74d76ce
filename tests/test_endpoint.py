"""Endpoints: what "auto" stands for, and which addresses are refused, with what advice."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from opuspool import endpoint
from opuspool.errors import ConfigError

SetIpc = Callable[[bool], None]


@pytest.fixture
def has_ipc(monkeypatch: pytest.MonkeyPatch) -> SetIpc:
    """Sets whether ZeroMQ seems to have ipc, as on Windows it has not."""

    def set_it(answer: bool) -> None:
        monkeypatch.setattr("zmq.has", lambda name: answer and name == "ipc")

    set_it(True)
    return set_it


def long_ipc(size: int) -> str:
    return "ipc:///" + "x" * (size - 1)


# "auto"


def test_auto_is_in_the_runtime_directory(
    has_ipc: SetIpc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert endpoint.resolve("auto") == f"ipc://{tmp_path}/opuspool/pool.sock"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("runtime", [None, "", "/none/such", "relative", __file__])
def test_auto_is_in_the_temporary_directory_where_there_is_no_runtime_directory(
    has_ipc: SetIpc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: str | None
) -> None:
    (tmp_path / "relative").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", "/short")
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert endpoint.resolve("auto") == f"ipc:///short/opuspool-{os.getuid()}/pool.sock"


def test_auto_passes_over_a_runtime_directory_of_another_user(
    has_ipc: SetIpc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/short")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert endpoint.resolve("auto").startswith("ipc:///short/")


def test_auto_is_loopback_tcp_where_there_is_no_ipc(has_ipc: SetIpc) -> None:
    has_ipc(False)
    assert endpoint.resolve("auto") == "tcp://127.0.0.1:9463"


def test_auto_in_too_long_a_temporary_directory_is_refused(
    has_ipc: SetIpc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 100)
    with pytest.raises(ConfigError, match=r"at most 107; set \[supervisor\] endpoint to a shorter"):
        endpoint.resolve("auto")


# Given addresses


@pytest.mark.parametrize(
    "address",
    [
        "ipc:///run/opuspool/pool.sock",
        "ipc:///a path/ü.sock",
        long_ipc(107),
        "tcp://127.0.0.1:9463",
        "tcp://localhost:1",
        "tcp://[::1]:65535",
        "tcp://decoder.example:9463",
    ],
)
def test_a_good_address_stands_for_itself(has_ipc: SetIpc, address: str) -> None:
    assert endpoint.resolve(address) == address


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("", "unknown transport"),
        ("/run/pool.sock", "unknown transport"),
        ("tcp:127.0.0.1:9463", "unknown transport"),
        ("inproc://pool", "unknown transport"),
        ("udp://127.0.0.1:9463", "unknown transport"),
        ("TCP://127.0.0.1:9463", "unknown transport"),
        ("auto", "unknown transport"),
        (long_ipc(108), "its path has 108 bytes, a socket's at most 107"),
        ("ipc:///" + "ü" * 54, "its path has 109 bytes, a socket's at most 107"),
        ("ipc://", "needs the full path of a socket"),
        ("ipc://run/pool.sock", "needs the full path of a socket"),
        ("ipc:///run/opuspool/", "needs the full path of a socket"),
        ("ipc://@abstract", "needs the full path of a socket"),
        ("ipc://*", "needs the full path of a socket"),
        ("tcp://", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://127.0.0.1", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://127.0.0.1:", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://127.0.0.1:http", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://127.0.0.1:65536", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://127.0.0.1:" + "9" * 9999, "tcp needs a host and a port from 1 to 65535"),
        ("tcp://127.0.0.1:-1", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://127.0.0.1:٣", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://:9463", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://::1:9463", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://[]:9463", "tcp needs a host and a port from 1 to 65535"),
        ("tcp:// :9463", "tcp needs a host and a port from 1 to 65535"),
        ("tcp://*:9463", "clients cannot connect to a wildcard"),
        ("tcp://0.0.0.0:9463", "clients cannot connect to a wildcard"),
        ("tcp://[::]:9463", "clients cannot connect to a wildcard"),
        ("tcp://127.0.0.1:*", "clients cannot connect to a wildcard"),
        ("tcp://127.0.0.1:0", "clients cannot connect to a wildcard"),
    ],
)
def test_a_bad_address_is_refused_with_its_reason(has_ipc: SetIpc, address: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        endpoint.check(address)
    assert str(raised.value).startswith(f'endpoint "{address}": ')
    assert told in str(raised.value)


def test_ipc_is_refused_where_there_is_none(has_ipc: SetIpc) -> None:
    has_ipc(False)
    with pytest.raises(ConfigError, match=r"no ipc on this system; use tcp://127\.0\.0\.1:9463"):
        endpoint.check("ipc:///run/opuspool/pool.sock")


@pytest.mark.parametrize(
    ("address", "loopback", "path"),
    [
        ("ipc:///run/opuspool/pool.sock", True, Path("/run/opuspool/pool.sock")),
        ("tcp://127.0.0.1:9463", True, None),
        ("tcp://127.8.8.8:9463", True, None),
        ("tcp://[::1]:9463", True, None),
        ("tcp://localhost:9463", True, None),
        ("tcp://192.168.1.2:9463", False, None),
        ("tcp://[2001:db8::1]:9463", False, None),
        ("tcp://localhost.example:9463", False, None),
        ("tcp://127.0.0.1.example:9463", False, None),
    ],
)
def test_where_an_address_can_be_reached(address: str, loopback: bool, path: Path | None) -> None:
    assert endpoint.is_loopback(address) is loopback
    assert endpoint.ipc_path(address) == path
