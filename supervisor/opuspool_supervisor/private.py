"""A client's own supervisor: `python -m opuspool_supervisor.private`, ended with its client.

It starts its first worker before it imports what it needs itself (privateserve.py): the two start
side by side.
"""

from __future__ import annotations

import sys

from opuspool import pychild
from opuspool_supervisor.launch import Launcher


def main() -> int:
    """Serve the client that started this process; returns the exit code."""
    pychild.no_dialogs()
    pychild.leave_ctrl_c()
    launcher = Launcher()
    launcher.start_ahead()
    from opuspool_supervisor import privateserve

    return privateserve.serve(launcher)


if __name__ == "__main__":
    sys.exit(main())
