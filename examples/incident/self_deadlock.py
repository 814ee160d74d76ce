"""The cure that hangs: after a fault the decoder is made anew under a lock that it takes itself.

python examples/incident/self_deadlock.py [SECONDS until it is killed]
"""

from __future__ import annotations

import ctypes
import faulthandler
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import throwaway

SECONDS = 20.0
_DUMP_SECONDS = 1.0
_TOLD = "the decoder was made anew"
INCIDENT_ADDRESS = 0x208F210000


def reproduce(seconds: float = SECONDS) -> throwaway.End:
    """Have a fault and "repair" the decoder, in a throw-away process.

    Args:
        seconds: how long to wait for it; the repair would take less than a millisecond.
    """
    print("self_deadlock: a lock that is not reentrant, taken twice by one thread", flush=True)
    return throwaway.run("self_deadlock.py", "here", silence=seconds)


def _here() -> None:
    throwaway.quietly()
    import pattern

    decoder = pattern.IncidentDecoder()
    try:
        _fault()
    except OSError as error:
        print(f"caught: {error}")
        faulthandler.dump_traceback_later(_DUMP_SECONDS, file=sys.stdout)
        with pattern.LOCK:
            decoder.init()  # takes the same lock
    print(_TOLD)


def _fault() -> None:
    """What ctypes raises on Windows for a fault in libopus; elsewhere it can only be made up."""
    if sys.platform == "win32":
        ctypes.memset(INCIDENT_ADDRESS, 1, 10)
    raise OSError(f"exception: access violation writing 0x{INCIDENT_ADDRESS:016X} (made up)")


if __name__ == "__main__":
    if sys.argv[1:2] == ["here"]:
        _here()
    else:
        reproduce(*map(float, sys.argv[1:]))
