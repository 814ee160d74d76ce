"""A worker that sends garbage: the real one, but for what it sends about marked packets.

`install()` puts a package `opuspool_workers` before the real one. Its processes are real workers
with a real identity on the real socket; only the results of a marked packet are mangled, the first
time that it is met by any of them, or every time.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from opuspool import wire
from opuspool.wire import Action, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

MARK = b"\0PROBLEM:"
ALWAYS = "every time: "
TOKENS = "PROBLEM_TOKENS"
"""Environment variable: the folder where a problem notes that it has happened."""

Frames = tuple[bytes, ...]


def _remake(frames: Frames, change: Callable[[wire.Result], wire.Result]) -> Frames:
    message = wire.parse(frames)
    records = [change(record) for record in message.records]
    return wire.pack(Kind.RESULTS, records, message.payloads(), message.tag)


def _other_lease(frames: Frames) -> Frames:
    message = wire.parse(frames)
    return wire.pack(Kind.RESULTS, message.records, message.payloads(), message.tag + 1)


def _one_less(frames: Frames) -> Frames:
    message = wire.parse(frames)
    return wire.pack(Kind.RESULTS, message.records[:-1], message.payloads()[:-1], message.tag)


PROBLEMS: dict[str, Callable[[Frames], Frames]] = {
    "random bytes": lambda _: (os.urandom(64), os.urandom(64)),
    "one frame": lambda frames: frames[:1],
    "three frames": lambda frames: (*frames, b"more"),
    "one result less": _one_less,
    "wrong step": lambda frames: _remake(frames, lambda r: r._replace(step=r.step + 1)),
    "wrong count": lambda frames: _remake(frames, lambda r: r._replace(ops=r.ops + 1)),
    "another lease": _other_lease,
    "truncated PCM": lambda frames: (frames[0], frames[1][:-4]),
    "too many samples": lambda frames: (frames[0], b"\xff\xff\xff\x7f" + frames[1][4:]),
    "wrong kind": lambda _: wire.pack_plain(Kind.HELLO),
    "ready that is no JSON": lambda _: wire.pack_plain(Kind.READY, b"{"),
    "old version": lambda frames: (b"OPUS\x00" + frames[0][5:], frames[1]),
}
"""What is sent in the place of good results."""


def marker(problem: str, like: bytes) -> bytes:
    """A packet that sounds as `like` does, whose results are mangled.

    The first time only; every time where the problem's name has `ALWAYS` before it.
    """
    import reference  # not in a worker: it would be slow to start

    mark = MARK + problem.encode() + b"\0"
    padded = reference.pad(like, len(like) + len(mark) + 2)
    return padded[: -len(mark)] + mark


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let supervisors of this test start such workers."""
    package = folder / "opuspool_workers"
    package.mkdir()
    found = importlib.util.find_spec("opuspool_workers")
    assert found is not None
    assert found.submodule_search_locations is not None
    real = found.submodule_search_locations[0]
    (package / "__init__.py").write_text(f"__path__.append({real!r})\n")
    (package / "__main__.py").write_text("import problemworker\n\nproblemworker.main()\n")
    tokens = folder / "problems"
    tokens.mkdir()
    monkeypatch.setenv(TOKENS, str(tokens))
    path = [str(folder), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


def _decoded(lease: wire.Message) -> bytes:
    """What a lease decodes; a stream that was moved brings older marked packets to replay."""
    steps = zip(lease.records, lease.payloads(), strict=True)
    return b"".join([payload for step, payload in steps if step.action == Action.DECODE])


def _problem(payload: bytes) -> str | None:
    _, found, rest = payload.partition(MARK)
    if not found:
        return None
    name = rest.partition(b"\0")[0].decode()
    if name.startswith(ALWAYS):
        return name.removeprefix(ALWAYS)
    try:
        (Path(os.environ[TOKENS]) / name).touch(exist_ok=False)
    except FileExistsError:
        return None
    return name


def main() -> None:
    """Be a worker."""
    import opuspool_workers
    from opuspool_workers import serve

    run = serve.LeaseRunner.run

    def run_and_mangle(self: serve.LeaseRunner, lease: wire.Message) -> Frames:
        frames: Frames = run(self, lease)
        problem = _problem(_decoded(lease))
        return frames if problem is None else PROBLEMS[problem](frames)

    serve.LeaseRunner.run = run_and_mangle  # type: ignore[assignment,method-assign]
    runpy.run_path(str(Path(opuspool_workers.__path__[-1]) / "__main__.py"), run_name="__main__")
