"""Settings: the shipped config.toml, then a file of the user's, the environment, keywords.

The defaults are in config.toml alone; the structs here hold types and ranges. Nothing is read on
import.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from opuspool.errors import ConfigError

__all__ = [
    "Config",
    "CrashesConfig",
    "HealthConfig",
    "LimitsConfig",
    "QuarantineConfig",
    "RecoveryConfig",
    "RecycleConfig",
    "RequestsConfig",
    "RestartConfig",
    "SupervisorConfig",
    "WorkersConfig",
    "from_json",
    "load",
    "to_json",
]

_Endpoint = Annotated[
    str, Meta(min_length=1, description='"auto", or an address such as tcp://127.0.0.1:9463')
]
_Address = Annotated[
    str,
    Meta(
        pattern=r"\A(\S+:[0-9]{1,5})?\Z",
        description='host:port such as 127.0.0.1:9464, or "" for none',
    ),
]
_Level = Literal["debug", "info", "warning", "error"]
_Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_Batch = Annotated[int, Meta(ge=1, le=65_536)]
_Pause = Annotated[float, Meta(ge=0.001, le=3600)]
_Period = Annotated[float, Meta(ge=0.1, le=86_400)]


class SupervisorConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[supervisor]`: the daemon's addresses, log and shutdown. Units are in config.toml."""

    endpoint: _Endpoint
    http: _Address
    log_level: _Level
    embedded_log_level: _Level
    drain_seconds: Annotated[float, Meta(ge=0, le=3600)]
    keys: str


class WorkersConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[workers]`: how many decoder processes, with which libopus, and their deadlines."""

    count: Annotated[int, Meta(ge=1, le=256)]
    spares: Annotated[int, Meta(ge=0, le=64)]
    libopus: str
    start_seconds: Annotated[float, Meta(ge=0.1, le=600)]
    hang_seconds: Annotated[float, Meta(ge=0.01, le=600)]


class RestartConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[restart]`: how soon and how often a slot's worker is started anew."""

    backoff_seconds: _Pause
    backoff_max_seconds: _Pause
    intensity: Annotated[int, Meta(ge=1, le=10_000)]
    period_seconds: _Period
    failed_retry_seconds: _Period


class RequestsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[requests]`: deadlines, attempts, and the sizes in which work travels."""

    timeout_seconds: Annotated[float, Meta(ge=0.001, le=86_400)]
    max_attempts: Annotated[int, Meta(ge=1, le=10)]
    retry_per_second: Annotated[float, Meta(ge=0.1, le=1000)]
    retry_share: Annotated[float, Meta(ge=0, le=1)]
    lease_packets: _Batch
    piece_packets: Annotated[int, Meta(ge=1, le=1024)]
    window_pieces: _Batch
    lanes: bool


class QuarantineConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[quarantine]`: how many poison packets are remembered, and for how long."""

    packets: Annotated[int, Meta(ge=0, le=1_000_000)]
    ttl_seconds: _Period


class RecycleConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[recycle]`: when a healthy worker is replaced."""

    memory_bytes: Annotated[int, Meta(ge=0, le=1 << 40)]
    requests: Annotated[int, Meta(ge=0, le=1_000_000_000)]
    age_seconds: Annotated[float, Meta(ge=0, le=31_536_000)]


class HealthConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[health]`: how often idle workers prove themselves."""

    canary_seconds: Annotated[float, Meta(ge=0.1, le=3600)]


class LimitsConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[limits]`: what the supervisor holds at most before it refuses more."""

    queued_requests: _Count
    queued_bytes: Annotated[int, Meta(ge=1, le=1 << 40)]
    queued_output_bytes: Annotated[int, Meta(ge=1, le=1 << 40)]
    memory_bytes: Annotated[int, Meta(ge=0, le=1 << 40)]
    streams: _Count
    client_ttl_seconds: _Period


class RecoveryConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[recovery]`: what is kept of a stream to rebuild it in another worker."""

    checkpoint_packets: Annotated[int, Meta(ge=0, le=100_000)]
    journal_packets: Annotated[int, Meta(ge=1, le=50_000)]


class CrashesConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[crashes]`: the reports of workers' deaths."""

    enabled: bool
    directory: str
    reports: Annotated[int, Meta(ge=0, le=10_000)]
    bytes: Annotated[int, Meta(ge=65_536, le=1 << 40)]
    keep_packets: bool


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, one attribute for each section of config.toml. Get one from `load`."""

    supervisor: SupervisorConfig
    workers: WorkersConfig
    restart: RestartConfig
    requests: RequestsConfig
    quarantine: QuarantineConfig
    recycle: RecycleConfig
    health: HealthConfig
    limits: LimitsConfig
    recovery: RecoveryConfig
    crashes: CrashesConfig


_KEYS: dict[str, dict[str, object]] = {
    section.name: {key.name: key.type for key in msgspec.structs.fields(section.type)}
    for section in msgspec.structs.fields(Config)
}
_VARIABLES = {
    f"OPUSPOOL_{section}_{key}".upper(): (section, key)
    for section, keys in _KEYS.items()
    for key in keys
}
_SECTION_PREFIXES = tuple(f"OPUSPOOL_{section}_".upper() for section in _KEYS)


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, object]] | None = None,
) -> Config:
    """Read the settings. Later sources win: shipped file, `path`, environment, `overrides`.

    Args:
        path: a TOML file that sets some keys; None for the defaults.
        environ: environment variables, `OPUSPOOL_<SECTION>_<KEY>`; None for the process's own.
            `OPUSPOOL_LIBOPUS`, where it is not empty, sets `[workers] libopus`, unless
            `OPUSPOOL_WORKERS_LIBOPUS` does.
        overrides: values by section and key, such as `{"workers": {"count": 4}}`.

    Raises:
        ConfigError: a file cannot be read, or some keys or values are wrong: all of them, one a
            line, each with where it stands and what is allowed.
    """
    draft = _Draft()
    draft.add_file(_shipped_file())
    if path is not None:
        draft.add_file(Path(path))
    draft.add_environment(os.environ if environ is None else environ)
    draft.add_tables(overrides or {}, "keyword argument")
    return draft.finish()


def to_json(config: Config) -> bytes:
    """The settings as JSON, for another process; `from_json` reads them back."""
    return msgspec.json.encode(config)


def from_json(data: bytes) -> Config:
    """The settings that `to_json` wrote.

    Raises:
        ConfigError: the bytes are not JSON, or not all settings, in type and range.
    """
    try:
        return msgspec.json.decode(data, type=Config)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings sent by another process: {error}") from error


class _Draft:
    """Collects values from one source after another, and everything that is wrong with them."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, object]] = {section: {} for section in _KEYS}
        self._problems: list[str] = []

    def add_file(self, path: Path) -> None:
        """Take what a TOML file sets."""
        try:
            tables = _read_toml(path)
        except ConfigError as error:
            self._problems.append(str(error))
        else:
            self.add_tables(tables, str(path))

    def add_tables(self, tables: Mapping[str, object], source: str) -> None:
        """Take values by section and key."""
        for section, table in tables.items():
            if section not in _KEYS:
                near = _nearest(section, _KEYS)
                self._problems.append(
                    f"unknown section [{section}]: the nearest is [{near}] ({source})"
                )
            elif not isinstance(table, Mapping):
                self._problems.append(
                    f"[{section}] = {_shown(table)}: must be a section with keys ({source})"
                )
            else:
                for key, value in table.items():
                    self._add(section, key, value, source)

    def add_environment(self, environ: Mapping[str, str]) -> None:
        """Take variables named after a section and key, and `OPUSPOOL_LIBOPUS`."""
        libopus = environ.get("OPUSPOOL_LIBOPUS")
        if libopus:
            self._add_text("workers", "libopus", libopus, "OPUSPOOL_LIBOPUS")
        for name, text in environ.items():
            if name in _VARIABLES:
                self._add_text(*_VARIABLES[name], text, name)
            elif name.startswith(_SECTION_PREFIXES):
                near = _nearest(name, _VARIABLES)
                self._problems.append(f"unknown environment variable {name}: the nearest is {near}")

    def finish(self) -> Config:
        """All settings, if every key has a value and nothing was wrong."""
        if not self._problems:
            self._problems.extend(
                f"[{section}] {key}: has no default in {_shipped_file()}; put its line back"
                for section, keys in _KEYS.items()
                for key in keys
                if key not in self._values[section]
            )
        if self._problems:
            raise ConfigError("\n".join(self._problems))
        return msgspec.convert(self._values, Config, strict=True)

    def _add(self, section: str, key: str, value: object, source: str) -> None:
        if key not in _KEYS[section]:
            near = _nearest_key(section, key)
            self._problems.append(
                f"unknown key [{section}] {key}: the nearest is {near} ({source})"
            )
            return
        self._convert(section, key, value, source, strict=True)

    def _add_text(self, section: str, key: str, text: str, variable: str) -> None:
        self._convert(section, key, text, f"environment variable {variable}", strict=False)

    def _convert(self, section: str, key: str, value: object, source: str, *, strict: bool) -> None:
        kind = _KEYS[section][key]
        try:
            if isinstance(value, str):
                value.encode()  # bytes that are not UTF-8 would not survive to_json
            self._values[section][key] = msgspec.convert(value, kind, strict=strict)
        except (msgspec.ValidationError, UnicodeEncodeError):
            self._problems.append(
                f"[{section}] {key} = {_shown(value)}: must be {_allowed(kind)} ({source})"
            )


def _shipped_file() -> Path:
    """config.toml inside an installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent
    for path in (package / "config.toml", package.parent / "config.toml"):
        if path.is_file():
            return path
    raise ConfigError(f"config.toml is missing from {package}: install opuspool anew")


def _read_toml(path: Path) -> dict[str, object]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return tomllib.loads(data.decode("utf-8-sig"))  # some Windows editors write a BOM
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: not UTF-8 text (at line {line})") from error
    except tomllib.TOMLDecodeError as error:
        last = data.rstrip().count(b"\n") + 1
        reason = str(error).replace("at end of document", f"at line {last}, the end of the file")
        raise ConfigError(f"{path}: not valid TOML: {reason}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    by_lower = {word.lower(): word for word in known}
    best = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.0)
    return by_lower[best[0]]


def _nearest_key(section: str, key: str) -> str:
    """The key of that name in another section, else the most similar one of this section."""
    homes = [other for other, keys in _KEYS.items() if key in keys]
    if homes:
        return f"[{homes[0]}] {key}"
    return f"[{section}] {_nearest(key, _KEYS[section])}"


def _shown(value: object) -> str:
    """A value as config.toml would spell it, cut to a readable length."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f'"{repr(value)[1:-1]}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _allowed(kind: object) -> str:
    """What a key accepts, in words, from its type and range."""
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.Metadata):
        return str((info.extra_json_schema or {})["description"])
    if isinstance(info, msgspec.inspect.IntType):
        return f"a whole number from {info.ge} to {info.le}"
    if isinstance(info, msgspec.inspect.FloatType):
        return f"a number from {info.ge:g} to {info.le:g}"
    if isinstance(info, msgspec.inspect.LiteralType):
        return f"one of {', '.join(get_args(kind))}"
    if isinstance(info, msgspec.inspect.BoolType):
        return "true or false"
    return "text (UTF-8)"
