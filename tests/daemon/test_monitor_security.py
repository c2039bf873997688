from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from daemon.monitor.security import TokenRefused, is_loopback, load_token
from daemon.monitor.server import start_monitor
from tests.daemon import scenes
from tests.daemon.serving import serving

TOKEN = "correct-horse-battery-staple"


@pytest.fixture
async def local() -> AsyncIterator[aiohttp.ClientSession]:
    """A client against a monitor on loopback."""
    async with serving(scenes.trading()) as (_, session):
        yield session


@pytest.fixture
async def public() -> AsyncIterator[aiohttp.ClientSession]:
    """A client against a monitor on every address, reached over loopback."""
    async with serving(scenes.trading(), host="0.0.0.0", token=TOKEN) as (_, session):
        yield session


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_loopback_names(host: str, loopback: bool) -> None:
    """Only addresses that no other machine can reach count as loopback."""
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8710", "127.0.0.1.evil.example", "[", ""]
)
async def test_rebound_name_is_not_answered(local: aiohttp.ClientSession, host: str) -> None:
    """A foreign name that resolves to loopback (DNS rebinding) gets no figures."""
    for path in ("/", "/api/status", "/metrics", "/healthz", "/nowhere"):
        async with local.get(path, headers={"Host": host}) as answer:
            assert answer.status == 421
            assert "equity" not in await answer.text()


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:1", "[::1]:8710"])
async def test_own_names_are_answered_on_any_port(local: aiohttp.ClientSession, host: str) -> None:
    """The names of this machine are good on any port: a tunnel may have another one."""
    async with local.get("/api/status", headers={"Host": host}) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_nothing_can_be_changed(local: aiohttp.ClientSession, method: str) -> None:
    """Every method but reading is refused."""
    async with local.request(method, "/api/status") as answer:
        assert answer.status == 405


async def test_other_origins_are_refused(local: aiohttp.ClientSession) -> None:
    """A page of another origin gets no answer, and never a CORS header."""
    async with local.get("/api/status", headers={"Origin": "https://evil.example"}) as answer:
        assert answer.status == 403
    async with local.get("/api/status", headers={"Origin": "null"}) as answer:
        assert answer.status == 403
    async with local.get("/api/status") as answer:
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize("path", ["/", "/api/status", "/api/events", "/nowhere", "/metrics"])
async def test_every_answer_has_the_headers(local: aiohttp.ClientSession, path: str) -> None:
    """The policy allows our own files only: no inline script, no other host, no frame."""
    async with local.get(path) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Server"] == "ballast"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "Bearer",
        "Bearer wrong-horse-battery-staple",
        f"Digest {TOKEN}",
        TOKEN,
        _basic("any", "wrong"),
        _basic(TOKEN, ""),
        "Basic !!!",
        "Basic /w==",
        "Bearer ünïcode",
    ],
)
async def test_without_the_token_nothing_is_read(
    public: aiohttp.ClientSession, authorization: str | None
) -> None:
    """On an address that others reach, every route needs the token."""
    headers = {} if authorization is None else {"Authorization": authorization}
    for path in ("/", "/api/status", "/api/events", "/metrics", "/healthz", "/static/page.js"):
        async with public.get(path, headers=headers) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"].startswith("Basic")
            assert TOKEN not in await answer.text()


@pytest.mark.parametrize(
    "authorization", [f"Bearer {TOKEN}", f"bearer {TOKEN}", _basic("q", TOKEN)]
)
async def test_with_the_token_all_is_read(
    public: aiohttp.ClientSession, authorization: str
) -> None:
    """The token as Bearer (a scraper) or as a password (a browser) opens every route."""
    for path in ("/", "/api/status", "/metrics"):
        async with public.get(path, headers={"Authorization": authorization}) as answer:
            assert answer.status == 200


async def test_public_address_demands_a_token() -> None:
    """Without a token the monitor does not even listen on such an address."""
    with pytest.raises(TokenRefused, match=r"0\.0\.0\.0 needs a token.*BALLAST_TOKEN"):
        await start_monitor(scenes.trading(), host="0.0.0.0", port=0)


def test_token_comes_from_the_environment_first(tmp_path: Path) -> None:
    """The variable wins over the credential, the credential over the named file."""
    (tmp_path / "ballast_token").write_text("from-the-credential\n")
    (tmp_path / "other").write_text("from-another-file\n")
    file = {"BALLAST_TOKEN_FILE": str(tmp_path / "other")}
    credential = {"CREDENTIALS_DIRECTORY": str(tmp_path), **file}
    assert load_token({"BALLAST_TOKEN": " from-the-variable ", **credential}) == "from-the-variable"
    assert load_token(credential) == "from-the-credential"
    assert load_token(file) == "from-another-file"
    assert load_token({}) is None
    assert load_token({"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}) is None


def test_short_token_is_refused_without_being_told() -> None:
    """A guessable token is refused; the message has its length and not the token."""
    with pytest.raises(TokenRefused, match="has 9 characters") as refused:
        load_token({"BALLAST_TOKEN": "letmein99"})
    assert "letmein99" not in str(refused.value)


def test_missing_token_file_is_named(tmp_path: Path) -> None:
    """A file that was named and is not there is an error, not an open door."""
    with pytest.raises(TokenRefused, match="nowhere"):
        load_token({"BALLAST_TOKEN_FILE": str(tmp_path / "nowhere")})
