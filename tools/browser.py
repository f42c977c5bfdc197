"""A Chromium without a window, driven over a pipe: no package is needed for it.

    with Browser(folder) as browser:
        browser.open("file:///tmp/report.html", 1280, 900)
        browser.run("document.title")
        browser.picture("report.png", height=900)

It speaks the DevTools protocol: messages of JSON that end with a zero byte.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-quic",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class BrowserError(Exception):
    """The browser said no, or nothing in time."""


class Browser:
    """One page of one browser. folder is its profile: an empty one is as a first start."""

    def __init__(self, folder: Path, *, seconds: float = 60, program: str = "chromium") -> None:
        self.seconds = seconds
        self._number = 0
        self._rest = b""
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()
        # The browser reads from 3 and writes to 4, whatever numbers the pipes got here.
        script = f'exec "$@" 3<&{to_child} 4>&{from_child}'
        command = ["bash", "-c", script, "bash", program, *OPTIONS, f"--user-data-dir={folder}"]
        self._child = subprocess.Popen(
            [*command, "about:blank"],
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_child)
        os.close(from_child)
        self._session = ""
        pages = self.ask("Target.getTargets")["targetInfos"]
        page = next(each["targetId"] for each in pages if each["type"] == "page")
        attached = self.ask("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        self.ask("Page.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.kill()
        self._child.wait()
        os.close(self._out)
        os.close(self._in)

    def ask(self, method: str, **values: Any) -> dict[str, Any]:
        """The answer to one message."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._read(lambda found: found.get("id") == self._number)
        result: dict[str, Any] = answer.get("result", {})
        return result

    def _read(self, wanted: Any) -> dict[str, Any]:
        until = time.monotonic() + self.seconds
        while True:
            while b"\0" in self._rest:
                line, _, self._rest = self._rest.partition(b"\0")
                found: dict[str, Any] = json.loads(line)
                if "error" in found:
                    raise BrowserError(found["error"]["message"])
                if wanted(found):
                    return found
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._in], [], [], left)[0]:
                raise BrowserError(f"no answer in {self.seconds} seconds")
            got = os.read(self._in, 1 << 20)
            if not got:
                raise BrowserError("it ended")
            self._rest += got

    def open(self, address: str, width: int, height: int, *, dark: bool = False) -> None:
        """Load a page and wait for its end."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self._number += 1
        message = {
            "id": self._number, "method": "Page.navigate", "params": {"url": address},
            "sessionId": self._session,
        }  # fmt: skip
        os.write(self._out, json.dumps(message).encode() + b"\0")
        self._read(lambda found: found.get("method") == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of a script; of a promise, when it is there."""
        found = self.ask(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise BrowserError(str(found["exceptionDetails"])[:500])
        return found["result"].get("value")

    def picture(self, path: Path, width: int, height: int) -> None:
        """The top of the page as a PNG."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        found = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(found["data"]))
