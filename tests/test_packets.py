"""The rules of RFC 6716 are libopus's own: `violation` refuses what `opus_packet_parse` refuses."""

from __future__ import annotations

import ctypes
from ctypes import c_int16
from functools import cache

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opuspool_workers import libopus
from opuspool_workers.packets import MAX_FRAME_BYTES, violation
from recordings import real_streams, speech_packets
from reference import all_libopus, pad, samples

from opuspool import toc
from opuspool.streamformat import MAX_PACKET_BYTES

LIBRARIES = [libopus._declare(ctypes.CDLL(str(path)), str(path)) for path in all_libopus()]
SIZES = (c_int16 * 48)()
"""Where `opus_packet_parse` notes the sizes of frames: 48 at most."""

SILK_10, SILK_20, SILK_60, CELT_2_5 = 0x00, 0x08, 0x18, 0x80
"""First bytes of packets by their frames' length in ms, narrowband, mono, with code 0."""


def refused_by_libopus(packet: bytes) -> bool:
    """What all versions say; they must agree."""
    answers = {
        library.packet_parse(packet, len(packet), None, None, SIZES, None) < 0
        for library in LIBRARIES
    }
    assert len(answers) == 1, f"the libraries disagree on {packet[:20].hex()}, {len(packet)} bytes"
    return answers.pop()


def agrees(packet: bytes) -> bool:
    return (violation(packet) is not None) == refused_by_libopus(packet)


@cache
def packets_of_all_kinds() -> list[bytes]:
    """Real and generated ones: every frame length, one to six frames, padded ones."""
    found = [packet for stream in real_streams() for packet in stream.packets[5:9]]
    for frame_ms in (2.5, 5, 10, 20, 40, 60, 80, 100, 120):
        for channels in (1, 2):
            found += speech_packets(0.5, 48000, channels, bitrate=48000, frame_ms=frame_ms)[:3]
    return found + [pad(packet, len(packet) + 300) for packet in found]


# ---- the rules, one by one ------------------------------------------------------------------

BROKEN = {
    "R1: empty": (b"", "R1"),
    "R2: one frame too long": (bytes([SILK_20]) + bytes(1276), "R2"),
    "R2: two equal frames too long": (bytes([SILK_20 | 1]) + bytes(2 * 1276), "R2"),
    "R2: the second of two too long": (bytes([SILK_20 | 2, 0]) + bytes(1276), "R2"),
    "R2: constant frames too long": (bytes([SILK_20 | 3, 2]) + bytes(2 * 1276), "R2"),
    "R2: the last frame too long": (bytes([SILK_20 | 3, 0x82, 0]) + bytes(1276), "R2"),
    "R3: odd length": (bytes([SILK_20 | 1]) + bytes(3), "R3"),
    "R4: no length": (bytes([SILK_20 | 2]), "R4"),
    "R4: half a length": (bytes([SILK_20 | 2, 252]), "R4"),
    "R4: longer than the packet": (bytes([SILK_20 | 2, 5]) + bytes(4), "R4"),
    "R4: one byte short of 252": (bytes([SILK_20 | 2, 252, 0]) + bytes(251), "R4"),
    "R5: no frame": (bytes([SILK_20 | 3, 0]), "R5"),
    "R5: 140 ms": (bytes([SILK_20 | 3, 7]) + bytes(7), "R5"),
    "R5: 180 ms": (bytes([SILK_60 | 3, 3]) + bytes(3), "R5"),
    "R5: 122.5 ms": (bytes([CELT_2_5 | 3, 49]) + bytes(49), "R5"),
    "R6: no count": (bytes([SILK_20 | 3]), "R6"),
    "R6: not a multiple": (bytes([SILK_20 | 3, 3]) + bytes(7), "R6"),
    "R6: no length of padding": (bytes([SILK_20 | 3, 0x41]), "R6"),
    "R6: padding longer than the packet": (bytes([SILK_20 | 3, 0x41, 3]) + bytes(2), "R6"),
    "R6: padding that never ends": (bytes([SILK_20 | 3, 0x41]) + b"\xff" * 20, "R6"),
    "R7: no length": (bytes([SILK_20 | 3, 0x82]), "R7"),
    "R7: half a length": (bytes([SILK_20 | 3, 0x82, 253]), "R7"),
    "R7: longer than the packet": (bytes([SILK_20 | 3, 0x82, 9]) + bytes(8), "R7"),
    "R7: one byte short of 252": (bytes([SILK_20 | 3, 0x82, 252, 0]) + bytes(251), "R7"),
    "R7: together longer": (bytes([SILK_20 | 3, 0x83, 5, 5]) + bytes(9), "R7"),
    "R7: frames in the padding": (bytes([SILK_20 | 3, 0xC2, 4, 3]) + bytes(6), "R7"),
}

WHOLE = {
    "one empty frame": bytes([SILK_20]),
    "one frame of 1275": bytes([SILK_20]) + bytes(1275),
    "two empty frames": bytes([SILK_20 | 1]),
    "two of 1275": bytes([SILK_20 | 1]) + bytes(2 * 1275),
    "two different, the first empty": bytes([SILK_20 | 2, 0]),
    "two different of 1275": bytes([SILK_20 | 2, 255, 255]) + bytes(2 * 1275),
    "two of 60 ms": bytes([SILK_60 | 1]) + bytes(20),
    "six frames of 20 ms": bytes([SILK_20 | 3, 6]) + bytes(12),
    "48 frames of 2.5 ms": bytes([CELT_2_5 | 3, 48]) + bytes(48),
    "nothing but padding": bytes([SILK_20 | 3, 0x41, 5]) + bytes(5),
    "padding of 254 and more": bytes([SILK_20 | 3, 0x41, 255, 0]) + bytes(254),
    "variable, the last empty": bytes([SILK_20 | 3, 0x83, 2, 252, 1]) + bytes(258),
    "variable with padding": bytes([SILK_20 | 3, 0xC2, 4, 3]) + bytes(7),
}


@pytest.mark.parametrize(("packet", "rule"), BROKEN.values(), ids=BROKEN)
def test_a_packet_that_breaks_a_rule_is_refused_by_its_name(packet: bytes, rule: str) -> None:
    assert rule in (violation(packet) or "")
    assert refused_by_libopus(packet)


@pytest.mark.parametrize("packet", WHOLE.values(), ids=WHOLE)
def test_a_packet_at_the_edge_of_the_rules_is_let_through(packet: bytes) -> None:
    assert violation(packet) is None
    assert not refused_by_libopus(packet)


def test_the_longest_packet_of_one_stream_is_let_through_and_one_byte_more_is_not() -> None:
    """RFC 7845's own limit, where libopus has none: the one packet that only `violation` refuses.

    Frames alone fill it (48 of 1,275 bytes); beyond it there can only be padding.
    """
    assert MAX_PACKET_BYTES > 48 * MAX_FRAME_BYTES
    longest, longer = (pad(bytes([SILK_20, 1, 2, 3]), MAX_PACKET_BYTES + more) for more in (0, 1))
    assert violation(longest) is None
    assert "61441 bytes" in (violation(longer) or "")
    assert not refused_by_libopus(longer)


# ---- against libopus ------------------------------------------------------------------------


def test_every_packet_of_one_and_two_bytes_is_judged_as_by_libopus() -> None:
    for first in range(256):
        assert agrees(bytes([first]))
        for second in range(256):
            assert agrees(bytes([first, second])), (first, second)


def test_packets_of_three_bytes_are_judged_as_by_libopus() -> None:
    """Codes 2 and 3, where the bytes after the first count; each frame length, every count."""
    for first in (config << 3 | code for config in (0, 1, 2, 3, 16, 17) for code in (2, 3)):
        for second in range(256):
            for third in (0, 1, 2, 127, 251, 252, 254, 255):
                packet = bytes([first, second, third])
                assert agrees(packet), packet.hex()


lengths = st.sampled_from([0, 1, 2, 100, 251, 252, 253, 255, 256, 1019, 1274, 1275])


def coded(length: int) -> bytes:
    """A frame's length as it stands in a packet (RFC 6716, 3.2.1)."""
    if length < 252:
        return bytes([length])
    first = 252 + (length & 3)
    return bytes([first, (length - first) // 4])


@st.composite
def built(draw: st.DrawFn) -> bytes:
    """Packets that keep the rules, or just miss them by a byte or two."""
    first = draw(st.integers(0, 63)) << 2 | draw(st.integers(2, 3))
    count = 2 if first & 3 == 2 else draw(st.integers(0, 6) | st.sampled_from([48, 49, 63]))
    variable = first & 3 == 2 or draw(st.booleans())
    frames = (
        [draw(lengths) for _ in range(count)] if variable else [draw(st.integers(0, 60))] * count
    )
    padding = draw(st.sampled_from([None, 0, 1, 254, 255, 600])) if first & 3 == 3 else None
    head = bytes([first])
    if first & 3 == 3:
        head += bytes([count | variable << 7 | (padding is not None) << 6])
    if padding is not None:
        whole, rest = divmod(padding, 254)
        head += b"\xff" * whole + bytes([rest])
    if variable:
        head += b"".join(coded(length) for length in frames[:-1])
    size = max(0, sum(frames) + (padding or 0) + draw(st.sampled_from([0, 0, 0, -2, -1, 1, 2])))
    return head + bytes(size)


@given(built())
@example(bytes([SILK_20 | 3, 0x41]) + b"\xff" * 300)
def test_built_packets_are_judged_as_by_libopus(packet: bytes) -> None:
    assert agrees(packet), packet[:40].hex()


@given(st.binary(max_size=40))
def test_random_bytes_are_judged_as_by_libopus(packet: bytes) -> None:
    assert agrees(packet), packet.hex()


@given(st.data())
def test_damaged_packets_are_judged_as_by_libopus(data: st.DataObject) -> None:
    """Real ones, cut short, made longer, with a few of their bytes changed."""
    packet = bytearray(data.draw(st.sampled_from(packets_of_all_kinds())))
    places = st.integers(0, min(6, len(packet) - 1))
    for at, value in data.draw(st.dictionaries(places, st.integers(0, 255), max_size=3)).items():
        packet[at] = value
    cut = data.draw(st.integers(0, len(packet)) | st.just(len(packet)))
    damaged = bytes(packet[:cut]) + data.draw(st.binary(max_size=2))
    assert agrees(damaged), damaged[:40].hex()


def test_no_good_packet_is_refused() -> None:
    for packet in packets_of_all_kinds():
        assert violation(packet) is None, packet[:20].hex()


# ---- what a packet says of itself -----------------------------------------------------------


def test_a_packets_length_is_what_libopus_says_it_is() -> None:
    for packet in packets_of_all_kinds():
        assert toc.units(packet) * toc.SAMPLES_A_UNIT == samples(packet, 48000)


NO_LENGTH = {
    "empty": b"",
    "no count": bytes([SILK_20 | 3]),
    "no frame": bytes([SILK_20 | 3, 0]),
    "140 ms": bytes([SILK_20 | 3, 7]),
}


@pytest.mark.parametrize("packet", NO_LENGTH.values(), ids=NO_LENGTH)
def test_a_packet_that_has_none_or_too_much_audio_has_no_length(packet: bytes) -> None:
    assert toc.units(packet) == 0


WORDS = [
    (b"", "empty"),
    (b"\x00", "SILK narrowband, 10 ms frames, mono, code 0"),
    (b"\x2d", "SILK mediumband, 20 ms frames, stereo, code 1"),
    (b"\x48", "SILK wideband, 20 ms frames, mono, code 0"),
    (b"\x5b", "SILK wideband, 60 ms frames, mono, code 3"),
    (b"\x62", "hybrid superwideband, 10 ms frames, mono, code 2"),
    (b"\x7c", "hybrid fullband, 20 ms frames, stereo, code 0"),
    (b"\x80", "CELT narrowband, 2.5 ms frames, mono, code 0"),
    (b"\xa8", "CELT wideband, 5 ms frames, mono, code 0"),
    (b"\xd0", "CELT superwideband, 10 ms frames, mono, code 0"),
    (b"\xff\x03", "CELT fullband, 20 ms frames, stereo, code 3"),
]


@pytest.mark.parametrize(("packet", "words"), WORDS)
def test_words_say_mode_bandwidth_frames_and_channels(packet: bytes, words: str) -> None:
    assert toc.words(packet) == words
