"""`opuslib_next.classes`: the decoder."""

from __future__ import annotations

from opuspool.compat.opuslib_next.exceptions import OpusError
from opuspool.compat.opuslibdecoder import DecoderBase


class Decoder(DecoderBase):
    """`opuslib_next.Decoder`; its methods are described in `DecoderBase`."""

    _error = OpusError
