"""A headless Chromium, spoken to in its own protocol over two pipes: no driver, no port, no package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-extensions", "--hide-scrollbars", "--remote-debugging-pipe"),
)
PATIENCE = 60.0
# Where the protocol wants its pipes; first out of the way, lest one take the other's place.
AT_3_AND_4 = """import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for number, descriptor in zip((3, 4), high):
    os.dup2(descriptor, number)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a browser, and every complaint that its console made."""

    def __init__(self, profile: Path) -> None:
        assert PROGRAM is not None
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        words = [sys.executable, "-c", AT_3_AND_4, str(read), str(write), PROGRAM, *QUIET, f"--user-data-dir={profile}"]
        nowhere = subprocess.DEVNULL
        self._process = subprocess.Popen(
            [*words, "about:blank"], pass_fds=(read, write), stdout=nowhere, stderr=nowhere
        )
        os.close(read)
        os.close(write)
        self._numbers, self._waiting = itertools.count(1), b""
        self.complaints: list[str] = []
        self._session: dict[str, str] = {}
        (page,) = [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"][:1]
        attached = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        number = next(self._numbers)
        text = json.dumps({"id": number, "method": method, "params": params, **self._session})
        os.write(self._write, text.encode() + b"\0")
        while True:
            told = self._next()
            if told.get("id") == number:
                assert "error" not in told, told["error"]
                return told["result"]

    def open(self, path: Path, *, width: int, dark: bool) -> None:
        """Load a file at a width in CSS pixels, as a reader who prefers light or dark sees it."""
        self.complaints.clear()
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", features=[scheme])
        self("Page.navigate", url=path.as_uri())
        end = time.monotonic() + PATIENCE
        while self.value("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < end, "the page does not load"
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, whatever its own policy on scripts."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, *, whole: bool = True) -> bytes:
        """A PNG of the page, or of what is seen first."""
        return base64.b64decode(self("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"])

    def close(self) -> None:
        self("Browser.close")
        self._process.wait(timeout=PATIENCE)
        os.close(self._write)
        os.close(self._read)

    def _next(self) -> dict[str, Any]:
        """The next message; a console's complaint is kept."""
        while b"\0" not in self._waiting:
            assert select.select([self._read], [], [], PATIENCE)[0], "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser has gone"
            self._waiting += part
        line, _, self._waiting = self._waiting.partition(b"\0")
        told = json.loads(line)
        params = told.get("params", {})
        match told.get("method"):
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params)[:500])
            case "Network.requestWillBeSent" if not params["request"]["url"].startswith(("file:", "about:", "data:")):
                self.complaints.append(f"asks for {params['request']['url'][:200]}")
        return told
