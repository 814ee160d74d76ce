"""The golden data is right: the reference agrees with itself, with opusdec and with the signal."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING

import numpy as np
import pytest
from recordings import (
    Recording,
    generated_streams,
    read_ogg,
    real_packets,
    real_streams,
    speech,
    speech_packets,
)
from reference import (
    OpusError,
    Pcm,
    ReferenceDecoder,
    ReferenceEncoder,
    golden,
    pad,
    real_libopus,
    samples,
    version,
)

if TYPE_CHECKING:
    from collections.abc import Callable

EXAMPLE = Path(__file__).parents[1] / "examples" / "speech.opus"


def rms(signal: Pcm) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


def test_the_library_is_a_file_that_says_what_it_is() -> None:
    assert real_libopus().is_file()
    assert "libopus" in version()


@pytest.mark.parametrize("sample_rate", [8000, 12000, 16000, 24000, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_decoded_speech_has_the_length_and_shape_that_was_encoded(
    sample_rate: int, channels: int
) -> None:
    packets = speech_packets(1, sample_rate, channels, bitrate=24000)
    pcm = golden(packets, sample_rate, channels)
    assert pcm.shape == ((sample_rate,) if channels == 1 else (sample_rate, channels))
    assert pcm.dtype == np.float32


def test_decoded_speech_is_the_speech_that_was_encoded() -> None:
    """Best match within the codec's delay; a codec at 32 kb/s keeps most of the waveform."""
    original = speech(16000, 2)
    decoded = golden(ReferenceEncoder(16000, 1, bitrate=32000, complexity=10).encode(original))
    correlation = max(
        float(np.corrcoef(original[: -1 - delay], decoded[delay:-1])[0, 1]) for delay in range(400)
    )
    assert correlation > 0.9


def test_int16_is_float32_rounded() -> None:
    packets = speech_packets(1)
    floats = golden(packets).astype(np.float64) * 32768
    assert np.abs(golden(packets, dtype="int16") - floats).max() <= 1


def test_encoding_int16_and_float_is_the_same() -> None:
    integers = (speech(16000, 1) * 32767).astype(np.int16)
    floats = integers.astype(np.float32) / 32768
    assert ReferenceEncoder().encode(integers) == ReferenceEncoder().encode(floats)


def test_speech_is_the_same_each_time_and_another_for_another_seed() -> None:
    assert np.array_equal(speech(seed=3), speech(seed=3))
    assert not np.array_equal(speech(seed=3), speech(seed=4))


def test_a_loss_is_concealed_for_the_last_duration() -> None:
    packets = speech_packets(1)
    decoder = ReferenceDecoder()
    decoder.decode_all(packets[:20])
    assert decoder.last_samples == 320
    assert decoder.lost(decoder.last_samples).shape == (320,)


def test_fec_is_closer_to_the_lost_packet_than_concealment() -> None:
    packets = speech_packets(3, bitrate=32000, fec=True, loss_percent=30)
    whole = golden(packets)
    errors = {"fec": 0.0, "concealed": 0.0}
    for lost in range(10, 100, 3):
        truth = whole[lost * 320 : (lost + 1) * 320]
        for how in errors:
            decoder = ReferenceDecoder()
            decoder.decode_all(packets[:lost])
            by_fec = how == "fec"
            pcm = decoder.fec(packets[lost + 1], 320) if by_fec else decoder.lost(320)
            errors[how] += rms(pcm - truth)
    assert errors["fec"] < errors["concealed"]


def test_a_refused_packet_raises_with_libopus_code() -> None:
    with pytest.raises(OpusError, match=r"\(-4\)") as caught:
        ReferenceDecoder().decode(b"\xff\xff")
    assert caught.value.code == -4


def test_padding_changes_the_packet_and_not_its_sound() -> None:
    packets = speech_packets(1)
    padded = [pad(packet, len(packet) + 40) for packet in packets]
    assert np.array_equal(golden(packets), golden(padded))
    assert samples(padded[0]) == 960


def test_a_reset_decoder_is_as_new() -> None:
    packets = speech_packets(0.5)
    decoder = ReferenceDecoder()
    first = decoder.decode_all(packets)
    used = decoder.final_range
    decoder.reset()
    assert decoder.final_range == 0
    assert np.array_equal(decoder.decode_all(packets), first)
    assert decoder.final_range == used


@pytest.mark.parametrize("streams", [generated_streams, real_streams])
def test_there_are_twelve_different_streams_that_decode(
    streams: Callable[[], list[Recording]],
) -> None:
    found = streams()
    assert len({tuple(stream.packets) for stream in found}) >= 12
    for stream in found:
        assert rms(golden(stream.packets[:100], 48000, stream.channels)) > 1e-4, stream.name


def test_generated_streams_cover_silk_hybrid_and_celt() -> None:
    """The configuration number says it (RFC 6716, 3.1): to 11 SILK, to 15 hybrid, then CELT."""
    numbers = {packet[0] >> 3 for stream in generated_streams() for packet in stream.packets}
    assert min(numbers) < 12
    assert numbers & {12, 13, 14, 15}
    assert max(numbers) >= 16


def test_a_real_recording_is_as_long_as_it_says() -> None:
    assert sum(map(samples, real_packets("voice/silero_16k.opus"))) / 48000 == pytest.approx(
        8, abs=1
    )


def test_the_reference_decodes_the_example_as_opusdec_does(tmp_path: Path) -> None:
    if which("opusdec") is None:
        pytest.skip("no opusdec: install opus-tools")
    raw = tmp_path / "speech.raw"
    command = ["opusdec", "--quiet", "--rate", "48000", "--no-dither", str(EXAMPLE), str(raw)]
    subprocess.run(command, check=True)
    expected = np.fromfile(raw, np.int16)
    pre_skip = 312
    decoded = golden(read_ogg(EXAMPLE).packets, 48000)[pre_skip:][: expected.size]
    # opusdec mixes down, scales and rounds its own way
    assert np.abs(expected - decoded.astype(np.float64) * 32768).max() <= 1.5


def test_the_example_is_small_and_short() -> None:
    recording = read_ogg(EXAMPLE)
    assert recording.channels == 1
    assert 7 < sum(map(samples, recording.packets)) / 48000 < 11
    assert EXAMPLE.stat().st_size < 40_000
