"""The monitor's HTTP server: the page, JSON, server-sent events, metrics and probes.

Reads the view and nothing else; every route is a GET. It must never hold up the loop: a slow or
stuck client costs its own connection only, and there is a limit to how many may listen.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import resources

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from daemon.monitor.metrics import build_registry, render_metrics
from daemon.monitor.security import MonitorError, add_headers, guard
from daemon.monitor.view import View, to_json
from market.clock import monotonic_seconds

EVENT_PERIOD_SECONDS = 1.0
STATUS_MAX_AGE_SECONDS = 0.25
WRITE_TIMEOUT_SECONDS = 10.0
MAX_LISTENERS = 64
STATIC_FILES: Mapping[str, str] = {
    "/": "index.html",
    "/static/page.css": "page.css",
    "/static/page.js": "page.js",
    "/static/account.js": "account.js",
    "/static/chart.js": "chart.js",
    "/static/dom.js": "dom.js",
    "/static/format.js": "format.js",
    "/static/learning.js": "learning.js",
    "/static/summary.js": "summary.js",
    "/static/icon.svg": "icon.svg",
}
CONTENT_TYPES: Mapping[str, str] = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}

log = structlog.get_logger()


class PortInUse(MonitorError):
    """Another process listens on the address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """A running server. ``port`` is the one it got, where 0 was asked for."""

    host: str
    port: int
    runner: web.AppRunner

    @property
    def url(self) -> str:
        """Where the page is."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{self.port}/"

    async def close(self) -> None:
        """Stop listening and end every stream, within seconds."""
        await self.runner.cleanup()


async def start_monitor(
    view: View, *, host: str = "127.0.0.1", port: int = 8710, token: str | None = None
) -> Monitor:
    """Serve ``view`` on ``host:port`` until ``close``.

    Args:
        view: what is shown.
        host: address to bind; anything but loopback demands ``token``.
        port: 0 takes a free one.
        token: what every client must show unless ``host`` is loopback.

    Raises:
        TokenRefused: ``host`` is not loopback and there is no token.
        PortInUse: another process has the port.
        MonitorError: the address cannot be bound for another reason.
    """
    app = build_app(view, host=host, token=token)
    runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise _unavailable(host, port, error) from error
    return Monitor(host=host, port=runner.addresses[0][1], runner=runner)


def build_app(view: View, *, host: str, token: str | None = None) -> web.Application:
    """Return the application; ``host`` is where it will listen, which decides who may read."""
    app = web.Application(middlewares=[guard(host=host, token=token), _tell_errors])
    app.on_response_prepare.append(add_headers)
    pages = _Pages(view=view)
    app.on_shutdown.append(pages.stop)
    for path, name in STATIC_FILES.items():
        app.router.add_get(path, _static(name))
    for path, handler in (
        ("/api/status", pages.status),
        ("/api/equity", pages.equity),
        ("/api/fills", pages.fills),
        ("/api/decisions", pages.decisions),
        ("/api/entries", pages.entries),
        ("/api/models", pages.models),
        ("/api/models/{model_id}", pages.model),
        ("/api/events", pages.events),
        ("/metrics", _metrics(view)),
        ("/healthz", _probe(view.healthy)),
        ("/readyz", _probe(view.ready)),
    ):
        app.router.add_get(path, handler)
    return app


@dataclass(slots=True, kw_only=True)
class _Pages:
    """The JSON routes and the streams that are open."""

    view: View
    listeners: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _status_text: str = ""
    _status_at: float = float("-inf")

    async def stop(self, _app: web.Application) -> None:
        self.stopping.set()

    async def status(self, _request: web.Request) -> web.Response:
        return web.Response(text=self._status(), content_type="application/json")

    async def equity(self, request: web.Request) -> web.Response:
        return _json(points=await self.view.equity_curve(_limit(request, default=2_000)))

    async def fills(self, request: web.Request) -> web.Response:
        return _json(fills=await self.view.recent_fills(_limit(request, default=50)))

    async def decisions(self, request: web.Request) -> web.Response:
        return _json(decisions=await self.view.recent_decisions(_limit(request, default=50)))

    async def entries(self, request: web.Request) -> web.Response:
        return _json(entries=await self.view.entries(_limit(request, default=50)))

    async def models(self, _request: web.Request) -> web.Response:
        return _json(models=await self.view.models())

    async def model(self, request: web.Request) -> web.Response:
        model_id = request.match_info["model_id"]
        found = await self.view.model(model_id)
        if found is None:
            raise web.HTTPNotFound(text=f"there is no model {model_id}")
        return _json(model=found)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Push the status about once per second until the client or the daemon leaves."""
        if self.listeners >= MAX_LISTENERS:
            raise web.HTTPServiceUnavailable(
                text="too many listeners", headers={"Retry-After": "10"}
            )
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}
        )
        await response.prepare(request)
        self.listeners += 1
        try:
            await self._push(response)
        except (ConnectionError, TimeoutError):
            # The client has gone or does not read; it asks again by itself.
            pass
        finally:
            self.listeners -= 1
        return response

    async def _push(self, response: web.StreamResponse) -> None:
        await response.write(b"retry: 2000\n\n")
        while not self.stopping.is_set():
            message = f"event: status\ndata: {self._status()}\n\n".encode()
            async with asyncio.timeout(WRITE_TIMEOUT_SECONDS):
                await response.write(message)
            try:
                async with asyncio.timeout(EVENT_PERIOD_SECONDS):
                    await self.stopping.wait()
            except TimeoutError:
                continue

    def _status(self) -> str:
        """The status as JSON, made once for all that listen."""
        now = monotonic_seconds()
        if now - self._status_at >= STATUS_MAX_AGE_SECONDS:
            status = self.view.status()
            healthy, reason = self.view.healthy()
            ready, waiting_for = self.view.ready()
            document = {
                **{each.name: to_json(getattr(status, each.name)) for each in fields(status)},
                "healthy": healthy,
                "health_reason": reason,
                "ready": ready,
                "ready_reason": waiting_for,
            }
            self._status_text = json.dumps(document, allow_nan=False, separators=(",", ":"))
            self._status_at = now
        return self._status_text


def _static(name: str) -> Handler:
    body = (resources.files("daemon.monitor") / "static" / name).read_bytes()
    content_type = CONTENT_TYPES[name.rpartition(".")[2]]

    async def serve(_request: web.Request) -> web.Response:
        return web.Response(
            body=body,
            content_type=content_type,
            charset="utf-8",
            headers={"Cache-Control": "no-cache"},
        )

    return serve


def _metrics(view: View) -> Handler:
    registry = build_registry(view)

    async def serve(request: web.Request) -> web.Response:
        body, content_type = render_metrics(registry, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    return serve


def _probe(ask: Callable[[], tuple[bool, str]]) -> Handler:
    async def serve(_request: web.Request) -> web.Response:
        good, reason = ask()
        return web.Response(status=200 if good else 503, text=f"{reason}\n")

    return serve


@web.middleware
async def _tell_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with JSON where a route fails, and keep our own bugs visible in the log."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        if not request.path.startswith("/api/"):
            raise
        return _error(error.status, error.text or error.reason, error.headers.get("Retry-After"))
    except Exception:
        # A broken page must not stop trading.
        log.exception("monitor_request_failed", path=request.path)
        return _error(500, "the daemon could not answer; its log says why")


def _error(status: int, message: str, retry_after: str | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return web.json_response({"error": message}, status=status, headers=headers)


def _json(**document: object) -> web.Response:
    text = json.dumps(to_json(document), allow_nan=False, separators=(",", ":"))
    return web.Response(text=text, content_type="application/json")


def _limit(request: web.Request, *, default: int, most: int = 5_000) -> int:
    text = request.query.get("limit", str(default))
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= most:
        raise web.HTTPBadRequest(text=f"limit must be a whole number from 1 to {most}")
    return int(text)


def _unavailable(host: str, port: int, error: OSError) -> MonitorError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"{host}:{port} is in use by another process, perhaps another ballast; stop it or "
            "choose another port (monitor.port)"
        )
    return MonitorError(f"cannot listen on {host}:{port}: {error.strerror or error}")
