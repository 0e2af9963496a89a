"""Headless Chromium through its debugging pipe: opens a page and looks at it."""

from __future__ import annotations

import base64
import contextlib
import functools
import http.server
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SOFTWARE_GPU = " --enable-unsafe-webgpu --use-webgpu-adapter=swiftshader"
SOFTWARE_GPU += " --enable-features=Vulkan --use-vulkan=swiftshader"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def found() -> str | None:
    """The browser on this machine, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of ``folder`` served as files, as any static host does."""
    serve = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Browser:
    """One page of ``width`` x ``height``, with a GPU in software where ``gpu``; ``requests`` and
    ``errors`` are what happened so far."""

    def __init__(self, width: int, height: int, gpu: bool = False) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        mine, theirs = os.pipe(), os.pipe()
        flags = "--headless=new --no-sandbox --remote-debugging-pipe"
        flags += " --disable-gpu" if not gpu else SOFTWARE_GPU
        line = f"exec {found()} {flags} --user-data-dir={self._profile.name} about:blank"
        self._process = subprocess.Popen(
            ["bash", "-c", f"{line} 3<&{mine[0]} 4>&{theirs[1]}"],
            pass_fds=(mine[0], theirs[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(mine[0])
        os.close(theirs[1])
        self._out, self._in = os.fdopen(mine[1], "wb", 0), os.fdopen(theirs[0], "rb", 0)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Network", "Runtime", "Page"):
            self.ask(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._profile.cleanup()

    def ask(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        self._out.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Network.requestWillBeSent":
                self.requests.append(answer["params"]["request"]["url"])
            elif answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = self._in.read(1 << 16)
            assert part, "the browser is gone"
            self._rest += part
        one, self._rest = self._rest.split(b"\0", 1)
        return json.loads(one)

    def value(self, expression: str) -> Any:
        """What the page makes of ``expression``."""
        answer = self.ask("Runtime.evaluate", expression=expression)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 240) -> Any:
        """The value of ``expression`` once it is one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.errors:
            answer = self.ask("Runtime.evaluate", expression=expression)  # fails before a page is
            if (value := answer["result"].get("value")) is not None:
                return value
            time.sleep(0.02)
        raise AssertionError(f"{expression} never was; {self.errors}")

    def screenshot(self, file: Path) -> None:
        shot = self.ask("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(shot["data"]))
