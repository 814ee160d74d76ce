"""libopus's error codes, their words, and which of them stands for an error of the pool."""

from __future__ import annotations

from opuspool.compat.defaultpool import STREAM_LOST
from opuspool.compat.opusdefines import (
    ALLOC_FAIL,
    BAD_ARG,
    BUFFER_TOO_SMALL,
    INTERNAL_ERROR,
    INVALID_PACKET,
    INVALID_STATE,
    OK,
    UNIMPLEMENTED,
)
from opuspool.errors import (
    InvalidPacketError,
    OpusPoolError,
    PoisonPacketError,
)

_WORDS = {  # celt.c, opus_strerror
    OK: "success",
    BAD_ARG: "invalid argument",
    BUFFER_TOO_SMALL: "buffer too small",
    INTERNAL_ERROR: "internal error",
    INVALID_PACKET: "corrupted stream",
    UNIMPLEMENTED: "request not implemented",
    INVALID_STATE: "invalid state",
    ALLOC_FAIL: "memory allocation failed",
}


class CodeError(Exception):
    """A call failed as it does in libopus; drop-ins turn it into their original's error.

    Attributes:
        code: libopus's, negative.
        detail: what the pool says of it; "" where libopus itself has refused.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail

    @classmethod
    def of(cls, error: OpusPoolError) -> CodeError:
        """The error that a caller of libopus would understand.

        | error of the pool | code |
        |---|---|
        | a refused packet | libopus's own |
        | a poison packet | `INVALID_PACKET`: whoever survives a corrupt one survives this one |
        | stream, pool or supervisor are gone | `INVALID_STATE` |
        | too late, too much to do, no worker, a wrong setting | `INTERNAL_ERROR` |
        """
        if isinstance(error, InvalidPacketError):
            return cls(error.code)
        if isinstance(error, PoisonPacketError):
            return cls(INVALID_PACKET, str(error))
        return cls(INVALID_STATE if isinstance(error, STREAM_LOST) else INTERNAL_ERROR, str(error))


def strerror(code: int) -> str:
    """Libopus's words for a code (`opus_strerror`)."""
    return _WORDS.get(code, "unknown error")
