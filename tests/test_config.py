"""Settings: defaults from config.toml alone, three kinds of overrides, errors that help."""

import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import pytest

from opuspool import config
from opuspool.errors import ConfigError

SHIPPED = Path(__file__).parents[1] / "config.toml"


WriteFile = Callable[[str | bytes], Path]
Overrides = Mapping[str, Mapping[str, object]]


@pytest.fixture
def user_file(tmp_path: Path) -> WriteFile:
    """Writes a file of the user's and returns its path."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "mine.toml"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def load(
    path: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Overrides | None = None,
) -> config.Config:
    return config.load(path, environ=environ or {}, overrides=overrides)


def problems(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Overrides | None = None,
) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load(path, environ, overrides)
    return str(raised.value).splitlines()


# The shipped file and the structs.


def test_structs_and_file_have_the_same_keys_in_the_same_order() -> None:
    in_structs = {
        section.name: [key.name for key in msgspec.structs.fields(section.type)]
        for section in msgspec.structs.fields(config.Config)
    }
    in_file = {section: list(keys) for section, keys in tomllib.loads(SHIPPED.read_text()).items()}
    assert in_file == in_structs
    assert list(in_file) == list(in_structs)


def test_every_key_of_the_file_has_one_comment_line_of_its_own() -> None:
    lines = SHIPPED.read_text().splitlines()
    keys = [i for i, line in enumerate(lines) if line and not line.startswith(("#", "["))]
    assert keys
    for i in keys:
        above = lines[i - 1], lines[i - 2]
        assert above[0].startswith("# "), f"no comment above: {lines[i]}"
        assert not above[1].startswith("#"), f"more than one comment line above: {lines[i]}"


def test_the_comments_of_numbers_name_unit_and_range() -> None:
    lines = SHIPPED.read_text().splitlines()
    for section in msgspec.structs.fields(config.Config):
        for key in msgspec.structs.fields(section.type):
            kind = msgspec.inspect.type_info(key.type)
            if isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType):
                at = next(i for i, line in enumerate(lines) if line.startswith(f"{key.name} ="))
                assert f"({kind.ge:.15g} to {kind.le:.15g})" in lines[at - 1], lines[at - 1]
                unit = "Seconds Most seconds" if "_seconds" in key.name else "Number of Bytes of"
                assert lines[at - 1].split()[1] in unit, lines[at - 1]


def test_structs_have_no_second_copy_of_the_defaults() -> None:
    for section in msgspec.structs.fields(config.Config):
        for key in msgspec.structs.fields(section.type):
            assert key.default is msgspec.NODEFAULT
            assert key.default_factory is msgspec.NODEFAULT


def test_defaults_are_those_of_the_file() -> None:
    assert msgspec.to_builtins(load()) == tomllib.loads(SHIPPED.read_text())


def test_the_names_fixed_by_the_design() -> None:
    loaded = load()
    assert loaded.supervisor.endpoint == "auto"
    assert loaded.supervisor.http == "127.0.0.1:9464"
    assert (loaded.workers.count, loaded.workers.spares, loaded.workers.libopus) == (2, 1, "")


def test_a_wheel_carries_its_file_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "opuspool"
    package.mkdir()
    text = SHIPPED.read_text().replace("count = 2", "count = 7")
    (package / "config.toml").write_text(text)
    monkeypatch.setattr(config, "__file__", str(package / "config.py"))
    assert load().workers.count == 7


def test_a_missing_shipped_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "__file__", str(tmp_path / "opuspool" / "config.py"))
    assert problems() == [f"config.toml is missing from {tmp_path}/opuspool: install opuspool anew"]


def test_a_key_deleted_from_the_shipped_file_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "opuspool"
    package.mkdir()
    (package / "config.toml").write_text(SHIPPED.read_text().replace("streams = 10000", ""))
    monkeypatch.setattr(config, "__file__", str(package / "config.py"))
    path = package / "config.toml"
    assert problems() == [f"[limits] streams: has no default in {path}; put its line back"]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        load().workers.count = 3  # type: ignore[misc]


def test_import_is_light() -> None:
    code = "import sys, opuspool.config; print(*{'numpy', 'zmq', 'structlog'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


# Overrides.


def test_each_source_beats_the_one_before(user_file: WriteFile) -> None:
    path = user_file("[workers]\ncount = 3\nspares = 3\nhang_seconds = 3\n")
    loaded = load(
        path,
        {"OPUSPOOL_WORKERS_SPARES": "4", "OPUSPOOL_WORKERS_HANG_SECONDS": "4"},
        {"workers": {"hang_seconds": 5}},
    )
    workers = loaded.workers
    assert (workers.start_seconds, workers.count, workers.spares) == (10.0, 3, 4)
    assert workers.hang_seconds == 5.0
    assert isinstance(workers.hang_seconds, float)


def test_a_path_may_be_text(user_file: WriteFile) -> None:
    assert load(str(user_file("[workers]\ncount = 9\n"))).workers.count == 9


def test_a_file_saved_on_windows_is_read(user_file: WriteFile) -> None:
    path = user_file(b"\xef\xbb\xbf[workers]\r\ncount = 9\r\n")
    assert load(path).workers.count == 9


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPUSPOOL_WORKERS_COUNT", "11")
    assert config.load().workers.count == 11


@pytest.mark.parametrize(
    ("variable", "text", "section", "key", "value"),
    [
        ("OPUSPOOL_WORKERS_COUNT", "2", "workers", "count", 2),
        ("OPUSPOOL_WORKERS_HANG_SECONDS", "0.25", "workers", "hang_seconds", 0.25),
        ("OPUSPOOL_WORKERS_HANG_SECONDS", "2", "workers", "hang_seconds", 2.0),
        ("OPUSPOOL_SUPERVISOR_LOG_LEVEL", "debug", "supervisor", "log_level", "debug"),
        ("OPUSPOOL_SUPERVISOR_HTTP", "", "supervisor", "http", ""),
        ("OPUSPOOL_SUPERVISOR_HTTP", "[::1]:1", "supervisor", "http", "[::1]:1"),
        ("OPUSPOOL_WORKERS_LIBOPUS", "123", "workers", "libopus", "123"),
        ("OPUSPOOL_WORKERS_LIBOPUS", " a b ", "workers", "libopus", " a b "),
        ("OPUSPOOL_LIBOPUS", "/x/libopus.so", "workers", "libopus", "/x/libopus.so"),
        ("OPUSPOOL_LIBOPUS", "", "workers", "libopus", ""),
        ("OPUSPOOL_RECOVERY_CHECKPOINT_PACKETS", "0", "recovery", "checkpoint_packets", 0),
    ],
)
def test_environment_values_are_parsed_by_the_type_of_the_key(
    variable: str, text: str, section: str, key: str, value: object
) -> None:
    found = getattr(getattr(load(environ={variable: text}), section), key)
    assert found == value
    assert type(found) is type(value)


def test_libopus_by_its_full_name_beats_the_short_one(user_file: WriteFile) -> None:
    path = user_file("[workers]\nlibopus = 'file'\n")
    short, full = {"OPUSPOOL_LIBOPUS": "short"}, {"OPUSPOOL_WORKERS_LIBOPUS": "full"}
    assert load(path, short).workers.libopus == "short"
    assert load(path, full | short).workers.libopus == "full"
    assert load(path, {"OPUSPOOL_LIBOPUS": ""}).workers.libopus == "file"


@pytest.mark.parametrize(
    "name", ["OPUSPOOL_CORPUS", "OPUSPOOL_FAULT_MARKER", "OPUSPOOL_", "WORKERS_COUNT", "PATH"]
)
def test_other_variables_are_left_alone(name: str) -> None:
    assert load(environ={name: "x"}) == load()


# Errors.

WHOLE = "a whole number from 1 to 256"
SECONDS = "a number from 0.01 to 600"
ADDRESS = 'host:port such as 127.0.0.1:9464, or "" for none'
ENDPOINT = '"auto", or an address such as tcp://127.0.0.1:9463'
LEVEL = "one of debug, info, warning, error"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("[workers] count", "0", WHOLE),
        ("[workers] count", "257", WHOLE),
        ("[workers] count", "2.0", WHOLE),
        ("[workers] count", "true", WHOLE),
        ("[workers] count", '"2"', WHOLE),
        ("[workers] count", "[]", WHOLE),
        ("[workers] count", "1" + "0" * 50, WHOLE),
        ("[workers] hang_seconds", "0", SECONDS),
        ("[workers] hang_seconds", "-1.5", SECONDS),
        ("[workers] hang_seconds", "nan", SECONDS),
        ("[workers] hang_seconds", "inf", SECONDS),
        ("[workers] hang_seconds", '"1"', SECONDS),
        ("[workers] libopus", "1", "text (UTF-8)"),
        ("[supervisor] log_level", '"loud"', LEVEL),
        ("[supervisor] log_level", '"INFO"', LEVEL),
        ("[supervisor] http", "9464", ADDRESS),
        ("[supervisor] http", '"localhost"', ADDRESS),
        ("[supervisor] http", '"host:port"', ADDRESS),
        ("[supervisor] http", r'"127.0.0.1:9464\n"', ADDRESS),
        ("[supervisor] endpoint", '""', ENDPOINT),
    ],
)
def test_a_wrong_value_says_which_where_and_what_is_allowed(
    user_file: WriteFile, key: str, value: str, allowed: str
) -> None:
    path = user_file(f"{key.replace(' ', chr(10))} = {value}\n")
    assert problems(path) == [f"{key} = {value}: must be {allowed} ({path})"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[workers]\ncuont = 1", "unknown key [workers] cuont: the nearest is [workers] count"),
        ("[workers]\nCOUNT = 1", "unknown key [workers] COUNT: the nearest is [workers] count"),
        ("[limits]\nspares = 1", "unknown key [limits] spares: the nearest is [workers] spares"),
        ("[worker]\ncount = 1", "unknown section [worker]: the nearest is [workers]"),
        ("workers = 3", "[workers] = 3: must be a section with keys"),
        ("[[workers]]\nspares = 3", "[workers] = [{'spares': 3}]: must be a section with keys"),
    ],
)
def test_a_wrong_name_brings_the_nearest_right_one(
    user_file: WriteFile, content: str, message: str
) -> None:
    path = user_file(content)
    assert problems(path) == [f"{message} ({path})"]


@pytest.mark.parametrize("value", ["x" * 10_000, ["x"] * 10_000])
def test_long_values_are_cut(value: object) -> None:
    (line,) = problems(overrides={"workers": {"count": value}})
    assert len(line) < 200
    assert line.endswith(f"...: must be {WHOLE} (keyword argument)")


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        ("OPUSPOOL_WORKERS_COUNT", "0", f'[workers] count = "0": must be {WHOLE}'),
        ("OPUSPOOL_WORKERS_COUNT", "", f'[workers] count = "": must be {WHOLE}'),
        ("OPUSPOOL_WORKERS_COUNT", "two", f'[workers] count = "two": must be {WHOLE}'),
        ("OPUSPOOL_WORKERS_COUNT", "1.5", f'[workers] count = "1.5": must be {WHOLE}'),
        ("OPUSPOOL_WORKERS_HANG_SECONDS", "-", f'[workers] hang_seconds = "-": must be {SECONDS}'),
        (
            "OPUSPOOL_LIBOPUS",
            "/x/\udcff.so",  # os.environ's spelling of bytes that are not UTF-8
            r'[workers] libopus = "/x/\udcff.so": must be text (UTF-8)',
        ),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str, complaint: str) -> None:
    assert problems(environ={variable: text}) == [f"{complaint} (environment variable {variable})"]


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("OPUSPOOL_WORKERS_CUONT", "OPUSPOOL_WORKERS_COUNT"),
        ("OPUSPOOL_LIMITS_STREAM", "OPUSPOOL_LIMITS_STREAMS"),
    ],
)
def test_an_unknown_variable_of_a_section_brings_the_nearest(variable: str, nearest: str) -> None:
    assert problems(environ={variable: "1"}) == [
        f"unknown environment variable {variable}: the nearest is {nearest}"
    ]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"workers": {"count": None}}, f"[workers] count = None: must be {WHOLE}"),
        (
            {"workers": {"counts": 2}},
            "unknown key [workers] counts: the nearest is [workers] count",
        ),
    ],
)
def test_a_wrong_keyword_is_named(overrides: Overrides, complaint: str) -> None:
    assert problems(overrides=overrides) == [f"{complaint} (keyword argument)"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[workers]\ncount = \n", "line 2"),
        (b"[workers]\ncount = 1\ncount = 2\n", "line 3"),
        (b"[workers]\ncount = [1,\n\n", "line 2, the end of the file"),
        (b"[workers]\n# caf\xe9\n", "line 2"),
    ],
)
def test_bad_toml_names_file_and_line(user_file: WriteFile, content: str, line: str) -> None:
    path = user_file(content)
    (message,) = problems(path)
    assert message.startswith(f"{path}: not ")
    assert message.endswith(f"(at {line})") or f"(at {line}, column " in message


def test_an_unreadable_file_is_named_with_the_reason(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert problems(missing) == [f"{missing}: cannot be read: No such file or directory"]
    assert problems(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


def test_all_errors_are_told_at_once_one_a_line(user_file: WriteFile) -> None:
    path = user_file("[workers]\ncount = 0\nspares = 99\n[limit]\n")
    lines = problems(path, {"OPUSPOOL_LIMITS_STREAMS": "0"}, {"recovery": {"checkpoints": 1}})
    assert [line.split(" (")[0].split(":")[0] for line in lines] == [
        "[workers] count = 0",
        "[workers] spares = 99",
        "unknown section [limit]",
        '[limits] streams = "0"',
        "unknown key [recovery] checkpoints",
    ]


def test_errors_of_other_sources_are_told_beside_bad_toml(user_file: WriteFile) -> None:
    lines = problems(user_file("="), {"OPUSPOOL_LIMITS_STREAMS": "0"})
    assert len(lines) == 2


# JSON, for the private supervisor.


def test_json_brings_the_same_settings_back() -> None:
    settings = load(overrides={"workers": {"count": 5, "libopus": "/ü/libopus.so"}})
    assert config.from_json(config.to_json(settings)) == settings


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda data: data[:-5], "truncated"),
        (lambda data: b"", "truncated"),
        (lambda data: b"{}", "missing required field `supervisor`"),
        (lambda data: data.replace(b'"count":2', b'"count":0'), "$.workers.count"),
        (lambda data: data.replace(b'"count"', b'"cuont"'), "unknown field `cuont`"),
        (lambda data: data.replace(b"auto", b"\xff\xff"), "settings sent by another process"),
    ],
)
def test_damaged_json_is_refused(change: Callable[[bytes], bytes], told: str) -> None:
    with pytest.raises(ConfigError, match="settings sent by another process: ") as raised:
        config.from_json(change(config.to_json(load())))
    assert told in str(raised.value)
