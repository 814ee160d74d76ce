"""The self-test: known packets must decode to what every libopus makes of them.

The encoder's final range travels in no packet, but the decoder's must equal it, whatever its
version (RFC 6716, section 6.1): it proves that the whole packet was understood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opuspool.knownpacket import PACKET, SAMPLES
from opuspool.ops import OpKind
from opuspool.streamformat import StreamFormat
from opuspool_workers.decoder import Decoder

if TYPE_CHECKING:
    from opuspool_workers.guard import GuardedBuffer
    from opuspool_workers.libopus import LibOpus


class SelfTestError(Exception):
    """The loaded libopus does not decode a known packet to what it should."""


class _Known(NamedTuple):
    name: str
    packet: bytes
    final_range: int


_KNOWN = (
    _Known(
        "SILK",
        PACKET,
        0xA2433A,
    ),
    _Known(
        "CELT",
        bytes.fromhex(
            "f8d5975a38375a4d571a54c0c2cc50fdc8f3d2f8155a4f47b334194d976878e9"
            "26b201346b6f0215f77516c25707b4f950e74f1adee1"
        ),
        0x19D5800,
    ),
)


def check(lib: LibOpus, buffer: GuardedBuffer) -> None:
    """Decode the known packets, each with a fresh decoder.

    Raises:
        SelfTestError: one comes out wrong.
    """
    for known in _KNOWN:
        decoder = Decoder(lib, StreamFormat(16000, 1, "float32"), buffer)
        samples = decoder.run(OpKind.PACKET, known.packet)
        final_range = decoder.final_range()
        decoder.close()
        if samples != SAMPLES or final_range != known.final_range:
            raise SelfTestError(
                f"{lib.path} ({lib.version}) decodes a known {known.name} packet to {samples} "
                f"samples, final range {final_range:#x}, instead of {SAMPLES}, "
                f"{known.final_range:#x}: install another libopus, or set [workers] libopus"
            )
