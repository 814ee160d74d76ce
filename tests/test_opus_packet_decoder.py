"""The incident's classes: its habits, over a pool that its faults cannot reach."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import faults
import network
import numpy as np
import pytest
from killing import Killer, all_idle, check_books, deaths
from recordings import speech_packets
from reference import ReferenceEncoder, golden
from servicebytes import framed, int16
from waiting import wait_until

from opuspool import compat
from opuspool.compat.defaultpool import default_pool
from opuspool.compat.opus_packet_decoder import (
    MAX_PACKET_BYTES,
    AudioStats,
    OpusPacketDecoder,
    OpusPacketDecodingPipeline,
)
from opuspool.losses import Losses

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKETS = speech_packets(2.0)


@pytest.fixture(autouse=True)
def _shared_pool() -> Iterator[None]:
    """Each test has a shared pool of its own, as configured here."""
    compat.configure(workers=2)
    yield
    compat.close()


# ---- the decoder ----------------------------------------------------------------------------


@pytest.mark.parametrize(("sample_rate", "channels"), [(16000, 1), (48000, 2)])
def test_a_decoder_gives_the_services_int16(sample_rate: int, channels: int) -> None:
    packets = speech_packets(1.0, channels=channels, bitrate=32000)
    decoder = OpusPacketDecoder(sample_rate, channels)
    pcm = b"".join(decoder.decode(packet) for packet in packets)
    assert pcm == int16(golden(packets, sample_rate, channels))


def test_the_services_int16_is_not_quite_libopus() -> None:
    """Cut off from times 32,767 there, rounded from times 32,768 here: 2 apart, at most."""
    decoder = OpusPacketDecoder()
    pcm = np.frombuffer(b"".join(map(decoder.decode, PACKETS)), "<i2").astype(int)
    apart = np.abs(pcm - golden(PACKETS, dtype="int16"))
    assert 0 < apart.max() <= 2


def test_sound_that_is_too_loud_is_clipped() -> None:
    """`opus_decode_float` may go beyond 1."""
    rng = np.random.default_rng(0)
    loud = np.sign(rng.standard_normal(48000)).astype(np.float32)
    packets = ReferenceEncoder(48000, bitrate=64000, mode="celt").encode(loud)
    right = golden(packets)
    assert np.abs(right).max() > 1, "else nothing is shown"
    decoder = OpusPacketDecoder()
    assert b"".join(map(decoder.decode, packets)) == int16(right)


@pytest.mark.parametrize(
    "packet",
    [b"", None, b"\xff\xff", bytes(MAX_PACKET_BYTES + 1), "a packet", 5],
    ids=["empty", "none", "invalid", "too long", "text", "a number"],
)
def test_what_is_no_packet_gives_nothing(packet: bytes) -> None:
    """And costs the stream nothing."""
    decoder = OpusPacketDecoder()
    first = [decoder.decode(one) for one in PACKETS[:50]]
    assert decoder.decode(packet) == b""
    rest = [decoder.decode(one) for one in PACKETS[50:]]
    assert b"".join(first + rest) == int16(golden(PACKETS))


def test_wrong_formats_are_refused_when_it_is_made() -> None:
    for arguments in ((44100, 1), (16000, 3)):
        with pytest.raises(ValueError, match="must be"):
            OpusPacketDecoder(*arguments)
        with pytest.raises(ValueError, match="must be"):
            OpusPacketDecodingPipeline(*arguments)


def test_a_killer_gives_nothing_and_is_told(faulty: Path, caplog: pytest.LogCaptureFixture) -> None:
    compat.configure(workers=2)  # the faulting libopus was not known before
    decoder = OpusPacketDecoder()
    first = [decoder.decode(one) for one in PACKETS[:50]]
    assert decoder.decode(faults.marker("segv")) == b""
    assert "killed its workers" in caplog.text
    rest = [decoder.decode(one) for one in PACKETS[50:]]
    assert b"".join(first + rest) == int16(golden(PACKETS))


def test_a_decoder_whose_pool_has_ended_goes_on_with_another() -> None:
    decoder = OpusPacketDecoder()
    assert len(decoder.decode(PACKETS[0])) == 640
    compat.close()
    assert decoder.decode(PACKETS[0]) == int16(golden(PACKETS[:1]))


def test_without_workers_nothing_is_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compat.close()
    compat.configure(workers=1, libopus=tmp_path / "none.so")
    assert OpusPacketDecoder().decode(PACKETS[0]) == b""
    assert "none.so" in caplog.text


def test_forgotten_decoders_are_given_back() -> None:
    """One a request, as the service has them: none may be left in the workers."""
    for _ in range(20):
        OpusPacketDecoder().decode(PACKETS[0])
    gc.collect()
    wait_until(lambda: default_pool().status()["streams"] == 0, what="no stream is left")


# ---- the pipeline ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
def test_a_pipeline_takes_bytes_in_pieces_of_any_size(size: int) -> None:
    packets = PACKETS[:20] if size == 1 else PACKETS
    data = framed(packets)
    pipeline = OpusPacketDecodingPipeline()
    for at in range(0, len(data), size):
        pipeline.feed_data(data[at : at + size])
    right = int16(golden(packets))
    samples = len(right) // 2
    assert pipeline.get_stats() == AudioStats(
        last_decode_samples=320, buffer_samples=samples, total_decoded_samples=samples
    )
    assert pipeline.available_samples() == samples
    assert pipeline.read_pcm16(100) + pipeline.read_pcm16(10**9) == right
    assert pipeline.available_samples() == 0


def test_packets_that_fail_are_counted() -> None:
    """In one piece and in several; in a row until one is decoded."""
    bad = [b"\xff\xff", b"\xff\xff", b"\xff\xff\xff"]
    pipeline = OpusPacketDecodingPipeline()
    pipeline.feed_data(framed([*PACKETS[:5], *bad, *PACKETS[5:10], *bad[:2]]))
    stats = pipeline.get_stats()
    assert (stats.decode_fail_total, stats.consecutive_decode_fails) == (5, 2)
    pipeline.feed_data(framed(bad))
    assert (stats.decode_fail_total, stats.consecutive_decode_fails) == (8, 5)
    pipeline.feed_data(framed(PACKETS[10:11]))
    assert (stats.decode_fail_total, stats.consecutive_decode_fails) == (8, 0)
    assert pipeline.read_pcm16(10**9) == int16(golden(PACKETS[:11]))


def test_a_full_pipeline_forgets_the_oldest() -> None:
    pipeline = OpusPacketDecodingPipeline(buffer_capacity_ms=60)
    pipeline.feed_data(framed(PACKETS))
    assert pipeline.read_pcm16(10**9) == int16(golden(PACKETS)[-3 * 320 :])


def test_numbered_packets_over_a_bad_network_keep_their_time() -> None:
    """Loss, reordering and doubles: FEC, concealment, and the sender's time."""
    packets = speech_packets(6.0, bitrate=28000, fec=True, loss_percent=20)
    order = network.arrivals(len(packets), seed=1)
    there = set(network.in_time(order))
    pipeline = OpusPacketDecodingPipeline(with_seq=True)
    for number in order:
        pipeline.feed_data(framed([packets[number]], first=number))
    assert pipeline.read_pcm16(10**9) == int16(network.heard(packets, there))
    by_fec, concealed = network.missing(packets, there)
    counts, stats = pipeline.losses, pipeline.get_stats()
    assert counts is not None
    assert (counts.decoded, counts.fec, counts.plc) == (len(there), by_fec, concealed)
    assert counts.late + counts.double == len(order) - len(there)
    assert stats.seq == order[-1]
    assert stats.decode_fail_total == 0, "late and double packets are no failures"
    assert stats.total_decoded_samples == 320 * len(packets)


def test_overtaken_packets_are_waited_for_where_that_is_wanted() -> None:
    packets = PACKETS[:4]
    pipeline = OpusPacketDecodingPipeline(with_seq=True, losses=Losses(reorder_packets=1))
    for number in (0, 2, 1):
        pipeline.feed_data(framed([packets[number]], first=number))
    assert pipeline.read_pcm16(10**9) == int16(golden(packets[:3]))
    pipeline.feed_data(framed([packets[3]], first=4))
    assert pipeline.available_samples() == 0
    pipeline.flush()
    assert pipeline.get_stats().buffer_samples == 2 * 320
    assert pipeline.get_stats().total_decoded_samples == 5 * 320


def test_a_pipeline_that_is_reset_is_as_new() -> None:
    """Also its decoder, and its numbers."""
    pipeline = OpusPacketDecodingPipeline(with_seq=True)
    for _ in range(2):
        pipeline.feed_data(framed(PACKETS[:10], first=0) + b"\x05")
        assert pipeline.read_pcm16(10**9) == int16(golden(PACKETS[:10]))
        pipeline.reset()
        assert pipeline.get_stats() == AudioStats()


# ---- the incident's pattern -----------------------------------------------------------------


def test_requests_from_many_threads_while_workers_die() -> None:
    """A decoder a request, eight threads, a worker killed again and again: no request fails."""
    requests, threads, kills = 400, 8, 20
    voices = [speech_packets(1.0, seed=seed) for seed in range(8)]
    right = [int16(golden(packets)) for packets in voices]

    def request(number: int) -> bool:
        packets = voices[number % len(voices)]
        if number % 2:
            pipeline = OpusPacketDecodingPipeline()
            pipeline.feed_data(framed(packets))
            pcm = pipeline.read_pcm16(pipeline.available_samples())
        else:
            decoder = OpusPacketDecoder()
            pcm = b"".join(decoder.decode(packet) for packet in packets)
        return pcm == right[number % len(voices)]

    pool = default_pool()
    wait_until(lambda: all_idle(pool.status()), what="all workers have started")
    well = 0
    with ThreadPoolExecutor(threads) as executor, Killer(pool.status, kills, seed=1) as killer:
        while not killer.done.is_set() or well < requests:
            well += list(executor.map(request, range(40))).count(True)
            assert well % 40 == 0, "a request has failed"
    assert killer.failure is None
    assert killer.kills.total() == deaths(pool.status()) == kills
    assert pool is default_pool()
    check_books(pool.status())
