"""Decoding on Windows equals opus.dll, bit for bit; the pool around it works."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
import recordings
import reference
from windows import lane

import opuspool

if TYPE_CHECKING:
    from collections.abc import Iterator

assert sys.platform == "win32"

SPEECH = Path(__file__).parents[2] / "examples" / "speech.opus"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[opuspool.Pool]:
    config = lane.settings(tmp_path_factory.mktemp("pool"))
    with opuspool.Pool(workers=2, spares=1, config=config) as pool:
        yield pool


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (48000, 2)])
def test_an_utterance_is_decoded_bit_for_bit(
    pool: opuspool.Pool, rate: int, channels: int, dtype: Literal["float32", "int16"]
) -> None:
    packets = recordings.speech_packets(2.0, rate, channels, bitrate=24000 * channels)
    pcm = pool.decode(packets, sample_rate=rate, channels=channels, dtype=dtype, timeout=120)
    assert np.array_equal(pcm, reference.golden(packets, rate, channels, dtype))


@pytest.mark.smoke
def test_a_stream_with_losses_is_decoded_bit_for_bit(pool: opuspool.Pool) -> None:
    packets = recordings.speech_packets(1.0)
    direct = reference.ReferenceDecoder()
    with pool.stream(sample_rate=16000) as stream:
        for number, packet in enumerate(packets):
            if number % 7 == 3:
                assert np.array_equal(stream.decode(None), direct.lost(320))
            else:
                assert np.array_equal(stream.decode(packet), direct.decode(packet))


def test_a_file_is_decoded(pool: opuspool.Pool) -> None:
    pcm = pool.decode_file(SPEECH, sample_rate=16000)
    assert pcm.dtype == np.float32
    assert float(np.abs(pcm).max()) > 0.01
    assert np.array_equal(pcm, pool.decode_file(io.BytesIO(SPEECH.read_bytes())))


def test_a_worker_makes_checkpoints(pool: opuspool.Pool) -> None:
    before = pool.status()["counters"]["checkpoints"]
    with pool.stream(sample_rate=16000) as stream:
        stream.decode_many(recordings.speech_packets(10.0), timeout=120)
        assert pool.status()["counters"]["checkpoints"] > before


def test_an_invalid_packet_is_refused_and_the_stream_goes_on(pool: opuspool.Pool) -> None:
    (packet,) = recordings.speech_packets(0.02)
    with pool.stream(sample_rate=16000) as stream:
        with pytest.raises(opuspool.InvalidPacketError):
            stream.decode(b"\xff\xff")
        assert np.array_equal(stream.decode(packet), reference.golden([packet]))


def test_tasks_decode(tmp_path: Path) -> None:
    packets = recordings.speech_packets(1.0)

    async def decode() -> None:
        async with opuspool.AsyncPool(workers=1, spares=0, config=lane.settings(tmp_path)) as pool:
            found = await asyncio.gather(*(pool.decode(packets, timeout=120) for _ in range(3)))
        for pcm in found:
            assert np.array_equal(pcm, reference.golden(packets))

    asyncio.run(decode())
