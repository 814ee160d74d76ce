"""One stream's decoder: a pair of `opus_decoder_create` and `opus_decoder_destroy`."""

from __future__ import annotations

import ctypes
import struct
from ctypes import c_int, c_void_p
from typing import TYPE_CHECKING, NoReturn, Self

from opuspool.ops import (
    AS_INT16,
    INVALID_PACKET,
    POISON,
    TOO_SHORT,
    UNIMPLEMENTED,
    VALUE,
    OpKind,
    unpack_gain,
    unpack_request,
)
from opuspool.recorder import TICKS_PER_SECOND
from opuspool.toc import MAX_UNITS
from opuspool_workers.libopus import (
    GET_FINAL_RANGE,
    GET_LAST_PACKET_DURATION,
    SET_GAIN,
    SIGNED_VALUES,
    UNSIGNED_VALUES,
)
from opuspool_workers.packets import violation

if TYPE_CHECKING:
    from opuspool.streamformat import StreamFormat
    from opuspool_workers.guard import GuardedBuffer
    from opuspool_workers.libopus import LibOpus

_outcome_word = struct.Struct("<i").pack
_PACKET = OpKind.PACKET  # a global of its own: to look up a member costs more than the rest

FIRST_LOSS_MS = 20
"""A loss before any packet is concealed for this long: the usual packet's length."""


_WITH_PCM = frozenset({OpKind.PACKET, OpKind.LOST, OpKind.FEC})


class ProtocolError(Exception):
    """What cannot be: this worker's picture of its streams is wrong, or libopus is."""


class Decoder:
    """A decoder and its PCM buffer of 120 ms, which ends at a guard page.

    Args:
        lib: the loaded libopus.
        fmt: what it decodes to; the buffer holds 120 ms of that, whatever a packet says of itself.
        buffer: shared by all decoders of a worker; large enough for each of them.

    Attributes:
        capacity: samples per channel that fit the buffer, 120 ms.
        ticks: 1/48000 s in a sample.
        packed: int16 samples that take the place of one of the stream's (`ops.AS_INT16`).

    Raises:
        MemoryError: libopus cannot make a decoder.
    """

    def __init__(self, lib: LibOpus, fmt: StreamFormat, buffer: GuardedBuffer) -> None:
        self.capacity = fmt.capacity
        self.ticks = TICKS_PER_SECOND // fmt.sample_rate
        self.packed = 2 if fmt.dtype == "float32" else 1
        self._lib = lib
        self._rate = fmt.sample_rate
        self._frame_bytes = fmt.frame_bytes
        size = fmt.capacity * fmt.frame_bytes
        self._pcm = c_void_p(buffer.end - size)
        self._end = buffer.end
        self._view = buffer.view[-size:]
        self._decode = lib.decode_float if fmt.dtype == "float32" else lib.decode
        self._size = lib.get_size(fmt.channels)
        error = c_int()
        state = lib.create(fmt.sample_rate, fmt.channels, ctypes.byref(error))
        if not state:
            raise MemoryError(f"libopus made no decoder (code {error.value})")
        self._state: c_void_p | None = c_void_p(state)

    def run(self, kind: OpKind, packet: bytes, frame: int = 0) -> int:
        """Run one operation; what it is given is described in ops.py.

        Returns:
            Samples per channel, to be had with `pcm`; or a negative code: libopus's own, or
            `POISON`. A packet that breaks RFC 6716's rules never reaches libopus.
        """
        if frame:
            return self._framed(kind, packet, frame)
        if kind is _PACKET:
            return self.decode(packet)
        if kind is OpKind.LOST:
            return self._decode(self._state, None, 0, self._pcm, self._last_samples(), 0)
        if kind is OpKind.FEC:
            if violation(packet) is not None:
                return INVALID_PACKET
            samples = self._last_samples(packet)
            return self._decode(self._state, packet, len(packet), self._pcm, samples, 1)
        return self._control(kind, packet)

    def decode(self, packet: bytes) -> int:
        """As `run`, of a PACKET; at less cost."""
        if violation(packet) is not None:
            return INVALID_PACKET
        return self._decode(self._state, packet, len(packet), self._pcm, self.capacity, 0)

    def append_outcome(self, data: bytearray, samples: int) -> int:
        """Append the outcome of the last operation (ops.py), which has given that.

        Returns:
            Its bytes.

        Raises:
            ProtocolError: it claims more samples than there is room for.
        """
        if samples > self.capacity:
            raise too_many(samples, self)
        data += _outcome_word(samples)
        if samples <= 0:
            return 4
        pcm = self.pcm(samples)
        data += pcm
        return 4 + len(pcm)

    def pcm(self, samples: int) -> memoryview:
        """The PCM of the last operation; valid until the next one of any decoder."""
        return self._view[: samples * self._frame_bytes]

    def final_range(self) -> int:
        """The range decoder's last state, which proves how a packet was read (RFC 6716, 6.1)."""
        return self._lib.get(self._live_state(), GET_FINAL_RANGE)

    def export_state(self) -> bytes:
        """Copy the decoder's state; it holds addresses of this process (see checkpoint.py)."""
        return ctypes.string_at(self._live_state(), self._size)

    def import_state(self, state: bytes) -> None:
        """Take a state whose addresses are of this process.

        Raises:
            ValueError: it is not of this decoder's size.
        """
        if len(state) != self._size:
            raise ValueError(f"a state of {len(state)} bytes, this decoder's has {self._size}")
        ctypes.memmove(self._live_state(), state, self._size)

    def close(self) -> None:
        """Destroy the decoder; a second time does nothing."""
        state, self._state = self._state, None
        if state is not None:
            self._decode = _refuse  # libopus would read address 0
            self._view.release()
            self._lib.destroy(state)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _framed(self, kind: OpKind, packet: bytes, frame: int) -> int:
        """Run an operation of which a certain length or type of PCM is wanted.

        libopus gets no more room than is wanted, up to the guard page.
        """
        if kind not in _WITH_PCM:
            return self._control(kind, packet)
        data = None if kind is OpKind.LOST else packet
        if data is not None and violation(data) is not None:
            return INVALID_PACKET
        state = self._live_state()
        samples = self._wanted(kind, data, frame & TOO_SHORT)
        decode, width = self._decode, self._frame_bytes
        if frame & AS_INT16 and decode is self._lib.decode_float:
            decode, width = self._lib.decode, width // 2
        start = len(self._view) - samples * width
        pcm = c_void_p(self._end - samples * width)
        given = decode(state, data, len(data or b""), pcm, samples, int(kind is OpKind.FEC))
        if given <= 0 or given > samples:
            return given
        used = given * width  # whole samples of the stream's type: 2.5 ms are an even number
        self._view[:used] = self._view[start : start + used]
        return used // self._frame_bytes

    def _wanted(self, kind: OpKind, data: bytes | None, units: int) -> int:
        """Samples per channel that an operation may give (PACKET) or has to (LOST, FEC)."""
        if units == TOO_SHORT:
            return int(kind is OpKind.PACKET)  # one is too few for any, and libopus says so
        if units:
            return min(units, MAX_UNITS) * self._rate // 400
        return self.capacity if kind is OpKind.PACKET else self._last_samples(data or b"")

    def _control(self, kind: OpKind, data: bytes) -> int:
        """Run an operation that decodes nothing."""
        if kind is OpKind.GAIN:
            return self._set_gain(data)
        if kind is OpKind.GET:
            return self._get(data)
        if kind is OpKind.RESET:
            return self._lib.reset(self._live_state())
        return POISON

    def _set_gain(self, data: bytes) -> int:
        gain = unpack_gain(data)
        if gain is None:
            return INVALID_PACKET
        return self._lib.set(self._live_state(), SET_GAIN, gain)

    def _get(self, data: bytes) -> int:
        request = unpack_request(data)
        if request not in UNSIGNED_VALUES | SIGNED_VALUES:
            return UNIMPLEMENTED
        value = self._lib.get(self._live_state(), request)
        if request in SIGNED_VALUES:
            value = ctypes.c_int32(value).value
        VALUE.pack_into(self._view, 0, value)
        return VALUE.size // self._frame_bytes

    def _live_state(self) -> c_void_p:
        if self._state is None:
            _refuse()
        return self._state

    def _last_samples(self, packet: bytes = b"") -> int:
        """How long a lost packet was: as the last one, else as this one, else 20 ms.

        Always a multiple of 2.5 ms and at most 120 ms, as `opus.h` demands of a loss.
        """
        samples = self._lib.get(self._live_state(), GET_LAST_PACKET_DURATION)
        if samples == 0 and packet:
            samples = self._lib.packet_samples(packet, len(packet), self._rate)
        if samples <= 0 or samples > self.capacity or samples % (self._rate // 400):
            samples = self._rate * FIRST_LOSS_MS // 1000
        return samples


def _refuse(*_: object) -> NoReturn:
    """What a closed decoder does instead of anything else."""
    raise ValueError("this decoder is closed")


def too_many(samples: int, decoder: Decoder) -> ProtocolError:
    """What is wrong where an operation claims more samples than there is room for."""
    return ProtocolError(f"libopus claims {samples} samples, at most {decoder.capacity} fit")
