"""The incident's service, over opuspool: requests from many threads while workers are killed.

.venv/bin/python benchmarks/incident.py --requests 10000
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import random
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
from killing import REASONS, deaths, pids
from recordings import speech_packets
from reference import golden

import opuspool
from opuspool import compat
from opuspool.compat.defaultpool import default_pool
from opuspool.compat.opus_packet_decoder import OpusPacketDecoder, OpusPacketDecodingPipeline

REPORT_SECONDS = 0.5

STATUS_SECONDS = 60.0
"""A busy machine answers in this time."""

COUNTED_SECONDS = 10.0
"""The last kill is counted within this time, if it hit a worker that lived."""


@dataclass(frozen=True)
class Utterance:
    """What a request brings, and the int16 PCM that is right for it."""

    packets: list[bytes]
    pcm: bytes

    @classmethod
    def make(cls, seconds: float, seed: int) -> Utterance:
        """Speech of 20 ms packets."""
        packets = speech_packets(seconds, seed=seed)
        clipped = np.clip(golden(packets).astype(np.float64), -1.0, 1.0)
        return cls(packets, (clipped * 32767).astype("<i2").tobytes())

    @property
    def framed(self) -> bytes:
        """As it stands in the request: `uint16_le length packet`, again and again."""
        return b"".join(struct.pack("<H", len(packet)) + packet for packet in self.packets)


class Service:
    """Answers requests as the incident's service did: a decoder for each, from many threads.

    Attributes:
        ended: requests, by how: "right", "failed" (less PCM than there is, or none), "wrong".
    """

    def __init__(self, seconds: float) -> None:
        self.ended: Counter[str] = Counter(right=0, failed=0, wrong=0)
        self._utterances = [Utterance.make(seconds, seed) for seed in range(8)]
        self._lock = threading.Lock()

    def request(self, number: int) -> None:
        """One request: every second one live, packet by packet."""
        utterance = self._utterances[number % len(self._utterances)]
        if number % 2:
            pipeline = OpusPacketDecodingPipeline()
            pipeline.feed_data(utterance.framed)
            pcm = pipeline.read_pcm16(pipeline.available_samples())
        else:
            decoder = OpusPacketDecoder()
            pcm = b"".join(map(decoder.decode, utterance.packets))
        with self._lock:
            self.ended[_verdict(pcm, utterance.pcm)] += 1


def _verdict(pcm: bytes, right: bytes) -> str:
    if pcm == right:
        return "right"
    return "failed" if len(pcm) < len(right) else "wrong"


class Reasons(logging.Handler):
    """Counts what the classes log of failures, without the figures in it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Count a line."""
        self.seen[re.sub(r"\d+", "N", record.getMessage())] += 1


class Killer(threading.Thread):
    """Kills a worker that serves, again and again, by SIGSEGV, SIGKILL or SIGABRT.

    Attributes:
        kills: how many, by the restart reason that they should be counted as.
    """

    def __init__(self, pool: opuspool.Pool, seconds: float, seed: int) -> None:
        super().__init__(name="killer")
        self.kills: Counter[str] = Counter()
        self._pool = pool
        self._seconds = seconds
        self._rng = random.Random(seed)
        self._over = threading.Event()

    def run(self) -> None:
        """Kill until told to stop."""
        while not self._over.wait(self._seconds):
            status = self._pool.status(STATUS_SECONDS)
            serving = pids(status)
            if not serving or deaths(status) < self.kills.total():
                continue  # the one before is not counted yet
            number = self._rng.choice(list(REASONS))
            with suppress(ProcessLookupError):  # it has ended by itself just now
                os.kill(self._rng.choice(serving), number)
                self.kills[REASONS[number]] += 1

    def stop(self) -> None:
        """End."""
        self._over.set()
        self.join()


def serve(arguments: argparse.Namespace) -> None:
    """Be the service; how far it is goes to the standard output, a JSON object a line."""
    reasons = Reasons()
    logging.basicConfig(level=logging.WARNING, handlers=[reasons])
    compat.configure(workers=arguments.workers)
    pool = default_pool()
    service = Service(arguments.seconds)
    killer = Killer(pool, arguments.kill_seconds, arguments.seed)
    killer.start()
    numbers = itertools.count()
    began = time.monotonic()

    def answer() -> None:
        while (number := next(numbers)) < arguments.requests:
            service.request(number)

    with ThreadPoolExecutor(arguments.threads) as executor:
        answering = [executor.submit(answer) for _ in range(arguments.threads)]
        while not all(future.done() for future in answering):
            _tell(service, killer, reasons, began)
            time.sleep(REPORT_SECONDS)
    killer.stop()
    for future in answering:
        future.result()
    end = time.monotonic() + COUNTED_SECONDS
    while deaths(pool.status(STATUS_SECONDS)) < killer.kills.total() and time.monotonic() < end:
        time.sleep(0.01)
    _tell(service, killer, reasons, began)
    compat.close()


def _tell(service: Service, killer: Killer, reasons: Reasons, began: float) -> None:
    facts = {
        "ended": service.ended,
        "seconds": round(time.monotonic() - began, 1),
        "kills": killer.kills,
        "restarts": default_pool().status(STATUS_SECONDS)["counters"]["worker_restarts"],
        "reasons": reasons.seen,
    }
    print(json.dumps(facts), flush=True)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the service in a process of its own, and look how that ends."""
    command = [sys.executable, __file__, "--serve", *sys.argv[1:]]
    last: dict[str, Any] = {"ended": {}, "seconds": 0.0, "kills": {}, "restarts": {}, "reasons": {}}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = json.loads(line)
            if sys.stderr.isatty():
                sys.stderr.write(f"\r{sum(last['ended'].values())} requests ")
    ended = last["ended"]
    return {
        "requests": arguments.requests,
        "failed": arguments.requests - ended.get("right", 0),
        "wrong": ended.get("wrong", 0),
        "seconds": last["seconds"],
        "kills": last["kills"],
        "restarts": {reason: n for reason, n in last["restarts"].items() if n},
        "reasons": last["reasons"],
        "service_deaths": int(process.returncode != 0),
        "service_end": _end(process.returncode),
    }


def _end(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def main() -> None:
    """Parse arguments, measure, print; exit code 1 where a request or the service has failed."""
    parser = argparse.ArgumentParser(description="The incident's requests while workers die.")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0, help="speech of a request")
    parser.add_argument("--kill-seconds", type=float, default=1.0, help="time between kills")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.setdefault("OPUSPOOL_SUPERVISOR_EMBEDDED_LOG_LEVEL", "error")
    if arguments.serve:
        serve(arguments)
        return
    figures = measure(arguments)
    for name, value in figures.items():
        print(f"{name:15} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
    sys.exit(1 if figures["failed"] or figures["service_deaths"] else 0)


if __name__ == "__main__":
    main()
