"""What the drop-ins make of the pool's troubles: the caller's error, or nothing at all."""

from __future__ import annotations

import gc
import os
import threading
from typing import TYPE_CHECKING, Any

import faults
import pytest
from compatscripts import answer, original, same
from killing import check_books, deaths
from recordings import speech_packets
from reference import golden
from waiting import wait_until

import opuspool
import opuspool.compat.opuslib_next as opuslib_next
from opuspool import compat, errors
from opuspool.compat.codes import CodeError
from opuspool.compat.defaultpool import default_pool
from opuspool.compat.pyogg import OpusDecoder, PyOggError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKETS = speech_packets(2.0)
EXPECTED = golden(PACKETS, dtype="int16").tobytes()
ERRORS = [getattr(errors, name) for name in errors.__all__]


@pytest.fixture(autouse=True)
def _shared_pool() -> Iterator[None]:
    compat.configure(workers=1)
    yield
    compat.close()
    compat.configure()


@pytest.mark.parametrize("fault", ["segv", "abort", "overrun", "loop"])
def test_a_killer_is_a_corrupt_packet_and_the_decoder_goes_on(faulty: Path, fault: str) -> None:
    """Code -4; the text says what happened; every other sample is right."""
    compat.configure(workers=1)  # with the faulting libopus
    decoder = opuslib_next.Decoder(16000, 1)
    pcm = [decoder.decode(packet, 960) for packet in PACKETS[:30]]
    with pytest.raises(opuslib_next.OpusError, match=r"corrupted stream: .* killed") as caught:
        decoder.decode(faults.marker(fault), 960)
    assert caught.value.code == -4
    assert isinstance(caught.value.__cause__, opuspool.PoisonPacketError)
    pcm += [decoder.decode(packet, 960) for packet in PACKETS[30:]]
    assert b"".join(pcm) == EXPECTED
    check_books(default_pool().status())


def test_workers_that_die_change_no_answer(faulty: Path) -> None:
    """The original, with a libopus that does not fault, says the same to the same calls."""
    compat.configure(workers=1)  # with the faulting libopus
    packets = speech_packets(4, bitrate=32000, fec=True, loss_percent=30)
    for at in range(20, len(packets), 20):
        packets[at] = faults.marker("segv-once", like=packets[at])

    def script(lib: Any) -> Iterator[tuple[str, object]]:
        decoder = lib.Decoder(16000, 1)
        decoder.gain = 700
        for at, packet in enumerate(packets):
            yield f"packet {at}", answer(decoder.decode, packet, 960)
            yield f"float {at}", answer(decoder.decode_float, packet, 320)
            yield f"too short {at}", answer(decoder.decode, packet, 319)
            yield f"FEC {at}", answer(decoder.decode, packet, 640, True)
            yield f"loss {at}", answer(decoder.decode, b"", 400)
            yield f"values {at}", (decoder.final_range, decoder.pitch, decoder.gain)
            if at % 30 == 29:
                yield "reset", answer(decoder.reset_state)

    assert same(script, original("opuslib_next"), opuslib_next) > 1000
    assert deaths(default_pool().status()) == 9


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_of_the_pool_has_a_code_of_libopus(kind: type[opuspool.OpusPoolError]) -> None:
    """The service catches `OpusError`, and goes on."""
    code = {
        "InvalidPacketError": -4,
        "PoisonPacketError": -4,
        "StreamClosedError": -6,
        "PoolClosedError": -6,
        "SupervisorLostError": -6,
    }.get(kind.__name__, -3)
    error = CodeError.of(kind("why"))
    assert error.code == code
    assert error.detail == ("" if kind is opuspool.InvalidPacketError else "why")


def test_a_decoder_outlives_its_pool() -> None:
    """One call fails; the next has a fresh decoder, in another pool, with the gain."""
    decoder, other = opuslib_next.Decoder(16000, 1), opuslib_next.Decoder(16000, 1)
    for one in (decoder, other):
        one.gain = 300
    decoder.decode(PACKETS[20], 960)
    compat.close()
    with pytest.raises(opuslib_next.OpusError, match="invalid state: ") as caught:
        decoder.decode(PACKETS[21], 960)
    assert caught.value.code == -6
    assert decoder.gain == 300
    with pytest.raises(opuslib_next.OpusError):
        other.reset_state()
    for packet in PACKETS[:10]:
        assert decoder.decode(packet, 960) == other.decode(packet, 960)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_decoder_of_before_a_fork_goes_on_in_the_child_afresh() -> None:
    """There it fails once; in the parent it notices nothing."""
    decoder = opuslib_next.Decoder(16000, 1)
    pcm = [decoder.decode(packet, 960) for packet in PACKETS[:30]]
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            failed = answer(decoder.decode, PACKETS[0], 960)
            again = [decoder.decode(packet, 960) for packet in PACKETS[:30]]
            code = 7 if isinstance(failed, tuple) and failed[1] == -6 and again == pcm else 2
            compat.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    pcm += [decoder.decode(packet, 960) for packet in PACKETS[30:]]
    assert b"".join(pcm) == EXPECTED


def test_a_pool_that_cannot_start_is_the_callers_error_too() -> None:
    """No daemon there, or no libopus; when that is mended, the same decoder works."""
    decoder = opuslib_next.Decoder(16000, 1)
    compat.configure("ipc:///nowhere/pool.sock")
    with pytest.raises(opuslib_next.OpusError, match="invalid state: no supervisor answers"):
        decoder.decode(PACKETS[0], 960)
    compat.configure(workers=1, libopus="/nowhere/libopus.so")
    with pytest.raises(opuslib_next.OpusError, match=r"internal error: .*/nowhere/libopus.so"):
        decoder.decode(PACKETS[0], 960)
    ogg = OpusDecoder()
    ogg.set_channels(1)
    ogg.set_sampling_frequency(16000)
    with pytest.raises(PyOggError, match=r"internal error: .*/nowhere/libopus.so"):
        ogg.decode(PACKETS[0])
    compat.close()
    compat.configure(workers=1)
    for _ in range(2):  # the first call notices that the old pool is gone
        results = [answer(decoder.decode, PACKETS[0], 960), answer(ogg.decode, PACKETS[0])]
    assert results == [EXPECTED[:640], EXPECTED[:640]]


def test_decoders_of_many_threads_do_not_disturb_each_other() -> None:
    """Each thread its own, as libopus asks."""
    results: dict[int, bytes] = {}

    def decode(number: int) -> None:
        decoder = opuslib_next.Decoder(16000, 1)
        results[number] = b"".join(decoder.decode(packet, 960) for packet in PACKETS)

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), EXPECTED)


def test_a_forgotten_decoder_is_given_back() -> None:
    """The pool holds no stream for it any more."""
    decoders = [opuslib_next.Decoder(16000, 1) for _ in range(5)]
    for decoder in decoders:
        decoder.decode(PACKETS[0], 960)
    pool = default_pool()
    assert pool.status()["streams"] == 5
    del decoder
    decoders.clear()
    gc.collect()
    wait_until(lambda: pool.status()["streams"] == 0, what="the streams are closed")
