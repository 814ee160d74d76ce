"""A crash report for a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from opuspool.cli import messages

if TYPE_CHECKING:
    from opuspool.cli.crashfiles import Crash

__all__ = ["HEADS", "row", "show"]

HEADS = ("id", "time", "reason", "phase", "slot", "digest", "packet")

_DIGEST_CHARACTERS = 12
"""So much of a digest tells packets apart."""


def row(crash: Crash) -> list[str]:
    """A report as a row of the list."""
    return [
        _text(crash["id"]),
        _text(crash.get("time"))[:19].replace("T", " "),
        _text(crash.get("reason")),
        _text(crash.get("phase")),
        _text(crash.get("slot")),
        _text(crash.get("digest"))[:_DIGEST_CHARACTERS],
        _text(crash.get("toc")),
    ]


def show(crash: Crash) -> None:
    """Write a whole report to standard output."""
    for name, text in _lines(crash).items():
        click.echo(f"{name:<9} {text}")
    for name in ("faulthandler", "stderr"):
        if text := str(crash.get(name) or "").strip():
            click.echo(f"\n{name}:")
            for line in text.splitlines():
                click.echo(f"  {messages.shown(line.expandtabs())}")


def _lines(crash: Crash) -> dict[str, str]:
    versions = crash.get("versions") or {}
    library = f"{_text(versions.get('libopus'))} ({_text(versions.get('libopus_path'))})"
    return {
        "report": _text(crash["id"]),
        "time": _text(crash.get("time")),
        "reason": f"{_text(crash.get('reason'))}: {_text(crash.get('cause'))}",
        "phase": _text(crash.get("phase")),
        "worker": _worker(crash),
        "stream": _stream(crash),
        "packet": _packet(crash),
        "digest": _text(crash.get("digest")),
        "suspects": _suspects(crash),
        "versions": f"opuspool {_text(versions.get('opuspool'))}, "
        f"Python {_text(versions.get('python'))}, {library}",
        "replay": _replay(crash),
    }


def _worker(crash: Crash) -> str:
    return (
        f"slot {_text(crash.get('slot'))}, generation {_text(crash.get('generation'))}, "
        f"pid {_text(crash.get('pid'))}, {_text(crash.get('age_seconds'))} s old; it had settled "
        f"{_text(crash.get('leases_settled'))} leases, {_text(crash.get('packets_served'))} packets"
    )


def _stream(crash: Crash) -> str:
    stream = crash.get("stream")
    if not stream:
        return "-"
    channels = "mono" if stream.get("channels") == 1 else "stereo"
    return (
        f"{_text(stream.get('sample_rate'))} Hz, {channels}, {_text(stream.get('dtype'))}; "
        f"number {_text(stream.get('number'))} of client {_text(stream.get('client'))}"
    )


def _packet(crash: Crash) -> str:
    if crash.get("operation") is None:
        return "none in hand"
    attempts = crash.get("attempts")
    blame = f"blame {attempts:g}" if isinstance(attempts, int | float) else "no blame"
    size = f"{_text(crash.get('packet_bytes'))} bytes"
    return f"operation {_text(crash['operation'])}, {size}, {_text(crash.get('toc'))}, {blame}"


def _suspects(crash: Crash) -> str:
    suspects = crash.get("suspects") or []
    return "\n          ".join(_text(digest) for digest in suspects) or "-"


def _replay(crash: Crash) -> str:
    replay = crash.get("replay")
    if not replay:
        return "not kept; [crashes] keep_packets = true keeps the packets of later deaths"
    operations = sum(count for count, _ in replay["journal"])
    start = "a checkpoint" if replay["checkpoint"] else "a fresh decoder"
    exact = "exact" if replay["exact"] else "not exact"
    return f"kept: the packet, {start}, {messages.count(operations, 'operation')} ({exact})"


def _text(value: object) -> str:
    return "-" if value is None or value == "" else messages.shown(str(value))
