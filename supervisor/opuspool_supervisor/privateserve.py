"""What a private supervisor does once its first worker is on its way: serves its client.

It reads one line of JSON from standard input: {"config", "directory"}. It answers
with one line on standard output: {"endpoint", "keys"}, or {"error"}. It leaves when standard input
ends or the client's process is gone.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opuspool import config as configs
from opuspool.curve import CurveKeys
from opuspool.errors import ConfigError
from opuspool.exitcodes import ExitCode
from opuspool.parent import ParentWatch
from opuspool.rundir import private_files, sweep_private
from opuspool_supervisor import console, listen
from opuspool_supervisor.log import Log
from opuspool_supervisor.loop import Supervisor

if TYPE_CHECKING:
    from opuspool_supervisor.launch import Launcher


def serve(launcher: Launcher) -> int:
    """Serve until the client is gone or wants no more; returns the exit code."""
    watch = ParentWatch()
    line = sys.stdin.buffer.readline()
    if not line:
        launcher.close()
        return ExitCode.OK
    settings = json.loads(line)
    config = configs.from_json(json.dumps(settings["config"]).encode())
    directory = settings["directory"]
    address = _address(Path(directory)) if directory else "tcp://127.0.0.1:*"
    keys = None if directory else CurveKeys.generate()
    try:
        listener = listen.listen(address, keys, own_directory=True)
    except ConfigError as error:
        launcher.close()
        _say({"error": str(error)})
        return ExitCode.ENDPOINT
    _say({"endpoint": listener.endpoint, "keys": asdict(keys) if keys else None})
    logger = Log(config.supervisor.embedded_log_level)
    supervisor = Supervisor(config, listener, logger, parent=watch, launcher=launcher)
    supervisor.handle_signals(signal.SIGTERM)
    with console.held(drain=False):
        supervisor.run()
    return ExitCode.OK


def _address(directory: Path) -> str:
    """Where to listen; whatever dead ones have left beside it is cleared away first."""
    sweep_private(directory.parent)
    return f"ipc://{private_files(directory).socket}"


def _say(value: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()
