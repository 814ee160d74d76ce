"""Rows 16, 19, 20 and 22: what comes in at the front socket, from whom."""

from __future__ import annotations

import os
import random
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import faults
import numpy as np
import pytest
import zmq
from daemons import daemon, settings_for
from matrix import GROWTH_BYTES, PACKETS, scene
from reference import golden
from waiting import wait_until

import opuspool
from opuspool import curve, ops, wire
from opuspool.ops import Op, OpKind
from opuspool.streamformat import StreamFormat
from opuspool.wire import Flag, Kind, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matrix import Scene

TINY = bytes([31 << 3 | 3, 6])
"""2 bytes that decode to 120 ms: 6 empty CELT frames of 20 ms."""

FULL = StreamFormat(48000, 2, "float32")


@contextmanager
def raw_client(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    """A peer that says what it likes; it holds few messages unread."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as peer:
        peer.linger = 0
        peer.rcvhwm = 1
        peer.connect(endpoint)
        yield peer


def request(number: int, packets: list[bytes], fmt: StreamFormat = FULL) -> wire.Frames:
    """One stream's request for PCM."""
    blob = ops.pack([Op(OpKind.PACKET, packet) for packet in packets])
    record = Request(number, 1, 30_000, len(blob), len(packets), fmt.code, Flag.OPEN)
    return wire.pack(Kind.REQUESTS, [record], [blob])


# Row 19


GOOD = request(1, PACKETS[:2])
HELLO = wire.pack_plain(Kind.HELLO)


def _header(at: int, value: int) -> wire.Frames:
    """A good request with one byte of its header changed."""
    return GOOD[0][:at] + bytes([value]) + GOOD[0][at + 1 :], GOOD[1]


MALFORMED: dict[str, tuple[bytes, ...]] = {
    "nothing": (b"",),
    "one frame": GOOD[:1],
    "three frames": (*GOOD, b""),
    "100,000 frames": (b"x",) * 100_000,
    "no magic": _header(0, 0),
    "wrong version": _header(4, 99),
    "unknown kind": _header(5, 200),
    "a kind of workers": _header(5, Kind.RESULTS),
    "reserved": _header(6, 1),
    "more records than there are": _header(8, 2),
    "a thousand million records": (GOOD[0][:8] + b"\xff\xff\xff\x3f" + GOOD[0][12:], GOOD[1]),
    "short header": (GOOD[0][:7], GOOD[1]),
    "short data": (GOOD[0], GOOD[1][:-1]),
    "long data": (GOOD[0], GOOD[1] + b"x"),
    "data where none belongs": (wire.pack_plain(Kind.PING)[0], b"x"),
}
"""Each counts as one protocol error, and is dropped."""

REFUSED: dict[str, tuple[bytes, int]] = {
    "operation words that are too many": (struct.pack("<2I", 4, 4), 2),
    "an unknown operation": (struct.pack("<I", 99 << 24), 1),
    "a packet longer than the blob": (struct.pack("<I", 1000), 1),
}
"""Each is answered as a bad request."""


def test_malformed_messages_are_counted_and_dropped() -> None:
    """Row 19: each costs nobody anything."""
    with scene(deaths={}) as here, raw_client(here.endpoint) as peer:
        before = here.counters()["protocol_errors"]
        for number, (name, frames) in enumerate(MALFORMED.items(), start=1):
            peer.send_multipart(frames)
            wait_until(
                lambda n=number: here.counters()["protocol_errors"] == before + n,  # type: ignore[misc]  # bound now
                what=f"counted: {name}",
            )


@pytest.mark.parametrize(("blob", "count"), REFUSED.values(), ids=REFUSED)
def test_impossible_requests_are_refused(
    blob: bytes, count: int, beside: Scene, peer: zmq.Socket[bytes]
) -> None:
    """Row 19: an answer that says so; the stream may go on."""
    record = Request(7, 1, 1000, len(blob), count, FULL.code, Flag.OPEN)
    peer.send_multipart(wire.pack(Kind.REQUESTS, [record], [blob]))
    assert peer.poll(30_000)
    answer = wire.parse(peer.recv_multipart()).records[0]
    assert (answer.id, answer.status) == (7, wire.Status.BAD_REQUEST)


@pytest.fixture(scope="module")
def beside() -> Iterator[Scene]:
    """One scene for tests that are over at once."""
    with scene(deaths={}) as here:
        yield here


@pytest.fixture
def peer(beside: Scene) -> Iterator[zmq.Socket[bytes]]:
    with raw_client(beside.endpoint) as peer:
        yield peer


def _mutated(rng: random.Random, frames: wire.Frames) -> list[bytes]:
    changed = [bytearray(frame) for frame in frames]
    for _ in range(rng.randint(1, 8)):
        frame = rng.choice(changed)
        if frame:
            frame[rng.randrange(len(frame))] = rng.randrange(256)
    return [bytes(frame) for frame in changed]


def test_ten_thousand_mutated_messages_do_no_harm() -> None:
    """Row 19: requests, hellos and questions with bytes changed; seeded."""
    rng = random.Random(19)
    ask = wire.pack_json(Kind.ASK, {"what": "status"}, 1)
    sources = [GOOD, HELLO, ask, wire.pack_plain(Kind.PING)]
    with scene(deaths={}) as here, raw_client(here.endpoint) as peer:
        for _ in range(10_000):
            peer.send_multipart(_mutated(rng, rng.choice(sources)))
            with suppress(zmq.Again):
                peer.recv_multipart(zmq.NOBLOCK)
        here.decodes()
        peer.send_multipart(wire.pack_plain(Kind.BYE))


def _connect(here: Scene) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX)
    raw.settimeout(10)
    raw.connect(here.endpoint.removeprefix("ipc://"))
    return raw


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + b"\x00" + bytes(31)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"
"""ZMTP 3.0: the greeting, and the one command that NULL asks for (ZeroMQ RFC 23)."""


def _shake_hands(raw: socket.socket) -> None:
    """Be a ZeroMQ peer; what the other side says is its greeting, then its READY."""
    heard = b""
    for part, until in ((GREETING, len(GREETING)), (READY, len(GREETING) + 1)):
        raw.sendall(part)
        while len(heard) < until:
            heard += raw.recv(1000)


def _await_end(raw: socket.socket) -> None:
    """The supervisor hangs up, whatever it has said before."""
    raw.settimeout(60)
    with suppress(ConnectionResetError):
        while raw.recv(1000):
            pass


def test_a_frame_that_is_too_large_is_not_waited_for() -> None:
    """Row 19: who announces one is shown out before it comes."""
    with scene(deaths={}) as here, _connect(here) as raw:
        _shake_hands(raw)
        raw.sendall(b"\x02" + (wire.MAX_DATA_BYTES + 1).to_bytes(8, "big"))
        _await_end(raw)


def test_random_bytes_on_the_socket_do_no_harm() -> None:
    """Row 19: no ZMTP at all, ZMTP that breaks off; a peer that says nothing is shown out."""
    rng = random.Random(20)
    with scene(deaths={}) as here, _connect(here) as silent:
        openings = [b"", GREETING, GREETING[:20], GREETING + READY, GREETING + READY + b"\x02\xff"]
        for number in range(60):
            with _connect(here) as raw, suppress(OSError):
                raw.sendall(openings[number % len(openings)] + rng.randbytes(4000))
        here.decodes()
        _await_end(silent)


def test_endless_frames_are_given_back_with_their_peer() -> None:
    """Row 19: a message that never ends, a second long; nobody waits, and the memory comes back."""
    frame = b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)  # MORE, long
    with scene(deaths={}) as here:
        with _connect(here) as raw:
            _shake_hands(raw)
            end = time.monotonic() + 1
            sent = 0
            while time.monotonic() < end and sent < 400 << 20:
                raw.sendall(frame)
                sent += len(frame)
            here.decodes()
        before = here.resources[1]
        wait_until(
            lambda: here.supervisor.memory_info().rss < before + GROWTH_BYTES, what="given back"
        )


def test_endless_frames_cannot_take_all_memory() -> None:
    """Row 19: above the limit every client must connect anew; the streams of good ones go on."""
    frame = b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)  # MORE, long
    limit = 256 << 20
    with scene(deaths={}, settings={"limits": {"memory_bytes": limit}}) as here:
        with here.pool.stream() as stream, _connect(here) as raw:
            pcm = [stream.decode_many(PACKETS[:20])]
            _shake_hands(raw)
            with pytest.raises(OSError, match=r"Broken pipe|reset"):  # noqa: PT012  until it is
                while True:
                    raw.sendall(frame)
            pcm.append(stream.decode_many(PACKETS[20:40]))
        assert np.array_equal(np.concatenate(pcm), golden(PACKETS[:40]))
        wait_until(lambda: here.supervisor.memory_info().rss < limit, what="given back")


# Row 16


CLIENT = """
import sys, opuspool
pool = opuspool.Pool(sys.argv[1])
slow = bytes.fromhex(sys.argv[2])
streams = [pool.stream() for _ in range(20)]
for stream in streams:
    stream.decode(slow)
print("ready", flush=True)
while sys.argv[3] == "busy":
    streams[0].decode_many([slow] * 20)
sys.stdin.read()
"""


@pytest.mark.parametrize("state", ["busy", "quiet"])
def test_a_client_that_is_killed_leaves_no_streams(faulty: Path, state: str) -> None:
    """Row 16: in the middle of a request, or with streams open: they go when its time is over."""
    settings = {"limits": {"client_ttl_seconds": 3.0}}
    with scene(deaths={}, settings=settings, bystanders=2) as here:
        slow = faults.marker("slow").hex()
        command = [sys.executable, "-c", CLIENT, here.endpoint, slow, state]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as client:
            assert client.stdout is not None
            client.stdout.readline()
            assert here.status()["streams"] > 20
            client.kill()
        wait_until(lambda: here.status()["streams"] <= 3, what="its streams are closed")
        assert here.status()["clients"] == 1
        assert here.counters()["requests"]["abandoned"] <= 1


def test_a_client_that_never_reads_costs_bounded_memory() -> None:
    """Row 16: it asks for more than a gigabyte of PCM and takes none."""
    with scene(deaths={}, growth=256 << 20) as here, raw_client(here.endpoint) as peer:
        for number in range(600):
            with suppress(zmq.Again):
                peer.send_multipart(request(number, [TINY] * 50), zmq.NOBLOCK)
            if number % 20 == 0:
                wait_until(lambda: here.status()["queue_depth"] < 20, 30, what="done")
        assert here.counters()["requests"]["ok"] > 500, "its requests were taken"
        assert here.growth() < 256 << 20


# Row 20


def test_two_bytes_that_decode_to_much_are_bounded_by_what_comes_out() -> None:
    """Row 20: 280 MB of PCM from 12 kB of packets; the supervisor keeps little of it."""
    with scene(deaths={}) as here:
        for _ in range(4):
            pcm = here.pool.decode([TINY] * 1500, 48000, 2)
            assert pcm.shape == (1500 * 5760, 2)
        assert here.growth() < GROWTH_BYTES
        assert np.array_equal(pcm, golden([TINY] * 1500, 48000, 2))


def test_what_may_come_out_of_the_queue_is_limited() -> None:
    """Row 20: what would be too much is refused undecoded, and told that it never fits."""
    settings = {"limits": {"queued_output_bytes": 10 * FULL.max_packet_pcm_bytes}}
    with scene(deaths={}, settings=settings, bystanders=1) as here:
        with pytest.raises(opuspool.OpusPoolError, match="more than may ever be queued"):
            here.pool.decode([TINY] * 50, 48000, 2)
        assert here.pool.decode([TINY] * 5, 48000, 2).shape == (5 * 5760, 2)


# Row 22


STRANGER = """
import os, sys, zmq
os.seteuid(int(sys.argv[2]))
peer = zmq.Context().socket(zmq.DEALER)
peer.linger = 0
peer.connect(sys.argv[1])
peer.send_multipart([bytes.fromhex(frame) or b"" for frame in sys.argv[3:]])
print(peer.poll(30_000 if sys.argv[2] == "0" else 700), flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_is_not_served(endpoint: str, tmp_path: Path) -> None:
    """Row 22: even where the directory's rights would let it in."""
    path = Path(endpoint.removeprefix("ipc://"))
    with daemon(settings_for(tmp_path, endpoint)), scene(endpoint, deaths={}):
        opened = [path, *path.parents[:2]]
        rights = [(p, p.stat().st_mode) for p in opened]
        for each in opened:
            each.chmod(0o777)
        command = [sys.executable, "-c", STRANGER, endpoint]
        hello = [frame.hex() for frame in HELLO]
        answered = [
            subprocess.run([*command, user, *hello], capture_output=True, text=True, check=True)
            for user in ("0", "65534")
        ]
        for each, mode in rights:
            each.chmod(mode & 0o777)
        assert [run.stdout for run in answered] == ["1\n", "0\n"], "root is served, nobody is not"
        with opuspool.Pool(endpoint) as pool:
            assert pool.status()["counters"]["refused_peers"] >= 1


def test_a_wrong_key_is_turned_away_and_counted(tmp_path: Path) -> None:
    """Row 22: tcp asks for keys; the books say how often in vain."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    keys, other = tmp_path / "keys", tmp_path / "other"
    settings = settings_for(tmp_path, address, f'keys = "{keys}"\n')
    with daemon(settings):
        good = curve.read(keys)
        bad = curve.read_or_create(other)
        mixed = curve.CurveKeys(good.server_public, "", bad.peer_public, bad.peer_secret)
        with (
            opuspool.Pool(address, config=settings) as pool,
            zmq.Context() as context,
            context.socket(zmq.DEALER) as stranger,
        ):
            stranger.linger = 0
            mixed.join(stranger)
            stranger.connect(address)
            stranger.send_multipart(HELLO)
            wait_until(
                lambda: pool.status()["counters"]["refused_peers"] >= 1, what="it is counted"
            )
            assert not stranger.poll(100)
            assert np.array_equal(pool.decode(PACKETS[:20]), golden(PACKETS[:20]))
