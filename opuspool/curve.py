"""CURVE keys for sockets on tcp: any user of a machine can connect to its loopback ports.

Two pairs of keys: the supervisor's, and one that every client and worker shares. Whoever can read
the key file may connect.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import zmq
from zmq.utils import z85

from opuspool import endpoint, privatefile, statedir
from opuspool.errors import ConfigError


@dataclass(frozen=True, slots=True, repr=False)
class CurveKeys:
    """Both pairs, in Z85 text (ZeroMQ RFC 32), 40 characters each."""

    server_public: str
    server_secret: str
    peer_public: str
    peer_secret: str

    @classmethod
    def generate(cls) -> CurveKeys:
        """Make new keys."""
        server, peer = zmq.curve_keypair(), zmq.curve_keypair()
        return cls(*[key.decode() for key in (*server, *peer)])

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Make a socket, not yet bound, ask its peers for keys."""
        socket.curve_server = True
        socket.curve_secretkey = self.server_secret.encode()
        socket.curve_publickey = self.server_public.encode()
        socket.zap_domain = b"opuspool"

    def join(self, socket: zmq.Socket[bytes]) -> None:
        """Give a socket, not yet connected, the peers' keys."""
        socket.curve_serverkey = self.server_public.encode()
        socket.curve_publickey = self.peer_public.encode()
        socket.curve_secretkey = self.peer_secret.encode()

    def for_peer(self) -> dict[str, str]:
        """What a peer needs, without the supervisor's secret."""
        return {**asdict(self), "server_secret": ""}


def key_file(endpoint_: str, configured: str) -> Path | None:
    """The key file for an endpoint; None where it needs none, or nobody has said which.

    Args:
        endpoint_: as `endpoint.resolve` takes it. For "auto" on tcp, as on Windows, there is a
            default in the user's state directory, which the user's clients find too.
        configured: `[supervisor] keys`.
    """
    if endpoint.ipc_path(endpoint.resolve(endpoint_)) is not None:
        return None
    if configured:
        return Path(configured)
    return statedir.default_keys() if endpoint_ == "auto" else None


def read(path: Path) -> CurveKeys:
    """Read a key file.

    Raises:
        ConfigError: it cannot be read, or is not a key file.
    """
    try:
        return CurveKeys(**json.loads(path.read_text()))
    except OSError as error:
        raise ConfigError(f"[supervisor] keys: cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError):
        raise ConfigError(f"[supervisor] keys: {path} is not an opuspool key file") from None


def read_or_create(path: Path) -> CurveKeys:
    """Read a key file; where there is none, make one that only this user can read.

    Raises:
        ConfigError: it can neither be read nor made.
    """
    with suppress(FileExistsError):
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = privatefile.create(path)
        except FileExistsError:
            raise
        except OSError as error:
            raise ConfigError(f"[supervisor] keys: cannot make {path}: {error.strerror}") from None
        with os.fdopen(fd, "w") as file:
            json.dump(asdict(CurveKeys.generate()), file, indent=1)
    return read(path)


class ZapGate:
    """Answers ZeroMQ's questions whether a peer's key is the right one (ZeroMQ RFC 27).

    Attributes:
        socket: to be polled with the others; call `answer` when it is readable.
        refused: peers turned away.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: CurveKeys) -> None:
        self.socket = context.socket(zmq.REP)
        self.socket.bind("inproc://zeromq.zap.01")
        self.refused = 0
        self._key = keys.peer_public.encode()

    def answer(self) -> None:
        """Answer one question."""
        version, request, _domain, _address, _identity, mechanism, *keys = (
            self.socket.recv_multipart()
        )
        good = mechanism == b"CURVE" and [z85.encode(key) for key in keys] == [self._key]
        self.refused += not good
        code, text = (b"200", b"OK") if good else (b"400", b"unknown key")
        self.socket.send_multipart([version, request, code, text, b"", b""])
