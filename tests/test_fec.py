"""Whether a packet carries FEC is what libopus says of it (`opus_packet_has_lbrr`, from 1.5 on)."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_int32
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from recordings import real_streams, speech_packets
from reference import all_libopus, pad

from opuspool.fec import has_fec

STREAMS = {
    "10 ms": speech_packets(1.0, bitrate=24000, frame_ms=10, fec=True, loss_percent=30),
    "20 ms": speech_packets(2.0, bitrate=24000, fec=True, loss_percent=20),
    "40 ms": speech_packets(2.0, bitrate=24000, frame_ms=40, fec=True, loss_percent=20),
    "60 ms": speech_packets(3.0, bitrate=24000, frame_ms=60, fec=True, loss_percent=20),
    "120 ms": speech_packets(3.0, bitrate=24000, frame_ms=120, fec=True, loss_percent=20),
    "stereo": speech_packets(2.0, channels=2, bitrate=48000, fec=True, loss_percent=20),
    "stereo, 60 ms": speech_packets(
        3.0, channels=2, bitrate=48000, frame_ms=60, fec=True, loss_percent=20
    ),
    "hybrid": speech_packets(2.0, 48000, bitrate=40000, fec=True, loss_percent=20, mode="hybrid"),
}
WITHOUT = {
    "SILK": speech_packets(2.0, bitrate=24000),
    "CELT": speech_packets(1.0, 48000, bitrate=64000, mode="celt"),
}


@cache
def libraries() -> list[ctypes.CDLL]:
    """Every libopus here that can be asked."""
    found = [ctypes.CDLL(str(path)) for path in all_libopus()]
    able = [library for library in found if hasattr(library, "opus_packet_has_lbrr")]
    if not able:
        pytest.skip("no libopus from 1.5 on: pip install av")
    for library in able:
        library.opus_packet_has_lbrr.restype = c_int
        library.opus_packet_has_lbrr.argtypes = [c_char_p, c_int32]
    return able


def says_libopus(packet: bytes) -> bool:
    """What all versions say."""
    answers = {library.opus_packet_has_lbrr(packet, len(packet)) for library in libraries()}
    assert len(answers) == 1
    return bool(answers.pop() > 0)


@pytest.mark.parametrize("name", STREAMS)
def test_speech_with_fec_has_it_in_most_packets_that_libopus_says(name: str) -> None:
    """And the same once there is padding, which puts a code 3 in front."""
    for packet in STREAMS[name]:
        assert has_fec(packet) == says_libopus(packet), packet[:8].hex()
        assert has_fec(pad(packet, len(packet) + 300)) == has_fec(packet)
    assert sum(map(has_fec, STREAMS[name])) > len(STREAMS[name]) / 3


@pytest.mark.parametrize("name", WITHOUT)
def test_speech_without_fec_has_none(name: str) -> None:
    assert not any(map(has_fec, WITHOUT[name]))


def test_every_recording_is_read_as_libopus_reads_it() -> None:
    """Real encoders, too."""
    for stream in real_streams():
        for packet in stream.packets:
            assert has_fec(packet) == says_libopus(packet), stream.name


def test_a_pause_that_was_not_sent_has_no_fec() -> None:
    """A frame of one byte, whatever its bits say: libopus conceals it (`opus_decode_frame`)."""
    assert has_fec(b"\x08\xff\xff")
    assert not has_fec(b"\x08\xff")
    assert not has_fec(b"\x08")


@example(b"\x08\xff")  # one byte of sound: concealed, whatever its bits say
@example(b"\x0b\x82\x01\xff\xff\xff")
@example(b"\x0b\x42\xff\xff")
@given(
    st.one_of(
        st.binary(max_size=12),
        st.builds(
            bytes.__add__,
            st.sampled_from(
                [
                    b"\x48",
                    b"\x49",
                    b"\x4a",
                    b"\x4b\x02",
                    b"\x4b\x82",
                    b"\x4b\xc2\x03",
                    b"\x5c",
                    b"\x7c",
                ]
            ),
            st.binary(max_size=40),
        ),
    )
)
def test_any_bytes_are_read_as_libopus_reads_them(packet: bytes) -> None:
    """What it refuses may be said to have FEC: the worker refuses it all the same."""
    if not packet:
        assert not has_fec(packet)
        return
    library = libraries()[0]
    answer = library.opus_packet_has_lbrr(packet, len(packet))
    if answer >= 0 and not _first_frame_is_a_pause(packet):
        assert has_fec(packet) == (answer == 1)


def _first_frame_is_a_pause(packet: bytes) -> bool:
    """Frames of 0 and 1 bytes, which libopus looks at here and conceals when it decodes."""
    sizes = (ctypes.c_int16 * 48)()
    library = libraries()[0]
    count = library.opus_packet_parse(packet, c_int32(len(packet)), None, None, sizes, None)
    return bool(count > 0 and sizes[0] < 2)
