"""Streams with numbered packets: the PCM is as long as what was sent, bit for bit libopus's."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import faults
import network
import numpy as np
import pytest
from killing import all_idle, check_books, deaths, pids, stopped
from recordings import read_ogg, real_packets, speech, speech_packets
from reference import ReferenceDecoder, ReferenceEncoder, golden, samples
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference import Pcm

    from opuspool.streamformat import SampleType

EXAMPLE = Path(__file__).parents[1] / "examples" / "speech.opus"
MODULUS = 2**32
DEVICES = [
    "de-DE-activation",
    "en-US-activation",
    "en-US-err_reg",
    "ja-JP-activation",
    "zh-CN-0",
    "zh-CN-activation",
    "zh-CN-welcome",
]


@pytest.fixture(scope="module")
def pool() -> Iterator[opuspool.Pool]:
    with opuspool.Pool(workers=2) as pool:
        wait_until(lambda: all_idle(pool.status()), what="all workers have started")
        yield pool
        check_books(pool.status())


def receive(
    stream: opuspool.NumberedStream, packets: list[bytes], order: list[int], first: int = 0
) -> Pcm:
    """Decode packets in the order in which they arrive."""
    parts = [stream.decode(packets[n], seq=(first + n) % MODULUS) for n in order]
    return np.concatenate([*parts, stream.flush()])


def fec_packets(pcm: Pcm, frame_ms: int) -> list[bytes]:
    """Speech at 16 kHz encoded with in-band FEC."""
    encoder = ReferenceEncoder(bitrate=28000, fec=True, loss_percent=20, frame_ms=frame_ms)
    return encoder.encode(pcm)


# ---- a device's stream over a bad network ---------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_a_devices_stream_keeps_its_time(pool: opuspool.Pool, device: str) -> None:
    """60 ms packets, 10 % lost, others reordered and doubled; uint32 numbers pass their end."""
    packets = real_packets(f"devices/{device}.ogg")
    keeps_its_time(pool, packets, seed=DEVICES.index(device))


@pytest.mark.parametrize(
    "kind", ["example", "20 ms", "20 ms FEC", "60 ms", "60 ms FEC", "stereo FEC", "hybrid FEC"]
)
def test_a_generated_stream_keeps_its_time(pool: opuspool.Pool, kind: str) -> None:
    """The same without the corpus."""
    packets = {
        "example": lambda: read_ogg(EXAMPLE).packets,
        "20 ms": lambda: speech_packets(8.0),
        "20 ms FEC": lambda: fec_packets(speech(seconds=8.0), 20),
        "60 ms": lambda: speech_packets(12.0, frame_ms=60),
        "60 ms FEC": lambda: fec_packets(speech(seconds=12.0), 60),
        "stereo FEC": lambda: speech_packets(
            8.0, channels=2, bitrate=48000, fec=True, loss_percent=20
        ),
        "hybrid FEC": lambda: speech_packets(
            6.0, 48000, bitrate=40000, mode="hybrid", fec=True, loss_percent=20
        ),
    }[kind]()
    counts = keeps_its_time(pool, packets, seed=len(kind))
    assert (counts.fec > 0) == kind.endswith("FEC")


def keeps_its_time(pool: opuspool.Pool, packets: list[bytes], seed: int) -> opuspool.LossCounts:
    """With a window nothing that has arrived is lost; returns its counts."""
    order = network.arrivals(len(packets), seed)
    there = set(order)
    by_fec, concealed = network.missing(packets, there)
    losses = opuspool.Losses(reorder_packets=network.REORDERED)
    with pool.stream(losses=losses) as stream:
        pcm = receive(stream, packets, order, first=MODULUS - len(packets) // 2)
    assert len(pcm) == sum(samples(packet, 16000) for packet in packets), "the time sent"
    assert np.array_equal(pcm, network.heard(packets, there))
    assert stream.losses == opuspool.LossCounts(
        decoded=len(there), fec=by_fec, plc=concealed, double=len(order) - len(there)
    )
    return stream.losses


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize(("sample_rate", "channels"), [(16000, 1), (48000, 2)])
def test_without_a_window_what_is_overtaken_is_late(
    pool: opuspool.Pool, sample_rate: int, channels: int, dtype: SampleType
) -> None:
    """No packet waits: each call gives the packet that it was given, or nothing."""
    packets = fec_packets(speech(seconds=6.0), 20)
    order = network.arrivals(len(packets), seed=5)
    there = network.in_time(order)
    with pool.stream(sample_rate, channels, dtype, losses=opuspool.Losses()) as stream:
        pcm = receive(stream, packets, order)
    right = network.heard(packets, set(there), sample_rate, channels, dtype)
    assert pcm.dtype == dtype
    assert np.array_equal(pcm, right)
    counts = stream.losses
    by_fec, concealed = network.missing(packets, set(there))
    assert (counts.decoded, counts.fec, counts.plc) == (len(there), by_fec, concealed)
    assert counts.late + counts.double == len(order) - len(there)
    assert counts.late > 0 < counts.double


@pytest.mark.parametrize("frame_ms", [20, 60])
@pytest.mark.parametrize("recording", ["generated", "devices/en-US-activation.ogg"])
def test_fec_is_nearer_to_the_original_than_concealment(
    pool: opuspool.Pool, recording: str, frame_ms: int
) -> None:
    """Single losses; in what was lost, the error against the stream without loss is less."""
    voice = speech(seconds=12.0) if recording == "generated" else golden(real_packets(recording))
    packets = fec_packets(voice, frame_ms)
    lost = set(range(5, len(packets) - 1, 7))
    there = [n for n in range(len(packets)) if n not in lost]
    with pool.stream(losses=opuspool.Losses()) as stream:
        with_fec = receive(stream, packets, there)
    assert stream.losses.fec > len(lost) / 2
    without = network.heard(packets, set(there), fec=False)
    original = golden(packets)

    length = 16 * frame_ms
    where = np.concatenate([np.arange(n * length, (n + 1) * length) for n in sorted(lost)])
    assert rms(with_fec[where] - original[where]) < 0.8 * rms(without[where] - original[where])


def rms(signal: Pcm) -> float:
    return float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))


def test_a_killed_worker_changes_nothing() -> None:
    """Losses and FEC are in the journal: the stream is rebuilt with them."""
    packets = fec_packets(speech(seconds=6.0), 20)
    order = network.arrivals(len(packets), seed=6)
    parts = []
    losses = opuspool.Losses(reorder_packets=network.REORDERED)
    with opuspool.Pool(workers=2) as pool, pool.stream(losses=losses) as stream:
        for at, number in enumerate(order):
            if at % 60 == 30:
                for pid in pids(pool.status()):
                    os.kill(pid, signal.SIGSEGV)
            parts.append(stream.decode(packets[number], seq=number))
        parts.append(stream.flush())
        assert deaths(pool.status()) >= 4
    assert np.array_equal(np.concatenate(parts), network.heard(packets, set(order)))


# ---- what fails -----------------------------------------------------------------------------


def test_a_refused_packet_is_filled_by_the_next(pool: opuspool.Pool) -> None:
    packets = fec_packets(speech(seconds=1.0), 20)
    decoder = ReferenceDecoder()
    with pool.stream(losses=opuspool.Losses()) as stream:
        assert np.array_equal(stream.decode(packets[0], seq=0), decoder.decode(packets[0]))
        with pytest.raises(
            opuspool.InvalidPacketError, match=r"seq 2, after 1 for the gap"
        ) as told:
            stream.decode(b"\xff\xff", seq=2)
        pcm = stream.decode(packets[3], seq=3)
    assert told.value.pcm is not None
    assert np.array_equal(told.value.pcm, decoder.lost(320))
    assert (told.value.index, told.value.failures) == (0, {0: -4})
    fill = decoder.fec(packets[3], 320)
    assert np.array_equal(pcm, np.concatenate([fill, decoder.decode(packets[3])]))
    assert stream.losses == opuspool.LossCounts(decoded=2, fec=1, plc=1, refused=1)


def test_what_came_before_a_refused_packet_comes_with_the_error(pool: opuspool.Pool) -> None:
    """Packets 2 and 3 waited for 1; 2 is refused, 3 waits for the next call."""
    packets = speech_packets(1.0)
    decoder = ReferenceDecoder()
    with pool.stream(losses=opuspool.Losses(reorder_packets=2)) as stream:
        decoder.decode(packets[0])
        stream.decode(packets[0], seq=0)
        assert stream.decode(b"", seq=2).size == 0
        assert stream.decode(packets[3], seq=3).size == 0
        with pytest.raises(opuspool.InvalidPacketError, match="seq 2") as told:
            stream.decode(packets[1], seq=1)
        rest = stream.flush()
    assert told.value.pcm is not None
    assert np.array_equal(told.value.pcm, decoder.decode(packets[1]))
    assert np.array_equal(rest, np.concatenate([decoder.lost(320), decoder.decode(packets[3])]))


def test_poison_is_filled_by_the_next(faulty: Path) -> None:
    """It costs its own 20 ms of true sound, and no time."""
    packets = speech_packets(1.0)
    with opuspool.Pool(workers=1) as pool, pool.stream(losses=opuspool.Losses()) as stream:
        parts = [stream.decode(packets[n], seq=n) for n in range(20)]
        with pytest.raises(opuspool.PoisonPacketError):
            stream.decode(faults.marker("segv"), seq=20)
        parts += [stream.decode(packets[n], seq=n) for n in range(21, 50)]
    assert np.array_equal(np.concatenate(parts), network.heard(packets, set(range(50)) - {20}))


def test_a_packet_out_of_time_is_filled_by_the_next_or_given_again(faulty: Path) -> None:
    """A call that ends by its deadline has given nothing: its time is still owed."""
    packets = speech_packets(1.0)
    with opuspool.Pool(workers=1) as pool, pool.stream(losses=opuspool.Losses()) as stream:
        stream.decode(packets[0], seq=0)
        for seq in (2, 3):
            with pytest.raises(opuspool.DecodeTimeoutError):
                stream.decode(faults.marker("sleep-once", packets[seq]), seq=seq, timeout=0.2)
        assert stream.decode(packets[3], seq=3).shape == (3 * 320,)
    assert stream.losses == opuspool.LossCounts(decoded=2, plc=2)


def test_wrong_arguments_are_refused(pool: opuspool.Pool) -> None:
    with pool.stream(losses=opuspool.Losses()) as stream:
        with pytest.raises(TypeError, match="next packet's seq"):
            stream.decode(None, seq=1)
        with pytest.raises(TypeError, match="bytes"):
            stream.decode("packet", seq=1)  # type: ignore[arg-type]  # on purpose
        with pytest.raises(ValueError, match="seq"):
            stream.decode(b"packet", seq=-1)
        assert stream.losses == opuspool.LossCounts()
    with pytest.raises(opuspool.StreamClosedError):
        stream.decode(speech_packets(0.5)[0], seq=1)


# ---- asyncio --------------------------------------------------------------------------------


def test_the_same_awaited() -> None:
    """Many tasks; calls of one stream that overlap keep their order."""

    async def main() -> None:
        packets = fec_packets(speech(seconds=3.0), 20)
        losses = opuspool.Losses(reorder_packets=network.REORDERED)
        async with opuspool.AsyncPool(workers=2) as pool:

            async def listen(seed: int) -> bool:
                order = network.arrivals(len(packets), seed)
                async with pool.stream(losses=losses) as stream:
                    calls = [stream.decode(packets[n], seq=n) for n in order]
                    parts = [*await asyncio.gather(*calls), await stream.flush()]
                assert stream.losses.decoded == len(set(order))
                return np.array_equal(np.concatenate(parts), network.heard(packets, set(order)))

            assert all(await asyncio.gather(*map(listen, range(10))))

    asyncio.run(main())


def test_a_cancelled_call_is_filled_by_the_next() -> None:
    async def main() -> None:
        packets = speech_packets(1.0)
        losses = opuspool.Losses()
        async with opuspool.AsyncPool(workers=1) as pool, pool.stream(losses=losses) as stream:
            await stream.decode(packets[0], seq=0)
            with stopped(pids(await pool.status())[0]):  # or it may be complete at once
                call = asyncio.ensure_future(stream.decode(packets[1], seq=1))
                await asyncio.sleep(0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert (await stream.decode(packets[2], seq=2)).shape == (2 * 320,)
            assert stream.losses == opuspool.LossCounts(decoded=2, plc=1)

    asyncio.run(main())
