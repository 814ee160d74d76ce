"""PyOgg's decoder: the same script on libopus, called as PyOgg 0.7 does, and on the drop-in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from compatscripts import answer, same, shared_pool
from pyoggdecoder import Library, TheirDecoder
from recordings import real_streams, speech_packets
from test_packets import BROKEN

import opuspool.compat.pyogg as ours

if TYPE_CHECKING:
    from collections.abc import Iterator


PAIR = Library(TheirDecoder), Library(ours.OpusDecoder)


@pytest.fixture(scope="module", autouse=True)
def _shared_pool() -> Iterator[None]:
    with shared_pool():
        yield


def made(lib: Any, rate: int, channels: int) -> Any:
    decoder = lib.OpusDecoder()
    decoder.set_sampling_frequency(rate)
    decoder.set_channels(channels)
    return decoder


@pytest.mark.parametrize("rate", [8000, 12000, 16000, 24000, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_packets_and_losses_decode_alike(rate: int, channels: int) -> None:
    """Every length of a loss, and what is none."""
    lengths = [20, 2.5, 5, 10, 40, 60, 2, 0, -20, 99, 20.04, 120, 2.59]

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        for stream in real_streams():
            decoder = made(lib, rate, channels)
            for at, packet in enumerate(stream.packets[:26]):
                yield f"packet {at}", answer(decoder.decode, bytearray(packet))
                ms = lengths[at % len(lengths)]
                yield f"loss {ms}", answer(decoder.decode_missing_packet, ms)

    assert same(script, *PAIR) > 50


def test_what_is_no_packet_is_refused_alike() -> None:
    """The decoder goes on. An empty packet is a loss of 120 ms."""
    packets = speech_packets(2)

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = made(lib, 16000, 1)
        for at, (packet, _) in enumerate(BROKEN.values()):
            yield f"bad {at}", answer(decoder.decode, memoryview(bytearray(packet)))
            yield f"good {at}", answer(decoder.decode, bytearray(packets[at]))
        yield "None", answer(decoder.decode, None)
        yield "text", answer(decoder.decode, "text")

    assert same(script, *PAIR) == 2 * len(BROKEN) + 2


def test_settings_are_refused_alike() -> None:
    """Wrong, missing, or too late."""
    packet = speech_packets(0.5)[5]

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.OpusDecoder()
        for channels in (-1, 3, 1.5, "1"):
            yield f"channels {channels}", answer(decoder.set_channels, channels)
        for rate in (44100, 0, -1):
            yield f"rate {rate}", answer(decoder.set_sampling_frequency, rate)
        for name, value in (("set_channels", 1), ("set_sampling_frequency", 16000)):
            decoder = lib.OpusDecoder()
            yield name, answer(getattr(decoder, name), value)
            yield f"decode after {name} alone", answer(decoder.decode, bytearray(packet))
        decoder = made(lib, 16000, 1)
        yield "decode", answer(decoder.decode, bytearray(packet))
        yield "too late", answer(decoder.set_channels, 1)
        yield "too late", answer(decoder.set_sampling_frequency, 16000)
        decoder = made(lib, 16000, 0)
        yield "no channels", answer(decoder.decode, bytearray(packet))

    assert same(script, *PAIR) == 15


def test_errors_say_what_the_originals_say() -> None:
    """libopus's words behind the original's."""
    decoder = made(ours, 16000, 1)
    with pytest.raises(ours.PyOggError, match=r"Opus-encoded packet: corrupted stream$"):
        decoder.decode(bytearray(b"\xff"))
    with pytest.raises(ours.PyOggError, match=r"Frame duration \(99.000000\) is not one"):
        decoder.decode_missing_packet(99)


def test_the_result_is_a_view_of_memory_of_its_own() -> None:
    """The original's is overwritten by the next call; format and kind are the same."""
    decoder = made(ours, 16000, 1)
    first, second = speech_packets(1)[10:12]
    pcm = decoder.decode(bytearray(first))
    kept = bytes(pcm)
    decoder.decode(bytearray(second))
    assert isinstance(pcm, memoryview)
    assert (pcm.format, pcm.itemsize, pcm.readonly, bytes(pcm)) == ("c", 1, False, kept)
    assert type(decoder.decode_missing_packet(20)) is bytes


def test_bytes_and_a_loss_at_first_are_taken_too() -> None:
    """The original refuses the one and faults at the other."""
    packet = speech_packets(0.5)[5]
    decoder = made(ours, 16000, 1)
    assert decoder.decode_missing_packet(20) == bytes(640)
    other = made(ours, 16000, 1)
    other.decode_missing_packet(20)
    assert decoder.decode(packet) == other.decode(bytearray(packet))
