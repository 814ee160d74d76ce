"""A load generator: one process with live streams that each send a packet every 20 ms.

Started by live.py; reads a `Job` as JSON on stdin, writes a `Report` on stdout.

Streams are spread evenly over the ticks of 1 ms in 20 ms. A latency counts from the time at which
the packet was due, not from when it was sent: a stream that falls behind is not hidden.
"""

from __future__ import annotations

import asyncio
import sys
import time
from array import array
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from recordings import speech_packets
from reference import golden

import opuspool

PACKET_SECONDS = 0.02
PACKET_SAMPLES = 320
TICKS = 20
SPEECH_SECONDS = 20.0
CALL_SECONDS = 10.0
"""A packet that is not decoded by then is lost."""


class Job(msgspec.Struct, frozen=True):
    """What to send.

    Attributes:
        endpoint: the daemon's address.
        config: path of its settings, for keys.
        streams: number of live streams.
        first: number of the first, so that several generators spread over the ticks.
        begin: `time.monotonic()` at which packets begin; the streams are open before.
        seconds: for which packets are sent.
    """

    endpoint: str
    config: str | None
    streams: int
    first: int
    begin: float
    seconds: float


class Report(msgspec.Struct):
    """What became of it.

    Attributes:
        due: packets that were to be sent.
        wrong: packets whose PCM was not libopus's (one stream in ten is compared; of the others,
            the number of samples).
        failed: errors of calls, by name; each is a packet that was lost.
        latencies: float32, milliseconds, of packets that were decoded, from when they were due.
        late_start: whether the streams were not open in time.
        cpu_seconds: of this process, while packets were sent.
    """

    due: int = 0
    wrong: int = 0
    failed: dict[str, int] = msgspec.field(default_factory=dict)
    latencies: bytes = b""
    late_start: bool = False
    cpu_seconds: float = 0.0


class Clock:
    """Ticks of 1 ms; all that wait for a tick share one timer."""

    def __init__(self, begin: float) -> None:
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    def due(self, tick: int) -> float:
        """When a tick is, in the loop's (monotonic) time."""
        return self._begin + tick * PACKET_SECONDS / TICKS

    async def reach(self, tick: int) -> None:
        """Wait for a tick; returns at once when it is past."""
        due = self.due(tick)
        if due <= self._loop.time():
            return
        if tick not in self._waiting:
            self._waiting[tick] = self._loop.create_future()
            self._loop.call_at(due, self._ring, tick)
        await self._waiting[tick]

    def _ring(self, tick: int) -> None:
        self._waiting.pop(tick).set_result(None)


class Speaker:
    """One live stream.

    Args:
        expected: the PCM of all packets; None: only their samples are counted.
    """

    def __init__(self, stream: Any, packets: list[bytes], expected: Any) -> None:
        self._stream = stream
        self._packets = packets
        self._expected = expected

    async def begin(self) -> None:
        """Send the first packet, which binds the stream to a worker."""
        await self._stream.decode(self._packets[0], timeout=CALL_SECONDS)

    async def speak(self, clock: Clock, phase: int, count: int, report: Report) -> array[float]:
        """Send `count` more packets, each at its time; returns latencies in milliseconds."""
        latencies = array("f")
        for number in range(1, count + 1):
            tick = (number - 1) * TICKS + phase
            await clock.reach(tick)
            try:
                pcm = await self._stream.decode(
                    self._packets[number % len(self._packets)], timeout=CALL_SECONDS
                )
            except opuspool.OpusPoolError as error:
                name = type(error).__name__
                report.failed[name] = report.failed.get(name, 0) + 1
                self._expected = None  # the decoder has missed a packet
                continue
            latencies.append((time.monotonic() - clock.due(tick)) * 1000)
            report.wrong += not self._is_right(pcm, number)
        return latencies

    def _is_right(self, pcm: Any, number: int) -> bool:
        if self._expected is None or number >= len(self._packets):
            return len(pcm) == PACKET_SAMPLES
        begin = number * PACKET_SAMPLES
        return bool(np.array_equal(pcm, self._expected[begin : begin + PACKET_SAMPLES]))


async def generate(job: Job) -> Report:
    """Open the streams, send, report."""
    report = Report()
    packets = speech_packets(SPEECH_SECONDS)
    expected = golden(packets)
    count = round(job.seconds / PACKET_SECONDS)
    async with opuspool.AsyncPool(job.endpoint, config=job.config) as pool:
        speakers = [
            Speaker(pool.stream(), packets, expected if n % 10 == 0 else None)
            for n in range(job.streams)
        ]
        await asyncio.gather(*(speaker.begin() for speaker in speakers))
        report.late_start = time.monotonic() > job.begin
        clock = Clock(job.begin)
        cpu = time.process_time()
        spoken = await asyncio.gather(
            *(
                speaker.speak(clock, (job.first + n) % TICKS, count, report)
                for n, speaker in enumerate(speakers)
            )
        )
        report.cpu_seconds = time.process_time() - cpu
    report.due = count * job.streams
    report.latencies = b"".join(part.tobytes() for part in spoken)
    return report


def main() -> None:
    """Do one job."""
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(generate(job))))


if __name__ == "__main__":
    main()
