"""The command line, run as its users run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faults
import numpy as np
import oggfiles
import pytest
import recordings
import soundfile
from waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = [sys.executable, "-m", "opuspool"]
EXAMPLE = Path(__file__).parents[1] / "examples" / "speech.opus"
OPUSDEC = shutil.which("opusdec")

posix = pytest.mark.skipif(sys.platform == "win32", reason="devices, links and signals of POSIX")


def run(
    *arguments: object, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command; whatever happens, there is no traceback."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def copy(tmp_path: Path, name: str = "speech.opus") -> Path:
    return Path(shutil.copy(EXAMPLE, tmp_path / name))


def samples(path: Path, dtype: str = "int16") -> Any:
    return soundfile.read(path, dtype=dtype)[0]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- help -----------------------------------------------------------------------------------


def test_help_names_all_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    for name in (b"decode", b"status", b"doctor"):
        assert name in done.stdout


@pytest.mark.parametrize("command", ["decode", "status", "doctor"])
def test_each_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert done.returncode == 0
    assert b"--endpoint" in done.stdout
    assert b"Examples:" in done.stdout


def test_the_exit_codes_of_status_are_in_its_help() -> None:
    assert b"0 ok, 1 degraded, 2 down" in run("status", "--help").stdout


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, opuspool.cli; print([m for m in sys.modules if '.' not in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("numpy", "zmq", "rich", "soundfile", "msgspec", "psutil"):
        assert f"'{heavy}'" not in done.stdout


def test_the_version_is_told() -> None:
    assert b"0.1.0" in run("--version").stdout


def test_a_wrong_option_is_told() -> None:
    done = run("decode", "--rate", "44100", EXAMPLE)
    assert done.returncode == 2
    assert b"44100" in done.stderr


# ---- decode: what comes out -----------------------------------------------------------------


def test_a_file_is_decoded_beside_itself(tmp_path: Path) -> None:
    done = run("decode", copy(tmp_path))
    assert done.returncode == 0, done.stderr
    assert files(tmp_path) == {"speech.opus", "speech.wav"}
    info = soundfile.info(tmp_path / "speech.wav")
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
    assert 9 < info.duration < 10
    assert done.stdout.decode().startswith("decoded 1 file, 9.3 s of audio, ")
    assert done.stdout.decode().endswith(" x real time, 2 workers, 0 restarts\n")


def test_rate_channels_and_type_are_as_asked(tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    options = ["--rate", "24000", "--channels", "2", "--dtype", "float32", "--workers", "1"]
    done = run("decode", EXAMPLE, "-o", out, *options)
    assert done.returncode == 0, done.stderr
    info = soundfile.info(out)
    assert (info.samplerate, info.channels, info.subtype) == (24000, 2, "FLOAT")
    assert b"1 worker," in done.stdout


@pytest.mark.skipif(OPUSDEC is None, reason="no opusdec: install opus-tools")
def test_real_files_are_as_opusdec_has_them(tmp_path: Path) -> None:
    folder = recordings.corpus()
    if folder is None:
        pytest.skip("no real recordings: set OPUSPOOL_CORPUS")
    sources = [
        path
        for path in sorted(folder.glob("*/*.o*"))
        if path.name not in {"bbb_6ch_8kHz_opus.ogg", "joinedMono.opus"}
    ]
    done = run("decode", *sources, "-o", tmp_path / "ours", "--rate", "48000")
    assert done.returncode == 1  # some are there to be refused
    compared = sum(_same_as_opusdec(path, tmp_path, done.stderr) for path in sources)
    assert compared == len(sources) - 3


@pytest.mark.skipif(OPUSDEC is None, reason="no opusdec: install opus-tools")
def test_a_real_file_with_a_hole_is_as_opusdec_has_it(tmp_path: Path) -> None:
    source = recordings.real_file("odd/joinedMono.opus")
    done = run("decode", source, "-o", f"{tmp_path}/ours/", "--rate", "48000")
    assert _same_as_opusdec(source, tmp_path, done.stderr)


def _same_as_opusdec(source: Path, folder: Path, complaints: bytes) -> bool:
    """Whether both decoded it, to the same; otherwise both refused it."""
    theirs, ours = folder / "theirs.wav", folder / "ours" / f"{source.stem}.wav"
    theirs.unlink(missing_ok=True)
    command = ["opusdec", "--rate", "48000", "--no-dither", "--quiet", str(source), str(theirs)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        assert not ours.exists()
        assert str(source).encode() in complaints
        return False
    expected, found = samples(theirs), samples(ours)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1, source
    return True


def test_several_files_go_into_a_folder(tmp_path: Path) -> None:
    sources = [copy(tmp_path, name) for name in ("a.opus", "b.ogg", "c.oga", "d")]
    done = run("decode", *sources, "-o", tmp_path / "new" / "out")
    assert done.returncode == 0, done.stderr
    assert files(tmp_path / "new" / "out") == {"a.wav", "b.wav", "c.wav", "d.wav"}
    assert done.stdout.startswith(b"decoded 4 files, 37.2 s of audio, ")
    assert done.stderr == b""


def test_one_file_goes_into_a_folder_that_is_there(tmp_path: Path) -> None:
    assert run("decode", EXAMPLE, "-o", tmp_path).returncode == 0
    assert files(tmp_path) == {"speech.wav"}


def test_stdin_to_stdout(tmp_path: Path) -> None:
    done = run("decode", "-", "-o", "-", stdin=EXAMPLE.read_bytes())
    assert done.returncode == 0
    assert done.stderr.startswith(b"decoded 1 file, ")
    out = tmp_path / "out.wav"
    out.write_bytes(done.stdout)
    run("decode", EXAMPLE, "-o", tmp_path / "same.wav")
    assert np.array_equal(samples(out), samples(tmp_path / "same.wav"))


def test_stdin_goes_to_stdout_by_itself() -> None:
    assert run("decode", "-", stdin=EXAMPLE.read_bytes()).stdout.startswith(b"RIFF")


# ---- decode: what goes wrong ----------------------------------------------------------------


def test_a_failing_file_has_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    good, text, gone = copy(tmp_path), tmp_path / "notes.txt", tmp_path / "gone.opus"
    text.write_text("dear diary")
    done = run("decode", text, gone, good, tmp_path)
    assert done.returncode == 1
    lines = sorted(done.stderr.decode().splitlines())
    assert lines == sorted(
        [
            f"opuspool: {text}: this is text, not Ogg Opus; check the name (a failed download?)",
            f"opuspool: {gone}: No such file or directory; check the path",
            f"opuspool: {tmp_path}: Is a directory; name the files in it",
        ]
    )
    assert done.stdout.startswith(b"decoded 1 of 4 files, ")
    assert (tmp_path / "speech.wav").exists()
    assert files(tmp_path) == {"speech.opus", "speech.wav", "notes.txt"}


def test_a_single_failing_file_is_told_without_a_summary(tmp_path: Path) -> None:
    done = run("decode", tmp_path / "gone.opus")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1


def test_a_name_cannot_change_the_terminal(tmp_path: Path) -> None:
    name = tmp_path / "a\x1b[31m\n.opus"
    done = run("decode", name)
    assert b"\x1b" not in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_an_invalid_packet_is_named_with_its_file(tmp_path: Path) -> None:
    packets = recordings.speech_packets(0.5)
    packets[7] = b"\x0b\x41\xff\xff"  # 20 ms, and padding that goes beyond the end
    path = tmp_path / "bad.opus"
    path.write_bytes(oggfiles.link(packets))
    done = run("decode", path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"opuspool: {path}: packet ".encode())


@posix
def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    source = copy(tmp_path)
    before = source.read_bytes()
    (tmp_path / "soft.wav").symlink_to(source)
    (tmp_path / "hard.wav").hardlink_to(source)
    for target in ("speech.opus", "soft.wav", "hard.wav", "./x/../speech.opus"):
        (tmp_path / "x").mkdir(exist_ok=True)
        done = run("decode", source, "-o", tmp_path / target)
        assert done.returncode == 2
        assert b"would be overwritten" in done.stderr
    other = copy(tmp_path, "speech.wav")
    assert run("decode", source, other).returncode == 2
    assert source.read_bytes() == before == other.read_bytes()


def test_two_files_with_one_output_are_refused(tmp_path: Path) -> None:
    done = run("decode", copy(tmp_path, "a.opus"), copy(tmp_path, "a.ogg"))
    assert done.returncode == 2
    assert b"would both become" in done.stderr
    assert files(tmp_path) == {"a.opus", "a.ogg"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "Missing argument"),
        (["-", EXAMPLE], "together"),
        ([EXAMPLE, "x.opus", "-o", "-"], "takes one FILE"),
        ([EXAMPLE, "x.opus", "-o", EXAMPLE], "need a folder"),
        ([EXAMPLE, "--workers", "0"], "--workers"),
        ([EXAMPLE, "--workers", "1", "--endpoint", "auto"], "--workers"),
        ([EXAMPLE, "--libopus", "x.so", "--endpoint", "auto"], "--libopus"),
        ([EXAMPLE, "--channels", "3"], "--channels"),
        ([EXAMPLE, "--dtype", "int24"], "--dtype"),
        ([EXAMPLE, "--tempo", "2"], "--tempo"),
    ],
)
def test_arguments_that_do_not_go_together_are_told(arguments: list[object], reason: str) -> None:
    done = run("decode", *arguments)
    assert done.returncode == 2
    assert reason in done.stderr.decode()


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_told_and_a_device_stays_one(tmp_path: Path) -> None:
    done = run("decode", EXAMPLE, "-o", "/dev/full")
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert not Path("/dev/full").is_file()


@posix
def test_an_output_is_replaced_whole_and_keeps_its_links(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text("old")
    (tmp_path / "out.wav").symlink_to(real)
    assert run("decode", EXAMPLE, "-o", tmp_path / "out.wav").returncode == 0
    assert (tmp_path / "out.wav").is_symlink()
    assert real.read_bytes().startswith(b"RIFF")
    assert files(tmp_path) == {"real", "out.wav"}


def test_an_output_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    done = run("decode", EXAMPLE, "-o", tmp_path / "file" / "out.wav")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


def test_a_wrong_setting_is_told(tmp_path: Path) -> None:
    done = run("decode", EXAMPLE, "-o", tmp_path / "o.wav", OPUSPOOL_WORKERS_COUNT="many")
    assert done.returncode == 1
    assert done.stderr.startswith(b"opuspool: ")
    assert b"many" in done.stderr


def test_complaints_come_in_the_order_of_the_files(tmp_path: Path) -> None:
    sources = [tmp_path / f"gone{n}.opus" for n in range(6)]
    long = copy(tmp_path)
    done = run("decode", *sources[:3], long, *sources[3:])
    named = [line.split(": ")[1] for line in done.stderr.decode().splitlines()]
    assert named == [str(source) for source in sources]


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "empty.opus"
    path.touch()
    done = run("decode", path)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"opuspool: {path}: this is an empty file")
    assert files(tmp_path) == {"empty.opus"}


@posix
@pytest.mark.parametrize("what", ["input", "output"])
def test_no_permission_is_told(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    source = copy(folder)
    # root may do anything, unless its capabilities are taken away
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.getuid() == 0 else []
    if drop and shutil.which("setpriv") is None:
        pytest.skip("run as root, without setpriv: install util-linux")
    locked = source if what == "input" else folder
    locked.chmod(0o000 if what == "input" else 0o555)
    try:
        done = subprocess.run(
            [*drop, *COMMAND, "decode", str(source)], capture_output=True, timeout=60, check=False
        )
    finally:
        locked.chmod(0o700)
    assert done.returncode == 1
    named = source if what == "input" else f"{source}: {folder / 'speech.wav'}"
    message = f"opuspool: {named}: Permission denied; check who may read and write there\n"
    assert done.stderr.decode() == message
    assert files(folder) == {"speech.opus"}


def test_an_unknown_setting_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[workers]\ncuont = 2\n")
    done = run("decode", EXAMPLE, "-o", tmp_path / "o.wav", "--config", path)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"the nearest is [workers] count" in done.stderr
    assert files(tmp_path) == {"my.toml"}


def test_a_libopus_that_is_not_there_is_told_soon(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run("decode", EXAMPLE, "-o", tmp_path / "o.wav", "--libopus", "/nonexistent.so")
    assert time.monotonic() - started < 10
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"/nonexistent.so" in done.stderr
    assert b"install" in done.stderr
    assert files(tmp_path) == set()


@posix
def test_closed_standard_streams_are_told(tmp_path: Path) -> None:
    for redirect, words in ((">&-", b"stdout is closed"), ("<&-", b"stdin is closed")):
        done = subprocess.run(
            ["sh", "-c", f'"$@" {redirect}', "sh", *COMMAND, "decode", "-", "-o", "-"],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert words in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_missing_libopus_is_told_once(tmp_path: Path) -> None:
    sources = [copy(tmp_path, f"{n}.opus") for n in range(3)]
    done = run("decode", *sources, OPUSPOOL_LIBOPUS="/nowhere/libopus.so")
    assert done.returncode == 1
    assert done.stderr.count(b"opuspool: ") == 1
    assert b"/nowhere/libopus.so" in done.stderr


@posix
@pytest.mark.parametrize("many", [False, True], ids=["waiting for stdin", "many files"])
def test_ctrl_c_ends_it_cleanly(many: bool, tmp_path: Path) -> None:
    arguments = ["-", "-o", str(tmp_path / "out.wav")]
    if many:
        long = tmp_path / "long.opus"
        long.write_bytes(oggfiles.link(recordings.speech_packets(2) * 500))
        links = [tmp_path / f"{n}.opus" for n in range(20)]
        for link in links:
            link.symlink_to(long)
        arguments = [*map(str, links), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(
        [*COMMAND, "decode", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        wait_until(lambda: _has_child(process.pid), what="the pool has started")
        if many:
            wait_until(lambda: list(tmp_path.glob("out/*.wav")), what="a file is decoded")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        started = time.monotonic()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 10
    assert errors.decode().strip().splitlines()[-1] == "opuspool: interrupted"
    assert b"Traceback" not in errors
    assert not list(tmp_path.glob("**/*.part"))


STRUCK = """
from opuspool.cli import main

@main.command()
def struck():
    exec("import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(30)")

main(["struck"])
"""


@posix
def test_ctrl_c_in_the_middle_of_an_import_ends_python_m_with_the_same_code(
    tmp_path: Path,
) -> None:
    (tmp_path / "striking.py").write_text(STRUCK)
    done = subprocess.run(
        [sys.executable, "-m", "striking"],
        cwd=tmp_path,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 130
    assert done.stderr.strip() == b"opuspool: interrupted"


@posix
def test_a_signal_to_the_command_alone_ends_a_long_decode(
    tmp_path: Path, faulty: Path, tokens: Path
) -> None:
    """As `kill -INT` does: half a minute of decoding, interrupted in its midst."""
    source, out = tmp_path / "long.opus", tmp_path / "out.wav"
    packets = [faults.marker("slow-once"), *[faults.marker("slow")] * 600]
    source.write_bytes(oggfiles.link(packets))
    out.write_text("old")
    process = subprocess.Popen(
        [*COMMAND, "decode", str(source), "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        wait_until(lambda: list(tokens.iterdir()), what="a packet is being decoded")
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert time.monotonic() - started < 10
    # click begins a new line, after the terminal's ^C
    assert (output, errors.strip()) == (b"", b"opuspool: interrupted")
    assert out.read_text() == "old"
    assert files(tmp_path) == {"long.opus", "out.wav", tokens.name}


def _has_child(pid: int) -> bool:
    import psutil

    return len(psutil.Process(pid).children(recursive=True)) >= 2


@posix
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_is_no_error_to_speak_of(unbuffered: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "decode", str(EXAMPLE), "-o", "-", "--rate", "48000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == b"RIFF"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


@posix
def test_on_a_terminal_there_is_a_bar_and_the_errors_stand_above_it(tmp_path: Path) -> None:
    import pty

    sources = [copy(tmp_path, f"{n}.opus") for n in range(5)]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "decode", *map(str, sources), str(tmp_path / "gone.opus")],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "300"},
    )
    os.close(theirs)
    with process:
        output, _ = process.communicate(timeout=60)
        shown = b""
        while piece := _read(ours):
            shown += piece
    os.close(ours)
    assert b"6/6" in shown
    assert b"gone.opus: No such file" in shown
    assert output.startswith(b"decoded 5 of 6 files")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux says so at the end
        return b""


# ---- with a daemon --------------------------------------------------------------------------


@contextmanager
def daemon(folder: Path) -> Iterator[str]:
    """A daemon with two workers; gives its endpoint."""
    endpoint = f"ipc://{folder}/pool.sock" if sys.platform != "win32" else "tcp://127.0.0.1:9463"
    environment = {**os.environ, "OPUSPOOL_SUPERVISOR_ENDPOINT": endpoint}
    environment["OPUSPOOL_SUPERVISOR_HTTP"] = ""
    process = subprocess.Popen(
        [sys.executable, "-m", "opuspool_supervisor"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(
            lambda: run("status", "--endpoint", endpoint).returncode == 0, 30, "the daemon is up"
        )
        yield endpoint
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def endpoint() -> Iterator[str]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="d") as folder, daemon(Path(folder)) as address:
        yield address


def test_a_daemon_decodes_and_tells_its_status(endpoint: str, tmp_path: Path) -> None:
    done = run("decode", EXAMPLE, "-o", tmp_path / "o.wav", "--endpoint", endpoint)
    assert done.returncode == 0, done.stderr
    assert b"2 workers, 0 restarts" in done.stdout

    done = run("status", "--json", "--endpoint", endpoint)
    report = json.loads(done.stdout)
    assert report["health"] == "ok"
    assert report["counters"]["packets_decoded"] > 400

    done = run("status", "--endpoint", endpoint)
    lines = done.stdout.decode().splitlines()
    assert lines[0].startswith("health ok; supervisor ")
    assert lines[1].split()[:4] == ["slot", "pid", "generation", "state"]
    assert [line.split()[0] for line in lines[2:5]] == ["0", "1", "2"]
    assert any(line.startswith("packets_decoded: ") for line in lines)

    done = run("status", OPUSPOOL_SUPERVISOR_ENDPOINT=endpoint)
    assert done.returncode == 0

    done = run("doctor", "--endpoint", endpoint)
    assert b"daemon:    answers, health ok" in done.stdout


@posix
def test_on_a_terminal_status_draws_a_table(endpoint: str) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "status", "--endpoint", endpoint],
        stdout=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while piece := _read(ours):
        shown += piece
    os.close(ours)
    assert process.wait(30) == 0
    assert "┃".encode() in shown
    assert b"generation" in shown


@pytest.mark.parametrize("command", [["status"], ["decode", EXAMPLE, "-o", "x.wav"]])
def test_no_daemon_is_told_at_once(command: list[object], tmp_path: Path) -> None:
    started = time.monotonic()
    done = run(*command, "--endpoint", f"ipc://{tmp_path}/s"[:100])
    assert time.monotonic() - started < 5
    assert done.returncode == (2 if command == ["status"] else 1)
    assert b"opuspool-supervise" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_no_daemon_is_told_to_programs_too() -> None:
    done = run("status", "--json", "--endpoint", "tcp://127.0.0.1:1")
    assert done.returncode == 2
    assert json.loads(done.stdout)["health"] == "down"


def test_an_address_that_cannot_work_is_told() -> None:
    done = run("status", "--endpoint", "http://example.org")
    assert done.returncode == 2
    assert b"unknown transport" in done.stderr


# ---- doctor ---------------------------------------------------------------------------------


def test_the_doctor_finds_this_machine_well() -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stdout
    report = done.stdout.decode()
    for part in ("python:", "opuspool:", "libzmq", "numpy:", "pyogg:", "libopus 1.", "works"):
        assert part in report
    assert "opuspool-supervise" in report
    assert {line.split()[0] for line in report.splitlines()} == {"ok", "info"}


def test_the_doctor_says_what_is_missing_and_how_to_mend_it() -> None:
    done = run("doctor", OPUSPOOL_LIBOPUS="/nowhere/libopus.so")
    assert done.returncode == 1
    report = done.stdout.decode()
    assert "missing  decoding:  DOES NOT WORK" in report
    assert done.stderr == b""
    assert "/nowhere/libopus.so" in report
    assert "install" in report


def test_the_doctor_survives_wrong_settings() -> None:
    done = run("doctor", OPUSPOOL_WORKERS_COUNT="many")
    assert done.returncode == 1
    assert b"many" in done.stdout
