"""A real browser for the tests: headless Chromium, told what to do over DevTools.

The DevTools protocol is JSON over a WebSocket, and the WebSocket is Koko's own
client. Only what the tests need is here: open a window, run JavaScript in it, wait
inside the page until something holds.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pytest

from koko.sync import dial

CHOSEN = os.environ.get("KOKO_BROWSER", "")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 30.0  # seconds for a browser to start, and for anything to show in it
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-port=0",
)


def chromium() -> str:
    """Return the path of a Chromium, or skip the test; ``KOKO_BROWSER`` names it, or none."""
    for name in (CHOSEN,) if CHOSEN else NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    sought = f"KOKO_BROWSER={CHOSEN}" if CHOSEN else f"none of {', '.join(NAMES)} is installed"
    pytest.skip(f"no browser here: {sought}")


@contextmanager
def running(path: str, profile: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:  # with all its helpers: the session is ours, and nobody will miss the profile
        with suppress(ProcessLookupError):  # it ended before, and they with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def devtools(process: subprocess.Popen[bytes], told: Path) -> str:
    """Return where a browser is told what to do: it writes the port it chose into a file."""
    give_up_at = time.monotonic() + PATIENCE
    while True:
        lines = told.read_text().split("\n") if told.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        assert process.poll() is None, f"the browser ended: {process.returncode}"
        assert time.monotonic() < give_up_at, f"the browser did not start in {PATIENCE} s"
        time.sleep(0.01)


class Browser:
    """One Chromium with a profile of its own, from ``with`` to the end of the block."""

    def __enter__(self) -> Self:
        path = chromium()  # where there is none nothing has been made yet
        with ExitStack() as made:
            profile = made.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))
            process = made.enter_context(running(path, profile))
            address = devtools(process, Path(profile, "DevToolsActivePort"))
            self._conn = dial(address, read_limit=None, proxy=None)
            made.callback(self._conn.abort)
            self._numbers = itertools.count(1)
            self._made = made.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._made.close()

    def open(self, url: str, width: int = 1200, height: int = 900) -> Window:
        """Open a window and return when its page has loaded."""
        target = self.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        window = Window(self, session)
        window.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        window.call("Page.navigate", url=url)
        window.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")
        return window

    def call(self, method: str, session: str | None = None, /, **params: Any) -> dict[str, Any]:
        """Have the browser do something and return what it answers."""
        number = next(self._numbers)
        command = {"id": number, "method": method, "params": params}
        self._conn.send(json.dumps(command | ({"sessionId": session} if session else {})))
        while True:
            heard = json.loads(self._conn.recv(timeout=PATIENCE))
            if heard.get("id") == number:
                break  # everything else is an event
        assert "error" not in heard, f"{method} failed: {heard['error']}"
        result: dict[str, Any] = heard["result"]
        return result


class Window:
    """One page in a browser."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Have the browser do something with this page."""
        return self._browser.call(method, self._session, **params)

    def run(self, script: str) -> Any:
        """Run JavaScript in the page and return its value; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> Any:
        """Wait inside the page until a JavaScript expression holds, and return its value."""
        value = self.run(
            f"""new Promise(resolve => {{
                const until = Date.now() + {PATIENCE * 1000 // 2};
                (function look() {{
                    const value = {condition};
                    value || Date.now() > until ? resolve(value) : setTimeout(look, 10);
                }})();
            }})"""
        )
        assert value, f"waited in vain for {condition}; the page says: {self.text()!r}"
        return value

    def text(self) -> str:
        """Return what can be read on the page."""
        return str(self.run("document.body.innerText"))

    def type(self, selector: str, text: str) -> None:
        """Click into a field, replace what it holds and press Enter, as a person would."""
        self.run(f"document.querySelector({json.dumps(selector)}).select()")
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                windowsVirtualKeyCode=13,
                text="\r",
            )
