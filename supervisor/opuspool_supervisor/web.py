"""HTTP: metrics, probes, the status as JSON and as a page; on threads of their own.

waitress reads requests and sends answers without blocking, so that no slow peer holds a thread;
threads and connections are bounded. Nothing here is shared with the loop but a reference that it
swaps (`Monitor.snapshot`).
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import select
import socket
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any

from prometheus_client.exposition import choose_encoder
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.server import TcpWSGIServer

from opuspool.errors import ConfigError
from opuspool_supervisor import metrics, probes

if TYPE_CHECKING:
    from collections.abc import Callable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from opuspool_supervisor.monitor import Monitor

THREADS = 2
CONNECTIONS = 64
IDLE_SECONDS = 4
CONNECTION_SECONDS = 8
"""A connection that has been open for longer is cut, unless its answer is being made."""

CLEANUP_SECONDS = 2
CLOSE_SECONDS = 2.0
"""At the end, the thread has this long to close its sockets."""

HEADERS = [
    (
        "Content-Security-Policy",
        (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a path answers."""

    status: HTTPStatus
    content_type: str
    body: bytes


class WebServer:
    """Serves one monitor's snapshots.

    Args:
        bound: the listening socket; see `bind`.
        monitor: where the snapshots are.
        canary_seconds: `[health] canary_seconds`.
    """

    def __init__(self, bound: socket.socket, monitor: Monitor, canary_seconds: float) -> None:
        for name in ("waitress", "waitress.queue"):  # its warnings are about its own queue
            logging.getLogger(name).setLevel(logging.ERROR)
        self.address = _name(bound)
        self._monitor = monitor
        self._canary_seconds = canary_seconds
        self._private = ipaddress.ip_address(bound.getsockname()[0]).is_loopback
        self._registry = metrics.registry(lambda: monitor.snapshot, time.monotonic)
        self._files = {path: _file(*what) for path, what in PAGE.items()}
        self._routes: dict[str, Callable[[WSGIEnvironment], Reply]] = {
            "/metrics": self._metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/api/status": self._status,
        }
        self._map: dict[int, Any] = {}
        where = (bound.family, bound.type, bound.proto, bound.getsockname())
        self._server: Any = _Server(
            self._answer,
            map=self._map,
            _sock=bound,
            bind_socket=False,
            sockinfo=where,
            adj=_adjustments(),
        )
        self._thread = threading.Thread(target=self._server.run, daemon=True, name="http")
        self._thread.start()

    def close(self) -> None:
        """Close the port and all connections."""
        self._server.trigger.pull_trigger(self._close_all)
        self._thread.join(CLOSE_SECONDS)
        self._server.task_dispatcher.shutdown(timeout=CLOSE_SECONDS)

    def _close_all(self) -> None:
        wasyncore.close_all(self._map, ignore_all=True)

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        reply = self._reply(environ)
        headers = [
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(reply.body))),
            *HEADERS,
        ]
        start_response(f"{reply.status.value} {reply.status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [reply.body]

    def _reply(self, environ: WSGIEnvironment) -> Reply:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
        if self._private and not _is_local(environ.get("HTTP_HOST", "")):
            return _text(HTTPStatus.MISDIRECTED_REQUEST, "ask for it by a loopback address")
        path = environ.get("PATH_INFO", "")
        if path in self._files:
            return self._files[path]
        route = self._routes.get(path)
        if route is None:
            return _text(HTTPStatus.NOT_FOUND, f"there is {', '.join([*self._routes, '/'])}")
        return route(environ)

    def _metrics(self, environ: WSGIEnvironment) -> Reply:
        encode, content_type = choose_encoder(environ.get("HTTP_ACCEPT", ""))
        return Reply(HTTPStatus.OK, content_type, encode(self._registry))

    def _livez(self, _environ: WSGIEnvironment) -> Reply:
        return _probe(probes.live(self._monitor.snapshot, time.monotonic()))

    def _readyz(self, _environ: WSGIEnvironment) -> Reply:
        now = time.monotonic()
        return _probe(probes.ready(self._monitor.snapshot, self._canary_seconds, now))

    def _status(self, _environ: WSGIEnvironment) -> Reply:
        snapshot = self._monitor.snapshot
        if snapshot is None:
            return _json(HTTPStatus.SERVICE_UNAVAILABLE, {"error": "the daemon is starting"})
        age = time.monotonic() - snapshot.at
        return _json(HTTPStatus.OK, {**snapshot.report, "age_seconds": age})


class _Server(TcpWSGIServer):
    """waitress's, with a limit on a connection's whole life: a byte now and then is no request."""

    active_channels: Any  # typeshed takes the dict for one of its values

    def maintenance(self, now: int) -> None:
        """Close what is idle or old; waitress calls it now and then."""
        super().maintenance(now)
        for channel in self.active_channels.values():
            if not channel.requests and now - channel.creation_time > CONNECTION_SECONDS:
                channel.will_close = True


def _adjustments() -> Adjustments:
    return Adjustments(
        threads=THREADS,
        connection_limit=CONNECTIONS,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=CLEANUP_SECONDS,
        asyncore_use_poll=hasattr(select, "poll"),  # select() ends at 1024 descriptors
        max_request_body_size=1024,
        max_request_header_size=16 * 1024,
        ident=None,
    )


def bind(address: str) -> socket.socket:
    """Listen at host:port.

    Raises:
        ConfigError: it cannot be had; says why and what to do.
    """
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        return socket.create_server(found[0][4][:2], family=found[0][0])
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        why = os.strerror(number) if isinstance(number, int) and number > 0 else error
        raise ConfigError(
            f"cannot listen on {address}: {why}; set [supervisor] http (or "
            'OPUSPOOL_SUPERVISOR_HTTP) to another host:port, or to "" for none'
        ) from None


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine: a foreign name's DNS may point here."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _name(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _file(name: str, content_type: str) -> Reply:
    body = resources.files("opuspool_supervisor").joinpath("page", name).read_bytes()
    return Reply(HTTPStatus.OK, content_type, body)


def _probe(failing: dict[str, str]) -> Reply:
    status = HTTPStatus.SERVICE_UNAVAILABLE if failing else HTTPStatus.OK
    return _json(status, probes.explained(failing))


def _json(status: HTTPStatus, value: dict[str, Any]) -> Reply:
    return Reply(status, "application/json", json.dumps(value).encode() + b"\n")


def _text(status: HTTPStatus, words: str) -> Reply:
    return Reply(status, "text/plain; charset=utf-8", words.encode() + b"\n")
