"""Ogg Opus files come to what opusdec makes of them, or are refused with a reason."""

from __future__ import annotations

import io
import random
import shutil
import struct
import subprocess
import time
import tracemalloc
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import oggfiles
import pytest
import recordings
import soundfile
from hypothesis import example, given
from hypothesis import strategies as st
from oggfiles import LAST, TAGS, audio, head, headers, link, page, write
from reference import ReferenceDecoder

from opuspool import files, oggopus, ops
from opuspool.errors import InvalidFileError
from opuspool.oggopus import Link
from opuspool.ops import Op, OpKind
from opuspool.opusheader import OpusHead

if TYPE_CHECKING:
    from opuspool.pcm import Pcm

OPUSDEC = shutil.which("opusdec")
needs_opusdec = pytest.mark.skipif(OPUSDEC is None, reason="no opusdec: install opus-tools")

CORPUS = recordings.corpus()
EXAMPLE = Path(__file__).parents[1] / "examples" / "speech.opus"
FILES = sorted(str(path.relative_to(CORPUS)) for path in CORPUS.rglob("*.*")) if CORPUS else []
FILES = [name for name in FILES if not name.endswith(".md")]
SURROUND = "containers/bbb_6ch_8kHz_opus.ogg"
"""opusdec decodes it and we do not, yet."""


@cache
def packets(count: int = 30, channels: int = 1, seed: int = 0) -> list[bytes]:
    """Packets of 20 ms."""
    seconds = count / 50
    return recordings.speech_packets(seconds, 16000, channels, seed=seed)[:count]


def opusdec(data: bytes, folder: Path, *options: str) -> Pcm | None:
    """What opusdec makes of a file at 48 kHz; None where it refuses."""
    source, target = folder / "in.opus", folder / "out.wav"
    source.write_bytes(data)
    target.unlink(missing_ok=True)
    command = [str(OPUSDEC), "--rate", "48000", "--quiet", *options, str(source), str(target)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    pcm, _ = soundfile.read(target, dtype="float32" if "--float" in options else "int16")
    return pcm  # type: ignore[no-any-return]


def finish(pcm: Pcm, link_: Link, sample_rate: int) -> Pcm:
    """Cut a link's raw decode, and apply its gain: the reference decoder has none of its own."""
    pcm = oggopus.cut(pcm, link_, sample_rate)
    decibels = link_.head.gain / 256
    return (pcm * 10 ** (decibels / 20)).astype(np.float32) if decibels else pcm


def to_int16(pcm: Pcm) -> Pcm:
    """Rounded as in libopus (FLOAT2INT16): times 32768, to the nearest (even) one, clipped."""
    rounded: Pcm = np.clip(np.rint(pcm * 32768), -32768, 32767).astype(np.int16)
    return rounded


def decode(data: bytes | Path, sample_rate: int = 48000) -> Pcm:
    """The file as float32, decoded with libopus called directly, cut and amplified by us."""
    links = oggopus.read(data)
    channels = max(link_.channels for link_ in links)
    parts = []
    for link_ in links:
        raw = ReferenceDecoder(sample_rate, channels).decode_all(link_.packets)
        parts.append(finish(raw, link_, sample_rate))
    return np.concatenate(parts)  # type: ignore[return-value]  # numpy's types lose that of its parts


def decode_int16(data: bytes) -> Pcm:
    """The file as int16, by libopus's own conversion, which bends what is beyond [-1, 1]."""
    links = oggopus.read(data)
    channels = max(link_.channels for link_ in links)
    parts: list[Pcm] = []
    for link_ in links:
        if link_.head.gain:
            raw = ReferenceDecoder(48000, channels).decode_all(link_.packets)
            parts.append(to_int16(finish(raw, link_, 48000)))
        else:
            raw = ReferenceDecoder(48000, channels, "int16").decode_all(link_.packets)
            parts.append(oggopus.cut(raw, link_, 48000))
    return np.concatenate(parts)  # type: ignore[return-value]


def assert_same(data: bytes, folder: Path) -> Pcm | None:
    """Compare with opusdec: refused by both, or of one length and within one 16-bit step."""
    expected = opusdec(data, folder, "--no-dither")
    if expected is None:
        with pytest.raises(InvalidFileError):
            oggopus.read(data)
        return None
    ours = decode_int16(data)
    assert ours.shape == expected.shape
    assert np.abs(ours.astype(int) - expected).max(initial=0) <= 1
    return ours


# ---- real files -----------------------------------------------------------------------------


@needs_opusdec
@pytest.mark.skipif(not FILES, reason="no real recordings: set OPUSPOOL_CORPUS")
@pytest.mark.parametrize("name", FILES)
def test_a_real_file_is_as_opusdec_has_it(name: str, tmp_path: Path) -> None:
    data = recordings.real_file(name).read_bytes()
    if name == SURROUND:
        with pytest.raises(
            InvalidFileError, match=r"6 channels in mapping family 1.*not supported"
        ):
            oggopus.read(data)
        return
    if assert_same(data, tmp_path) is None:
        return
    floats = opusdec(data, tmp_path, "--float")
    assert floats is not None
    assert np.abs(decode(data) - floats).max(initial=0) < 1e-6


@needs_opusdec
@pytest.mark.skipif(not FILES, reason="no real recordings: set OPUSPOOL_CORPUS")
@pytest.mark.parametrize("sample_rate", [8000, 12000, 16000, 24000])
@pytest.mark.parametrize("name", ["devices/zh-CN-0.ogg", "chains/chain-stereo-mono.opus"])
def test_at_other_rates_it_takes_the_same_time(name: str, sample_rate: int) -> None:
    data = recordings.real_file(name).read_bytes()
    links = len(oggopus.read(data))
    difference = len(decode(data, sample_rate)) / sample_rate - len(decode(data)) / 48000
    assert abs(difference) * sample_rate <= links


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("odd/zero_value_properties.opus", "first page is missing or damaged"),
        ("odd/opus-headers-only.ogg", "no audio"),
        ("containers/bear_duplicate_header.opus", "headers are there twice"),
        ("containers/bbb_1ch_48kHz_q10_opus.webm", r"WebM/Matroska.*ffmpeg.*-c copy"),
        ("containers/bear-opus-negative-gain.mka", "WebM/Matroska"),
        ("containers/sample_opus.mp4", r"MP4.*ffmpeg"),
        ("raw/airhorn.dca", r"bare Opus packets.*pool\.decode"),
    ],
)
def test_a_refused_real_file_is_told_why(name: str, reason: str) -> None:
    with pytest.raises(InvalidFileError, match=reason):
        oggopus.read(recordings.real_file(name))


def test_header_gain_is_read_and_applied() -> None:
    path = recordings.real_file("odd/correctness_gain_silent_output.opus")
    (link_,) = oggopus.read(path)
    assert link_.head.gain < -60 * 256
    assert np.abs(decode(path)).max() < 1e-3


@needs_opusdec
@pytest.mark.skipif(not FILES, reason="no real recordings: set OPUSPOOL_CORPUS")
@pytest.mark.parametrize("damage", ["lost", "changed", "cut off", "doubled", "joined", "junk"])
@pytest.mark.parametrize("name", ["voice/speech_8.opus", "devices/de-DE-activation.ogg"])
def test_a_damaged_real_file_is_as_opusdec_has_it(name: str, damage: str, tmp_path: Path) -> None:
    data = recordings.real_file(name).read_bytes()
    pages = oggfiles.split(data)
    rng = random.Random(name + damage)
    for _ in range(5):
        at = rng.randrange(2, len(pages))
        offset = rng.randrange(len(data))
        broken = {
            "lost": b"".join(pages[:at] + pages[at + 1 :]),
            "changed": data[:offset] + bytes([data[offset] ^ 255]) + data[offset + 1 :],
            "cut off": data[:offset],
            "doubled": b"".join(pages[: at + 1] + pages[at:]),
            "joined": data + data,
            "junk": b"".join([*pages[:at], rng.randbytes(500), *pages[at:]]),
        }[damage]
        assert_same(broken, tmp_path)


# ---- made files -----------------------------------------------------------------------------


@needs_opusdec
@pytest.mark.parametrize("trim", [0, 1, 959, 960, 961, 5000, 9600 - 313, 9600 - 311])
@pytest.mark.parametrize("count", [10, 25])
def test_the_end_is_trimmed(trim: int, count: int, tmp_path: Path) -> None:
    pcm = assert_same(link(packets(count), trim=trim), tmp_path)
    # More than the last page holds cannot be trimmed.
    last = (count - 1) % 10 + 1
    if pcm is not None:
        assert len(pcm) == count * 960 - 312 - min(trim, last * 960)


@needs_opusdec
def test_without_an_end_mark_nothing_is_trimmed(tmp_path: Path) -> None:
    pages = headers() + audio(packets(), trim=500, ends=False)
    pcm = assert_same(write(pages), tmp_path)
    assert pcm is not None
    assert len(pcm) == 30 * 960 - 312
    assert oggopus.read(write(pages))[0].total is None


@needs_opusdec
@pytest.mark.parametrize("start", [1, 10**6, 2**40])
def test_a_live_stream_may_begin_at_any_time(start: int, tmp_path: Path) -> None:
    pcm = assert_same(write(headers() + audio(packets(), start=start, trim=77)), tmp_path)
    assert pcm is not None
    assert len(pcm) == 30 * 960 - 312 - 77


@needs_opusdec
def test_a_first_timestamp_below_its_audio_is_refused(tmp_path: Path) -> None:
    data = write(headers() + audio(packets(), start=-100))
    assert assert_same(data, tmp_path) is None
    with pytest.raises(InvalidFileError, match="first timestamp"):
        oggopus.read(data)


@needs_opusdec
def test_less_audio_than_pre_skip_is_refused(tmp_path: Path) -> None:
    data = write(headers(head_=head(pre_skip=40000)) + audio(packets()))
    assert assert_same(data, tmp_path) is None
    with pytest.raises(InvalidFileError, match="pre-skip of 40000"):
        oggopus.read(data)


@needs_opusdec
@pytest.mark.parametrize("lost", [0, 1, 2, 3, 4, 5])
def test_lost_pages_are_skipped_until_the_decoder_has_converged(lost: int, tmp_path: Path) -> None:
    pages = audio(packets(60), trim=100)
    del pages[lost]
    assert_same(write(headers() + pages), tmp_path)


@needs_opusdec
def test_after_a_hole_80_ms_are_dropped(tmp_path: Path) -> None:
    pages = audio(packets(60), trim=100)
    del pages[2]
    pcm = assert_same(write(headers() + pages), tmp_path)
    assert pcm is not None
    assert len(pcm) == 50 * 960 - 312 - 100 - 3840
    (link_,) = oggopus.read(write(headers() + pages))
    assert link_.cuts == ((20 * 960, 20 * 960 + 3840),)


@needs_opusdec
def test_a_hole_within_a_long_pre_skip_ends_it_in_time(tmp_path: Path) -> None:
    pages = audio(packets(60), per_page=5)
    del pages[1]
    assert_same(write(headers(head_=head(pre_skip=20_000)) + pages), tmp_path)


@needs_opusdec
def test_a_chain_of_mono_and_stereo_is_decoded_link_by_link(tmp_path: Path) -> None:
    mono = link(packets(20), serial=1, trim=5)
    stereo = link(packets(15, channels=2, seed=1), serial=2, channels=2)
    pcm = assert_same(mono + stereo + link(packets(12, seed=2), serial=3), tmp_path)
    assert pcm is not None
    assert pcm.shape == ((20 + 15 + 12) * 960 - 3 * 312 - 5, 2)


@needs_opusdec
def test_a_broken_later_link_is_named(tmp_path: Path) -> None:
    data = link(packets(20), serial=1) + write(headers(2))
    assert assert_same(data, tmp_path) is None
    with pytest.raises(InvalidFileError, match=r"link 2 of the chained file: .*no audio"):
        oggopus.read(data)


@needs_opusdec
def test_a_later_link_without_its_first_page_is_not_dropped_in_silence(tmp_path: Path) -> None:
    second = b"".join(oggfiles.split(link(packets(15), serial=2))[1:])
    data = link(packets(20), serial=1) + second
    assert assert_same(data, tmp_path) is None
    with pytest.raises(InvalidFileError, match="first page is missing"):
        oggopus.read(data)


@needs_opusdec
def test_a_serial_number_used_again_goes_on_in_the_same_link(tmp_path: Path) -> None:
    """Illegal (RFC 3533, section 4), and seen: opusfile reads it as one link with a hole."""
    data = link(packets(20)) + link(packets(25, seed=1))
    assert_same(data, tmp_path)
    assert len(oggopus.read(data)) == 1


@needs_opusdec
def test_other_streams_beside_it_are_ignored(tmp_path: Path) -> None:
    ours = headers(1) + audio(packets(), trim=20)
    first, tags, *sound = ours
    other = page(9, 0, 0, [b"\x01vorbis" + bytes(23)], oggfiles.FIRST)
    more = [page(9, 1 + n, 1000 * n, [bytes(50)]) for n in range(len(sound))]
    mixed = [item for pair in zip(more, sound, strict=True) for item in pair]
    data = write([other, first, tags, *mixed])
    pcm = assert_same(data, tmp_path)
    assert pcm is not None
    assert len(pcm) == 30 * 960 - 312 - 20


@needs_opusdec
def test_of_two_opus_streams_the_first_is_taken(tmp_path: Path) -> None:
    first = headers(1) + audio(packets(20), serial=1)
    second = headers(2) + audio(packets(20, seed=5), serial=2)
    data = write([item for pair in zip(first, second, strict=True) for item in pair])
    assert_same(data, tmp_path)
    assert oggopus.read(data)[0].packets == packets(20)


@needs_opusdec
def test_a_comment_header_may_span_pages(tmp_path: Path) -> None:
    tags = b"OpusTags" + struct.pack("<I", 0) + struct.pack("<II", 1, 70_000) + b"c" * 70_000
    values = oggfiles.lacing(len(tags))
    pages = [
        oggfiles.Page(1, 1, -1, values[:255], tags[: 255 * 255]),
        oggfiles.Page(1, 2, 0, values[255:], tags[255 * 255 :], oggfiles.CONTINUED),
    ]
    sound = [item.but(sequence=item.sequence + 1) for item in audio(packets())]
    assert assert_same(write(headers()[:1] + pages + sound), tmp_path) is not None


@needs_opusdec
@pytest.mark.parametrize(
    "tags",
    [
        b"OpusTags",
        b"OpusTagz" + TAGS[8:],
        TAGS[:-1],
        b"OpusTags" + struct.pack("<I", 2**32 - 1) + b"vendor",
        b"OpusTags" + struct.pack("<II", 0, 2**32 - 1),
        b"OpusTags" + struct.pack("<III", 0, 1, 99) + b"short",
    ],
)
def test_a_broken_comment_header_is_refused(tags: bytes, tmp_path: Path) -> None:
    data = write(headers(tags=tags) + audio(packets()))
    assert assert_same(data, tmp_path) is None
    with pytest.raises(InvalidFileError, match="OpusTags"):
        oggopus.read(data)


@needs_opusdec
def test_audio_on_the_page_of_the_comment_header_is_refused(tmp_path: Path) -> None:
    pages = [headers()[0], page(1, 1, 960, [TAGS, packets()[0]]), *audio(packets())]
    assert assert_same(write(pages), tmp_path) is None
    with pytest.raises(InvalidFileError, match="not allowed"):
        oggopus.read(write(pages))


@needs_opusdec
@pytest.mark.parametrize("bad", [b"", b"\xff", b"\xff\x00", b"\x4f\x70us", b"\x1b\x3f" + bytes(9)])
@pytest.mark.parametrize("at", [0, 5, 9, 10, 29])
def test_packets_without_a_duration_are_ignored(bad: bytes, at: int, tmp_path: Path) -> None:
    sound = [*packets()[:at], bad, *packets()[at:]]
    pages = audio(sound)
    for index, item in enumerate(pages):
        item.granule = 960 * min(30, (index + 1) * 10 - (index * 10 + 9 >= at))
    assert_same(write(headers() + pages), tmp_path)
    assert oggopus.read(write(headers() + pages))[0].packets == packets()


@needs_opusdec
def test_timestamps_that_are_missing_are_counted(tmp_path: Path) -> None:
    pages = audio(packets(50), trim=44)
    pages[2].granule = pages[3].granule = oggfiles.NO_GRANULE
    assert_same(write(headers() + pages), tmp_path)
    pages[0].granule = oggfiles.NO_GRANULE
    assert assert_same(write(headers() + pages), tmp_path) is None


@needs_opusdec
def test_an_empty_last_page_trims_nothing(tmp_path: Path) -> None:
    pages = audio(packets(), ends=False)
    pages.append(page(1, 2 + len(pages), 28_000, [], LAST))
    assert_same(write(headers() + pages), tmp_path)


@needs_opusdec
@pytest.mark.parametrize(
    ("head_", "reason"),
    [
        (head(version=16), "version 16"),
        (head()[:18], "damaged"),
        (head(0), "0 channels"),
        (head(3), "3 channels in mapping family 0"),
        (head() + b"x", "too many"),
        (head(3, family=1, mapping=bytes([2, 1, 0, 1, 2])), "3 channels in mapping family 1"),
        (head(1, family=255, mapping=bytes([1, 0, 0])), "mapping family 255"),
        (head(4, family=2, mapping=bytes([4, 0, 0, 1, 2, 3])), "ambisonics"),
    ],
)
def test_headers_that_we_cannot_follow_are_refused(head_: bytes, reason: str) -> None:
    with pytest.raises(InvalidFileError, match=reason):
        oggopus.read(write(headers(head_=head_) + audio(packets())))


def test_swapped_channels_are_refused() -> None:
    swapped = head(2, family=1, mapping=bytes([1, 1, 1, 0]))
    with pytest.raises(InvalidFileError, match="swapped"):
        oggopus.read(write(headers(head_=swapped) + audio(packets())))


@needs_opusdec
@pytest.mark.parametrize(
    "head_",
    [
        head(version=0),
        head(version=15),
        head(1, family=1, mapping=bytes([1, 0, 0])),
        head(2, family=1, mapping=bytes([1, 1, 0, 1])),
        head(gain=-5 * 256),
        head(gain=3 * 256),
    ],
)
def test_headers_that_we_can_follow(head_: bytes, tmp_path: Path) -> None:
    assert assert_same(write(headers(head_=head_) + audio(packets())), tmp_path) is not None


def test_a_gain_is_set_by_the_piece_of_the_first_packets() -> None:
    """Were it a request of its own, it would settle before a packet that kills is tried again."""
    plan = files.Plan(write(headers(head_=head(gain=-256)) + audio(packets())), 16000, 1, "int16")
    (link,) = plan.links
    pieces = plan.pieces(link, 4)
    assert [count for _, count in pieces[:-1]] == [4] * (len(pieces) - 1)
    found = [op for blob, count in pieces for op in ops.unpack(blob, count)]
    assert found[0] == Op(OpKind.GAIN, ops.pack_gain(-256))
    assert [op.packet for op in found[1:]] == link.packets


@needs_opusdec
def test_a_file_without_audio_and_pre_skip_is_empty(tmp_path: Path) -> None:
    data = write(headers(head_=head(pre_skip=0)))
    expected = opusdec(data, tmp_path)
    assert expected is not None
    assert len(expected) == 0
    assert oggopus.read(data) == [Link(OpusHead(1, 0, 0), 0, [], 0)]


# ---- not Ogg Opus ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "WAV"),
        (b"ID3\x04" + bytes(40), "MP3"),
        (b"\xff\xfb\x90" + bytes(40), "MP3"),
        (b"\0\0\0\x18ftypM4A ", "MP4"),
        (b"\x1a\x45\xdf\xa3" + bytes(40), "WebM"),
        (b"fLaC" + bytes(40), "FLAC"),
        (b"<!DOCTYPE html>\n<title>404</title>", "text"),
        ("Grüße".encode(), "text"),
        (bytes(range(128, 256)), "nor anything known"),
        (write([page(1, 0, 0, [b"\x01vorbis" + bytes(23)], 2)]), "Ogg Vorbis.*ffmpeg"),
        (write([page(1, 0, 0, [b"\x7fFLAC" + bytes(23)], 2)]), "Ogg FLAC"),
        (write([page(1, 0, 0, [b"Speex   " + bytes(23)], 2)]), "Ogg Speex"),
        (write([page(1, 0, 0, [b"what" + bytes(23)], 2)]), "unknown stream"),
        (link([b"\x08"] * 3)[:40], "no whole Ogg page"),
        (bytes(70_000) + link([b"\x08"] * 3), "nor anything known"),
    ],
)
def test_what_is_not_ogg_opus_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidFileError, match=reason):
        oggopus.read(data)


def test_junk_before_the_first_page_is_passed_over() -> None:
    assert len(oggopus.read(b"x" * 60_000 + link(packets()))[0].packets) == 30


def test_errors_of_the_system_pass_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        oggopus.read(tmp_path / "none.opus")
    with pytest.raises(IsADirectoryError):
        oggopus.read(str(tmp_path))


def test_paths_bytes_and_files_are_read_alike(tmp_path: Path) -> None:
    data = link(packets())
    path = tmp_path / "a.opus"
    path.write_bytes(data)
    expected = oggopus.read(data)
    for source in (path, str(path), bytearray(data), memoryview(data), io.BytesIO(data)):
        assert oggopus.read(source) == expected
    with path.open("rb") as file:
        assert oggopus.read(file) == expected


@pytest.mark.parametrize("source", [None, 5, ["a.opus"], io.StringIO("text")])
def test_other_sources_are_a_type_error(source: object) -> None:
    with pytest.raises(TypeError, match="source must be"):
        oggopus.read(source)  # type: ignore[arg-type]


@given(
    st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(oggfiles.split(link([b"\x08"])))))
)
@example([b"OggS"])
def test_any_bytes_are_read_or_refused(pieces: list[bytes]) -> None:
    try:
        links = oggopus.read(b"".join(pieces))
    except InvalidFileError:
        return
    assert links


@given(st.data())
def test_any_pages_are_read_or_refused_and_never_give_more_than_they_hold(
    data: st.DataObject,
) -> None:
    """Pages with right checksums and wild fields."""
    pages = headers()
    for _ in range(data.draw(st.integers(0, 6))):
        sound = data.draw(
            st.lists(st.sampled_from([b"", b"\x08", b"\xfc", b"OpusHead", b"\x0b\x30"]))
        )
        item = page(1, 0, 0, sound)
        item.serial = data.draw(st.sampled_from([1, 1, 1, 2]))
        item.sequence = data.draw(st.integers(0, 5))
        item.granule = data.draw(st.one_of(st.integers(-2, 6000), st.integers(-(2**63), 2**63 - 1)))
        item.flags = data.draw(st.sampled_from([0, 0, 0, 1, 2, 4, 7]))
        pages.append(item)
    try:
        links = oggopus.read(write(pages))
    except InvalidFileError:
        return
    for link_ in links:
        # both packets that have a duration have 20 ms
        raw = np.zeros(960 * len(link_.packets), np.float32)
        first, end = link_.window(48000)
        assert first >= 0
        assert end is None or first <= end
        assert all(first < begin < stop < (end or raw.size) for begin, stop in link_.cuts)
        assert len(oggopus.cut(raw, link_, 48000)) <= raw.size


@given(st.data())
def test_a_mutated_real_file_is_read_or_refused_soon(data: st.DataObject) -> None:
    original = EXAMPLE.read_bytes()
    broken = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(broken)))
        count = data.draw(st.integers(0, 2000))
        copied = data.draw(st.integers(0, len(original)))
        new = data.draw(st.one_of(st.binary(max_size=8), st.just(original[copied:][:count])))
        broken[at : at + data.draw(st.sampled_from([0, len(new), count]))] = new
    started = time.monotonic()
    try:
        links = oggopus.read(bytes(broken))
    except InvalidFileError:
        links = []
    assert sum(len(packet) for item in links for packet in item.packets) <= len(broken)
    assert time.monotonic() - started < 10


def test_a_big_file_is_read_in_bounded_memory_and_time() -> None:
    """20 MB of video beside 3 s of Opus: only the Opus packets are kept."""
    first, tags, *sound = headers(1) + audio(packets(150))
    other = [page(9, 0, 0, [b"\x80theora" + bytes(33)], 2)]
    other += [page(9, n, n, [bytes(60_000)]) for n in range(1, 20)]
    video = b"".join(item.write() for item in other[1:])
    data = write([other[0], first, tags, *sound[:-1]]) + video * 18 + sound[-1].write()
    file = io.BytesIO(data)
    tracemalloc.start()
    started = time.monotonic()
    links = oggopus.read(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) > 20_000_000
    assert links[0].packets == packets(150)
    assert peak < 2_000_000
    assert time.monotonic() - started < 20


# ---- PCM ------------------------------------------------------------------------------------


def test_the_window_scales_with_the_rate() -> None:
    link_ = Link(OpusHead(1, 312, 0), 312, [], 9600)
    assert link_.window(48000) == (312, 9912)
    assert link_.window(16000) == (104, 3304)
    assert link_.window(24000) == (156, 4956)
    assert link_.window(12000) == (78, 2478)
    assert link_.window(8000) == (52, 1652)
    odd = Link(OpusHead(1, 313, 0), 313, [], 1)
    assert odd.window(16000) == (105, 105)
    assert Link(OpusHead(1, 313, 0), 313, [], None).window(16000) == (105, None)


@pytest.mark.parametrize("channels", [1, 2])
def test_cutting_keeps_type_and_shape(channels: int) -> None:
    shape = (4800,) if channels == 1 else (4800, channels)
    link_ = Link(OpusHead(channels, 100, 0), 100, [], 4000, ((1000, 1500), (2000, 2100)))
    ramp = np.arange(4800 * channels).reshape(shape)
    pcms: list[Pcm] = [ramp.astype(np.float32), ramp.astype(np.int16)]
    for pcm in pcms:
        found = oggopus.cut(pcm, link_, 48000)
        expected = np.concatenate([pcm[100:1000], pcm[1500:2000], pcm[2100:4100]])
        assert found.dtype == pcm.dtype
        assert np.array_equal(found, expected)
