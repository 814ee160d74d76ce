"""The exit codes that opuspool's processes reserve; any other code is somebody else's."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Why a worker or a supervisor left of its own will."""

    OK = 0
    """Asked to stop."""
    USAGE = 64
    """Wrong arguments or a wrong configuration."""
    SELF_TEST = 65
    """libopus loaded, but a known packet did not decode to what it should."""
    NO_LIBOPUS = 66
    """libopus was not found or could not be loaded."""
    NO_MEMORY = 67
    """It needed memory, and the system gave it none."""
    FAULT = 68
    """Windows: ctypes reported an access violation; the heap cannot be trusted any more."""
    ORPHANED = 69
    """Its supervisor is gone."""
    PROTOCOL = 70
    """The supervisor sent what the worker cannot read."""
    ENDPOINT = 73
    """The endpoint cannot be bound, or belongs to another supervisor."""
    HTTP = 74
    """The address of the metrics and the status page cannot be had."""
