"""Every kind of client: chDB, HTTP, asynchronous HTTP, and a real server where one is given.

``BALLAST_TEST_CLICKHOUSE_URL`` names an empty database on a ClickHouse server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from market.warehouse import Warehouse

ROOT = Path(__file__).parents[2]
SERVER_URL = os.environ.get("BALLAST_TEST_CLICKHOUSE_URL")
STORES = ["chdb", "http", "async", *(["server", "async_server"] if SERVER_URL else [])]


@pytest.fixture(scope="session")
def http_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A ClickHouse HTTP interface in another process."""
    directory = tmp_path_factory.mktemp("front") / "chdb"
    command = [sys.executable, "-m", "tests.contracts.clickhouse_front", str(directory)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as front:
        assert front.stdin is not None
        assert front.stdout is not None
        yield f"http://reader:pass%40word@127.0.0.1:{int(front.stdout.readline())}/default"
        front.stdin.close()


@pytest.fixture(scope="session")
def opened(http_url: str, warehouse: Warehouse) -> Iterator[dict[str, Warehouse]]:
    """Every store of this run."""
    urls = {"http": http_url, "async": asynchronous(http_url)}
    if SERVER_URL:
        urls |= {"server": SERVER_URL, "async_server": asynchronous(SERVER_URL)}
    stores = {name: Warehouse.open(url) for name, url in urls.items()}
    yield {"chdb": warehouse} | stores
    for store in stores.values():
        store.close()


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, opened: dict[str, Warehouse]) -> Warehouse:
    """Each kind of store in turn."""
    return opened[request.param]


def asynchronous(url: str) -> str:
    """The same server through the asynchronous client."""
    return url.replace("://", "+async://", 1)
