"""Where the warehouse is: the two kinds of URL as values, and who holds an embedded store."""

from __future__ import annotations

import fcntl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from market.store_fault import WarehouseError

_EMBEDDED = "chdb://"
_ASYNC = "+async"
_DEFAULT_PORTS = {"http": 8123, "https": 8443}


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedStore:
    """A chDB directory, owned by one process at a time."""

    path: Path

    @property
    def location(self) -> str:
        """How messages name it."""
        return f"{_EMBEDDED}{self.path}"

    def is_locked(self) -> bool:
        """Whether a process holds the engine's lock; the engine itself says so only on stderr."""
        try:
            with (self.path / "status").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStore:
    """A database on a ClickHouse server; ``is_async`` chooses the client."""

    scheme: str
    host: str
    port: int
    username: str
    password: str = field(repr=False)
    database: str
    is_async: bool = False

    @property
    def location(self) -> str:
        """How messages name it: without user and password."""
        client = _ASYNC if self.is_async else ""
        return f"{self.scheme}{client}://{self.host}:{self.port}/{self.database}"


def parse_store_url(url: str) -> EmbeddedStore | ServerStore:
    """Read ``chdb:///absolute/path`` or ``http(s)://user:password@host:8123/database``.

    ``http+async://`` and ``https+async://`` choose the asynchronous client.

    Raises:
        WarehouseError: the URL has neither form.
    """
    if url.startswith(_EMBEDDED):
        # Taken as it stands: a directory may hold %, # or ?.
        path = Path(url.removeprefix(_EMBEDDED))
        if path.is_absolute() and path != Path("/"):
            return EmbeddedStore(path=path)
    parts = urlsplit(url)
    scheme = parts.scheme.removesuffix(_ASYNC)
    if scheme in _DEFAULT_PORTS and parts.hostname:
        return ServerStore(
            scheme=scheme,
            host=parts.hostname,
            port=_port(parts) or _DEFAULT_PORTS[scheme],
            is_async=parts.scheme.endswith(_ASYNC),
            username=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            database=unquote(parts.path.strip("/")) or "default",
        )
    raise WarehouseError(
        f"{_without_login(parts)} is no warehouse URL: use chdb:///absolute/path or "
        "http(s)://user:password@host:8123/database (http(s)+async:// for the asynchronous client)"
    )


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port
    except ValueError as error:
        raise WarehouseError(f"{_without_login(parts)}: {error}") from error


def _without_login(parts: SplitResult) -> str:
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
