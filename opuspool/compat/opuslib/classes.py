"""`opuslib.classes`: the decoder."""

from __future__ import annotations

from opuspool.compat.opuslib.exceptions import OpusError
from opuspool.compat.opuslibdecoder import DecoderBase


class Decoder(DecoderBase):
    """`opuslib.Decoder`; its methods are described in `DecoderBase`."""

    _error = OpusError
