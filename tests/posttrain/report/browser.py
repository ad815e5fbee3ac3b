"""A headless Chromium, spoken to over its debugging protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FOUND = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page. `errors` collects what its console complained about, `requests` every address it asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number = 0

    def __enter__(self) -> Self:
        from websocket import create_connection

        assert FOUND
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0",
                 f"--user-data-dir={self._folder}", "--remote-allow-origins=*", "--disable-background-networking",
                 "--force-color-profile=srgb", "--lang=en-US")  # fmt: skip
        self._process = subprocess.Popen(
            [FOUND, *flags, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            port = _waited_for(self._folder / "DevToolsActivePort").split()[0]
            pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))
            address = next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page")
            self._socket = create_connection(address, timeout=60)
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.ask(f"{domain}.enable")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._kill()

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._socket.recv())
            if said.get("id") == self._number:
                assert "error" not in said, said["error"]
                result: dict[str, Any] = said["result"]
                return result
            self._hear(said)

    def _hear(self, said: dict[str, Any]) -> None:
        method, about = said.get("method"), said.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(about["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(about["args"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.errors.append(about["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])

    def open(self, page: Path | str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load a file or an address and wait until its script is done."""
        address = page if isinstance(page, str) else page.as_uri()
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.ask(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self.ask("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete' && document.documentElement.dataset.ready === ''")

    def wait_for(self, script: str, seconds: float = 20) -> None:
        """Until an expression is true. A page that is being left answers nothing for a moment."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = self.ask("Runtime.evaluate", expression=f"Boolean({script})", returnByValue=True)
            if "exceptionDetails" not in found and found["result"].get("value"):
                return
            time.sleep(0.05)
        text = self.ask("Runtime.evaluate", expression="document.body?.innerText", returnByValue=True)
        raise AssertionError(f"never: {script}; {self.errors}; {text['result'].get('value')}")

    def click(self, selector: str) -> None:
        """The middle of an element, as a mouse does it."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait_for(f"{found} && !{found}.disabled")
        self.run(f"{found}.scrollIntoView({{block: 'center'}})")
        # laid out again, if a screenshot or new content made that necessary
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        x, y = self.run(
            f"(({{ x, y, width, height }}) => [x + width / 2, y + height / 2])({found}.getBoundingClientRect())"
        )
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = "none" if kind == "mouseMoved" else "left"
            self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def write(self, selector: str, text: str) -> None:
        """Into a field, in place of what is there, as a keyboard does it."""
        self.run(
            f"(({{}}) => {{ const field = document.querySelector({json.dumps(selector)}); field.focus(); field.select(); }})({{}})"
        )
        self.ask("Input.insertText", text=text)

    def choose(self, selector: str, value: str) -> None:
        """An option of a list."""
        self.run(
            f"(() => {{ const list = document.querySelector({json.dumps(selector)}); list.value = {json.dumps(value)};"
            "list.dispatchEvent(new Event('input', { bubbles: true })); list.dispatchEvent(new Event('change', { bubbles: true })); })()"
        )

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript, awaited."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self, target: Path, whole: bool = False) -> None:
        target.write_bytes(
            base64.b64decode(
                self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
            )
        )

    def print(self, target: Path) -> None:
        target.write_bytes(base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"]))


def _waited_for(path: Path) -> str:
    for _ in range(300):
        if path.exists() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError("Chromium did not start")
