"""The status page in a real browser."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import browser
import daemons
import pytest
from waiting import wait_until

import opuspool

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.usefixtures("http"),
    pytest.mark.skipif(browser.CHROMIUM is None, reason="needs chromium (Debian: chromium)"),
]

PROMISED_SECONDS = 3.0

WORKERS = "document.querySelectorAll('#workers tbody tr').length"
ENDS = "document.querySelector('#ends tbody').innerText"


def test_a_death_is_shown_with_its_cause_without_a_reload(tmp_path: Path, endpoint: str) -> None:
    """Within 3 s; on a phone nothing is wider than the screen; the console stays silent."""
    with (
        daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process,
        opuspool.Pool(endpoint) as pool,
        browser.browser() as page,
    ):
        page.size(390, 844)
        page.open(f"http://{daemons.http_address(process)}/")
        wait_until(lambda: page.value(WORKERS) == 3, 20, what="the page shows the workers")
        page.value("window.sameLoad = true")
        killed = time.monotonic()
        os.kill(pool.status()["workers"][0]["pid"], signal.SIGSEGV)
        wait_until(
            lambda: "segv" in page.value(ENDS) and "SIGSEGV" in page.value(ENDS),
            what="the page shows the death and its cause",
        )
        assert time.monotonic() - killed < PROMISED_SECONDS
        assert page.value("window.sameLoad"), "it was not loaded again"
        assert page.value("document.documentElement.scrollWidth <= innerWidth")
        assert page.complaints == []


def test_a_daemon_that_goes_away_is_told(tmp_path: Path, endpoint: str) -> None:
    """The page says that what it shows is old."""
    with browser.browser() as page:
        with daemons.daemon(daemons.settings_for(tmp_path, endpoint)) as process:
            page.open(f"http://{daemons.http_address(process)}/")
            wait_until(lambda: page.value(WORKERS) == 3, 20, what="the page shows the workers")
        wait_until(
            lambda: page.value("document.querySelector('#health').textContent") == "no answer",
            what="the page says so",
        )
