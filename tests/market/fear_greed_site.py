"""A loopback HTTP server that speaks as alternative.me does, or as it should not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

DAY_SECONDS = 86_400
NEWEST = 1_700_006_400  # 2023-11-15, midnight


def row(value: str, *, days_ago: int = 0) -> dict[str, str]:
    """One row as the site writes it."""
    return {
        "value": value,
        "value_classification": "Fear",
        "timestamp": str(NEWEST - days_ago * DAY_SECONDS),
    }


def payload(rows: list[Any]) -> dict[str, Any]:
    """A whole answer."""
    return {"name": "Fear and Greed Index", "data": rows, "metadata": {"error": None}}


class Site:
    """What the site answers, and what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body = json.dumps(payload([row("40")])).encode()
        self.wait = threading.Event()
        self.wait.set()
        self.limits: list[str] = []
        self.paths: list[str] = []
        self.url = ""

    def answer(self, document: Any) -> None:
        """Answer with this JSON from now on; real sites send values as strings."""
        self.body = json.dumps(document).encode()


@contextmanager
def serving() -> Iterator[Site]:
    """Serve a site on a free port."""
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            site.paths.append(parts.path)
            site.limits.append(parse_qs(parts.query)["limit"][0])
            site.wait.wait(20)
            self.send_response(site.status)
            self.send_header("Content-Length", str(len(site.body)))
            self.end_headers()
            self.wfile.write(site.body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.wait.set()
        server.shutdown()
        thread.join()
        server.server_close()
