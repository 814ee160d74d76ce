"""`opuspool restart` and `opuspool recycle`: an operator replaces one worker of a daemon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from opuspool.cli import messages
from opuspool.cli.options import config_option, endpoint_option

if TYPE_CHECKING:
    from opuspool.pool import Pool

__all__ = ["recycle", "restart"]

_PAUSE_SECONDS = 0.1

_timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0.1, 600),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the new worker.",
)


@click.command()
@click.argument("slot", type=click.IntRange(0))
@_timeout_option
@endpoint_option
@config_option
def restart(*, slot: int, timeout: float, endpoint: str | None, config: str | None) -> int:
    """Kill the worker of SLOT now and wait for the next one.

    For a worker that misbehaves. Nothing is lost: its streams move, what it had in hand is tried
    again, and no packet is blamed. It is counted with reason "killed".
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


def _replace(
    slot: int, timeout: float, endpoint: str | None, config: str | None, *, at_once: bool
) -> int:
    from opuspool.cli.reach import daemon

    deadline = time.monotonic() + timeout
    with daemon(endpoint, config) as pool:
        old = _slot(pool, slot)
        try:
            pool.replace_worker(slot, at_once=at_once)
        except ValueError as error:
            messages.complain(str(error))
            return 1
        while time.monotonic() < deadline:
            new = _slot(pool, slot)
            if new["generation"] != old["generation"] and new["state"] in ("IDLE", "BUSY"):
                click.echo(f"slot {slot}: worker {old['pid']} replaced by {new['pid']}")
                return 0
            time.sleep(_PAUSE_SECONDS)
    messages.complain(f"slot {slot} is {new['state']} after {timeout:g} s; see `opuspool status`")
    return 1


def _slot(pool: Pool, number: int) -> dict[str, Any]:
    """A slot's line of the status; an empty one where there is no such slot."""
    report = pool.status()
    nobody = {"slot": number, "pid": None, "generation": 0, "state": "missing"}
    return next(
        (slot for slot in (*report["workers"], *report["spares"]) if slot["slot"] == number), nobody
    )
