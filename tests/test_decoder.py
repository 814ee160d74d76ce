"""A decoder gives libopus's own output, bit for bit, whatever is asked of it in whatever order."""

from __future__ import annotations

import functools
from ctypes import byref, c_int32, c_uint32
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opuspool_workers import libopus
from opuspool_workers.decoder import Decoder
from opuspool_workers.guard import GuardedBuffer
from recordings import real_streams, speech_packets
from reference import OpusError, ReferenceDecoder, samples
from test_packets import BROKEN

from opuspool.ops import (
    AS_INT16,
    INVALID_PACKET,
    POISON,
    TOO_SHORT,
    UNIMPLEMENTED,
    Op,
    OpKind,
    pack_gain,
    pack_request,
)
from opuspool.streamformat import FORMATS, StreamFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from ctypes import c_void_p

    import numpy.typing as npt
    from opuspool_workers.libopus import LibOpus
    from reference import Pcm

PACKET, LOST, FEC, POISONED, GAIN, RESET, GET = OpKind
LOSS = Op(LOST, b"")
# opus_defines.h
RESET_STATE, SET_GAIN, GET_FINAL_RANGE = 4028, 4034, 4031
REQUESTS = {
    "bandwidth": 4009,
    "sample rate": 4029,
    "final range": GET_FINAL_RANGE,
    "pitch": 4033,
    "last packet's duration": 4039,
    "gain": 4045,
    "not a decoder's (lsb depth)": 4037,
}
SPEECH = StreamFormat(16000, 1, "float32")


@cache
def lib() -> LibOpus:
    return libopus.load()


@cache
def buffer() -> GuardedBuffer:
    return GuardedBuffer(48000 * 12 // 100 * 8)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    """A decoder to 16 kHz mono float32."""
    found = Decoder(lib(), SPEECH, buffer())
    yield found
    found.close()


def plain(packets: Iterable[bytes]) -> list[Op]:
    return [Op(PACKET, packet) for packet in packets]


def run(decoder: Decoder, operations: Iterable[Op]) -> tuple[list[int], bytes]:
    """The outcome of each operation, and the PCM of all."""
    outcomes, pcm = [], b""
    for operation in operations:
        outcome = decoder.run(*operation)
        outcomes.append(outcome)
        if outcome > 0:
            pcm += decoder.pcm(outcome)
    return outcomes, pcm


def ours(operations: Iterable[Op], fmt: StreamFormat) -> tuple[list[int], bytes]:
    """What a fresh decoder makes of the operations."""
    decoder = Decoder(lib(), fmt, buffer())
    result = run(decoder, operations)
    decoder.close()
    return result


def theirs(operations: Iterable[Op], fmt: StreamFormat) -> tuple[list[int], bytes]:
    """The same by libopus alone; what is poison or breaks the rules never reaches it."""
    reference = ReferenceDecoder(fmt.sample_rate, fmt.channels, fmt.dtype)
    outcomes, pcm = [], b""
    for operation in operations:
        try:
            part = one_by_reference(reference, fmt, operation)
        except OpusError as error:
            part = error.code
        outcomes.append(part if isinstance(part, int) else part.nbytes // fmt.frame_bytes)
        pcm += b"" if isinstance(part, int) else part.tobytes()
    return outcomes, pcm


def one_by_reference(
    reference: ReferenceDecoder, fmt: StreamFormat, operation: Op
) -> Pcm | npt.NDArray[np.int64] | int:
    kind, packet, frame = operation
    if packet in INVALID:
        return INVALID_PACKET
    last = reference.last_samples
    if kind in {GAIN, RESET, GET}:
        return control(reference, kind, packet)
    if kind is POISONED:
        return POISON
    if frame:
        return framed(reference, fmt, operation)
    if kind is PACKET:
        return reference.decode(packet)
    if kind is LOST:
        return reference.lost(last or fmt.sample_rate // 50)
    return reference.fec(packet, last or samples(packet, fmt.sample_rate))


def control(reference: ReferenceDecoder, kind: OpKind, data: bytes) -> npt.NDArray[np.int64] | int:
    ctl = functools.partial(reference._library.opus_decoder_ctl, reference._state)
    number = int.from_bytes(data, "little", signed=True)
    if kind is GAIN:
        return cast("int", ctl(SET_GAIN, c_int32(number)))
    if kind is RESET:
        return cast("int", ctl(RESET_STATE))
    value = c_uint32() if number == GET_FINAL_RANGE else c_int32()
    return cast("int", ctl(number, byref(value))) or np.array([value.value])


def framed(reference: ReferenceDecoder, fmt: StreamFormat, operation: Op) -> Pcm | int:
    """libopus's own answer where PCM of a certain length or type is wanted."""
    kind, packet, frame = operation
    data = None if kind is LOST else packet
    units = frame & TOO_SHORT
    wanted = fmt.capacity
    if units == TOO_SHORT:
        wanted = fmt.sample_rate // 400 - 1 if kind is PACKET else 0
    elif units:
        wanted = min(fmt.capacity, units * fmt.sample_rate // 400)
    elif kind is not PACKET:
        wanted = reference.last_samples
        wanted = wanted or (samples(data, fmt.sample_rate) if data else fmt.sample_rate // 50)
    as_int16 = bool(frame & AS_INT16) or fmt.dtype == "int16"
    decode = reference._library.opus_decode if as_int16 else reference._library.opus_decode_float
    room = wanted * fmt.channels
    pcm: Pcm = np.zeros(room, np.int16) if as_int16 else np.zeros(room, np.float32)
    size = len(data or b"")
    count = decode(reference._state, data, size, pcm.ctypes.data, wanted, int(kind is FEC))
    return count if count < 0 else pcm[: count * fmt.channels]


INVALID = {packet for packet, _rule in BROKEN.values()} - {b""}
"""Packets that break the rules; without the empty one, which is also what a loss carries."""


# ---- bit for bit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fmt", FORMATS.values(), ids=lambda fmt: f"{fmt.sample_rate}-{fmt.channels}-{fmt.dtype}"
)
def test_real_streams_decode_as_by_libopus_in_every_format(fmt: StreamFormat) -> None:
    """Mono packets into stereo decoders and stereo ones into mono are among them."""
    for stream in real_streams():
        operations = plain(stream.packets[:60])
        assert ours(operations, fmt) == theirs(operations, fmt), stream.name


LONG = [
    *(("silk", 16000, channels) for channels in (1, 2)),
    *(("hybrid", 48000, channels) for channels in (1, 2)),
    *(("celt", 48000, channels) for channels in (1, 2)),
]


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=lambda fmt: f"{fmt.code:#x}")
def test_packets_and_losses_of_120_ms_fill_the_buffer_to_its_end(fmt: StreamFormat) -> None:
    for mode, rate, channels in LONG:
        packets = speech_packets(1, rate, channels, bitrate=48000, frame_ms=120, mode=mode)
        operations = [*plain(packets), LOSS, *plain(packets), LOSS, LOSS]
        outcomes, pcm = ours(operations, fmt)
        assert set(outcomes) == {fmt.capacity}
        assert (outcomes, pcm) == theirs(operations, fmt)


@pytest.mark.parametrize("frame_ms", [2.5, 5, 10, 20, 40, 60])
def test_a_loss_lasts_as_long_as_the_packet_before(frame_ms: float) -> None:
    packets = speech_packets(1, 48000, bitrate=32000, frame_ms=frame_ms)
    operations = plain(packets[:5])
    for packet in packets[5:25]:
        operations += [LOSS, *plain([packet])]
    outcomes, pcm = ours(operations, SPEECH)
    assert set(outcomes) == {round(16 * frame_ms)}
    assert (outcomes, pcm) == theirs(operations, SPEECH)


@pytest.mark.parametrize("losses", [1, 5, 50])
def test_runs_of_losses_are_concealed_as_by_libopus(losses: int) -> None:
    for stream in real_streams():
        operations = [*plain(stream.packets[:20]), *[LOSS] * losses, *plain(stream.packets[40:60])]
        assert ours(operations, SPEECH) == theirs(operations, SPEECH), stream.name


def test_a_loss_before_any_packet_is_20_ms_of_silence(decoder: Decoder) -> None:
    outcomes, pcm = run(decoder, [LOSS, LOSS])
    assert outcomes == [320, 320]
    assert not any(pcm)


def test_the_stream_after_a_loss_at_its_start_is_libopus_own() -> None:
    operations = [LOSS, *plain(speech_packets(1))]
    assert ours(operations, SPEECH) == theirs(operations, SPEECH)


def fec_packets() -> list[bytes]:
    return speech_packets(4, bitrate=32000, fec=True, loss_percent=30, frame_ms=20)


def test_lost_packets_are_had_from_the_next_ones_fec_as_by_libopus() -> None:
    packets = fec_packets()
    operations: list[Op] = []
    concealed: list[Op] = []
    for at, packet in enumerate(packets[:-1]):
        lost = at % 3 == 2
        operations.append(Op(FEC, packets[at + 1]) if lost else Op(PACKET, packet))
        concealed.append(LOSS if lost else Op(PACKET, packet))
    result = ours(operations, SPEECH)
    assert result == theirs(operations, SPEECH)
    assert result[1] != ours(concealed, SPEECH)[1], "the packets have no FEC to show"


@pytest.mark.parametrize("frame_ms", [10, 20, 60])
def test_fec_before_any_packet_lasts_as_long_as_its_packet(frame_ms: float) -> None:
    packets = speech_packets(2, fec=True, loss_percent=30, bitrate=32000, frame_ms=frame_ms)
    operations = [Op(FEC, packets[9]), *plain(packets[9:20])]
    outcomes, pcm = ours(operations, SPEECH)
    assert outcomes[0] == 16 * frame_ms
    assert (outcomes, pcm) == theirs(operations, SPEECH)


@pytest.mark.parametrize("before_ms", [20, 60])
@pytest.mark.parametrize("after_ms", [20, 60])
def test_fec_stands_for_the_packet_before_also_where_lengths_differ(
    before_ms: float, after_ms: float
) -> None:
    before = speech_packets(1, frame_ms=before_ms)
    after = speech_packets(1, bitrate=32000, frame_ms=after_ms, fec=True, loss_percent=30)
    operations = [*plain(before[:5]), Op(FEC, after[6]), *plain(after[6:12])]
    outcomes, pcm = ours(operations, SPEECH)
    assert outcomes[5] == 16 * before_ms
    assert (outcomes, pcm) == theirs(operations, SPEECH)


@pytest.mark.parametrize("gain", [-32768, -1500, 0, 256, 1500, 32767])
@pytest.mark.parametrize("fmt", [SPEECH, StreamFormat(48000, 2, "int16")])
def test_a_gain_holds_from_then_on(gain: int, fmt: StreamFormat) -> None:
    packets = speech_packets(1)
    operations = [*plain(packets[:10]), Op(GAIN, pack_gain(gain)), *plain(packets[10:]), LOSS]
    outcomes, pcm = ours(operations, fmt)
    assert outcomes[10] == 0
    assert (outcomes, pcm) == theirs(operations, fmt)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0"])
def test_a_gain_of_another_length_is_refused(decoder: Decoder, data: bytes) -> None:
    assert decoder.run(GAIN, data) == INVALID_PACKET


@pytest.mark.parametrize("fmt", [SPEECH, StreamFormat(48000, 2, "int16")])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_values_are_libopus_own(request_: int, fmt: StreamFormat) -> None:
    """Fresh, after packets and a loss, and after a reset."""
    get = Op(GET, pack_request(request_))
    packets = plain(speech_packets(1))
    gain = Op(GAIN, pack_gain(-300))
    operations = [get, gain, *packets[:30], get, *packets[30:], LOSS, get, Op(RESET, b""), get]
    assert ours(operations, fmt) == theirs(operations, fmt)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0", pack_request(SET_GAIN), b"\xff\xff"])
def test_what_is_no_known_request_is_not_asked_of_libopus(data: bytes, decoder: Decoder) -> None:
    """A wrong one would make it write where nobody said."""
    assert decoder.run(GET, data) == UNIMPLEMENTED


def test_int16_in_a_float32_stream_is_what_an_int16_stream_gives() -> None:
    """Loud enough to be clipped, and in turns with float32."""
    packets = speech_packets(1, 48000, 2)
    loud = Op(GAIN, pack_gain(6000))
    as_int16 = [Op(PACKET, packet, AS_INT16) for packet in packets]
    fmt = StreamFormat(48000, 2, "float32")
    outcomes, pcm = ours([loud, *as_int16], fmt)
    assert pcm == theirs([loud, *plain(packets)], replace(fmt, dtype="int16"))[1]
    assert max(np.frombuffer(pcm, np.int16)) > 32000
    assert set(outcomes[1:]) == {480}
    turns = [Op(PACKET, packet, AS_INT16 * (at % 2)) for at, packet in enumerate(packets)]
    assert ours([loud, *turns], fmt) == theirs([loud, *turns], fmt)


@pytest.mark.parametrize("frame", [TOO_SHORT, 1, 7, 8, 24, AS_INT16, 8 | AS_INT16])
@pytest.mark.parametrize("fmt", [SPEECH, StreamFormat(48000, 2, "int16")])
def test_libopus_gets_no_more_room_than_is_wanted(frame: int, fmt: StreamFormat) -> None:
    """Where it ends is the guard page."""
    rooms: list[tuple[int, int]] = []

    def noted(decode: Callable[..., int], width: int) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            _, _, _, pcm, samples, _ = arguments
            rooms.append((pcm.value + samples * width * fmt.channels, samples))
            return decode(*arguments)

        return call

    watched = replace(
        lib(), decode=noted(lib().decode, 2), decode_float=noted(lib().decode_float, 4)
    )
    with Decoder(watched, fmt, buffer()) as decoder:
        decoder.run(PACKET, speech_packets(1)[10], frame)
    units = frame & TOO_SHORT
    samples_ = {0: fmt.capacity, TOO_SHORT: 1}.get(units, units * fmt.sample_rate // 400)
    assert rooms == [(buffer().end, samples_)]


some_packets = st.sampled_from(fec_packets()[:100] + speech_packets(1, 48000, 2, frame_ms=60))
bad_packets = st.sampled_from(sorted(INVALID))
some_frames = st.builds(
    int.__or__,
    st.sampled_from([0, 1, 4, 7, 8, 24, 48, 49, TOO_SHORT]),
    st.sampled_from([0, AS_INT16]),
)
operation = st.one_of(
    st.builds(Op, st.just(PACKET), some_packets),
    st.builds(Op, st.just(FEC), some_packets),
    st.just(LOSS),
    st.builds(Op, st.sampled_from([PACKET, FEC]), bad_packets),
    st.just(Op(POISONED, b"")),
    st.builds(Op, st.just(GAIN), st.integers(-3000, 3000).map(pack_gain)),
    st.just(Op(RESET, b"")),
    st.builds(Op, st.just(GET), st.sampled_from(list(REQUESTS.values())).map(pack_request)),
    st.builds(Op, st.sampled_from([PACKET, FEC]), some_packets, some_frames),
    st.builds(Op, st.just(LOST), st.just(b""), some_frames),
)


@given(st.lists(operation, max_size=25), st.sampled_from(list(FORMATS.values())))
def test_any_history_of_operations_gives_what_libopus_gives(
    operations: list[Op], fmt: StreamFormat
) -> None:
    assert ours(operations, fmt) == theirs(operations, fmt)


def test_decoders_that_share_a_buffer_do_not_disturb_each_other() -> None:
    """Turn by turn, mono and stereo, float and int16."""
    streams = list(zip(real_streams(), FORMATS.values(), strict=False))
    decoders = [Decoder(lib(), fmt, buffer()) for _, fmt in streams]
    pcm = [b"" for _ in streams]
    for turn in range(30):
        for at, (stream, _) in enumerate(streams):
            pcm[at] += run(decoders[at], plain(stream.packets[turn : turn + 1]))[1]
    for (stream, fmt), found in zip(streams, pcm, strict=True):
        assert found == theirs(plain(stream.packets[:30]), fmt)[1], stream.name
    for decoder in decoders:
        decoder.close()


def test_the_final_range_is_libopus_own(decoder: Decoder) -> None:
    reference = ReferenceDecoder()
    for packet in speech_packets(1):
        decoder.run(PACKET, packet)
        reference.decode(packet)
        assert decoder.final_range() == reference.final_range != 0


# ---- what is refused ------------------------------------------------------------------------


def test_the_stream_goes_on_after_a_broken_packet_as_if_it_had_not_been() -> None:
    packets = speech_packets(1)
    before, after = plain(packets[:20]), plain(packets[20:])
    whole = theirs([*before, *after], SPEECH)[1]
    for name, (packet, _) in BROKEN.items():
        refused = [Op(PACKET, packet), Op(FEC, packet)]
        outcomes, pcm = ours([*before, *refused, *after], SPEECH)
        assert outcomes[20:22] == [INVALID_PACKET, INVALID_PACKET], name
        assert pcm == whole, name


def test_a_broken_packet_never_reaches_libopus() -> None:
    def unreachable(*_: object) -> int:
        raise AssertionError("libopus was called")

    guarded = replace(lib(), decode=unreachable, decode_float=unreachable)
    decoder = Decoder(guarded, SPEECH, buffer())
    for packet, _ in BROKEN.values():
        assert decoder.run(PACKET, packet) == INVALID_PACKET
        assert decoder.run(FEC, packet) == INVALID_PACKET
    assert decoder.run(POISONED, b"") == POISON
    decoder.close()


@given(st.lists(st.binary(min_size=1, max_size=30), max_size=15))
def test_random_bytes_decode_or_fail_with_libopus_code(packets: list[bytes]) -> None:
    """And the speech behind them is what libopus makes of it."""
    operations = plain(packets + speech_packets(0.2))
    assert ours(operations, SPEECH) == theirs(operations, SPEECH)


# ---- create and destroy ---------------------------------------------------------------------


def test_each_decoder_that_is_created_is_destroyed_once() -> None:
    created, destroyed = [], []

    def create(*arguments: object) -> int | None:
        created.append(lib().create(*arguments))
        return created[-1]

    def destroy(state: c_void_p) -> None:
        destroyed.append(state.value)
        lib().destroy(state)

    counting = replace(lib(), create=create, destroy=destroy)
    decoders = [Decoder(counting, fmt, buffer()) for fmt in FORMATS.values()]
    run(decoders[0], plain(speech_packets(0.5)))
    assert len(created) == len(decoders)
    assert destroyed == []
    for decoder in decoders:
        decoder.close()
        decoder.close()
    assert destroyed == created


@pytest.mark.parametrize(
    "operation",
    [*plain(speech_packets(0.5)[5:6]), LOSS, Op(FEC, speech_packets(0.5)[5]), Op(GAIN, b"\0\0")],
    ids=lambda operation: operation.kind.name,
)
def test_a_closed_decoder_refuses_to_work(operation: Op, decoder: Decoder) -> None:
    """With libopus it would be a read of address 0."""
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.run(*operation)


def test_the_end_of_a_with_block_closes() -> None:
    with Decoder(lib(), SPEECH, buffer()) as decoder:
        assert decoder.run(*LOSS) == 320
    with pytest.raises(ValueError, match="closed"):
        decoder.run(*LOSS)


def test_a_closed_decoder_has_no_state(decoder: Decoder) -> None:
    state = decoder.export_state()
    decoder.close()
    for use in (decoder.export_state, decoder.final_range, lambda: decoder.import_state(state)):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_a_buffer_is_not_taken_away_from_a_decoder_that_lives() -> None:
    own = GuardedBuffer(7680)
    decoder = Decoder(lib(), SPEECH, own)
    with pytest.raises(BufferError):
        own.close()
    decoder.close()
    own.close()
    own.close()
    with pytest.raises(ValueError, match="released"):
        own.view[0]


def test_where_libopus_has_no_memory_the_error_says_so() -> None:
    with pytest.raises(MemoryError, match="no decoder"):
        Decoder(replace(lib(), create=lambda *_: None), SPEECH, buffer())


def test_a_state_of_another_size_is_refused_and_changes_nothing() -> None:
    mono, stereo = (Decoder(lib(), StreamFormat(16000, n), buffer()) for n in (1, 2))
    packets = speech_packets(1)
    run(mono, plain(packets[:20]))
    for state in (b"", mono.export_state()[:-1], stereo.export_state()):
        with pytest.raises(ValueError, match="a state of"):
            mono.import_state(state)
    assert run(mono, plain(packets[20:]))[1] == theirs(plain(packets), SPEECH)[1][20 * 320 * 4 :]
    mono.close()
    stereo.close()


def test_a_state_goes_over_to_another_decoder_of_the_same_process(decoder: Decoder) -> None:
    packets = speech_packets(2)
    run(decoder, plain(packets[:50]))
    heir = Decoder(lib(), SPEECH, buffer())
    heir.import_state(decoder.export_state())
    rest = [LOSS, *plain(packets[50:])]
    assert run(heir, rest) == run(decoder, rest)
    heir.close()
