"""`opuspool restart`, `recycle` and `drain`: what an operator does to one slot of a daemon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from opuspool.cli import messages
from opuspool.cli.options import config_option, endpoint_option

if TYPE_CHECKING:
    from collections.abc import Callable

    from opuspool.pool import Pool

__all__ = ["drain", "recycle", "restart"]

_PAUSE_SECONDS = 0.1

_Line = dict[str, Any]
"""A slot's line of the status."""

_timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0.1, 600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait until it is done.",
)


@click.command()
@click.argument("slot", type=click.IntRange(0))
@_timeout_option
@endpoint_option
@config_option
def restart(*, slot: int, timeout: float, endpoint: str | None, config: str | None) -> int:
    """Kill the worker of SLOT now and wait for the next one.

    For a worker that misbehaves. Nothing is lost: its streams move, what it had in hand is tried
    again, and no packet is blamed. It is counted with reason "killed". A slot that was drained
    gets its next worker.
    """
    return _replace(slot, timeout, endpoint, config, at_once=True)


@click.command()
@click.argument("slot", type=click.IntRange(0))
@_timeout_option
@endpoint_option
@config_option
def recycle(*, slot: int, timeout: float, endpoint: str | None, config: str | None) -> int:
    """Replace the worker of SLOT when it has finished what it has in hand.

    It leaves by itself, and is counted with reason "exit".
    """
    return _replace(slot, timeout, endpoint, config, at_once=False)


@click.command()
@click.argument("slot", type=click.IntRange(0))
@_timeout_option
@endpoint_option
@config_option
def drain(*, slot: int, timeout: float, endpoint: str | None, config: str | None) -> int:
    """Empty SLOT: it takes nothing new, its worker leaves, its streams move.

    It stays empty, in state DRAINED, until `opuspool restart SLOT`. Nothing is lost. The last slot
    that serves is not drained.
    """

    def emptied(old: _Line, new: _Line) -> str | None:
        if new["state"] != "DRAINED":
            return None
        left = f"worker {old['pid']} has left" if old["pid"] else "it has no worker"
        return f"slot {slot}: {left}; empty until `opuspool restart {slot}`"

    return _ask_and_wait(slot, timeout, endpoint, config, lambda p: p.drain_slot(slot), emptied)


def _replace(
    slot: int, timeout: float, endpoint: str | None, config: str | None, *, at_once: bool
) -> int:
    def replaced(old: _Line, new: _Line) -> str | None:
        if new["generation"] == old["generation"] or new["state"] not in ("IDLE", "BUSY"):
            return None
        if old["pid"] is None:
            return f"slot {slot}: worker {new['pid']} started"
        return f"slot {slot}: worker {old['pid']} replaced by {new['pid']}"

    def wish(pool: Pool) -> None:
        pool.replace_worker(slot, at_once=at_once)

    return _ask_and_wait(slot, timeout, endpoint, config, wish, replaced)


def _ask_and_wait(
    slot: int,
    timeout: float,
    endpoint: str | None,
    config: str | None,
    wish: Callable[[Pool], None],
    done: Callable[[_Line, _Line], str | None],
) -> int:
    """Have something done to a slot and wait for it; `done` says what, once it is."""
    from opuspool.cli.reach import daemon

    deadline = time.monotonic() + timeout
    with daemon(endpoint, config) as pool:
        old = new = _slot(pool, slot)
        try:
            wish(pool)
        except ValueError as error:
            messages.complain(str(error))
            return 1
        while time.monotonic() < deadline:
            new = _slot(pool, slot)
            if words := done(old, new):
                click.echo(words)
                return 0
            time.sleep(_PAUSE_SECONDS)
    messages.complain(f"slot {slot} is {new['state']} after {timeout:g} s; see `opuspool status`")
    return 1


def _slot(pool: Pool, number: int) -> _Line:
    """A slot's line of the status; an empty one where there is no such slot."""
    report = pool.status()
    nobody = {"slot": number, "pid": None, "generation": 0, "state": "missing"}
    return next(
        (slot for slot in (*report["workers"], *report["spares"]) if slot["slot"] == number), nobody
    )
