"""Which libopus a worker loads, and what it says where there is none; a process a case."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import faults
import pytest
from opuspool_workers import libopus
from reference import all_libopus, real_libopus, version

if TYPE_CHECKING:
    from pathlib import Path

PRELUDE = """
import ctypes, ctypes.util, json, os, sys
from opuspool.errors import WorkerBootError
from opuspool_workers import libopus

def no_system():
    "As on a machine without libopus: neither its name nor the linker knows it."
    libopus._SONAMES = ("libnothing.so.0",)
    ctypes.util.find_library = lambda name: None

def no_pyav():
    libopus._PLACES = tuple(p for p in libopus._PLACES if p[0] != "PyAV")

def tell(load, *arguments):
    "Print what was loaded, or the error, as JSON."
    try:
        lib = load(*arguments)
    except WorkerBootError as error:
        print(json.dumps({"error": str(error)}))
    else:
        print(json.dumps({"path": lib.path, "version": lib.version}))
"""

SYSTEMS = next((path for path in all_libopus() if "av.libs" not in path.parts), None)
PYAVS = next((path for path in all_libopus() if "av.libs" in path.parts), None)

needs_system = pytest.mark.skipif(SYSTEMS is None, reason="the system has no libopus")
needs_pyav = pytest.mark.skipif(PYAVS is None, reason="PyAV brings no libopus here")
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def run(program: str, *arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a program after PRELUDE in a process of its own."""
    command = [sys.executable, "-P", "-c", PRELUDE + program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **how)


def told(program: str, *arguments: str, **how: Any) -> dict[str, str]:
    """What `tell` printed, which must be all that the process did."""
    result = run(program, *arguments, **how)
    assert result.stderr == ""
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


# ---- which one ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", all_libopus(), ids=lambda path: path.name)
def test_the_given_library_is_loaded(path: Path) -> None:
    found = told("tell(libopus.load, sys.argv[1])", str(path))
    assert found == {"path": str(path.resolve()), "version": version(path)}


@needs_system
def test_the_systems_is_taken_first() -> None:
    assert told("tell(libopus.load)")["path"] == str(real_libopus().resolve())


@needs_pyav
def test_pyavs_is_taken_where_the_system_has_none() -> None:
    assert told("no_system(); tell(libopus.load)")["path"] == str(PYAVS)


@needs_pyav
def test_a_broken_library_of_the_system_is_passed_over(tmp_path: Path) -> None:
    """It has the name, and the linker finds it, but it cannot be loaded."""
    broken = tmp_path / "libbroken.so.0"
    broken.write_text("not a library")
    program = """
libopus._SONAMES = (sys.argv[1],)
ctypes.util.find_library = lambda name: sys.argv[1]
tell(libopus.load)
"""
    assert told(program, str(broken))["path"] == str(PYAVS)


def test_the_faulting_library_of_the_tests_can_stand_in() -> None:
    environment = os.environ | faults.environment()
    path = environment["OPUSPOOL_LIBOPUS"]
    found = told("tell(libopus.load, sys.argv[1])", path, env=environment)
    assert found == {"path": path, "version": version()}


@linux
def test_a_library_of_any_name_is_loaded(tmp_path: Path) -> None:
    renamed = tmp_path / "my ópus 1"
    shutil.copy(real_libopus(), renamed)
    assert told("tell(libopus.load, sys.argv[1])", str(renamed))["path"] == str(renamed)


@needs_system
def test_locate_names_the_file_that_is_loaded() -> None:
    program = "print(libopus.locate()); print(libopus.load().path)"
    assert run(program).stdout == f"{real_libopus().resolve()}\n" * 2


@linux
@needs_system
def test_where_the_name_is_enough_no_process_is_started_to_find_it() -> None:
    """`find_library` runs ldconfig or gcc on Linux, in every worker."""
    program = """
ctypes.util.find_library = lambda name: sys.exit("asked for " + name)
print(libopus.locate())
"""
    assert run(program).stdout == f"{real_libopus().resolve()}\n"


@pytest.mark.parametrize(
    ("name", "is_one"),
    {
        "opus.dll": True,
        "libopus-0-4369edc456631a3cc933d7918747e5d2.dll": True,
        "libopus-114e2b1a.so.0.11.1": True,
        "libopus-ab4e2b1a.so.0": True,
        "libopus.0.dylib": True,
        "libopus.so": True,
        "opusfile.dll": False,
        "opusenc.dll": False,
        "libopusenc-114e2b1a.so.0": False,
        "libopusfile.so.0": False,
        "opus.py": False,
    }.items(),
)
def test_a_libopus_beside_a_package_is_told_by_its_name(
    name: str, is_one: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names as the wheels of PyOgg and PyAV have them."""
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "__init__.py").touch()
    (tmp_path / "kit.libs").mkdir()
    (tmp_path / "kit.libs" / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    found = str(tmp_path / "kit.libs" / name)
    assert libopus._beside("kit", "../kit.libs") == (found if is_one else None)


@needs_system
@needs_pyav
def test_a_second_library_in_one_process_is_refused_rather_than_the_first_given() -> None:
    program = "libopus.load(); libopus.load(); tell(libopus.load, sys.argv[1])"
    assert f"another libopus than {PYAVS}" in told(program, str(PYAVS))["error"]


# ---- none -----------------------------------------------------------------------------------


def test_where_none_is_found_the_error_says_where_it_looked_and_what_to_do() -> None:
    message = told("no_system(); no_pyav(); tell(libopus.load)")["error"]
    assert "not found" in message
    assert "the system" in message
    for way_out in ("apt install libopus0", "pip install opuspool[av]", "[workers] libopus"):
        assert way_out in message


def test_where_pyogg_is_missing_the_error_says_so() -> None:
    message = told("sys.modules['pyogg'] = None; tell(libopus.load)")["error"]
    assert "pip install pyogg" in message


NOT_ONE = {
    "absent": ("absent.so", "cannot be loaded"),
    "a text file": ("text.so", "cannot be loaded"),
    "empty": ("empty.so", "cannot be loaded"),
    "a folder": ("folder", "cannot be loaded"),
    "another library": ("libc.so.6", "not a libopus"),
    "half a libopus": ("half.so", "not a whole libopus"),
}


@linux
@pytest.mark.parametrize(("name", "why"), NOT_ONE.values(), ids=NOT_ONE)
def test_what_is_no_libopus_is_refused_by_its_path(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("libopus is over there")
    (tmp_path / "empty.so").touch()
    (tmp_path / "folder").mkdir()
    if name == "half.so":
        compile_half(tmp_path / name)
    path = name if name == "libc.so.6" else str(tmp_path / name)
    message = told("tell(libopus.load, sys.argv[1])", path)["error"]
    assert path in message
    assert why in message
    assert "[workers] libopus" in message


def compile_half(path: Path) -> None:
    """Make a library with what PyOgg and the first look ask for, and no more."""
    compiler = faults._compiler()
    if compiler is None:
        pytest.skip("no C compiler")
    source = path.with_suffix(".c")
    source.write_text(
        "void opus_decode(void) {}\nvoid opus_decode_float(void) {}\n"
        "void opus_encoder_get_size(void) {}\n"
        'const char *opus_get_version_string(void) { return "half"; }\n'
    )
    subprocess.run([*compiler, "-shared", "-fPIC", "-o", str(path), str(source)], check=True)


# ---- the process it is loaded into ----------------------------------------------------------


def test_loading_leaves_find_library_and_path_as_they_were() -> None:
    program = """
before = ctypes.util.find_library, os.environ["PATH"]
tell(libopus.load)
assert (ctypes.util.find_library, os.environ["PATH"]) == before
"""
    assert "path" in told(program)


def test_find_library_is_put_back_after_a_failure_too() -> None:
    program = """
before = ctypes.util.find_library
try:
    with libopus._only_opus("x"):
        assert ctypes.util.find_library("opus") == "x"
        assert ctypes.util.find_library("FLAC") is None
        raise KeyError
except KeyError:
    print(ctypes.util.find_library is before)
"""
    assert run(program).stdout == "True\n"


@linux
def test_it_loads_without_a_path_in_the_environment() -> None:
    """As under a bare init or `env -i`: PyOgg itself cannot be imported there."""
    bare = {name: value for name, value in os.environ.items() if name != "PATH"}
    program = "tell(libopus.load); assert 'PATH' not in os.environ, os.environ['PATH']"
    assert "path" in told(program, env=bare)


@linux
def test_it_loads_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    """As a daemon started from a release folder that was replaced."""
    program = "os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); tell(libopus.load)"
    gone = tmp_path / "release"
    gone.mkdir()
    assert "path" in told(program, str(gone))


HEAVY = ("numpy", "structlog", "psutil", "msgspec", "asyncio", "rich", "click", "soundfile")


@linux
def test_a_worker_loads_nothing_heavy_and_no_other_codec() -> None:
    """Each costs memory and start-up time in every worker, and each can be broken."""
    program = """
import opuspool_workers.__main__
libopus.load()
maps = open("/proc/self/maps").read()
print(json.dumps([sorted({name.partition(".")[0] for name in sys.modules}), maps]))
"""
    modules, maps = json.loads(run(program).stdout)
    assert "pyogg" in modules
    assert [name for name in HEAVY if name in modules] == []
    assert "libopus" in maps
    codecs = ("libFLAC", "libvorbis", "libogg", "libopusfile", "libopusenc")
    assert [name for name in codecs if name in maps] == []
