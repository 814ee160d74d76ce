"""The drop-ins on Windows: they answer as the originals over opus.dll, and outlive its faults."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import faults
import network
import pyoggdecoder
import pytest
import recordings
import reference
from compatscripts import answer, original, same
from servicebytes import framed, int16
from windows import lane

import opuspool.compat.opuslib_next
import opuspool.compat.pyogg
from opuspool import compat
from opuspool.compat.defaultpool import default_pool
from opuspool.compat.opus_packet_decoder import OpusPacketDecoder, OpusPacketDecodingPipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

assert sys.platform == "win32"

PACKETS = recordings.speech_packets(1.0, bitrate=28000, fec=True, loss_percent=20)
GARBAGE = b"\xff\xff"


@pytest.fixture(autouse=True, scope="module")
def _shared_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The drop-ins' pool, whose libopus faults on marked packets."""
    folder = tmp_path_factory.mktemp("compat")
    with pytest.MonkeyPatch.context() as patch:
        lane.use_faulting(patch, folder)
        patch.setenv("OPUSPOOL_REQUESTS_TIMEOUT_SECONDS", "120")
        compat.configure(workers=1, spares=1, config=lane.settings(folder))
        yield
        compat.close()
        compat.configure()


def test_opuslib_next_answers_alike() -> None:
    """Packets, losses, FEC, garbage, a reset, and what the decoder tells of itself."""
    assert importlib.util.find_spec("opuslib_next"), "it is one of the lane's requirements"

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder, floats = lib.Decoder(16000, 1), lib.Decoder(48000, 2)
        for at in range(0, 12, 2):
            yield f"packet {at}", answer(decoder.decode, PACKETS[at], 960)
            yield f"FEC of {at + 1}", answer(decoder.decode, PACKETS[at + 2], 320, True)
            yield f"float {at}", answer(floats.decode_float, PACKETS[at], 5760)
        yield "loss", answer(decoder.decode, b"", 320)
        yield "garbage", answer(decoder.decode, GARBAGE, 960)
        yield "too small", answer(decoder.decode, PACKETS[12], 100)
        yield "pitch", answer(getattr, decoder, "pitch")
        yield "final_range", answer(getattr, decoder, "final_range")
        yield "reset", answer(decoder.reset_state)
        yield "after it", answer(decoder.decode, PACKETS[13], 960)
        yield "wrong rate", answer(lib.Decoder, 44100, 1)

    assert same(script, original("opuslib_next"), opuspool.compat.opuslib_next) == 26


def test_pyogg_answers_alike() -> None:
    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.OpusDecoder()
        yield "too early", answer(decoder.decode, bytearray(PACKETS[0]))
        decoder.set_sampling_frequency(16000)
        decoder.set_channels(1)
        for at, packet in enumerate(PACKETS[:10]):
            yield f"packet {at}", answer(decoder.decode, bytearray(packet))
        for ms in (20, 2.5, 60, 99):
            yield f"loss {ms}", answer(decoder.decode_missing_packet, ms)
        yield "garbage", answer(decoder.decode, bytearray(GARBAGE))
        yield "after it", answer(decoder.decode, bytearray(PACKETS[10]))

    theirs = pyoggdecoder.Library(pyoggdecoder.TheirDecoder)
    assert same(script, theirs, opuspool.compat.pyogg) == 17


@pytest.mark.smoke
def test_the_incidents_decoder_outlives_an_access_violation() -> None:
    """The packet that faults gives no PCM, those before and after it what they should."""
    before = default_pool().status()["counters"]["access_violations"]
    decoder = OpusPacketDecoder()
    first = [decoder.decode(packet) for packet in PACKETS[:10]]
    assert decoder.decode(faults.marked("segv", PACKETS[10])) == b""
    assert decoder.decode(GARBAGE) == b""
    rest = [decoder.decode(packet) for packet in PACKETS[10:20]]
    assert b"".join(first + rest) == int16(reference.golden(PACKETS[:20]))
    assert default_pool().status()["counters"]["access_violations"] == before + 2


def test_the_incidents_pipeline_keeps_the_senders_time() -> None:
    """Numbered packets, some of them lost, doubled or late."""
    order = network.arrivals(len(PACKETS), seed=1)
    there = set(network.in_time(order))
    assert len(there) < len(PACKETS)
    pipeline = OpusPacketDecodingPipeline(with_seq=True)
    for number in order:
        pipeline.feed_data(framed([PACKETS[number]], first=number))
    assert pipeline.available_samples() == 320 * len(PACKETS)
    assert pipeline.read_pcm16(10**9) == int16(network.heard(PACKETS, there))
