"""A service as the incident's: 8 threads, a decoder for each request: `service.py KIND`.

KIND is `incident`, `opuspool` (the same calls, of the drop-in `OpusPacketDecoder`) or `correct`
(libopus used as it should be). A line in is `{"id": 1, "audio": "..."}`: packets, each behind its
length (uint16, little endian), as base64; or `{"id": 1}`, which asks for the pool's status. A line
out is `{"id": 1, "pcm": sha256, "failed": packets without PCM, "faults": faults that were caught}`,
or `{"id": 1, "status": {...}}`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import queue
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

sys.path.insert(0, str(Path(__file__).parent))

import throwaway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THREADS = 8
READY = {"ready": True}


class Decoder(Protocol):
    """What all kinds have."""

    def decode(self, opus_packet: bytes, /) -> bytes:
        """Decode one packet to int16 PCM; `b""`: there is none."""


def frame(packets: list[bytes]) -> bytes:
    """Put packets one behind the other, each behind its length."""
    return b"".join(struct.pack("<H", len(packet)) + packet for packet in packets)


def _unframe(audio: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(audio):
        (length,) = struct.unpack_from("<H", audio, at)
        yield audio[at + 2 : at + 2 + length]
        at += 2 + length


def _maker(kind: str) -> Callable[[], Decoder]:
    if kind == "opuspool":
        from opuspool.compat.defaultpool import default_pool
        from opuspool.compat.opus_packet_decoder import OpusPacketDecoder

        default_pool()  # starts it, before requests come
        return OpusPacketDecoder
    import pattern

    return pattern.IncidentDecoder if kind == "incident" else pattern.CorrectDecoder


def _status() -> dict[str, Any]:
    from opuspool.compat.defaultpool import default_pool

    return default_pool().status()


class Service:
    """Threads that answer requests."""

    def __init__(self, kind: str) -> None:
        self._make = _maker(kind)
        self._waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._writing = threading.Lock()

    def run(self) -> None:
        """Answer until the input ends."""
        threads = [threading.Thread(target=self._work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        self._write(READY)
        for line in sys.stdin:
            self._waiting.put(line)
        for _ in threads:
            self._waiting.put(None)
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        while (line := self._waiting.get()) is not None:
            request = json.loads(line)
            audio = request.get("audio")
            answer = {"status": _status()} if audio is None else self._decode(audio)
            self._write({"id": request["id"], **answer})

    def _decode(self, audio: str) -> dict[str, Any]:
        """Decode a request as the incident did: what faults gives no PCM, and on it goes."""
        digest = hashlib.sha256()
        packets = list(_unframe(base64.b64decode(audio)))
        failed = faults = 0
        try:
            decoder = self._make()
        except (OSError, ValueError):  # Windows: a fault in opus_decoder_init, or it refuses
            return {"pcm": "", "failed": len(packets), "faults": 1}
        for packet in packets:
            pcm = b""
            try:
                pcm = decoder.decode(packet)
            except OSError:  # Windows: a fault in opus_decode_float
                faults += 1
            failed += not pcm
            digest.update(pcm)
        return {"pcm": digest.hexdigest(), "failed": failed, "faults": faults}

    def _write(self, answer: dict[str, Any]) -> None:
        with self._writing:
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "incident":
        throwaway.quietly()
    Service(sys.argv[1]).run()
