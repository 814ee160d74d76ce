"""Every error that opuspool raises.

OpusPoolError
├── PacketError                 one packet failed; the stream goes on
│   ├── InvalidPacketError      libopus (or RFC 6716) refused it
│   └── PoisonPacketError       it killed its workers and is quarantined
├── InvalidFileError            not an Ogg Opus file, or damaged beyond use
├── DecodeTimeoutError          the deadline passed
├── OverloadedError             the supervisor's queue is full
├── StreamClosedError           the stream was closed
├── PoolClosedError             the pool was closed
├── SupervisorLostError         the supervisor is gone, or going
├── WorkerBootError             no worker can start
├── ConfigError                 a setting is wrong
├── AuthenticationError         the supervisor refused this client's keys
└── WireError                   bytes from a peer are not opuspool's wire format
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opuspool.pcm import Pcm

__all__ = [
    "AuthenticationError",
    "ConfigError",
    "DecodeTimeoutError",
    "InvalidFileError",
    "InvalidPacketError",
    "OpusPoolError",
    "OverloadedError",
    "PacketError",
    "PoisonPacketError",
    "PoolClosedError",
    "StreamClosedError",
    "SupervisorLostError",
    "WireError",
    "WorkerBootError",
]


RETRY_AFTER_SECONDS = 0.1
"""What whoever is refused for overload is told to wait."""


class OpusPoolError(Exception):
    """Base of every error that opuspool raises on purpose."""


class PacketError(OpusPoolError):
    """One packet of a call failed; all its other packets were decoded and the stream goes on.

    Attributes:
        index: position of the first failed packet in the call, from 0.
        code: its libopus error code (negative, `opus_defines.h`), or -100 for poison.
        failures: every failed packet of the call, as `{index: code}`.
        pcm: the PCM of the call's other packets, joined; None where there are none.
    """

    def __init__(
        self,
        message: str,
        *,
        index: int = 0,
        code: int = -4,
        failures: dict[int, int] | None = None,
        pcm: Pcm | None = None,
    ) -> None:
        super().__init__(message)
        self.index = index
        self.code = code
        self.failures = failures if failures is not None else {index: code}
        self.pcm = pcm


class InvalidPacketError(PacketError):
    """Libopus, or a rule of RFC 6716 section 3.4, refused the packet."""


class PoisonPacketError(PacketError):
    """The packet killed its workers; it is not tried again."""


class InvalidFileError(OpusPoolError):
    """The file is not Ogg Opus, or no audio can be had from it."""


class DecodeTimeoutError(OpusPoolError):
    """The call's deadline passed before its PCM was there."""


class OverloadedError(OpusPoolError):
    """The supervisor has as much queued as it may hold; nothing of the call was decoded.

    Attributes:
        retry_after: seconds after which a new try makes sense.
    """

    def __init__(self, message: str, *, retry_after: float = RETRY_AFTER_SECONDS) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StreamClosedError(OpusPoolError):
    """The stream was closed, here or by the supervisor, and cannot decode any more."""


class PoolClosedError(OpusPoolError):
    """The pool was closed, or belongs to another process."""


class SupervisorLostError(OpusPoolError):
    """The supervisor cannot be reached, has died, or is shutting down."""


class WorkerBootError(OpusPoolError):
    """No worker can start; the message says why and what to do."""


class ConfigError(OpusPoolError):
    """A setting is unknown, of the wrong type, or out of range."""


class AuthenticationError(OpusPoolError):
    """The supervisor refused this client's keys."""


class WireError(OpusPoolError):
    """Bytes from a peer do not follow opuspool's wire format."""
