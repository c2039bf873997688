from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from structlog.testing import capture_logs

from daemon.monitor import server
from daemon.monitor.security import MonitorError
from daemon.monitor.server import PortInUse, start_monitor
from tests.daemon import scenes
from tests.daemon.serving import serving


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client against a monitor of the trading scene."""
    async with serving(scenes.trading()) as (_, session):
        yield session


async def test_status_is_flat_json(client: aiohttp.ClientSession) -> None:
    """The status comes as one document with the view's own names, health beside it."""
    async with client.get("/api/status") as answer:
        status = await answer.json()
    assert answer.headers["Cache-Control"] == "no-store"
    assert status["equity"] == pytest.approx(12_938.621262054234)
    assert status["champion"]["model_id"] == scenes.MODEL_ID
    assert (status["healthy"], status["ready"]) == (True, True)
    assert status["sandbox"] is True
    assert status["alerts"][0]["name"] == "missed_decisions"


@pytest.mark.parametrize(
    ("path", "name", "length"),
    [
        ("/api/equity", "points", 2_000),
        ("/api/equity?limit=10", "points", 10),
        ("/api/fills?limit=3", "fills", 3),
        ("/api/decisions", "decisions", 40),
        ("/api/entries", "entries", 1),
        ("/api/models", "models", 2),
    ],
)
async def test_lists(client: aiohttp.ClientSession, path: str, name: str, length: int) -> None:
    """Each list is an object with one named array, no longer than the limit."""
    async with client.get(path) as answer:
        document = await answer.json()
    assert list(document) == [name]
    assert len(document[name]) == length


@pytest.mark.parametrize("limit", ["0", "-1", "5001", "ten", "1e2", "٣", ""])
async def test_bad_limit_is_named(client: aiohttp.ClientSession, limit: str) -> None:
    """A limit that is no whole number in range is refused in words, as JSON."""
    async with client.get("/api/fills", params={"limit": limit}) as answer:
        assert answer.status == 400
        assert await answer.json() == {"error": "limit must be a whole number from 1 to 5000"}


async def test_one_model_with_its_verdict(client: aiohttp.ClientSession) -> None:
    """A model comes with every check, what was not measured being null."""
    async with client.get(f"/api/models/{scenes.REFUSED_ID}") as answer:
        model = (await answer.json())["model"]
    assert model["verdict"]["passed"] is False
    assert model["verdict"]["checks"][0]["value"] is None
    async with client.get("/api/models/no-such") as answer:
        assert answer.status == 404
        assert await answer.json() == {"error": "there is no model no-such"}


async def test_probes_follow_the_view() -> None:
    """200 with the reason while all is well, 503 with the reason otherwise."""
    view = replace(
        scenes.trading(),
        health=(False, "no commit for 3 h"),
        readiness=(False, "history is being fetched"),
    )
    async with serving(view) as (_, session):
        for path, reason in (
            ("/healthz", "no commit for 3 h"),
            ("/readyz", "history is being fetched"),
        ):
            async with session.get(path) as answer:
                assert (answer.status, (await answer.text()).strip()) == (503, reason)


async def test_probes_are_ok(client: aiohttp.ClientSession) -> None:
    """A healthy daemon answers 200."""
    for path in ("/healthz", "/readyz"):
        async with client.get(path) as answer:
            assert answer.status == 200


async def test_events_push_the_status(client: aiohttp.ClientSession) -> None:
    """The stream says at once how things are, and again about a second later."""
    began = time.monotonic()
    async with client.get("/api/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        events = []
        async for line in answer.content:
            if line.startswith(b"data: "):
                events.append((time.monotonic() - began, json.loads(line[6:])))
            if len(events) == 2:
                break
    assert events[0][1]["phase"] == "running"
    assert 0.8 < events[1][0] - events[0][0] < 5


async def test_listeners_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the limit is told to come back; a listener that leaves makes room."""
    monkeypatch.setattr(server, "MAX_LISTENERS", 2)
    monkeypatch.setattr(server, "EVENT_PERIOD_SECONDS", 0.05)
    async with serving(scenes.trading()) as (_, session):
        open_streams = [await session.get("/api/events") for _ in range(2)]
        async with session.get("/api/events") as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "10")
        open_streams[0].close()
        async with asyncio.timeout(5):
            while (again := await session.get("/api/events")).status != 200:
                again.release()
                await asyncio.sleep(0.05)
        again.close()
        open_streams[1].close()


async def test_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stuck listener neither holds up others nor stays for ever."""
    monkeypatch.setattr(server, "EVENT_PERIOD_SECONDS", 0.001)
    monkeypatch.setattr(server, "WRITE_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(server, "MAX_LISTENERS", 1)
    async with serving(scenes.trading()) as (monitor, session), asyncio.timeout(20):
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            stuck.connect(("127.0.0.1", monitor.port))
            stuck.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            statuses = []
            while 200 not in statuses:
                await asyncio.sleep(0.1)
                async with session.get("/api/events") as answer:
                    statuses.append(answer.status)
    assert statuses[0] == 503


async def test_close_ends_open_streams_at_once() -> None:
    """A page that listens does not hold up the daemon's stop."""
    async with serving(scenes.trading()) as (monitor, session):
        stream = await session.get("/api/events")
        await stream.content.readline()
        began = time.monotonic()
        await monitor.close()
        assert time.monotonic() - began < 1.9
        stream.close()


async def test_failing_list_is_500_and_tells_nothing() -> None:
    """An error of the ledger is logged; the answer has no internals, and the rest still works."""
    view = replace(scenes.trading(), failures=["fills"])
    with capture_logs() as logs:
        async with serving(view) as (_, session):
            async with session.get("/api/fills") as answer:
                assert answer.status == 500
                assert "hunter22" not in await answer.text()
                assert "error" in await answer.json()
            async with session.get("/api/status") as answer:
                assert answer.status == 200
    assert [(entry["event"], entry["path"]) for entry in logs] == [
        ("monitor_request_failed", "/api/fills")
    ]


async def test_port_in_use_names_the_address() -> None:
    """A second daemon learns which port is taken and what to do."""
    async with serving(scenes.trading()) as (monitor, _):
        with pytest.raises(PortInUse, match=rf"127\.0\.0\.1:{monitor.port} is in use"):
            await start_monitor(scenes.trading(), port=monitor.port)


async def test_address_that_is_not_ours_is_named() -> None:
    """An address that cannot be bound is an error with the address in it."""
    with pytest.raises(MonitorError, match=r"cannot listen on 203\.0\.113\.1:0"):
        await start_monitor(scenes.trading(), host="203.0.113.1", port=0, token="x" * 16)


async def test_every_static_file_is_served_with_its_type(client: aiohttp.ClientSession) -> None:
    """The page and all it loads come from here, each with its own type."""
    for path, name in server.STATIC_FILES.items():
        async with client.get(path) as answer:
            assert answer.status == 200
            assert answer.content_type == server.CONTENT_TYPES[name.rpartition(".")[2]]
            assert len(await answer.read()) > 100


async def test_unknown_path_is_404(client: aiohttp.ClientSession) -> None:
    """What is not there is not found, in JSON under /api/ and in text elsewhere."""
    async with client.get("/static/../server.py") as answer:
        assert answer.status == 404
    async with client.get("/api/nothing") as answer:
        assert (answer.status, answer.content_type) == (404, "application/json")
