"""A Chromium without a window, by the WebDriver protocol (w3.org/TR/webdriver2) and the standard library alone."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "Home": "\ue011", "End": "\ue010"} | dict(
    zip(("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown"), "\ue012\ue013\ue014\ue015", strict=True)
)
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy is set


class Browser:
    """One page at a time."""

    def __init__(self, driver: str, session: str) -> None:
        self._base = f"{driver}/session/{session}"

    def __call__(self, command: str, **parameters: Any) -> Any:
        return request(f"{self._base}/{command}", parameters)

    def open(self, page: Path) -> None:
        self("url", url=page.absolute().as_uri())

    def run(self, script: str, *given: Any) -> Any:
        """What a script returns."""
        return self("execute/sync", script=script, args=given)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).textContent", selector))

    def press(self, key: str) -> None:
        actions = [{"type": kind, "value": KEYS.get(key, key)} for kind in ("keyDown", "keyUp")]
        self("actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def emulate(self, feature: str, value: str) -> None:
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": feature, "value": value}])

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self("goog/cdp/execute", cmd=command, params=parameters)

    def log(self, kind: str) -> list[dict[str, Any]]:
        """What came to a log since it was last read."""
        return list(self("se/log", type=kind))

    def picture(self) -> bytes:
        return base64.b64decode(request(f"{self._base}/screenshot"))


def request(url: str, body: Any = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    try:
        with _direct.open(urllib.request.Request(url, data, method=method), timeout=300) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as exc:
        raise AssertionError(json.load(exc)["value"]["message"]) from exc


@contextmanager
def chromium(profile: Path, *flags: str) -> Iterator[Browser]:
    assert CHROMIUM and DRIVER
    port_file = profile / "chromedriver.log"
    driver = subprocess.Popen([DRIVER, "--port=0", f"--log-path={port_file}"], stdout=subprocess.PIPE, text=True)
    try:
        assert driver.stdout is not None
        port = next(line.split()[-1].rstrip(".") for line in driver.stdout if "successfully on port" in line)
        base = f"http://127.0.0.1:{port}"
        options = {
            "binary": CHROMIUM,
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                f"--user-data-dir={profile / 'user'}",
                *flags,
            ],
        }
        logs = {"browser": "ALL", "performance": "ALL"}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": logs}
        session = request(f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        try:
            yield Browser(base, session)
        finally:
            request(f"{base}/session/{session}", method="DELETE")
    finally:
        driver.terminate()
        driver.communicate(timeout=120)
