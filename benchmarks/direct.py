"""What a way from client to worker past the supervisor would give: a prototype, not a pool.

Leases go straight from the client to two workers, which have a ROUTER each; the client keeps the
journal. Nothing is watched, restarted, limited or rebuilt.

.venv/bin/python benchmarks/direct.py --streams 100
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import table
import zmq

from opuspool import calls, recorder, wire
from opuspool.aio import _LoopCall
from opuspool.bench import speech
from opuspool.calls import StreamState
from opuspool.eventloop import LoopDriver
from opuspool.frames import Port
from opuspool.streamformat import StreamFormat
from opuspool.wire import Action, Kind

WORKERS = 2

KEPT_PACKETS = 100
"""The client's log of a stream is cut here, as a checkpoint would cut it."""

CALL_SECONDS = 5.0


def serve(endpoint: str) -> None:
    """Be a worker: run leases, whoever sends them."""
    from opuspool_workers import libopus
    from opuspool_workers.guard import GuardedBuffer
    from opuspool_workers.serve import LeaseRunner

    largest = StreamFormat(48000, 2, "float32")
    buffer = GuardedBuffer(largest.capacity * largest.frame_bytes)
    record = recorder.FlightRecorder(recorder.create())
    runner = LeaseRunner(libopus.load(), buffer, None, record)
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(endpoint)
    port = Port(socket)
    while socket.poll():
        address, *lease = port.take()
        port.send([address, *runner.run(wire.parse(lease))])


class Line:
    """The client's way to one worker."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> None:
        self._loop = asyncio.get_running_loop()
        socket = context.socket(zmq.DEALER)
        socket.connect(endpoint)
        self._port = Port(socket)
        self._outbox: deque[_LoopCall] = deque()
        self._under_way: dict[int, list[_LoopCall]] = {}
        self._tags = itertools.count(1)
        self._driver = LoopDriver(self._loop)
        self._driver.start(self._turn)
        self._driver.watch(int(socket.getsockopt(zmq.FD)))

    async def decode(self, stream: StreamState, packet: bytes) -> None:
        """Decode one packet, as `AsyncStream.decode` does."""
        deadline = time.monotonic() + CALL_SECONDS
        call = _LoopCall(stream, calls.packed(packet), 1, 0, deadline)
        call.future = self._loop.create_future()
        self._outbox.append(call)
        self._driver.nudge()
        await call.future
        call.pcm()

    def _turn(self) -> bool:
        if self._outbox:
            self._send()
        complete: list[_LoopCall] = []
        while self._port.waits():
            complete += self._take(wire.parse(self._port.take()))
        for call in complete:
            call.complete()
        return bool(complete)

    def _send(self) -> None:
        batch = list(self._outbox)
        self._outbox.clear()
        rows: list[wire.Row] = []
        payloads: list[bytes] = []
        for call in batch:
            stream, blob = call.stream, call.blob
            if not stream.opened:
                rows.append((stream.id, 0, 0, stream.format.code, Action.OPEN))
                payloads.append(b"")
            rows.append((stream.id, len(blob), 1, stream.format.code, Action.DECODE))
            payloads.append(blob)
        tag = next(self._tags)
        self._under_way[tag] = batch
        self._port.send(wire.pack(Kind.LEASE, rows, payloads, tag))

    def _take(self, results: wire.Message) -> list[_LoopCall]:
        batch = self._under_way.pop(results.tag)
        for call, row, payload in zip(batch, results.rows, results.payloads(), strict=True):
            call.answered(row[3], payload)
            if call.stream.log.packets >= KEPT_PACKETS:
                call.stream.log.save(b"")
        return batch


async def measure(endpoints: list[str], count: int, seconds: float) -> dict[str, Any]:
    """Decode speech on so many streams, a packet a call; returns the figures."""
    packets = speech.packets()
    fmt = StreamFormat(speech.SAMPLE_RATE, 1, "float32")
    latencies: list[float] = []
    with zmq.Context() as context:
        lines = [Line(context, endpoint) for endpoint in endpoints]
        streams = [(StreamState(n, fmt), lines[n % WORKERS]) for n in range(count)]
        await asyncio.gather(*[line.decode(stream, packets[0]) for stream, line in streams])
        start = time.perf_counter()

        async def speak(stream: StreamState, line: Line) -> None:
            for packet in itertools.cycle(packets[1:]):
                began = time.perf_counter()
                if began - start > seconds:
                    return
                await line.decode(stream, packet)
                latencies.append(time.perf_counter() - began)

        await asyncio.gather(*[speak(stream, line) for stream, line in streams])
        taken = time.perf_counter() - start
        context.destroy(linger=0)
    latencies.sort()
    p50, p99 = (1000 * latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
    rate = round(len(latencies) / taken)
    return {"streams": count, "packets_s": rate, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        serve(arguments.worker)
        return
    rows = []
    for count in arguments.streams:
        with tempfile.TemporaryDirectory() as folder:
            endpoints = [f"ipc://{folder}/{number}" for number in range(WORKERS)]
            command = [sys.executable, __file__, "--worker"]
            workers = [subprocess.Popen([*command, endpoint]) for endpoint in endpoints]
            try:
                rows.append(asyncio.run(measure(endpoints, count, arguments.seconds)))
            finally:
                for worker in workers:
                    worker.kill()
                    worker.wait()
    table.show(rows, arguments.json)


if __name__ == "__main__":
    main()
