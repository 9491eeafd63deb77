"""Control a headless Chromium: open pages, run JavaScript, press keys, take screenshots.

It uses the DevTools protocol over two pipes (``--remote-debugging-pipe``): JSON messages that end
with a zero byte. This needs no port, no WebSocket, no driver that must match the browser's version,
and only the standard library. https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# if set (in CI), a missing browser fails the tests instead of skipping them
REQUIRED = "CONVLENS_REQUIRE_BROWSER"
# sets another folder for the screenshots
SCREENSHOTS = "CONVLENS_SCREENSHOTS"
PATIENCE = 60.0  # seconds that a page may take for any operation, on a busy machine

# options that make it quiet, and the same on every machine
SWITCHES = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # not available to root in a container; only our own pages are opened
    "--disable-dev-shm-usage",  # containers have a small /dev/shm
    "--disable-gpu",
    "--disable-3d-apis",  # without WebGL, TensorBoard draws curves as SVG, which can be inspected
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--lang=en-US",
)

# available in every expression: all(selector) is querySelectorAll that includes shadow roots
PRELUDE = """
const all = (selector, root = document) => {
  const found = [...root.querySelectorAll(selector)];
  for (const host of root.querySelectorAll('*'))
    if (host.shadowRoot) found.push(...all(selector, host.shadowRoot));
  return found;
};
"""


class Browser:
    """A running Chromium that ends with its ``with`` block.

    Args:
        program: path of the executable.
    """

    def __init__(self, program: str):
        self.program = program

    def __enter__(self) -> Browser:
        self._home = tempfile.TemporaryDirectory(prefix="browser", ignore_cleanup_errors=True)
        home = Path(self._home.name)
        self._said = home / "stderr.txt"
        # Chromium reads from descriptor 3 and writes to 4; a shell redirects our pipes to them
        move = 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null'
        words = [self.program, *SWITCHES, f"--user-data-dir={home / 'profile'}", "about:blank"]
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                ["sh", "-c", move, "sh", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=said, bufsize=0, env={**os.environ, "HOME": str(home)},
            )  # fmt: skip
        self._pending = bytearray()
        self._number = 0
        self.pages: dict[str, Page] = {}  # by session
        self.call("Browser.getVersion")
        return self

    def __exit__(self, *_) -> None:
        with suppress(ConnectionError, TimeoutError):  # it may have ended already
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._home.cleanup()

    def call(self, method: str, session: str | None = None, **values: Any) -> dict:
        """Send a command and return its response; pass earlier events to their pages.

        Raises:
            RuntimeError: the browser rejected the command.
            ConnectionError: the browser has ended.
            TimeoutError: there is no response within ``PATIENCE``.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": values}
        if session:
            message["sessionId"] = session
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise ConnectionError(self._last_words()) from None
        number, deadline = self._number, time.monotonic() + PATIENCE
        while True:
            answer = self.listen(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def listen(self, deadline: float) -> dict:
        """Return the next message; an event is also passed to its page.

        Args:
            deadline: reading of ``time.monotonic()``.

        Raises:
            ConnectionError: the browser has ended.
            TimeoutError: there is no message before the deadline.
        """
        while (end := self._pending.find(b"\0")) < 0:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise TimeoutError(self._last_words())
            some = os.read(self._process.stdout.fileno(), 1 << 20)
            if not some:
                raise ConnectionError(self._last_words())
            self._pending += some
        message = json.loads(self._pending[:end])
        del self._pending[: end + 1]
        if "method" in message and message.get("sessionId") in self.pages:
            self.pages[message["sessionId"]].heard(message["method"], message["params"])
        return message

    def _last_words(self) -> str:
        lines = self._said.read_text(errors="replace").splitlines()
        return f"{self.program} said: " + " | ".join(lines[-5:])

    @contextmanager
    def page(self, width: int = 1400, height: int = 1000, **emulated: Any) -> Iterator[Page]:
        """Open an empty page with its own cookies and storage; see ``Page.emulate``."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, attached["sessionId"], context)
        self.pages[page.session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.emulate(width, height, **emulated)
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)
            del self.pages[page.session]


class Page:
    """A tab and its messages since it was opened.

    Attributes:
        errors: console errors, uncaught exceptions, and violations of the page's policy.
        requests: requested addresses, including that of the page, without ``data:``.
    """

    def __init__(self, browser: Browser, session: str, context: str):
        self.browser, self.session, self.context = browser, session, context
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        self._asked: dict[str, str] = {}  # address by request
        self._arrived: list[str] = []  # requests with a response

    def call(self, method: str, **values: Any) -> dict:
        """Send one command of the protocol for this page."""
        return self.browser.call(method, self.session, **values)

    def heard(self, event: str, values: dict) -> None:
        """Record an event."""
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent":
            address = values["request"]["url"]
            if not address.startswith("data:"):
                self.requests.append(address)
                self._asked[values["requestId"]] = address
        elif event == "Network.loadingFinished":
            self._arrived.append(values["requestId"])
        elif event == "Runtime.exceptionThrown":
            self.errors.append(_exception(values["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and values["type"] in ("error", "assert"):
            said = [str(a.get("value", a.get("description"))) for a in values["args"]]
            self.errors.append(" ".join(said))
        elif event == "Log.entryAdded" and values["entry"]["level"] == "error":
            self.errors.append(
                f"{values['entry']['text']} {values['entry'].get('url', '')}".strip()
            )

    def emulate(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        """Set the window size in CSS pixels, and emulate a phone or a dark colour scheme."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=2 if phone else 1, mobile=phone)  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> None:
        """Open an address and wait until its document has loaded.

        Raises:
            RuntimeError: the address cannot be loaded.
        """
        self._loaded = False
        answer = self.call("Page.navigate", url=address)
        if "errorText" in answer:
            raise RuntimeError(f"{address}: {answer['errorText']}")
        if "loaderId" not in answer:
            return  # another anchor in the same document
        deadline = time.monotonic() + PATIENCE
        while not self._loaded:
            self.browser.listen(deadline)

    def run(self, expression: str) -> Any:
        """Return the JSON value of a JavaScript expression; wait if it is a promise.

        Raises:
            RuntimeError: the expression raised an exception.
        """
        answer = self.call(
            "Runtime.evaluate", expression=f"(async () => {{{PRELUDE} return ({expression});}})()",
            awaitPromise=True, returnByValue=True,
        )  # fmt: skip
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {_exception(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = PATIENCE) -> Any:
        """Wait until an expression is truthy in Python (an empty list is not); return it.

        Raises:
            AssertionError: it stayed falsy; a screenshot is saved.
        """
        deadline = time.monotonic() + seconds
        while not (value := self.run(expression)):
            if time.monotonic() > deadline:
                kept = self.screenshot("waited_in_vain")
                raise AssertionError(
                    f"after {seconds:g} s still {value!r}: {expression}; see {kept}; "
                    f"errors: {self.errors}"
                )
            time.sleep(0.1)
        return value

    def fetched(self, part: str) -> list[str]:
        """Return the texts received from addresses that contain ``part``, in order."""
        self.run("0")  # events before the response are recorded now
        arrived = [r for r in self._arrived if part in self._asked.get(r, "")]
        bodies = [self.call("Network.getResponseBody", requestId=request) for request in arrived]
        return [
            base64.b64decode(b["body"]).decode() if b["base64Encoded"] else b["body"]
            for b in bodies
        ]

    def press(self, key: str, code: int, *, shift: bool = False) -> None:
        """Press a key that writes nothing, such as ``ArrowRight`` (virtual key code 39)."""
        what = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="rawKeyDown", **what)
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def keep_downloads(self, folder: Path) -> None:
        """Save what the page downloads into a folder."""
        self.browser.call("Browser.setDownloadBehavior", behavior="allow",
                          browserContextId=self.context, downloadPath=str(folder))  # fmt: skip

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        """Move the mouse to a place of the window in CSS pixels, and click there."""
        kinds = ["mouseMoved", *(["mousePressed", "mouseReleased"] if click else [])]
        for kind in kinds:
            button = "none" if kind == "mouseMoved" else "left"
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)

    def screenshot(self, name: str, *, whole: bool = False) -> Path:
        """Save a screenshot as ``<name>.png``; with ``whole``, of the whole page."""
        ours = Path(__file__).parents[1] / "browser" / "screenshots"
        folder = Path(os.environ.get(SCREENSHOTS) or ours)
        folder.mkdir(parents=True, exist_ok=True)
        options = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options = {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        shot = self.call("Page.captureScreenshot", format="png", **options)
        file = folder / f"{name}.png"
        file.write_bytes(base64.b64decode(shot["data"]))
        return file


def _exception(details: dict) -> str:
    return details.get("exception", {}).get("description") or details["text"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield a running browser; without one, skip the tests, or fail if a browser is required."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        reason = f"no browser is installed (one of {', '.join(PROGRAMS)})"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{reason}, and {REQUIRED} is set")
        pytest.skip(reason)
    with Browser(program) as running:
        yield running
