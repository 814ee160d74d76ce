"""A worker does not interrupt whoever wakes it, and leaves alone what somebody has chosen."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from waiting import wait_until

import opuspool

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's policies")

CHOSEN = """
import os
from opuspool_workers.scheduling import give_way
os.sched_setscheduler(0, os.{policy}, os.sched_param(0))
give_way()
print(os.sched_getscheduler(0) == os.{left})
"""


def test_workers_give_way_and_their_pool_stays_as_it_was() -> None:
    before = os.sched_getscheduler(0)
    with opuspool.Pool(workers=2) as pool:

        def policies() -> list[int]:
            workers = pool.status()["workers"]
            return [os.sched_getscheduler(worker["pid"]) for worker in workers if worker["pid"]]

        wait_until(lambda: policies() == [os.SCHED_BATCH] * 2, what="both give way")
        assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize(
    ("policy", "left"), [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")]
)
def test_a_policy_that_was_chosen_stays(policy: str, left: str) -> None:
    code = CHOSEN.format(policy=policy, left=left)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True\n"
