"""Every death leaves a report that says why, and can be replayed; a bad disk costs nothing else."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
import pytest
from killing import all_idle, check_books, deaths
from opuspool_supervisor import autopsy, crashes
from opuspool_supervisor.books import RESTART_REASONS
from opuspool_supervisor.death import Death
from opuspool_supervisor.records import Lease
from opuspool_supervisor.slots import Slot, Worker
from recordings import speech_packets
from reference import golden, real_libopus
from waiting import wait_until

import opuspool
from opuspool import knownpacket, ops, recorder, statedir
from opuspool.ops import Op, OpKind
from opuspool.recorder import Position
from opuspool.streamformat import StreamFormat
from opuspool.wire import Action, Step

if TYPE_CHECKING:
    from collections.abc import Iterator

if sys.platform == "win32":
    pytest.skip("signals and mounts of POSIX", allow_module_level=True)

PACKETS = speech_packets(2.0)
EXPECTED = golden(PACKETS)
COMMAND = [sys.executable, "-m", "opuspool", "crashes"]

Crash = dict[str, Any]


def digest(packet: bytes) -> str:
    return blake2b(packet, digest_size=16).hexdigest()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where pools of this test write their reports; it is not there yet."""
    directory = tmp_path / "state" / "crashes"
    monkeypatch.setenv("OPUSPOOL_CRASHES_DIRECTORY", str(directory))
    return directory


@pytest.fixture
def kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with the packets in the reports."""
    monkeypatch.setenv("OPUSPOOL_CRASHES_KEEP_PACKETS", "true")
    return folder


def written(folder: Path) -> list[Crash]:
    """The reports, the oldest first."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def reported(pool: opuspool.Pool, folder: Path, count: int) -> list[Crash]:
    """Wait for so many reports."""
    wait_until(lambda: pool.status()["counters"]["crash_reports"] == count, what=f"{count} reports")
    found = written(folder)
    assert len(found) == count
    return found


def refused(stream: opuspool.Stream, fault: str) -> None:
    with pytest.raises(opuspool.PoisonPacketError):
        stream.decode(faults.marker(fault))


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


# ---- what a report says ----------------------------------------------------------------------


def test_a_segv_is_reported(faulty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cause, packet, stream, versions and stack, for each of the two workers that died."""
    monkeypatch.setenv("OPUSPOOL_RECOVERY_CHECKPOINT_PACKETS", "0")  # the second replays them all
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        for packet in PACKETS[:20]:
            stream.decode(packet)
        refused(stream, "segv")
        first, second = reported(pool, folder, 2)
        check_books(pool.status())
    for crash in (first, second):
        assert (crash["reason"], crash["cause"]) == ("segv", "SIGSEGV")
        assert crash["phase"] == "decoding"
        client = crash["stream"].pop("client")
        assert crash["stream"] == {
            "sample_rate": 16000,
            "channels": 1,
            "dtype": "float32",
            "number": 1,
        }
        assert bytes.fromhex(client)
        assert crash["operation"] == "packet"
        assert crash["digest"] == digest(faults.marker("segv"))
        assert crash["packet_bytes"] == len(faults.marker("segv"))
        assert crash["toc"] == "SILK wideband, 20 ms frames, mono, code 3"
        assert crash["suspects"] == [digest(packet) for packet in PACKETS[4:20]]
        assert "Segmentation fault" in crash["faulthandler"]
        assert "decoder.py" in crash["faulthandler"]
        assert crash["versions"]["libopus_path"] == str(faulty)
        assert crash["versions"]["opuspool"] == "0.1.0"
        assert crash["age_seconds"] > 0
        age = datetime.now(UTC) - datetime.fromisoformat(crash["time"])
        assert 0 <= age.total_seconds() < 60
    assert [first["attempts"], second["attempts"]] == [1, 2]
    assert (first["leases_settled"], first["packets_served"]) == (20, 20)
    assert (second["leases_settled"], second["packets_served"]) == (0, 0)
    assert (first["slot"], first["generation"]) == (second["slot"], second["generation"] - 1)
    assert first["pid"] != second["pid"]


def test_a_hang_is_reported_with_the_place_where_it_hung(faulty: Path, folder: Path) -> None:
    """The supervisor lets faulthandler write before it kills."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        refused(stream, "loop")
        crash = reported(pool, folder, 2)[0]
    assert (crash["reason"], crash["phase"]) == ("hang", "decoding")
    assert crash["cause"] == "ended by the supervisor (hang): SIGABRT"
    assert crash["digest"] == digest(faults.marker("loop"))
    assert "decoder.py" in crash["faulthandler"]


def test_the_death_of_an_idle_worker_names_its_last_packets(folder: Path) -> None:
    """Damage may show late."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        for packet in PACKETS[:30]:
            stream.decode(packet)
        os.kill(pool.status()["workers"][0]["pid"], signal.SIGKILL)
        (crash,) = reported(pool, folder, 1)
        assert stream.decode(PACKETS[30]).shape == (320,)
    assert (crash["reason"], crash["phase"]) == ("killed", "idle")
    assert crash["suspects"] == [digest(packet) for packet in PACKETS[14:30]]
    assert (crash["digest"], crash["operation"], crash["attempts"]) == (None, None, None)


def test_a_heap_that_was_smashed_before_is_the_last_suspect(faulty: Path, folder: Path) -> None:
    """The packet in hand at an abort is not the one that did it."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        stream.decode(faults.marker("smash"))
        with pytest.raises(opuspool.PoisonPacketError):
            stream.decode(PACKETS[0])
        crash, _, last = reported(pool, folder, 3)
    assert (crash["reason"], crash["digest"]) == ("abort", digest(PACKETS[0]))
    assert crash["suspects"] == [digest(faults.marker("smash"))]
    # What has replayed it must decode a canary before anything of a client.
    assert (last["reason"], last["digest"]) == ("abort", digest(knownpacket.PACKET))
    assert "glibc" not in crash["stderr"]
    assert crash["stderr"] != ""  # glibc's own words


def test_sigkill_blames_by_half(faulty: Path, folder: Path) -> None:
    """It mostly comes from outside."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        refused(stream, "kill")
        found = reported(pool, folder, 4)
    assert [crash["attempts"] for crash in found] == [0.5, 1, 1.5, 2]


def test_a_boot_failure_is_reported(folder: Path, tmp_path: Path) -> None:
    """With the words that also the caller gets."""
    broken = tmp_path / "libbroken.so"
    broken.write_bytes(b"no library")
    with opuspool.Pool(workers=1, spares=0, libopus=broken) as pool:
        with pytest.raises(opuspool.WorkerBootError, match="libbroken"):
            pool.decode(PACKETS, timeout=10)
        wait_until(lambda: written(folder), what="a report")
    crash = written(folder)[0]
    assert (crash["reason"], crash["phase"]) == ("boot", "boot")
    assert "libbroken.so" in crash["cause"]
    assert "libbroken.so" in crash["stderr"]
    assert crash["versions"]["libopus"] is None
    assert crash["stream"] is None


def test_a_death_in_a_rebuild_names_the_packet_of_the_journal(
    faulty: Path, tokens: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packet that was decoded once can kill when it is replayed."""
    monkeypatch.setenv("OPUSPOOL_RECOVERY_CHECKPOINT_PACKETS", "0")
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        for packet in [*PACKETS[:5], faults.marker("segv-once"), *PACKETS[5:8]]:
            stream.decode(packet)
        for token in tokens.iterdir():
            token.unlink()
        os.kill(pool.status()["workers"][0]["pid"], signal.SIGKILL)
        assert stream.decode(PACKETS[8]).shape == (320,)
        crash = reported(pool, kept, 3)[2]
    assert (crash["reason"], crash["phase"]) == ("segv", "rebuilding")
    assert crash["digest"] == digest(faults.marker("segv-once"))
    assert crash["suspects"] == [digest(packet) for packet in PACKETS[:5]]
    assert sum(count for count, _ in crash["replay"]["journal"]) == 5


def test_losses_and_fec_are_operations_too(faulty: Path, folder: Path) -> None:
    """FEC has a packet in hand, and is told apart from decoding it."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        stream.decode(None)
        stream.decode(PACKETS[0])
        with pytest.raises(opuspool.PoisonPacketError):
            stream.decode(faults.marker("segv"), fec=True)
        crash = reported(pool, folder, 2)[0]
    assert (crash["operation"], crash["digest"]) == ("fec", digest(faults.marker("segv")))
    assert crash["suspects"] == [digest(PACKETS[0])]


def test_planned_ends_are_no_crashes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither recycling nor the end of the pool."""
    monkeypatch.setenv("OPUSPOOL_RECYCLE_REQUESTS", "10")
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:

        def recycled() -> bool:
            stream.decode_many(PACKETS[:10])
            counters = pool.status()["counters"]
            return bool(counters["worker_restarts"]["recycled_requests"] >= 2)

        wait_until(recycled, what="two workers are recycled")
        wait_until(lambda: all_idle(pool.status()), what="all workers are idle")
        counters = pool.status()["counters"]
        assert deaths(pool.status()) == counters["worker_restarts"]["recycled_requests"]
        assert (counters["crash_reports"], counters["crash_report_errors"]) == (0, 0)
    assert not folder.exists()


def test_reports_can_be_turned_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPUSPOOL_CRASHES_ENABLED", "false")
    with opuspool.Pool(workers=1) as pool:
        kill_one(pool)
        assert pool.status()["counters"]["crash_reports"] == 0
    assert not folder.exists()


def kill_one(pool: opuspool.Pool) -> None:
    pool.decode(PACKETS[:2])
    before = deaths(pool.status())
    os.kill(pool.status()["workers"][0]["pid"], signal.SIGKILL)
    wait_until(lambda: deaths(pool.status()) > before, what="the death is counted")


@pytest.mark.parametrize(
    ("position", "phase", "in_hand", "suspects"),
    [
        (None, "idle", None, PACKETS[:4]),
        (Position(0, 2, 1, 9), "idle", None, PACKETS[:4]),
        (Position(8, 1, 1, 9), "idle", None, PACKETS[:4]),
        (Position(7, 1, 1, 9), "decoding", PACKETS[1], PACKETS[:1]),
        (Position(7, 2, 0, 9), "decoding", PACKETS[2], PACKETS[:2]),
        (Position(7, 2, 2, 9), "decoding", None, PACKETS[:4]),
        (Position(7, 0, 5, 9), "rebuilding", None, []),
        (Position(7, 2**64 - 1, 0, 9), "idle", None, PACKETS[:4]),
        (Position(7, 2, 2**64 - 1, 9), "decoding", None, PACKETS[:4]),
    ],
)
def test_an_autopsy_believes_nothing_that_cannot_be(
    position: Position | None, phase: str, in_hand: bytes | None, suspects: list[bytes]
) -> None:
    """The flight recorder is memory of a process that may have gone wild."""
    slot, worker = Slot(0, spare=False), Worker(1, 1, started=5.0, ready=6.0)
    code = StreamFormat().code
    slot.lease = Lease(7, 0.0, [Step(1, 0, 0, code, Action.OPEN)], [b""])
    for packets in (PACKETS[:2], PACKETS[2:4]):
        blob = ops.pack([Op(OpKind.PACKET, packet) for packet in packets])
        slot.lease.add([(Step(1, len(blob), 2, code, Action.DECODE), blob)])
    found = autopsy.examine(slot, worker, Death("segv", "", position), None, weight=1.0, now=8.5)
    assert (found.phase, found.age_seconds) == (phase, 3.5)
    assert (found.in_hand.op.packet if found.in_hand else None) == in_hand
    assert found.suspects == tuple(digest(packet) for packet in suspects)
    assert (found.format is None) == (phase == "idle")


def test_of_large_requests_only_the_last_packets_are_remembered() -> None:
    """What a supervisor keeps for reports is bounded."""
    packets = [bytes([n]) * 60_000 for n in range(40)]
    blob = ops.pack([Op(OpKind.PACKET, packet) for packet in packets])
    step = Step(1, len(blob), len(packets), StreamFormat().code, Action.DECODE)
    worker = Worker(1, 1, started=0.0, ready=0.0)
    for _ in range(30):
        autopsy.remember(worker, Lease(7, 0.0, [step], [blob]))
    assert worker.packets == 30 * 40
    assert sum(len(blob) for blob, _ in worker.recent) < 16 * 16 * 60_100
    found = autopsy.examine(
        Slot(0, spare=False), worker, Death("segv", ""), None, weight=1.0, now=0.0
    )
    assert found.suspects == tuple(digest(packet) for packet in packets[-16:])


# ---- where reports are -----------------------------------------------------------------------


def test_only_this_user_can_read_them(folder: Path) -> None:
    old = os.umask(0)
    try:
        with opuspool.Pool(workers=1) as pool:
            kill_one(pool)
            reported(pool, folder, 1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_a_directory_they_are_in_the_users_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with opuspool.Pool(workers=1) as pool:
        kill_one(pool)
        reported(pool, tmp_path / "opuspool" / "crashes", 1)


def test_a_state_directory_that_is_no_path_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    for value in ("", "here"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        expected = Path("/home/anna/.local/state/opuspool/crashes")
        assert statedir.crash_directory("") == expected
    assert statedir.crash_directory("/var/crashes") == Path("/var/crashes")


# ---- packets ---------------------------------------------------------------------------------


def test_no_packet_is_kept_by_default(faulty: Path, folder: Path) -> None:
    """What people have said is not written to disk unasked."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        for packet in PACKETS[:5]:
            stream.decode(packet)
        refused(stream, "segv")
        reported(pool, folder, 2)
    for path in folder.iterdir():
        text = path.read_bytes().lower()
        for packet in [*PACKETS[:5], faults.marker("segv")]:
            assert packet[2:10].hex().encode() not in text
            assert packet not in text
        assert json.loads(text)["replay"] is None
    done = command("replay", written(folder)[0]["id"])
    assert done.returncode == 2
    assert "keep_packets = true" in done.stderr


@pytest.mark.parametrize("checkpoint_packets", [0, 10])
@pytest.mark.parametrize("fault", ["segv", "stateful", "overrun", "badreturn"])
def test_a_replay_reproduces_the_death(
    faulty: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, fault: str, checkpoint_packets: int
) -> None:
    """Also of a packet that kills only a decoder which has decoded before ("stateful")."""
    monkeypatch.setenv("OPUSPOOL_RECOVERY_CHECKPOINT_PACKETS", str(checkpoint_packets))
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        for packet in PACKETS[:15]:
            stream.decode(packet)
        batch = [*PACKETS[15:18], faults.marker(fault), *PACKETS[18:20]]
        with pytest.raises(opuspool.PoisonPacketError):
            stream.decode_many(batch)
        found = reported(pool, kept, 2)
    for crash in found:
        replay = crash["replay"]
        operations = sum(count for count, _ in replay["journal"])
        # Stream 1 of a supervisor is saved a packet before the tenth.
        assert operations == (18 if checkpoint_packets == 0 else 9)
        assert (replay["checkpoint"] is None) == (checkpoint_packets == 0)
        assert replay["exact"]
        done = command("replay", crash["id"])
        assert done.returncode == 1, done.stderr
        assert "it killed its worker" in done.stdout
        assert "while it ran" in done.stdout or fault == "badreturn"
        if faults.FAULTS[fault] == "segv":
            assert "SIGSEGV" in done.stdout
            assert "decoder.py" in done.stdout


def test_a_replay_of_a_good_packet_decodes_it(faulty: Path, kept: Path) -> None:
    """As it does where the fault came from outside."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        stream.decode_many(PACKETS[:5])
        stream.decode(faults.marker("segv-once"))
        (crash,) = reported(pool, kept, 1)
    done = command("replay", crash["id"][:-4])
    assert done.returncode == 0, done.stderr
    assert "it gave 320 samples per channel" in done.stdout


def test_a_replay_asks_for_as_much_pcm_as_was_asked_for(faulty: Path, kept: Path) -> None:
    """10 ms of a packet's FEC, where the packets have 20 ms."""
    asked = Op(OpKind.FEC, faults.marker("segv-once"), 4)
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        stream.decode_many(PACKETS[:5])
        assert stream._run([asked], pool._deadline(None)).shape == (160,)
        (crash,) = reported(pool, kept, 1)
    done = command("replay", crash["id"])
    assert done.returncode == 0, done.stderr
    assert "it gave 160 samples per channel" in done.stdout


def test_a_replay_with_another_libopus(
    faulty: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which tells whether that has the fault too; its checkpoints are not the same."""
    monkeypatch.setenv("OPUSPOOL_RECOVERY_CHECKPOINT_PACKETS", "2")
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        for packet in PACKETS[:5]:
            stream.decode(packet)
        refused(stream, "segv")
        crash = reported(pool, kept, 2)[0]
    done = command("replay", crash["id"], "--libopus", real_libopus())
    assert done.returncode == 0, done.stderr
    assert "320 samples" in done.stdout
    assert "another libopus" in done.stdout
    done = command("replay", crash["id"], "--libopus", "/nowhere/libopus.so")
    assert done.returncode == 2
    assert "/nowhere/libopus.so" in done.stderr


def test_a_hang_is_reproduced_and_ended(faulty: Path, kept: Path) -> None:
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        refused(stream, "loop")
        crash = reported(pool, kept, 2)[0]
    done = command("replay", crash["id"], "--timeout", "1")
    assert done.returncode == 1
    assert "it hung for 1 s, while it ran" in done.stdout
    assert "decoder.py" in done.stdout


def test_damage_shows_at_the_end_of_a_replay(
    faulty: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heap that the packet has smashed does not survive the decoder's end."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        monkeypatch.delenv("OPUSPOOL_CRASHES_DIRECTORY")
        stream.decode(PACKETS[0])
        refused(stream, "segv")
        crash = reported(pool, kept, 2)[0]
    crash["replay"]["packet"] = faults.marker("smash").hex()
    (kept / f"{crash['id']}.json").write_text(json.dumps(crash))
    done = command("replay", crash["id"], "--directory", kept)
    assert done.returncode == 1
    assert "SIGABRT" in done.stdout
    assert "when its decoder was destroyed" in done.stdout


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb: apt-get install gdb")
def test_gdb_shows_the_native_stack(faulty: Path, kept: Path) -> None:
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        stream.decode_many(PACKETS[:5])
        refused(stream, "segv")
        stream.decode(faults.marker("abort-once"))
        found = reported(pool, kept, 3)
    done = command("replay", found[0]["id"], "--gdb", "--timeout", "60")
    assert done.returncode == 1, done.stderr
    assert "it killed its worker (SIGSEGV), while it ran" in done.stdout
    assert "opus_decode_float" in done.stdout
    done = command("replay", found[2]["id"], "--gdb", "--timeout", "60")
    assert done.returncode == 0, done.stdout
    assert "320 samples" in done.stdout


def test_without_gdb_the_command_that_installs_it_is_told(faulty: Path, kept: Path) -> None:
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        refused(stream, "segv")
        crash = reported(pool, kept, 2)[0]
    done = command("replay", crash["id"], "--gdb", PATH="/nowhere")
    assert done.returncode == 2
    assert "apt-get install gdb" in done.stderr


# ---- bounds ----------------------------------------------------------------------------------


def report(number: int, **changes: Any) -> crashes.Report:
    """Return a report as the supervisor makes it."""
    values: Crash = {
        "id": f"20260131T120000.{number:06}Z-0-{number}",
        "time": "2026-01-31T12:00:00Z",
        "versions": crashes.Versions("0.1.0", "3.11.7"),
        "reason": "segv",
        "cause": "SIGSEGV",
        "phase": "idle",
        "slot": 0,
        "generation": number,
        "pid": 1,
        "age_seconds": 1.0,
        "leases_settled": 0,
        "packets_served": 0,
        "stream": None,
        "attempts": None,
        "operation": None,
        "toc": None,
        "digest": None,
        "packet_bytes": None,
        "faulthandler": "",
        "stderr": "",
        "suspects": (),
        "replay": None,
    }
    return crashes.Report(**{**values, **changes})


def generations(folder: Path) -> list[int]:
    return [crash["generation"] for crash in written(folder)]


def test_the_newest_reports_are_kept(tmp_path: Path) -> None:
    """So many as are allowed; files of others are left alone."""
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "20260131T120000.000000Z-0-0.txt").touch()
    store = crashes.CrashStore(tmp_path, reports=3, bytes_=1 << 20)
    for number in range(10):
        assert store.write(report(number)) == report(number).id
    assert {path.name for path in tmp_path.iterdir()} == {
        "notes.json",
        "20260131T120000.000000Z-0-0.txt",
        *(f"{report(number).id}.json" for number in (7, 8, 9)),
    }
    assert store.errors == 0


def test_the_bytes_of_all_reports_are_bounded(tmp_path: Path) -> None:
    store = crashes.CrashStore(tmp_path, reports=100, bytes_=65536)
    for number in range(10):
        store.write(report(number, stderr="x" * 20_000))
    assert generations(tmp_path) == [7, 8, 9]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 65536


def test_a_report_that_is_too_large_gives_up_its_largest_parts(tmp_path: Path) -> None:
    store = crashes.CrashStore(tmp_path, reports=100, bytes_=65536)
    replay = crashes.Replay("00" * 60_000, None, [], exact=True)
    store.write(report(1, replay=replay, stderr="said"))
    store.write(report(2, faulthandler="\0" * 65536))  # JSON has six characters for each
    first, second = written(tmp_path)
    assert (first["replay"], first["stderr"]) == (None, "said")
    assert second["faulthandler"] == ""


def test_no_reports_are_wanted(tmp_path: Path) -> None:
    store = crashes.CrashStore(tmp_path / "none", reports=0, bytes_=65536)
    assert store.write(report(1)) is None
    assert store.errors == 0
    assert not (tmp_path / "none").exists()


def test_what_a_killed_supervisor_left_unfinished_goes(tmp_path: Path) -> None:
    """But not what another one is writing now."""
    old, new = (tmp_path / f".{report(n).id}.json.tmp" for n in (1, 2))
    for path in (old, new):
        path.touch()
    os.utime(old, (1.0, 1.0))
    crashes.CrashStore(tmp_path, reports=3, bytes_=65536).write(report(3))
    assert not old.exists()
    assert new.exists()


def test_a_crash_loop_leaves_bounded_reports(
    faulty: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPUSPOOL_CRASHES_REPORTS", "5")
    with opuspool.Pool(workers=1) as pool:
        for _ in range(4):
            with pool.stream() as stream:
                refused(stream, "abort")
        wait_until(
            lambda: pool.status()["counters"]["crash_reports"] == deaths(pool.status()),
            what="all deaths are reported",
        )
    assert 2 <= len(written(folder)) <= 5


# ---- a bad disk ------------------------------------------------------------------------------


def serves_without_reports() -> None:
    """A pool decodes bit for bit, loses only the killer, and counts what it could not write."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        before = [stream.decode(packet) for packet in PACKETS[:50]]
        refused(stream, "segv")
        after = [stream.decode(packet) for packet in PACKETS[50:]]
        counted = wait_until(
            lambda: (
                (counters := pool.status()["counters"])["crash_report_errors"] == 2 and counters
            ),
            what="the errors are counted",
        )
        assert counted["crash_reports"] == 0
        assert counted["poison_packets"] == 1
        check_books(pool.status())
    assert np.array_equal(np.concatenate(before + after), EXPECTED)


def test_a_directory_that_is_a_file(faulty: Path, folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()
    serves_without_reports()
    assert folder.read_bytes() == b""


@pytest.mark.parametrize("where", ["/proc/nowhere/crashes", "/dev/null/crashes", "x" * 5000])
def test_a_directory_that_cannot_be_made(
    faulty: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setenv("OPUSPOOL_CRASHES_DIRECTORY", where)
    serves_without_reports()


def test_no_home_and_no_directory(faulty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have none."""
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/dev/null/nowhere")
    serves_without_reports()


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[None]:
    """A file system in memory; skips the test where this user may not mount one."""
    directory.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", options, "opuspool-test", str(directory)]
    done = subprocess.run(mount, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(directory)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("options", ["size=4k", "ro"])
def test_a_full_or_read_only_disk(
    faulty: Path, kept: Path, monkeypatch: pytest.MonkeyPatch, options: str
) -> None:
    """A part of a report is not left on it either."""
    monkeypatch.setenv("OPUSPOOL_RECOVERY_CHECKPOINT_PACKETS", "10")  # larger than the disk
    with mounted(kept, options):
        serves_without_reports()
        assert list(kept.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_the_right_to_write(faulty: Path, folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o500)
    serves_without_reports()


def test_a_limit_on_the_size_of_files(
    faulty: Path, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a quota would: the write fails half-way."""
    monkeypatch.setenv("OPUSPOOL_RECOVERY_CHECKPOINT_PACKETS", "10000")
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        supervisor = pool.status()["supervisor"]["pid"]
        limit = recorder.SIZE
        resource.prlimit(supervisor, resource.RLIMIT_FSIZE, (limit, limit))
        stream.decode_many(speech_packets(2.0, bitrate=64000) * 20)  # more than that, in the report
        refused(stream, "segv")
        assert stream.decode(PACKETS[30]).shape == (320,)
        wait_until(
            lambda: pool.status()["counters"]["crash_report_errors"] == 2, what="both counted"
        )
    assert list(kept.iterdir()) == []


def test_a_directory_that_vanishes_is_made_again(folder: Path) -> None:
    with opuspool.Pool(workers=1) as pool:
        kill_one(pool)
        reported(pool, folder, 1)
        shutil.rmtree(folder)
        kill_one(pool)
        wait_until(lambda: len(written(folder)) == 1, what="the second report")
        assert pool.status()["counters"]["crash_report_errors"] == 0


# ---- list and show ---------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> Path:
    store = crashes.CrashStore(tmp_path / "three", reports=10, bytes_=1 << 20)
    store.write(report(1, toc="CELT fullband", digest="ab" * 16, operation="packet", attempts=1.0))
    store.write(report(2, stderr="a\x1b[31mb\nc", suspects=("cd" * 16,)))
    store.write(report(30, phase="boot", reason="boot"))
    return tmp_path / "three"


def test_list_shows_the_newest_first(three: Path) -> None:
    done = command("list", "--directory", three)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].split()[:5] == ["id", "time", "reason", "phase", "slot"]
    assert [line.split()[0] for line in lines[1:]] == [report(n).id for n in (30, 2, 1)]
    assert "CELT fullband" in lines[3]
    assert "abababababab" in lines[3]


def test_list_can_be_read_by_programs(three: Path) -> None:
    done = command("list", "--json", "--directory", three)
    assert [crash["generation"] for crash in json.loads(done.stdout)] == [30, 2, 1]


def test_crashes_alone_lists(three: Path, tmp_path: Path) -> None:
    done = command(OPUSPOOL_CRASHES_DIRECTORY=str(three))
    assert len(done.stdout.splitlines()) == 4
    done = command(OPUSPOOL_CRASHES_DIRECTORY=str(tmp_path / "none"))
    assert done.returncode == 0
    assert "no crash reports in" in done.stdout


def test_the_directory_can_come_from_a_file_of_settings(three: Path, tmp_path: Path) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text(f'[crashes]\ndirectory = "{three}"\n')
    assert len(command("list", "--config", settings).stdout.splitlines()) == 4


def test_show_shows_all_of_one(three: Path) -> None:
    done = command("show", report(1).id, "--directory", three)
    assert done.returncode == 0
    for words in ("segv: SIGSEGV", "CELT fullband", "ab" * 16, "blame 1", "not kept"):
        assert words in done.stdout
    done = command("show", report(2).id, "--directory", three)
    assert "cd" * 16 in done.stdout
    assert "\x1b" not in done.stdout  # what a worker wrote does not reach the terminal's control


def test_show_takes_the_beginning_of_an_id(three: Path) -> None:
    begin = "20260131T120000.00003"
    assert report(30).id in command("show", begin, "--directory", three).stdout
    done = command("show", "20260131", "--directory", three)
    assert done.returncode == 1
    assert "3 reports begin with 20260131" in done.stderr
    done = command("show", "19", "--directory", three)
    assert done.returncode == 1
    assert "opuspool crashes list" in done.stderr


def test_show_can_be_read_by_programs(three: Path) -> None:
    done = command("show", report(2).id, "--json", "--directory", three)
    assert json.loads(done.stdout)["suspects"] == ["cd" * 16]


def test_damaged_reports_are_told_and_passed_over(three: Path) -> None:
    (three / f"{report(4).id}.json").write_text('{"id": ')
    (three / f"{report(5).id}.json").write_text("[]")
    done = command("list", "--directory", three)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr.count("\n") == 2


def test_every_reason_has_its_place_in_a_report(tmp_path: Path) -> None:
    store = crashes.CrashStore(tmp_path, reports=100, bytes_=1 << 20)
    for number, reason in enumerate(RESTART_REASONS):
        store.write(report(number, reason=reason))
    assert [crash["reason"] for crash in written(tmp_path)] == list(RESTART_REASONS)


def test_nothing_of_a_replay_is_left(faulty: Path, kept: Path) -> None:
    """No temporary file, also under gdb; conftest.py looks for processes."""
    with opuspool.Pool(workers=1) as pool, pool.stream() as stream:
        refused(stream, "loop")
        crash = reported(pool, kept, 2)[0]
    options = ["--gdb"] if shutil.which("gdb") else []
    done = command("replay", crash["id"], "--timeout", "3", *options)
    assert done.returncode == 1
    assert "it hung for 3 s" in done.stdout
    assert list(Path(tempfile.gettempdir()).glob("opuspool-replay-*")) == []
