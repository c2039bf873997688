"""Who may read the monitor: loopback only by default, a token elsewhere.

Owns the check of every request and the headers of every answer. A browser on this machine is not
trusted to ask on its user's behalf: a page elsewhere may resolve its own name to 127.0.0.1, which
is why the Host header counts on loopback too. It must never log or echo a token.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

MIN_TOKEN_CHARACTERS = 16
TOKEN_VARIABLE = "BALLAST_TOKEN"
CREDENTIAL_NAME = "ballast_token"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class MonitorError(Exception):
    """The monitor cannot be served; the message names the cause and the remedy."""


class TokenRefused(MonitorError):
    """No usable token for an address that demands one; the message names the remedy."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def load_token(environ: Mapping[str, str]) -> str | None:
    """Read the token from ``$BALLAST_TOKEN`` or the credential file ``ballast_token``.

    The file is looked for in ``$CREDENTIALS_DIRECTORY`` (systemd's ``LoadCredential=``), then at
    ``$BALLAST_TOKEN_FILE`` (a container's secret).

    Returns:
        The token, or None where none is set.

    Raises:
        TokenRefused: a token is set but too short, or its file cannot be read.
    """
    origin, token = _find_token(environ)
    if token is None:
        return None
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise TokenRefused(
            f"the token in {origin} has {len(token)} characters; it needs at least "
            f"{MIN_TOKEN_CHARACTERS} (try: openssl rand -hex 32)"
        )
    return token


def guard(*, host: str, token: str | None) -> Middleware:
    """Return the middleware that checks every request to a server bound to ``host``.

    Raises:
        TokenRefused: ``host`` is not loopback and there is no token.
    """
    loopback = is_loopback(host)
    if not loopback and token is None:
        raise TokenRefused(
            f"serving on {host} needs a token, because others can reach it: set {TOKEN_VARIABLE} "
            f"or a credential file {CREDENTIAL_NAME}, or bind to 127.0.0.1"
        )

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        if loopback and not is_loopback(_host_name(request.headers.get("Host", ""))):
            raise web.HTTPMisdirectedRequest(text="this Host is not served here\n")
        if not _same_origin(request):
            raise web.HTTPForbidden(text="requests from other origins are not answered\n")
        if not loopback and not _carries(request, token or ""):
            raise web.HTTPUnauthorized(
                text="a token is needed\n", headers={"WWW-Authenticate": 'Basic realm="ballast"'}
            )
        return await handler(request)

    return check


async def add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Put the security headers on an answer that is about to be sent."""
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    # The version of the server is nobody's business.
    response.headers["Server"] = "ballast"


def _find_token(environ: Mapping[str, str]) -> tuple[str, str | None]:
    if token := environ.get(TOKEN_VARIABLE, "").strip():
        return TOKEN_VARIABLE, token
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(directory) / CREDENTIAL_NAME
        if path.is_file():
            return str(path), _read_token(path)
    if file := environ.get(f"{TOKEN_VARIABLE}_FILE"):
        return file, _read_token(Path(file))
    return "", None


def _read_token(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenRefused(f"cannot read the token from {path}: {error}") from error


def _host_name(header: str) -> str:
    """The name of a Host header, without its port; an SSH tunnel may use another port."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _same_origin(request: web.Request) -> bool:
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("Host", "")


def _carries(request: web.Request, token: str) -> bool:
    """Whether the request has the token: ``Bearer``, or as the password of ``Basic``."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    offered = value.strip()
    if scheme.lower() == "basic":
        try:
            offered = base64.b64decode(offered, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(offered.encode(), token.encode())
