"""Fuzz runs: mutated packets through workers, raw wire messages at a supervisor.

    .venv/bin/python tests/soak/fuzz.py packets --count 1000000 --seed 1
    .venv/bin/python tests/soak/fuzz.py wire --count 100000 --seed 1

Exit code 0 only if no worker died, nothing hung and the books balance.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402  after the path is set
import zmq  # noqa: E402
from recordings import generated_streams, real_streams, speech_packets  # noqa: E402
from reference import golden  # noqa: E402

import opuspool  # noqa: E402
from opuspool import ops, wire  # noqa: E402
from opuspool.streamformat import SAMPLE_RATES  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

BATCH = 500
"""Packets of one call."""

TELL_SECONDS = 10.0


def mutate(rng: random.Random, packet: bytes) -> bytes:
    """A packet that is no longer quite what it was."""
    data = bytearray(packet)
    for _ in range(rng.randrange(1, 4)):
        kind = rng.randrange(6)
        at = rng.randrange(len(data)) if data else 0
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at] = rng.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data[at:at] = rng.randbytes(rng.randrange(1, 20))
        elif kind == 4 and data:
            data[0] = rng.randrange(256)
        else:
            data += rng.randbytes(rng.randrange(1, 300))
    return bytes(data)


def fuzz_packets(count: int, rng: random.Random) -> bool:
    """Mutated packets of the recordings, in every format, with losses and FEC among them."""
    recordings = [r.packets for r in (*real_streams(), *generated_streams())]
    results: Counter[int] = Counter()
    done = 0
    progress = Progress(count)
    with opuspool.Pool(workers=2) as pool:
        supervisor = _supervisor(pool)
        while done < count:
            rate, channels = rng.choice(SAMPLE_RATES), rng.choice((1, 2))
            with pool.stream(rate, channels, rng.choice(("float32", "int16"))) as stream:
                for _ in range(8):
                    source = rng.choice(recordings)
                    batch: list[bytes | None] = [
                        mutate(rng, rng.choice(source)) if rng.random() < 0.9 else None
                        for _ in range(BATCH)
                    ]
                    try:
                        stream.decode_many(batch, timeout=120)
                    except opuspool.PacketError as error:
                        results.update(error.failures.values())
                        _keep_killers(error, batch)
                    done += len(batch)
                    progress.tell(done)
        status = pool.status(timeout=20)
    print(f"{done} packets; refused, by code: {dict(results)}")
    return _verdict(status, supervisor)


def _keep_killers(error: opuspool.PacketError, batch: list[bytes | None]) -> None:
    for index, code in error.failures.items():
        packet = batch[index]
        if code == ops.POISON and packet is not None:
            path = Path(tempfile.gettempdir()) / f"killer-{time.time_ns()}.bin"
            path.write_bytes(packet)
            print(f"a packet that killed its workers is in {path}")


def fuzz_wire(count: int, rng: random.Random) -> bool:
    """Random and mutated messages at the front socket, a valid client beside them."""
    packets = speech_packets(2.0)
    expected = golden(packets)
    wrong = 0
    progress = Progress(count)
    with opuspool.Pool(workers=2) as pool:
        supervisor = _supervisor(pool)
        pool.decode(packets)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        endpoint = _endpoint(pool)
        socket = _raw(context, endpoint)
        for sent in range(count):
            if sent % 1000 == 0:
                socket.close(linger=0)
                socket = _raw(context, endpoint)
                wrong += not np.array_equal(pool.decode(packets, timeout=60), expected)
                progress.tell(sent)
            socket.send_multipart(_message(rng, packets))
            while socket.poll(0):
                socket.recv_multipart()
        context.destroy(linger=0)
        wrong += not np.array_equal(pool.decode(packets, timeout=60), expected)
        status = pool.status(timeout=20)
    errors = status["counters"]["protocol_errors"]
    print(f"{count} messages, {errors} refused as malformed; wrong answers to others: {wrong}")
    return _verdict(status, supervisor) and not wrong


def _raw(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.DEALER)
    socket.connect(endpoint)
    return socket


def _endpoint(pool: opuspool.Pool) -> str:
    backend = pool._backend
    assert backend is not None
    assert backend.connection is not None
    return backend.connection._address.endpoint


def _message(rng: random.Random, packets: list[bytes]) -> list[bytes]:
    kinds: list[Callable[[], list[bytes]]] = [
        lambda: [rng.randbytes(rng.randrange(0, 200)) for _ in range(rng.randrange(1, 4))],
        lambda: [mutate(rng, frame) for frame in _request(rng, packets)],
        lambda: _request(rng, packets),
        lambda: list(_half(rng, _request(rng, packets))),
    ]
    return rng.choice(kinds)()


def _half(rng: random.Random, frames: list[bytes]) -> tuple[bytes, bytes]:
    if rng.random() < 0.5:
        return mutate(rng, frames[0]), frames[1]
    return frames[0], mutate(rng, frames[1])


def _request(rng: random.Random, packets: list[bytes]) -> list[bytes]:
    if rng.random() < 0.2:
        kind = rng.choice([wire.Kind.HELLO, wire.Kind.ASK, wire.Kind.PING, wire.Kind.BYE])
        return list(wire.pack_plain(kind, b'{"what":"status"}' if kind is wire.Kind.ASK else b""))
    records, blobs = [], []
    for _ in range(rng.randrange(1, 5)):
        chosen = [ops.Op(ops.OpKind.PACKET, rng.choice(packets)) for _ in range(rng.randrange(4))]
        blob = ops.pack(chosen) if chosen else b""
        fmt, flags = rng.randrange(64), rng.randrange(32)
        records.append(
            wire.Request(
                rng.randrange(2**64), rng.randrange(50), rng.randrange(2**32), len(blob),
                len(chosen), fmt, flags,
            )
        )  # fmt: skip
        blobs.append(blob)
    return list(wire.pack(wire.Kind.REQUESTS, records, blobs))


class Progress:
    """Tells now and then how far a run is."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._began = self._told = time.monotonic()

    def tell(self, done: int) -> None:
        """Say it, if the last time is long enough ago."""
        now = time.monotonic()
        if now - self._told > TELL_SECONDS:
            self._told = now
            rate = done / (now - self._began)
            sys.stderr.write(f"{done} of {self._count}, {rate:.0f} a second\n")


def _supervisor(pool: opuspool.Pool) -> int:
    pid: int = pool.status(timeout=20)["supervisor"]["pid"]
    return pid


def _verdict(status: dict[str, Any], supervisor: int) -> bool:
    counters = status["counters"]
    died = {reason: n for reason, n in counters["worker_restarts"].items() if n}
    recycled = sum(n for reason, n in died.items() if reason.startswith("recycled"))
    deaths = sum(died.values()) - recycled
    print(f"deaths: {deaths} {died}; unbalanced books: {status['unbalanced']}")
    same = status["supervisor"]["pid"] == supervisor
    print("the supervisor lived" if same else "THE SUPERVISOR DIED")
    return same and deaths == 0 and not status["unbalanced"]


def main() -> None:
    """Parse arguments and run."""
    parser = argparse.ArgumentParser(description="Fuzz workers or a supervisor.")
    parser.add_argument("what", choices=["packets", "wire"])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    os.environ.setdefault("OPUSPOOL_SUPERVISOR_EMBEDDED_LOG_LEVEL", "error")
    rng = random.Random(arguments.seed)
    run = fuzz_packets if arguments.what == "packets" else fuzz_wire
    sys.exit(not run(arguments.count, rng))


if __name__ == "__main__":
    main()
