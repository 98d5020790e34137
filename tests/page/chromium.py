"""Debian's Chromium without a window, driven through a pipe by its own protocol."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

_SECONDS = 30


class Chromium:
    """One page. Use it as a context.

    Args:
        width: of the window, in pixels.
        height: likewise.
    """

    def __init__(self, width: int = 1100, height: int = 800) -> None:
        program = shutil.which("chromium")
        if program is None:
            raise FileNotFoundError("there is no chromium; apt-get install chromium")
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs, self._out = os.pipe()
        self._in, given = os.pipe()
        # The browser reads file 3 and writes file 4.
        script = f'exec {program} "$@" 3<&{theirs} 4>&{given}'
        flags = (
            *("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
            *(f"--user-data-dir={self._home.name}", f"--window-size={width},{height}"),
            "--no-proxy-server",
        )
        self._process = subprocess.Popen(
            ["bash", "-c", script, "chromium", *flags, "about:blank"],
            pass_fds=[theirs, given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(given)
        self._numbers, self._held, self._session = itertools.count(1), b"", None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        self._call("Page.enable")

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._home.cleanup()

    def open(self, address: str) -> None:
        """Go to a page."""
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + _SECONDS
        while not self.run(script):
            if time.monotonic() > end:
                raise TimeoutError(f"{script} is not true after {_SECONDS} s")
            time.sleep(0.05)

    def type(self, field: str, text: str) -> None:
        """Put a text into a field, as a user does."""
        self.run(f"document.getElementById({field!r}).value = ''")
        self.run(f"document.getElementById({field!r}).focus()")
        self._call("Input.insertText", text=text)

    def picture(self, file: Path) -> None:
        """Write what is seen as a PNG."""
        data = self._call("Page.captureScreenshot", format="png")["data"]
        file.write_bytes(base64.b64decode(data))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = json.loads(self._message())
            if found.get("id") == number:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']}")
                return dict(found["result"])

    def _message(self) -> bytes:
        while b"\0" not in self._held:
            if not select.select([self._in], [], [], _SECONDS)[0]:
                raise TimeoutError("chromium does not answer")
            data = os.read(self._in, 2**16)
            if not data:
                raise EOFError("chromium has ended")
            self._held += data
        first, _, self._held = self._held.partition(b"\0")
        return first
