"""What runs in the processes of the other pools: decoders by stream, and files.

PCM goes back as bytes, the cheapest thing to pickle.
"""

from __future__ import annotations

from opuspool.bench.direct import Decoder, Library

_decoders: dict[int, Decoder] = {}
_library: Library | None = None


def start(path: str) -> None:
    """Load libopus; once in each process, before anything else."""
    global _library  # noqa: PLW0603  a process has one; its calls share nothing else
    _library = Library(path, keep_gil=True)


def decode(stream: int, packet: bytes) -> bytes:
    """Decode the next packet of a stream."""
    decoder = _decoders.get(stream)
    if decoder is None:
        decoder = _decoders[stream] = Decoder(loaded())
    return decoder.decode_bytes(packet)


def forget(stream: int) -> bytes:
    """End a stream."""
    decoder = _decoders.pop(stream, None)
    if decoder is not None:
        decoder.close()
    return b""


def decode_all(packets: list[bytes]) -> bytes:
    """Decode an utterance."""
    with Decoder(loaded()) as decoder:
        return decoder.decode_all(packets)


def decode_file(data: bytes) -> bytes:
    """Decode an Ogg Opus file."""
    return loaded().decode_file(data).tobytes()


def loaded() -> Library:
    """The library of this process."""
    if _library is None:
        raise RuntimeError("a decoder process was given work before `start`")
    return _library
