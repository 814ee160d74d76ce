"""Whether the daemon lives, and whether it is ready to decode: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opuspool_supervisor.monitor import Snapshot

LIVE_SECONDS = 5.0
"""A loop that has not come round for so long is stuck; its longest wait is 0.5 s."""

PROOF_INTERVALS = 3
"""A worker's last real decode may be as many canary intervals old."""


def live(snapshot: Snapshot | None, now: float) -> dict[str, str]:
    """The failing checks of liveness, in words; none where all is well."""
    if snapshot is None:
        return {"loop": "has not come round yet"}
    age = now - snapshot.at
    if age > LIVE_SECONDS:
        return {"loop": f"came round {age:.1f} s ago, at most {LIVE_SECONDS:g} s are allowed"}
    return {}


def ready(snapshot: Snapshot | None, canary_seconds: float, now: float) -> dict[str, str]:
    """The failing checks of readiness, in words; none where requests will be decoded."""
    failing = live(snapshot, now)
    if snapshot is None:
        return failing
    report = snapshot.report
    if report["draining"]:
        failing["draining"] = "nothing new is taken: the daemon is shutting down"
    if report["boot_error"]:
        failing["start"] = report["boot_error"]
    proofs = [
        worker["proved_ago_seconds"]
        for worker in report["workers"]
        if worker["state"] in ("IDLE", "BUSY") and worker["proved_ago_seconds"] is not None
    ]
    allowed = PROOF_INTERVALS * canary_seconds
    age = min(proofs) + now - snapshot.at if proofs else None
    if age is None:
        failing["decode"] = "no worker has decoded the known packet yet"
    elif age > allowed:
        failing["decode"] = f"the last real decode was {age:.1f} s ago, at most {allowed:g} s"
    elif report["health"] == "down" and not report["draining"]:
        failing["workers"] = "no worker serves"
    if failing.get("start") and not {"decode", "workers"} & failing.keys():
        del failing["start"]  # some slot cannot start its worker, another one serves
    return failing


def explained(failing: dict[str, str]) -> dict[str, Any]:
    """The answer's JSON."""
    return {"ok": not failing, "failing": failing}
