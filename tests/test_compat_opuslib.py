"""opuslib and opuslib_next: the same script on the original and on the drop-in, bit for bit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from compatscripts import answer, original, same, shared_pool
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import real_streams, speech_packets
from test_packets import BROKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ["opuslib", "opuslib_next"]
VALUES = ["final_range", "bandwidth", "pitch", "gain", "lsb_depth"]
FORMATS = [(8000, 1), (12000, 2), (16000, 1), (24000, 1), (48000, 2)]


class Pair(NamedTuple):
    """An original and its drop-in."""

    theirs: Any
    ours: Any


@pytest.fixture(scope="module", autouse=True)
def _shared_pool() -> Iterator[None]:
    with shared_pool():
        yield


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Both libraries, in turn."""
    ours = importlib.import_module(f"opuspool.compat.{request.param}")
    return Pair(original(request.param), ours)


def values(decoder: Any) -> dict[str, object]:
    return {name: answer(getattr, decoder, name) for name in VALUES}


def test_what_is_no_decoder_is_refused_alike(pair: Pair) -> None:
    """Rates and channels that libopus has not, and what is no number."""
    made = [(44100, 1), (0, 1), (-16000, 1), (16000, 0), (16000, 3), ("16000", 1), (16000.0, 1)]

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        for arguments in [*made, (16000, None), (None, 1)]:
            yield f"Decoder{arguments}", answer(lib.Decoder, *arguments)

        yield "True channels", answer(lib.Decoder(16000, True).decode, speech_packets(1)[9], 960)

    assert same(script, *pair) == 10


@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_real_streams_decode_alike(pair: Pair, form: tuple[int, int]) -> None:
    """int16 and float32, and all values after each packet."""

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        for stream in real_streams():
            decoder, floats = lib.Decoder(*form), lib.Decoder(*form)
            yield "fresh", values(decoder)
            for at, packet in enumerate(stream.packets[:7]):
                yield f"{stream.name}: decode {at}", answer(decoder.decode, packet, 5760)
                yield (
                    f"{stream.name}: float {at}",
                    answer(floats.decode_float, packet, 5760),
                )
                yield f"{stream.name}: values {at}", values(decoder)

    assert same(script, *pair) > 100


@pytest.mark.parametrize("method", ["decode", "decode_float"])
@pytest.mark.parametrize("form", [(16000, 1), (48000, 2)], ids=str)
def test_frame_sizes_mean_the_same(pair: Pair, form: tuple[int, int], method: str) -> None:
    """Capacity for a packet; exact for a loss and FEC; wrong ones, and what is no number."""
    ms = form[0] // 1000
    sizes: list[Any] = [0, 1, 5 * ms // 2 - 1, 5 * ms // 2, 10 * ms, 20 * ms - 1, 20 * ms]
    sizes += [20 * ms + 1, 45 * ms // 2, 60 * ms, 120 * ms, 120 * ms + 1, 121 * ms, 360 * ms]
    sizes += [-1, -20 * ms, 20.0 * ms, str(20 * ms), None, True]
    packets = speech_packets(2, bitrate=32000, fec=True, loss_percent=30)
    celt = speech_packets(0.5, 48000, 2, bitrate=96000, application="audio")

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.Decoder(*form)
        decode = getattr(decoder, method)
        yield "loss at first", answer(decode, b"", 20 * ms)
        for at, size in enumerate(sizes):
            packet, following = packets[at : at + 2]
            yield f"packet, {size}", answer(decode, packet, size)
            yield f"loss, {size}", answer(decode, b"", size)
            yield f"FEC, {size}", answer(decode, following, size, True)
            yield f"FEC of CELT, {size}", answer(decode, celt[at], size, True)
            yield f"FEC of nothing, {size}", answer(decode, b"", size, True)
            yield f"garbage, {size}", answer(decode, b"\xff\xff", size)
            yield f"FEC of garbage, {size}", answer(decode, b"\xff", size, True)
            yield f"next, {size}", answer(decode, following, 20 * ms)
            yield "values", values(decoder)
        yield "loss, no multiple of 120 ms", answer(decode, b"", 365 * ms)
        yield "after it", answer(decode, packets[-1], 20 * ms)

    assert same(script, *pair) == 3 + 9 * len(sizes)


@pytest.mark.parametrize("method", ["decode", "decode_float"])
def test_what_is_no_packet_is_refused_alike(pair: Pair, method: str) -> None:
    """Every rule of RFC 6716 broken, None, text, numbers; the decoder goes on."""
    packets = speech_packets(2)
    bad: list[Any] = [packet for packet, _ in BROKEN.values()]
    bad += [None, "text", "", 5, 1.5, [], [1], object(), bytes(61_441), b"\xff" * 5000]

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.Decoder(16000, 1)
        decode = getattr(decoder, method)
        for at, data in enumerate(bad):
            yield f"bad {at}", answer(decode, data, 960)
            yield f"bad FEC {at}", answer(decode, data, 320, True)
            yield f"good {at}", answer(decode, packets[at], 960)
            yield f"values {at}", values(decoder)
        for fec in (2, -1, None, "1", "x", 1.0, 0.5):
            yield f"fec={fec!r}", answer(decode, packets[-1], 320, fec)

    assert same(script, *pair) == 4 * len(bad) + 7


def test_reset_and_gain_do_the_same(pair: Pair) -> None:
    """A reset leaves the gain; what is no gain is refused; loud PCM is clipped alike."""
    packets = speech_packets(2, 48000, 2)
    gains: list[Any] = [0, 300, -300, 6000, 32767, -32768, 32768, -32769, 1.5, None, True]

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.Decoder(48000, 2)
        for at, gain in enumerate(gains):
            yield f"gain {gain}", answer(setattr, decoder, "gain", gain)
            yield "lsb_depth", answer(setattr, decoder, "lsb_depth", 16)
            yield "final_range", answer(setattr, decoder, "final_range", 1)
            for turn, packet in enumerate(packets[2 * at : 2 * at + 8]):
                decode = decoder.decode_float if (turn + at) % 3 else decoder.decode
                yield f"gain {gain}, {turn}", answer(decode, packet, 960)
            yield "values", values(decoder)
            yield "reset", answer(decoder.reset_state)
            yield "values after the reset", values(decoder)
            yield "loss", answer(decoder.decode, b"", 960)

    assert same(script, *pair) == 15 * len(gains)


def test_names_are_the_originals(pair: Pair) -> None:
    """Constants, modules, the error in all its places."""
    numbers = {name: value for name, value in vars(pair.theirs).items() if name.isupper()}
    own = {name: value for name, value in numbers.items() if "PROJECTION" not in name}
    assert own == {name: getattr(pair.ours, name) for name in own}
    assert len(own) > 50
    name = pair.ours.__name__
    assert importlib.import_module(f"{name}.exceptions").OpusError is pair.ours.OpusError
    assert importlib.import_module(f"{name}.classes").Decoder is pair.ours.Decoder
    assert importlib.import_module(f"{name}.constants").OK == 0
    assert pair.ours.Encoder is pair.theirs.Encoder
    assert not hasattr(pair.ours, "MultiStreamDecoder")
    error = pair.ours.OpusError(-4)
    assert (error.code, error.args, str(error)) == (-4, (), str(pair.theirs.OpusError(-4)))
    for code in range(-9, 2):
        assert str(pair.ours.OpusError(code)) == str(pair.theirs.OpusError(code))


def test_other_bytes_than_bytes_are_taken_too(pair: Pair) -> None:
    """The originals refuse them; a drop-in may take more."""
    packet = speech_packets(0.5)[5]
    expected = pair.ours.Decoder(16000, 1).decode(packet, 960)
    for data in (bytearray(packet), memoryview(packet)):
        assert pair.ours.Decoder(16000, 1).decode(data, 960) == expected


some_packets = st.sampled_from(
    speech_packets(1, bitrate=32000, fec=True, loss_percent=30)
    + speech_packets(1, 48000, 2, bitrate=64000, application="audio")
    + speech_packets(0.5, frame_ms=60)
    + [b"", b"\xff", b"\xff\xff"]
)
some_sizes = st.sampled_from([0, 39, 40, 160, 319, 320, 321, 640, 960, 1920, 5760])
calls = st.one_of(
    st.tuples(st.sampled_from(["decode", "decode_float"]), some_packets, some_sizes, st.booleans()),
    st.tuples(st.just("gain"), st.integers(-4000, 4000)),
    st.tuples(st.just("reset_state")),
)


@settings(max_examples=30)
@given(st.lists(calls, min_size=5, max_size=30), st.sampled_from([(16000, 1), (48000, 2)]))
@pytest.mark.parametrize("name", NAMES)
def test_any_history_has_the_same_answers(
    name: str, history: list[tuple[Any, ...]], form: tuple[int, int]
) -> None:
    """Whatever is called in whatever order."""
    ours = importlib.import_module(f"opuspool.compat.{name}")

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.Decoder(*form)
        for step, (what, *arguments) in enumerate(history):
            if what == "gain":
                yield f"{step}: gain", answer(setattr, decoder, "gain", arguments[0])
            else:
                yield f"{step}: {what}", answer(getattr(decoder, what), *arguments)
            yield f"{step}: values", values(decoder)

    same(script, original(name), ours)


def test_a_loud_stream_is_clipped_by_libopus_itself(pair: Pair) -> None:
    """The test above means something: there is something to clip."""
    decoder = pair.ours.Decoder(48000, 2)
    decoder.gain = 6000
    pcm = b"".join(decoder.decode(packet, 960) for packet in speech_packets(1, 48000, 2))
    assert np.abs(np.frombuffer(pcm, np.int16).astype(int)).max() > 32000
