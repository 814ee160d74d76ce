"""Each fault is real: a process that decodes a marker packet through the shim shows it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import faults
import leaks
import numpy as np
import psutil
import pytest
from recordings import speech_packets
from reference import (
    ReferenceDecoder,
    all_libopus,
    golden,
    pad,
    samples,
)
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference import DtypeName

PROGRAM = """
import os, pathlib, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from reference import OpusError, ReferenceDecoder
decoder = ReferenceDecoder(library=pathlib.Path(os.environ["OPUSPOOL_LIBOPUS"]))
for line in sys.stdin:
    try:
        print(decoder.decode(bytes.fromhex(line)).size, flush=True)
    except OpusError as error:
        print(error.code, flush=True)
"""
"""Decodes the packets of its stdin, one a line; prints the samples of each or the error code."""

GUARDED = """
import ctypes, mmap, os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import pathlib, reference
library = reference.load(pathlib.Path(os.environ["OPUSPOOL_LIBOPUS"]))
bytes_of_pcm, page = 1920 * 4, mmap.PAGESIZE
memory = mmap.mmap(-1, 4 * page)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
if ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + 2 * page), 2 * page, 0): sys.exit("mprotect")
decoder = library.opus_decoder_create(16000, 1, None)
packet = bytes.fromhex(sys.stdin.readline())
pcm = ctypes.c_void_p(start + 2 * page - bytes_of_pcm)
print(library.opus_decode_float(decoder, packet, len(packet), pcm, 1920, 0), flush=True)
"""
"""Decodes one packet into 120 ms of PCM that end at pages nobody may touch."""


def start(program: str, tokens: Path | None = None) -> subprocess.Popen[str]:
    environment = os.environ | faults.environment(tokens)
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(
    *packets: bytes, program: str = PROGRAM, tokens: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Decode packets in a process of their own."""
    with start(program, tokens) as process:
        out, err = process.communicate(
            "".join(packet.hex() + "\n" for packet in packets), timeout=60
        )
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    """A process that decodes; killed at the end."""
    with start(PROGRAM) as process:
        yield process
        process.kill()


def send(process: subprocess.Popen[str], packet: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(packet.hex() + "\n")
    process.stdin.flush()


def receive(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


PACKET = speech_packets(0.5)[11]
"""20 ms of 16 kHz mono speech, 320 samples."""

DEATHS = {
    "segv": -signal.SIGSEGV,
    "abort": -signal.SIGABRT,
    "bus": -signal.SIGBUS,
    "ill": -signal.SIGILL,
    "fpe": -signal.SIGFPE,
    "kill": -signal.SIGKILL,
    "stack": -signal.SIGSEGV,
    "exit": 3,
    "exit0": 0,
}


@pytest.mark.parametrize("fault", DEATHS)
def test_the_process_dies_of_the_fault_while_it_decodes(fault: str) -> None:
    result = run(PACKET, faults.marker(fault), PACKET)
    assert (result.returncode, result.stdout) == (DEATHS[fault], "320\n"), result.stderr


def test_a_heap_smash_decodes_and_aborts_at_the_next_packet() -> None:
    result = run(faults.marker("smash"), PACKET)
    assert (result.returncode, result.stdout) == (-signal.SIGABRT, "320\n"), result.stderr
    assert "free()" in result.stderr


def test_an_overrun_runs_into_a_guard_page_and_an_honest_decode_does_not() -> None:
    assert run(PACKET, program=GUARDED).stdout == "320\n"
    result = run(faults.marker("overrun"), program=GUARDED)
    assert (result.returncode, result.stdout) == (-signal.SIGSEGV, ""), result.stderr


def test_death_comes_right_after_the_answer() -> None:
    """It is a race, so the answer may be lost; not each time."""
    for _ in range(20):
        with start(PROGRAM) as process:
            send(process, faults.marker("after"))
            answer = receive(process)
            assert process.wait(10) == -signal.SIGKILL
        if answer.startswith("320"):
            return
    pytest.fail("20 of 20 answers were lost")


def test_a_stateful_fault_spares_a_fresh_decoder() -> None:
    marker = faults.marker("stateful")
    assert run(marker).stdout == "320\n"
    result = run(PACKET, marker)
    assert (result.returncode, result.stdout) == (-signal.SIGSEGV, "320\n"), result.stderr


def test_an_endless_loop_burns_the_processor(running: subprocess.Popen[str]) -> None:
    send(running, PACKET)
    assert receive(running) == "320\n"
    process = psutil.Process(running.pid)
    before = process.cpu_times().user
    send(running, faults.marker("loop"))
    wait_until(lambda: process.cpu_times().user > before + 0.3, what="0.3 s of processor time")
    assert running.poll() is None


def test_a_sleep_does_not_answer_and_uses_no_processor(running: subprocess.Popen[str]) -> None:
    send(running, PACKET)
    assert receive(running) == "320\n"
    process = psutil.Process(running.pid)
    send(running, faults.marker("sleep"))
    before = process.cpu_times().user
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.5)
    wait_until(lambda: process.status() == psutil.STATUS_SLEEPING, what="asleep")
    assert process.cpu_times().user < before + 0.2


@pytest.mark.parametrize("fault", ["slow", "leak", "stderr"])
def test_the_packet_decodes_after_all(fault: str) -> None:
    result = run(PACKET, faults.marker(fault), PACKET)
    assert (result.returncode, result.stdout) == (0, "320\n" * 3), result.stderr[-1000:]
    assert len(result.stderr) == (1 << 20 if fault == "stderr" else 0)


def test_leaked_memory_stays(running: subprocess.Popen[str]) -> None:
    send(running, PACKET)
    assert receive(running) == "320\n"
    before = psutil.Process(running.pid).memory_info().rss
    for _ in range(50):
        send(running, faults.marker("leak"))
        assert receive(running) == "320\n"
    assert psutil.Process(running.pid).memory_info().rss > before + 45 * (1 << 20)


def test_wrong_return_values(running: subprocess.Popen[str]) -> None:
    send(running, faults.marker("negative"))
    assert receive(running) == "-3\n"
    send(running, faults.marker("badreturn"))
    assert receive(running) == "1920\n"  # all that the reference's buffer holds


def test_a_fault_once_is_over_at_the_second_attempt(tokens: Path) -> None:
    marker = faults.marker("segv-once")
    assert run(marker, tokens=tokens).returncode == -signal.SIGSEGV
    assert run(marker, tokens=tokens).stdout == "320\n"
    assert len(list(tokens.iterdir())) == 1


def test_each_packet_has_a_token_of_its_own(tokens: Path) -> None:
    first, second = (faults.marker("exit-once", packet) for packet in speech_packets(0.5)[5:7])
    assert run(first, tokens=tokens).returncode == 3
    assert run(first, second, tokens=tokens).returncode == 3
    assert run(first, second, tokens=tokens).stdout == "320\n" * 2


def test_a_fault_once_without_tokens_is_a_mistake_of_the_test() -> None:
    result = run(faults.marker("segv-once"))
    assert result.returncode == 97
    assert "OPUSPOOL_FAULT_TOKENS" in result.stderr


def test_only_known_faults_have_markers() -> None:
    with pytest.raises(ValueError, match="no fault is called 'sgev'"):
        faults.marker("sgev")


def test_every_fault_fits_its_marker_and_has_a_test() -> None:
    tested = {*DEATHS, "smash", "overrun", "after", "stateful", "loop", "sleep", "slow", "leak"}
    tested |= {"stderr", "negative", "badreturn"}
    assert tested == faults.FAULTS.keys()


@pytest.mark.parametrize("library", all_libopus(), ids=lambda path: path.name)
@pytest.mark.parametrize("fault", faults.FAULTS)
def test_a_marker_packet_sounds_as_its_packet_does_in_a_real_libopus(
    library: Path, fault: str
) -> None:
    packets = speech_packets(1)
    marked = [faults.marker(fault + faults.ONCE, packet) for packet in packets]
    plain = ReferenceDecoder(library=library).decode_all(packets)
    assert np.array_equal(ReferenceDecoder(library=library).decode_all(marked), plain)


@pytest.mark.parametrize("frame_ms", [2.5, 5, 10, 20, 40, 60])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_packet_can_carry_a_marker(frame_ms: float, channels: int) -> None:
    packets = speech_packets(0.5, 48000, channels, bitrate=48000, frame_ms=frame_ms)
    for packet in [*packets, *(pad(packet, len(packet) + 9) for packet in packets)]:
        marked = faults.marker("segv", packet)
        assert marked[0] & 3 == 3
        assert marked[0] | 3 == packet[0] | 3
        assert samples(marked) == samples(packet)


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_other_packets_pass_bit_for_bit(monkeypatch: pytest.MonkeyPatch, dtype: DtypeName) -> None:
    for name, value in faults.environment().items():
        monkeypatch.setenv(name, value)
    packets = speech_packets(2, 48000, 2, bitrate=48000)
    shim = ReferenceDecoder(48000, 2, dtype, library=faults.faulting_libopus())
    lost: list[bytes | None] = [*packets[:50], None, *packets[51:]]
    assert np.array_equal(shim.decode_all(lost), golden(lost, 48000, 2, dtype))


def test_the_shim_has_every_function_of_decoder_packet_and_encoder() -> None:
    names = ["opus_get_version_string", "opus_strerror", "opus_pcm_soft_clip", "opus_decode"]
    names += ["opus_decode_float", "opus_decoder_get_nb_samples", "opus_packet_unpad"]
    names += [f"opus_decoder_{name}" for name in ("create", "init", "ctl", "destroy", "get_size")]
    names += [f"opus_encoder_{name}" for name in ("create", "init", "ctl", "destroy", "get_size")]
    found = subprocess.run(
        ["nm", "-D", "--defined-only", str(faults.faulting_libopus())],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert [name for name in names if f" T {name}\n" not in found] == []


def test_what_a_test_leaves_is_seen_and_cleaned_up(tmp_path: Path) -> None:
    before = leaks.snapshot()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    socket = Path(tempfile.gettempdir()) / "opuspool-left.sock"
    socket.touch()
    files = [tmp_path.joinpath(str(number)).open("w") for number in range(8)]
    left = leaks.leaks_since(before, timeout=0.2)
    assert [found.pid for found in left.processes] == [process.pid]
    assert left.files == [socket]
    assert len(left.descriptors) >= 8
    assert f"process {process.pid}" in str(left)
    for file in files:
        file.close()
    leaks.clean_up(left)
    assert not leaks.leaks_since(before)
    process.wait(10)


def test_an_orphan_is_seen_too() -> None:
    before = leaks.snapshot()
    program = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"
    subprocess.run([sys.executable, "-c", program], check=True)
    left = leaks.leaks_since(before, timeout=0.2)
    assert [process.cmdline() for process in left.processes] == [["sleep", "600"]]
    leaks.clean_up(left)
