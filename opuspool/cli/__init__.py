"""The command `opuspool`: one file for each subcommand; heavy imports are inside the functions."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

import click

from opuspool.cli import messages
from opuspool.cli.bench import bench
from opuspool.cli.crashes import crashes
from opuspool.cli.decode import decode
from opuspool.cli.doctor import doctor
from opuspool.cli.status import status
from opuspool.cli.top import top
from opuspool.cli.workers import drain, recycle, restart
from opuspool.errors import OpusPoolError

__all__ = ["main"]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell gives it: 128 and the number of SIGINT."""


class _Commands(click.Group):
    """Ends with the exit code that a subcommand returns, and never with a traceback."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        extra["standalone_mode"] = False
        code = _guarded(lambda: super(_Commands, self).main(*args, **extra))
        sys.exit(code)


def _guarded(run: Any) -> int:
    """Run a command; returns its exit code."""
    try:
        code = int(run() or 0)
        if sys.stdout is not None:  # closed by whoever started us
            sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        messages.complain("interrupted")
        _forget_interrupt()
        return INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return 1
    except (OpusPoolError, OSError) as error:
        messages.complain(messages.describe(error))
        if isinstance(error, OSError):
            _forget_stdout()  # a full disk fails the flush at exit too
        return 1
    return code


def _forget_interrupt() -> None:
    """Let `python -m` end with our exit code, not by SIGINT.

    Where Ctrl-C strikes while a string is executed, as imports do for named tuples, CPython holds
    that nobody has handled it, though we have, until it executes another one (pythonrun.c).
    """
    exec("")  # noqa: S102  it does nothing else


def _forget_stdout() -> None:
    """Whoever read our output has left; the interpreter would complain when it flushes at exit."""
    with suppress(OSError, ValueError, AttributeError):  # closed, or None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_EPILOG = """Exit codes: 0 done, 1 something failed, 2 wrong arguments, 130 interrupted. `opuspool
status` and `opuspool crashes replay` have their own; see their --help.

\b
Examples:
  opuspool decode speech.opus -o speech.wav
  opuspool doctor
  opuspool status --json
  opuspool crashes
"""


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EPILOG,
)
@click.version_option(package_name="opuspool", prog_name="opuspool")
def main() -> None:
    """Decode Opus in processes of their own, so that no packet can take the service down."""


for command in (decode, status, top, restart, recycle, drain, doctor, crashes, bench):
    main.add_command(command)
