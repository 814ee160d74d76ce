"""`opuspool-supervise`: the daemon, in the foreground."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

import click

from opuspool import config as configs
from opuspool import curve, endpoint
from opuspool.errors import ConfigError
from opuspool.exitcodes import ExitCode
from opuspool.version import VERSION

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from opuspool.config import Config
    from opuspool.curve import CurveKeys
    from opuspool_supervisor.listen import Listener
    from opuspool_supervisor.log import Log
    from opuspool_supervisor.monitor import Monitor


_EPILOG = (
    "Exit codes: 0 stopped, 64 wrong configuration, 73 the endpoint is taken, 74 the address of "
    "[supervisor] http is."
)


@click.command(epilog=_EPILOG)
@click.option("--config", "path", metavar="FILE", help="Settings; without it, the defaults.")
@click.option("--check", is_flag=True, help="Check the settings, say what is wrong, and leave.")
@click.version_option(VERSION, prog_name="opuspool-supervise")
def main(path: str | None, *, check: bool) -> None:
    """Run a supervisor with its decoder workers, until SIGTERM or Ctrl-C.

    The first signal drains: nothing new is taken, what was accepted is finished. The second stops
    at once. SIGHUP reads the settings again; what is wrong changes nothing. Every setting can also
    be given as OPUSPOOL_<SECTION>_<KEY> in the environment.
    """
    try:
        config, address = _read(path)
    except ConfigError as error:
        sys.exit(_fail(ExitCode.USAGE, error))
    if check:
        click.echo(f"{path or 'the default settings'}: good; would listen on {address}")
        return
    from opuspool_supervisor import listen, web

    _hold_signals(hold=True)  # one that ended the process now would leave the sockets
    try:
        listener = listen.listen(address, _keys(config))
    except ConfigError as error:
        sys.exit(_fail(ExitCode.ENDPOINT, error))
    try:
        http = web.bind(config.supervisor.http) if config.supervisor.http else None
    except ConfigError as error:
        listener.close()
        sys.exit(_fail(ExitCode.HTTP, error))
    _serve(config, listener, http, lambda: _read(path)[0])


def _hold_signals(*, hold: bool) -> None:
    """Let signals that would end the process wait, or come."""
    if sys.platform != "win32":
        how = signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK
        signal.pthread_sigmask(how, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


def _read(path: str | None) -> tuple[Config, str]:
    """The settings, and where they say to listen.

    Raises:
        ConfigError: they are wrong.
    """
    config = configs.load(path)
    address = endpoint.resolve(config.supervisor.endpoint)
    _check_reach(address, config)
    return config, address


def _serve(
    config: Config,
    listener: Listener,
    http: socket.socket | None,
    reread: Callable[[], Config],
) -> None:
    from opuspool import pychild
    from opuspool_supervisor import console
    from opuspool_supervisor.log import Log
    from opuspool_supervisor.loop import Supervisor
    from opuspool_supervisor.web import WebServer

    logger = Log(config.supervisor.log_level)
    monitor = _monitor(listener.endpoint, logger)
    if http is not None:
        monitor.web = WebServer(http, monitor, config.health.canary_seconds)
        logger.info("http_started", address=monitor.web.address)
    supervisor = Supervisor(config, listener, logger, monitor=monitor, reread=reread)
    pychild.no_dialogs()
    supervisor.handle_signals(signal.SIGTERM, signal.SIGINT)
    if sys.platform == "win32":
        supervisor.handle_signals(signal.SIGBREAK)
    else:
        supervisor.handle_signals(signal.SIGHUP)
    _hold_signals(hold=False)
    with console.held(drain=True):
        supervisor.run()


def _monitor(endpoint_: str, logger: Log) -> Monitor:
    from opuspool_supervisor import lasting
    from opuspool_supervisor.monitor import Monitor
    from opuspool_supervisor.notify import Notifier

    try:
        path = lasting.path_for(endpoint_)
    except FileNotFoundError as error:
        path = None
        logger.warning("counters_not_kept", why=str(error))
    return Monitor(lasting.LastingCounters(path, logger), Notifier())


def _keys(config: Config) -> CurveKeys | None:
    path = curve.key_file(config.supervisor.endpoint, config.supervisor.keys)
    return curve.read_or_create(path) if path else None


def _check_reach(address: str, config: Config) -> None:
    """Refuse a tcp endpoint without keys: any user of the machine could connect to it."""
    needed = endpoint.ipc_path(address) is None
    if needed and curve.key_file(config.supervisor.endpoint, config.supervisor.keys) is None:
        raise ConfigError(
            f"{address} needs CURVE keys: set [supervisor] keys to the path of a key file; it is "
            "made at the first start, and clients need it too"
        )


def _fail(code: ExitCode, error: Exception) -> int:
    click.echo(f"opuspool-supervise: {error}", err=True)
    return code
