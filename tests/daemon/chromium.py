"""A headless Chromium that a test drives over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp

FLAGS = (
    "--headless",
    "--hide-scrollbars",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
)


class Tab:
    """One page: what it did wrong is collected in ``problems``."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Speak DevTools over ``socket``."""
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []
        self.requested: list[str] = []

    async def listen(self) -> None:
        """Read answers and events until the browser goes."""
        async for message in self._socket:
            document = json.loads(message.data)
            if answer := self._answers.pop(document.get("id", 0), None):
                answer.set_result(document)
            else:
                self._note(document.get("method", ""), document.get("params", {}))

    async def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call one DevTools method."""
        number = next(self._numbers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(20):
            document = await self._answers[number]
        if "error" in document:
            raise RuntimeError(f"{method}: {document['error']}")
        result: dict[str, Any] = document["result"]
        return result

    async def open(
        self, url: str, *, width: int = 1_400, height: int = 900, dark: bool = False
    ) -> None:
        """Go to ``url`` in a window of that size."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    async def wait_for(self, expression: str, *, seconds: float = 20) -> None:
        """Return once the expression is true on the page."""
        try:
            async with asyncio.timeout(seconds):
                while not await self.evaluate(f"Boolean({expression})"):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            text = await self.evaluate("document.body?.innerText")
            raise AssertionError(f"never true: {expression}\n{self.problems}\n{text}") from None

    async def text(self, selector: str) -> str:
        """Return the visible text of the first element that matches."""
        return str(await self.evaluate(f"document.querySelector({selector!r}).innerText"))

    async def screenshot(self, path: Path) -> None:
        """Save the whole page as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(answer["data"]))

    def _note(self, method: str, params: dict[str, Any]) -> None:
        match method:
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                described = details.get("exception", {}).get("description", details["text"])
                self.problems.append(str(described))
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                entry = params["entry"]
                self.problems.append(f"{entry['text']} {entry.get('url', '')}")
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])


@contextlib.contextmanager
def running_chromium(program: str, profile: Path) -> Iterator[int]:
    """Start a browser with an empty profile and yield its DevTools port."""
    process = subprocess.Popen(
        [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield _debugging_port(profile)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.asynccontextmanager
async def open_tab(port: int) -> AsyncIterator[Tab]:
    """Open a tab of its own in the browser at ``port``, and close it afterwards."""
    browser = f"http://127.0.0.1:{port}/json"
    async with aiohttp.ClientSession() as session:
        async with session.put(f"{browser}/new?about:blank") as answer:
            page = await answer.json(content_type=None)
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            listening = asyncio.create_task(tab.listen())
            yield tab
            listening.cancel()
        async with session.get(f"{browser}/close/{page['id']}"):
            pass


def _debugging_port(profile: Path) -> int:
    """Chromium writes the port that it chose into its profile."""
    path = profile / "DevToolsActivePort"
    for _ in range(600):
        text = path.read_text() if path.exists() else ""
        if "\n" in text:
            return int(text.partition("\n")[0])
        time.sleep(0.05)
    raise TimeoutError(f"chromium did not write {path} within 30 s")
