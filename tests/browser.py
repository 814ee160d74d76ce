"""A headless Chromium, driven over its debugging pipe: no driver, no WebSocket, no library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

SECONDS = 30.0


class Page:
    """One tab.

    Attributes:
        complaints: what its console and the browser's log have said.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out, self._in = to_browser, from_browser
        self._unread = b""
        self._id = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the DevTools protocol."""
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._id:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]  # type: ignore[no-any-return]
            self._note(answer)

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        """Look at it through a window of so many pixels."""
        mobile = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, url: str) -> None:
        """Go to a page."""
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, result

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"]))
        elif event.get("method") == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(params["args"]))
        elif event.get("method") == "Log.entryAdded":
            self.complaints.append(json.dumps(params["entry"]))

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"Chromium has said nothing for {SECONDS:g} s"
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium has ended"
            self._unread += data
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]


@contextmanager
def browser() -> Iterator[Page]:
    """A running Chromium with one tab; everything of it is gone afterwards."""
    assert CHROMIUM is not None
    with ExitStack() as undo:
        profile = undo.enter_context(
            tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        )
        its_in, our_out = os.pipe()
        our_in, its_out = os.pipe()
        process = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                f'exec "$@" 3</dev/fd/{its_in} 4>/dev/fd/{its_out}',
                "sh",
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",  # tests run as root in CI, and load nothing but our own page
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--no-first-run",
                "--remote-debugging-pipe",
                f"--user-data-dir={profile}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(its_in, its_out),
        )
        os.close(its_in)
        os.close(its_out)
        undo.callback(os.close, our_in)
        undo.callback(os.close, our_out)
        undo.callback(_end, process)
        page = Page(our_out, our_in)
        yield page
        page._session = None
        os.write(our_out, b'{"id":0,"method":"Browser.close"}\0')


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
