"""What a file that is not Ogg looks like, and what to do with it."""

from __future__ import annotations

__all__ = ["HEAD_BYTES", "foreign_stream", "not_ogg"]

HEAD_BYTES = 65_536
"""How much of a file's beginning is looked at."""

_COPY = "if its audio is Opus: ffmpeg -i FILE -vn -c copy out.opus; else leave out `-c copy`"
_ENCODE = "convert it: ffmpeg -i FILE out.opus"

_MAGIC = (
    # offset, bytes, what it is, what to do
    (0, b"\x1a\x45\xdf\xa3", "a WebM/Matroska file", _COPY),
    (4, b"ftyp", "an MP4 file", _COPY),
    (0, b"caff", "a Core Audio (CAF) file", _COPY),
    (0, b"\x47\x40", "an MPEG transport stream", _COPY),
    (0, b"fLaC", "a FLAC file", _ENCODE),
    (0, b"ID3", "an MP3 file", _ENCODE),
    (0, b"\xff\xfb", "an MP3 file", _ENCODE),
    (0, b"\xff\xf3", "an MP3 file", _ENCODE),
    (0, b"\xff\xf2", "an MP3 file", _ENCODE),
    (0, b"\xff\xf1", "an AAC (ADTS) file", _ENCODE),
    (0, b"\xff\xf9", "an AAC (ADTS) file", _ENCODE),
    (0, b"#!AMR", "an AMR file", _ENCODE),
    (8, b"WAVE", "a WAV file", "it holds PCM, which needs no decoding; read it with soundfile"),
    (8, b"AVI ", "an AVI file", _ENCODE),
    (0, b"FORM", "an AIFF file", _ENCODE),
    (0, b"\x1f\x8b", "a gzip file", "unpack it first"),
    (0, b"PK\x03\x04", "a zip file", "unpack it first"),
    (0, b"OpusHead", "an Opus header without its Ogg pages", "wrap it: ffmpeg -c copy out.opus"),
)

_STREAMS = (
    (b"\x01vorbis", "Ogg Vorbis"),
    (b"\x7fFLAC", "Ogg FLAC"),
    (b"Speex   ", "Ogg Speex"),
    (b"\x80theora", "Ogg Theora"),
    (b"fishead\0", "Ogg Skeleton"),
)


def not_ogg(head: bytes) -> str:
    """Why a file is refused that has no Ogg page in its first `HEAD_BYTES`, given those."""
    if not head:
        return "this is an empty file; record or fetch it anew"
    for offset, magic, name, advice in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return f"this is {name}, not Ogg Opus; {advice}"
    if _is_packets(head):
        return (
            "this looks like bare Opus packets, each after its 16-bit length, not Ogg Opus; "
            "take the lengths away and give the packets to pool.decode()"
        )
    if _is_text(head):
        return "this is text, not Ogg Opus; check the name (a failed download?)"
    return f"this is not Ogg Opus, nor anything known; {_ENCODE}"


def foreign_stream(packet: bytes) -> str | None:
    """The name of a codec other than Opus, by the first packet of its Ogg stream."""
    return next((name for magic, name in _STREAMS if packet.startswith(magic)), None)


def _is_packets(head: bytes) -> bool:
    """Whether four packets or more follow each other, each after its uint16_le length (.dca)."""
    at = count = 0
    while at + 2 < len(head):
        size = int.from_bytes(head[at : at + 2], "little")
        if not 1 <= size <= 1500:
            return False
        at += 2 + size
        count += 1
    return count >= 4


def _is_text(head: bytes) -> bool:
    try:
        # The end may cut a character in two.
        text = head[:1024].decode() if len(head) <= 1024 else head[:1024].decode(errors="ignore")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)
