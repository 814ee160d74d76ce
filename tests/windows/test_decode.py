"""Decoding on Windows equals opus.dll, bit for bit; the pool around it works."""

from __future__ import annotations

import asyncio
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import psutil
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


def test_paths_may_have_spaces_and_any_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libopus, settings, a recording, crash reports: checkpoints need the library's path too."""
    folder = tmp_path / "Ünder wäy, ключ 鍵"
    folder.mkdir()
    library, recording = folder / "öpus 1.dll", folder / "Sprache 語.opus"
    library.write_bytes(reference.real_libopus().read_bytes())
    recording.write_bytes(SPEECH.read_bytes())
    monkeypatch.setenv("OPUSPOOL_LIBOPUS", str(library))
    with opuspool.Pool(workers=1, spares=0, config=lane.settings(folder)) as pool:
        assert len(pool.decode_file(recording)) > 16000
        assert Path(pool.status()["libopus"]["path"]) == library
        speaker = lane.Speaker(pool)
        speaker.say(300)
        psutil.Process(*lane.pids(pool)).kill()
        speaker.say(5)
        counters = pool.status()["counters"]
        assert counters["checkpoints"] > 0
        assert counters["inexact_rebuilds"] == 0
    (report,) = lane.reports(folder, 1)
    assert report["versions"]["libopus_path"] == str(library)


def test_tasks_decode(tmp_path: Path) -> None:
    packets = recordings.speech_packets(1.0)

    async def decode() -> None:
        async with opuspool.AsyncPool(workers=1, spares=0, config=lane.settings(tmp_path)) as pool:
            found = await asyncio.gather(*(pool.decode(packets, timeout=120) for _ in range(3)))
        for pcm in found:
            assert np.array_equal(pcm, reference.golden(packets))

    asyncio.run(decode())
