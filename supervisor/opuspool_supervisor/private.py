"""A client's own supervisor: `python -m opuspool_supervisor.private`, ended with its client.

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
from typing import Any

from opuspool import pychild
from opuspool.exitcodes import ExitCode
from opuspool.parent import ParentWatch
from opuspool.rundir import private_files, sweep_private
from opuspool_supervisor.launch import Launcher


def main() -> int:
    """Serve the client that started this process; returns the exit code."""
    pychild.no_dialogs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the client's to handle
    if sys.platform == "win32":
        signal.signal(signal.SIGBREAK, signal.SIG_IGN)
    watch = ParentWatch()
    line = sys.stdin.buffer.readline()
    if not line:
        return ExitCode.OK
    launcher = Launcher()
    launcher.start_ahead()
    return _serve(json.loads(line), watch, launcher)


def _serve(settings: dict[str, Any], watch: ParentWatch, launcher: Launcher) -> int:
    # Imported while the first worker starts: the imports are most of this process's own start.
    from opuspool import config as configs
    from opuspool.curve import CurveKeys
    from opuspool.errors import ConfigError
    from opuspool_supervisor import console, listen
    from opuspool_supervisor.log import Log
    from opuspool_supervisor.loop import Supervisor

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


if __name__ == "__main__":
    sys.exit(main())
