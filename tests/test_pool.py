"""The client's contract, on real processes and a real libopus."""

from __future__ import annotations

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from killing import all_idle, check_books
from recordings import speech_packets
from reference import ReferenceDecoder, golden
from waiting import wait_until

import opuspool
from opuspool.streamformat import SAMPLE_RATES, SampleType

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKETS = speech_packets(2.0)
EXAMPLE = Path(__file__).parents[1] / "examples" / "speech.opus"


@pytest.fixture(scope="module")
def pool() -> Iterator[opuspool.Pool]:
    with opuspool.Pool(workers=2) as pool:
        wait_until(lambda: all_idle(pool.status()), what="all workers have started")
        yield pool
        check_books(pool.status())


@pytest.mark.parametrize("sample_rate", SAMPLE_RATES)
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_an_utterance_equals_libopus(
    pool: opuspool.Pool, sample_rate: int, channels: int, dtype: SampleType
) -> None:
    """In every format, in soundfile's shapes."""
    pcm = pool.decode(PACKETS, sample_rate=sample_rate, channels=channels, dtype=dtype)
    assert pcm.dtype == dtype
    assert pcm.shape == ((2 * sample_rate,) if channels == 1 else (2 * sample_rate, 2))
    assert np.array_equal(pcm, golden(PACKETS, sample_rate, channels, dtype))


def test_a_stream_keeps_its_state(pool: opuspool.Pool) -> None:
    """One packet, several, and the array is the caller's own."""
    with pool.stream() as stream:
        first = stream.decode(PACKETS[0])
        rest = stream.decode_many(PACKETS[1:])
    assert np.array_equal(np.concatenate([first, rest]), golden(PACKETS))
    first[:] = 0  # may be written to


def test_losses_are_concealed_and_fec_is_used(pool: opuspool.Pool) -> None:
    """`decode(None)` and `decode(packet, fec=True)` as libopus does them."""
    packets = speech_packets(1.0, fec=True, loss_percent=20, bitrate=24000)
    decoder = ReferenceDecoder()
    with pool.stream() as stream:
        assert np.array_equal(stream.decode(packets[0]), decoder.decode(packets[0]))
        assert np.array_equal(stream.decode(None), decoder.lost(320))
        assert np.array_equal(stream.decode(packets[3], fec=True), decoder.fec(packets[3], 320))
        assert np.array_equal(stream.decode(packets[3]), decoder.decode(packets[3]))
        many = stream.decode_many([packets[4], None, packets[6]])
    right = [decoder.decode(packets[4]), decoder.lost(320), decoder.decode(packets[6])]
    assert np.array_equal(many, np.concatenate(right))


def test_streams_are_used_from_many_threads(pool: opuspool.Pool) -> None:
    """Streams do not mix."""
    expected = golden(PACKETS)

    def speak(_: int) -> bool:
        with pool.stream() as stream:
            pcm = [stream.decode(packet) for packet in PACKETS]
        return np.array_equal(np.concatenate(pcm), expected)

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(speak, range(32)))


def test_bytes_like_packets_are_taken(pool: opuspool.Pool) -> None:
    """bytes, bytearray, memoryview."""
    forms: list[bytes | bytearray | memoryview] = [
        PACKETS[0],
        bytearray(PACKETS[1]),
        memoryview(PACKETS[2]),
    ]
    assert np.array_equal(pool.decode(forms), golden(PACKETS[:3]))


def test_an_empty_list_gives_no_samples(pool: opuspool.Pool) -> None:
    """And the right shape and type."""
    assert pool.decode([]).shape == (0,)
    assert pool.decode([], channels=2, dtype="int16").shape == (0, 2)


REFUSED = {
    "empty": b"",
    "3 MB": bytes(3_000_000),
    "code 3 without a count": b"\x4b",
    "zero frames": b"\x4b\x00",
    "odd bytes for two equal frames": b"\x49\x01\x02\x03",
    "more than 120 ms": b"\x4b\x07" + bytes(70),
    "a first frame longer than the packet": b"\x4a\xf0\x00",
    "a frame of 1276 bytes": b"\x48" + bytes(1276),
}


@pytest.mark.parametrize("packet", REFUSED.values(), ids=REFUSED.keys())
def test_an_invalid_packet_is_refused_and_the_stream_goes_on(
    pool: opuspool.Pool, packet: bytes
) -> None:
    """`InvalidPacketError` for that packet, not one sample changed after it."""
    with pool.stream() as stream:
        before = stream.decode_many(PACKETS[:10])
        with pytest.raises(opuspool.InvalidPacketError, match="not a valid Opus packet") as caught:
            stream.decode(packet)
        after = stream.decode_many(PACKETS[10:])
    assert caught.value.code == -4
    assert np.array_equal(np.concatenate([before, after]), golden(PACKETS))


def test_random_and_truncated_packets_kill_nothing(pool: opuspool.Pool) -> None:
    """Each gives PCM or `InvalidPacketError`."""
    rng = np.random.default_rng(7)
    junk = [rng.bytes(int(size)) for size in rng.integers(1, 400, 500)]
    junk += [packet[: len(packet) // 2] for packet in PACKETS]
    before = pool.status()["counters"]["worker_restarts"]
    with pool.stream() as stream:
        with pytest.raises(opuspool.InvalidPacketError) as caught:
            stream.decode_many(junk)
        assert stream.decode(PACKETS[0]).shape == (320,)
    assert set(caught.value.failures.values()) <= {-4, -3, -2, -1}
    assert pool.status()["counters"]["worker_restarts"] == before


def test_an_invalid_packet_among_others_loses_only_itself(pool: opuspool.Pool) -> None:
    """The error tells which, and carries the PCM of the others."""
    with pytest.raises(opuspool.InvalidPacketError, match="packet 50 of 101") as caught:
        pool.decode([*PACKETS[:50], b"", *PACKETS[50:]])
    assert caught.value.index == 50
    assert caught.value.pcm is not None
    assert np.array_equal(caught.value.pcm, golden(PACKETS))


WRONG: dict[str, tuple[type[Exception], str, Any]] = {
    "rate": (ValueError, "8000, 12000", lambda pool: pool.decode(PACKETS, sample_rate=44100)),
    "rate type": (TypeError, "sample_rate", lambda pool: pool.stream(sample_rate="16000")),
    "channels": (ValueError, "1 or 2", lambda pool: pool.decode(PACKETS, channels=3)),
    "dtype": (ValueError, "float32", lambda pool: pool.stream(dtype="float64")),
    "text": (TypeError, "bytes or None, not str", lambda pool: pool.stream().decode("packet")),
    "a number": (TypeError, "not int", lambda pool: pool.decode([1, 2])),
    "one packet": (TypeError, "put it into a list", lambda pool: pool.decode(PACKETS[0])),
    "fec of a loss": (ValueError, "fec", lambda pool: pool.stream().decode(None, fec=True)),
    "timeout": (ValueError, "more than 0", lambda pool: pool.decode(PACKETS, timeout=0)),
    "timeout type": (TypeError, "seconds", lambda pool: pool.decode(PACKETS, timeout="1")),
    "file": (TypeError, "path, bytes", lambda pool: pool.decode_file(5)),
    "text file": (TypeError, "rb", lambda pool: pool.decode_file(io.StringIO("x"))),
    "no file": (FileNotFoundError, "nowhere", lambda pool: pool.decode_file("/nowhere.opus")),
    "not Opus": (
        opuspool.InvalidFileError,
        "not Ogg Opus",
        lambda pool: pool.decode_file(b"hello"),
    ),
}


@pytest.mark.parametrize(("error", "words", "call"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_refused_before_anything_is_sent(
    pool: opuspool.Pool, error: type[Exception], words: str, call: Any
) -> None:
    """Each with what is allowed."""
    accepted = pool.status()["counters"]["accepted"]
    with pytest.raises(error, match=words):
        call(pool)
    assert pool.status()["counters"]["accepted"] == accepted


def test_a_closed_stream_refuses(pool: opuspool.Pool) -> None:
    """`StreamClosedError`; closing twice is fine."""
    stream = pool.stream()
    stream.decode(PACKETS[0])
    stream.close()
    stream.close()
    with pytest.raises(opuspool.StreamClosedError, match="open another"):
        stream.decode(PACKETS[1])


def test_closed_streams_leave_the_supervisor(pool: opuspool.Pool) -> None:
    """No decoder is kept for them."""
    for _ in range(20):
        with pool.stream() as stream:
            stream.decode(PACKETS[0])
    assert pool.status()["streams"] <= 2


def test_a_file_is_decoded_from_path_bytes_and_file(pool: opuspool.Pool) -> None:
    """The shipped recording, in all three ways."""
    data = EXAMPLE.read_bytes()
    pcm = pool.decode_file(EXAMPLE, sample_rate=16000)
    assert 9 * 16000 < len(pcm) < 10 * 16000
    assert np.abs(pcm).max() > 0.1
    assert np.array_equal(pcm, pool.decode_file(data))
    assert np.array_equal(pcm, pool.decode_file(io.BytesIO(data)))
    assert pool.decode_file(str(EXAMPLE), channels=2, dtype="int16").shape == (len(pcm), 2)


def test_status_tells_what_the_contract_says(pool: opuspool.Pool) -> None:
    """Names that ops and other programs rely on."""
    status = pool.status()
    assert set(status["workers"][0]) >= {
        "slot", "pid", "generation", "state", "restarts", "streams", "rss_bytes", "uptime_seconds",
    }  # fmt: skip
    assert set(status["counters"]) >= {
        "worker_restarts", "access_violations", "retries", "replayed_packets", "poison_packets",
        "requests", "packets_decoded",
    }  # fmt: skip
    assert {"streams", "queue_depth", "in_flight", "health", "libopus", "supervisor"} <= set(status)
    assert status["health"] == "ok"
    assert len(status["workers"]) == 2
    assert len(status["spares"]) == 1
    assert "libopus" in status["libopus"]["version"]
    assert Path(status["libopus"]["path"]).is_absolute()
    assert set(status["supervisor"]) == {"pid", "uptime_seconds", "version"}


def test_a_call_ends_by_its_deadline(faulty: Path) -> None:
    """A hang outlasts the timeout: `DecodeTimeoutError`, and the stream goes on."""
    import faults

    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        stream.decode(PACKETS[0])
        began = time.monotonic()
        with pytest.raises(opuspool.DecodeTimeoutError, match="deadline"):
            stream.decode(faults.marker("sleep"), timeout=0.3)
        assert time.monotonic() - began < 2
        assert stream.decode(PACKETS[1]).shape == (320,)
        check_books(pool.status())


def test_overload_is_told_at_once(tmp_path: Path, faulty: Path) -> None:
    """With the queue full, `OverloadedError`; what was accepted is decoded."""
    import faults

    settings = tmp_path / "small.toml"
    settings.write_text("[limits]\nqueued_requests = 4\n")
    outcomes: list[str] = []
    with opuspool.Pool(workers=1, spares=0, config=settings) as pool:
        pool.decode(PACKETS[:1])

        def slow(_: int) -> None:
            try:
                pool.decode([faults.marker("slow")])
                outcomes.append("ok")
            except opuspool.OverloadedError as error:
                outcomes.append("overloaded" if error.retry_after > 0 else "no hint")

        threads = [threading.Thread(target=slow, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check_books(pool.status())
    assert outcomes.count("ok") >= 4
    assert outcomes.count("overloaded") > 0


def test_without_libopus_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """`WorkerBootError` at once, for every call; `status` says down and why."""
    monkeypatch.setenv("OPUSPOOL_LIBOPUS", "/nowhere/libopus.so")
    with opuspool.Pool(workers=2) as pool:
        for _ in range(2):
            with pytest.raises(opuspool.WorkerBootError, match="libopus0"):
                pool.decode(PACKETS, timeout=20)
        status = pool.status()
        assert status["health"] == "down"
        assert "/nowhere/libopus.so" in status["boot_error"]
        assert status["counters"]["worker_restarts"]["boot"] >= 3
        check_books(status)


def test_a_mended_libopus_heals_the_pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No new pool is needed."""
    import shutil

    import reference

    path = tmp_path / "libopus.so"
    monkeypatch.setenv("OPUSPOOL_LIBOPUS", str(path))
    monkeypatch.setenv("OPUSPOOL_RESTART_BACKOFF_MAX_SECONDS", "0.3")
    with opuspool.Pool(workers=1) as pool:
        with pytest.raises(opuspool.WorkerBootError):
            pool.decode(PACKETS)
        shutil.copy(reference.real_libopus(), path)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                assert np.array_equal(pool.decode(PACKETS), golden(PACKETS))
                break
            except opuspool.WorkerBootError:
                time.sleep(0.05)
        assert pool.status()["health"] == "ok"


def test_wrong_settings_are_refused() -> None:
    """`ConfigError` that names what is allowed."""
    with pytest.raises(opuspool.ConfigError, match=r"workers.*count"):
        opuspool.Pool(workers=0)
    with pytest.raises(opuspool.ConfigError, match="nowhere"):
        opuspool.Pool(config="/nowhere.toml")
    with pytest.raises(opuspool.ConfigError, match="transport"):
        opuspool.Pool("http://localhost")
