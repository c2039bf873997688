"""Connections to ClickHouse: embedded chDB, the ordinary HTTP client, the asynchronous one.

With ``market.warehouse`` the only module that knows the driver. It owns the client, its lock, the
limits of time, and the words for what went wrong. It must never know a table.

**The asynchronous client** (``http+async://``, ``https+async://``) does the same over aiohttp, on
an event loop in a thread of its own. A call ends after ``CALL_LIMIT_SECONDS`` as a whole, whatever
the server does, and its request is cancelled; the ordinary client only limits the silence between
two packets. It is for servers behind links that stall. It needs aiohttp, which Ballast has anyway.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import clickhouse_connect
import numpy.typing as npt
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError

from market.store_fault import WarehouseError, explain_fault
from market.store_url import EmbeddedStore, ServerStore

Row = Sequence[Any]
Rows = npt.NDArray[Any]
Parameters = Mapping[str, Any]
Settings = Mapping[str, int]

# The server ends a read that takes longer. A read of 21 M bars takes some seconds.
READ_LIMIT_SECONDS = 60
# The clients end a call that takes longer, for the ordinary one since its last packet.
CALL_LIMIT_SECONDS = 120
CONNECT_LIMIT_SECONDS = 10


class Connection:
    """One open client. Calls of several threads are served one after another."""

    def __init__(self, client: Any, *, location: str) -> None:
        """Use ``connect``."""
        self._client = client
        self.location = location
        self.lock = threading.RLock()

    def close(self) -> None:
        """Release the store; closing twice is harmless."""
        with self.lock:
            self._client.close()

    def command(self, statement: str, parameters: Parameters | None = None) -> None:
        """Run a statement that answers nothing."""
        with self.lock, explaining("change", self.location):
            self._client.command(statement, parameters=dict(parameters or {}))

    def rows(self, statement: str, parameters: Parameters) -> Sequence[Row]:
        """Read rows of Python values."""
        with self.lock, explaining("read", self.location):
            found: Sequence[Row] = self._client.query(
                statement, parameters=dict(parameters), settings=_reading()
            ).result_rows
        return found

    def columns(self, statement: str, parameters: Parameters) -> Rows:
        """Read a structured array with one field per column."""
        with self.lock, explaining("read", self.location):
            found: Rows = self._client.query_np(
                statement, parameters=dict(parameters), settings=_reading()
            )
        return found

    def table(
        self, statement: str, parameters: Parameters, *, settings: Settings | None = None
    ) -> pa.Table:
        """Read an Arrow table; text comes as strings."""
        with self.lock, explaining("read", self.location):
            return self._client.query_arrow(
                statement,
                parameters=dict(parameters),
                settings=_reading() | _ARROW | dict(settings or {}),
                use_strings=True,
            )

    def insert(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Append rows given by column; none is fine."""
        if not next(iter(columns.values())):
            return
        with self.lock, explaining("write to", self.location):
            self._client.insert(
                table,
                list(columns.values()),
                column_names=list(columns),
                column_oriented=True,
                settings=_WRITING,
            )

    def insert_table(self, table: str, rows: pa.Table) -> None:
        """Append an Arrow table; an empty one is fine."""
        if not rows.num_rows:
            return
        with self.lock, explaining("write to", self.location):
            self._client.insert_arrow(table, rows, settings=_WRITING)


# An insert is acknowledged when it is on disk, whatever the server's default.
_WRITING = {"async_insert": 0}


# Packing an answer that never leaves this process costs a seventh of a long read; over HTTP the
# client's own compression does it.
_ARROW = {"output_format_arrow_compression_method": "none"}


def _reading() -> dict[str, int]:
    return {"max_execution_time": READ_LIMIT_SECONDS}


def connect(store: EmbeddedStore | ServerStore) -> Connection:
    """Open a connection.

    Raises:
        WarehouseError: another process owns the path, or the server does not answer or refuses.
    """
    with explaining("open", store.location):
        match store:
            case EmbeddedStore(path=path):
                path.mkdir(parents=True, exist_ok=True)
                client = _open_embedded(store)
            case ServerStore(is_async=True):
                client = AsyncDriver(store)
            case ServerStore():
                client = clickhouse_connect.get_client(
                    **_address(store), autogenerate_session_id=False
                )
    return Connection(client, location=store.location)


class AsyncDriver:
    """The asynchronous client behind synchronous calls, on an event loop of its own."""

    def __init__(self, store: ServerStore) -> None:
        """Start the loop and connect."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="clickhouse-client", daemon=True
        )
        self._thread.start()
        try:
            self._client = self._wait(clickhouse_connect.get_async_client(**_address(store)))
        except BaseException:
            self._stop()
            raise

    def query(self, *args: Any, **options: Any) -> Any:
        """As the client's method of this name; so are the others."""
        return self._wait(self._client.query(*args, **options))

    def query_np(self, *args: Any, **options: Any) -> Any:
        """Structured array."""
        return self._wait(self._client.query_np(*args, **options))

    def query_arrow(self, *args: Any, **options: Any) -> Any:
        """Arrow table."""
        return self._wait(self._client.query_arrow(*args, **options))

    def command(self, *args: Any, **options: Any) -> Any:
        """A statement that answers nothing."""
        return self._wait(self._client.command(*args, **options))

    def insert(self, *args: Any, **options: Any) -> Any:
        """Rows by column."""
        return self._wait(self._client.insert(*args, **options))

    def insert_arrow(self, *args: Any, **options: Any) -> Any:
        """An Arrow table."""
        return self._wait(self._client.insert_arrow(*args, **options))

    def close(self) -> None:
        """Close the sockets and end the thread; closing twice is harmless."""
        if not self._loop.is_closed():
            try:
                self._wait(self._client.close())
            finally:
                self._stop()

    def _wait(self, call: Coroutine[Any, Any, Any]) -> Any:
        if self._loop.is_closed():
            call.close()
            raise ClickHouseError("the client has been closed")
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result(CALL_LIMIT_SECONDS)
        except TimeoutError as error:
            future.cancel()
            raise ClickHouseError(f"no answer within {CALL_LIMIT_SECONDS} s") from error

    def _stop(self) -> None:
        # A call that was cancelled has its sockets still to close.
        asyncio.run_coroutine_threadsafe(_end_calls(), self._loop).result(CONNECT_LIMIT_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _end_calls() -> None:
    calls = asyncio.all_tasks() - {asyncio.current_task()}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


@contextmanager
def explaining(action: str, location: str) -> Iterator[None]:
    """Turn the driver's errors into ``WarehouseError`` with a cause and a remedy."""
    try:
        yield
    except (ClickHouseError, OSError) as error:
        raise WarehouseError(
            f"cannot {action} {location}: {explain_fault(error, location)}"
        ) from error


def _address(store: ServerStore) -> dict[str, Any]:
    return {
        "interface": store.scheme,
        "host": store.host,
        "port": store.port,
        "username": store.username,
        "password": store.password,
        "database": store.database,
        "form_encode_query_params": True,
        "connect_timeout": CONNECT_LIMIT_SECONDS,
        "send_receive_timeout": CALL_LIMIT_SECONDS,
    }


def _open_embedded(store: EmbeddedStore) -> Any:
    try:
        with _kept_signal_mask():
            return clickhouse_connect.get_client(interface="chdb", path=str(store.path))
    except ClickHouseError as error:
        if store.is_locked():
            raise WarehouseError(
                f"cannot open {store.location}: another ballast process owns {store.path}; "
                "stop it or use its HTTP API"
            ) from error
        raise


@contextmanager
def _kept_signal_mask() -> Iterator[None]:
    """The chDB engine blocks SIGPIPE in the thread that opens it, and children inherit that."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
