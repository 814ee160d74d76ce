"""discord.py's decoder: the same script on the original and on the drop-in, bit for bit."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import reference
from compatscripts import answer, original, same, shared_pool
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import real_streams, speech_packets
from test_packets import BROKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # discord.py's, which it imports where it is installed
    import opuspool.compat.discord as ours

CONSTANTS = ["SAMPLING_RATE", "CHANNELS", "FRAME_LENGTH", "SAMPLE_SIZE", "SAMPLES_PER_FRAME"]
STATICS = ["packet_get_nb_frames", "packet_get_nb_channels", "packet_get_samples_per_frame"]


class Pair(NamedTuple):
    """The original and its drop-in."""

    theirs: Any
    ours: Any


@pytest.fixture(scope="module", autouse=True)
def _shared_pool() -> Iterator[None]:
    with shared_pool():
        yield


@pytest.fixture(scope="module")
def pair() -> Pair:
    """`discord.opus`, with the libopus that opuspool chooses, and the drop-in."""
    theirs = original("discord.opus")
    theirs.load_opus(str(reference.real_libopus()))
    return Pair(theirs, ours)


def fec_packets() -> list[bytes]:
    return speech_packets(2, 48000, 2, bitrate=48000, fec=True, loss_percent=30)


def test_real_streams_decode_alike(pair: Pair) -> None:
    """With losses; mono packets come out as stereo."""

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        for stream in real_streams():
            decoder = lib.Decoder()
            for at, packet in enumerate(stream.packets[:40]):
                yield (
                    f"{stream.name}: {at}",
                    answer(decoder.decode, None if at % 7 == 6 else packet),
                )
                yield f"{stream.name}: length {at}", decoder._get_last_packet_duration()

    assert same(script, *pair) > 100


def test_losses_and_fec_are_alike(pair: Pair) -> None:
    """A loss at first, between packets of several lengths, after a loss; FEC of all."""
    packets = fec_packets()[:40] + speech_packets(1, frame_ms=60) + speech_packets(1, frame_ms=10)

    def decode(decoder: Any, data: object, fec: object) -> object:
        return decoder.decode(data, fec=fec)

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.Decoder()
        yield "loss at first", answer(decode, decoder, None, False)
        yield "FEC of a loss", answer(decode, decoder, None, True)
        yield "by position", answer(decoder.decode, packets[0], True)
        for at, packet in enumerate(packets):
            if at % 5 == 2:
                yield f"FEC {at}", answer(decode, decoder, packet, True)
            if at % 5 == 3:
                yield f"two losses {at}", [answer(decoder.decode, None) for _ in range(2)]
            yield f"packet {at}", answer(decode, decoder, packet, False)

    assert same(script, *pair) > len(packets)


def test_what_is_no_packet_is_refused_alike(pair: Pair) -> None:
    """The decoder goes on; what packets say of themselves is alike too."""
    packets = fec_packets()
    bad: list[Any] = [packet for packet, _ in BROKEN.values()]
    bad += [b"", b"\xff", b"\xff\xff", ours.OPUS_SILENCE, "text", 5, 1.5, [], object()]

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.Decoder()
        for at, data in enumerate(bad):
            yield f"bad {at}", answer(decoder.decode, data)
            for name in STATICS:
                yield f"{name} {at}", answer(getattr(lib.Decoder, name), data)
            yield f"good {at}", answer(decoder.decode, packets[at])

    assert same(script, *pair) == 5 * len(bad)


def test_packets_say_the_same_of_themselves(pair: Pair) -> None:
    """Every first byte, with frame counts."""
    packets = [bytes([toc, *more]) for toc in range(256) for more in ((), (0,), (3, 1), (255,))]

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        for packet in packets:
            for name in STATICS:
                yield f"{name} {packet.hex()}", answer(getattr(lib.Decoder, name), packet)

    assert same(script, *pair) == 3 * 1024


def test_gain_and_volume_are_alike(pair: Pair) -> None:
    """Clipped to what libopus takes; loud PCM is clipped alike."""
    packets = fec_packets()
    gains: list[Any] = [0, 3, -3.5, 0.001, 24, 128, 127.99, -128, 1000, -1000, "1", None]
    volumes: list[Any] = [1, 0.5, 1.75, 16, 0, -1, 1e-9, "1"]

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.Decoder()
        for name, values in (("set_gain", gains), ("set_volume", volumes)):
            for at, value in enumerate(values):
                yield f"{name} {value}", answer(getattr(decoder, name), value)
                for turn, packet in enumerate(packets[at : at + 5]):
                    yield f"{name} {value}, {turn}", answer(decoder.decode, packet)
        for value in (-1, 32767, 32768, -32769):
            yield f"_set_gain {value}", answer(decoder._set_gain, value)

    assert same(script, *pair) == 6 * (len(gains) + len(volumes)) + 4


def test_names_are_the_originals(pair: Pair) -> None:
    """Constants, version, errors; whoever catches the original's error catches ours."""
    for name in [*CONSTANTS, "FRAME_SIZE"]:
        assert getattr(ours.Decoder, name) == getattr(pair.theirs.Decoder, name)
    assert ours.Decoder.get_opus_version() == pair.theirs.Decoder.get_opus_version()
    assert ours.is_loaded() is pair.theirs.is_loaded() is True
    assert ours.OPUS_SILENCE == pair.theirs.OPUS_SILENCE
    assert ours.Encoder is pair.theirs.Encoder
    with pytest.raises(pair.theirs.OpusError) as caught:
        ours.Decoder().decode(b"\xff")
    assert (caught.value.code, str(caught.value)) == (-4, "corrupted stream")


WITHOUT_DISCORD = """
import sys
sys.modules["discord"] = None
import opuspool.compat.discord as opus
assert opus.OpusError.__mro__[1] is Exception
try:
    opus.Encoder
except ImportError as error:
    print(error)
"""


def test_it_works_without_discord_installed() -> None:
    """Only the encoder cannot be had; the error says so."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_DISCORD], capture_output=True, text=True, check=True
    )
    assert "opuspool only decodes; Encoder is that of discord.opus" in done.stdout


some_packets = st.sampled_from(
    [*fec_packets(), *speech_packets(1, frame_ms=60), b"\xff", b"", ours.OPUS_SILENCE, None]
)
calls = st.one_of(
    st.tuples(st.just("decode"), some_packets, st.booleans()),
    st.tuples(st.just("set_gain"), st.floats(-20, 40)),
)


@settings(max_examples=30)
@given(st.lists(calls, min_size=5, max_size=30))
def test_any_history_has_the_same_answers(history: list[tuple[Any, ...]]) -> None:
    """Whatever is called in whatever order."""
    theirs = original("discord.opus")
    theirs.load_opus(str(reference.real_libopus()))

    def decode(decoder: Any, data: object, fec: object) -> object:
        return decoder.decode(data, fec=fec)

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.Decoder()
        for step, (what, *arguments) in enumerate(history):
            if what == "decode":
                yield f"{step}: decode", answer(decode, decoder, *arguments)
            else:
                yield f"{step}: {what}", answer(getattr(decoder, what), *arguments)

    same(script, theirs, ours)
