"""Opening a store: who may, what is said when it fails, and what survives."""

from __future__ import annotations

import signal
import socketserver
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from market import connection
from market.migrations import MigrationError, due_migrations, load_migrations
from market.store_url import ServerStore, parse_store_url
from market.warehouse import Warehouse, WarehouseError

ROOT = Path(__file__).parents[2]


def _python(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


OPEN = """
import sys
from market.warehouse import Warehouse, WarehouseError
try:
    Warehouse.open(sys.argv[1])
except WarehouseError as error:
    print(error)
"""

WRITE_AND_WAIT = """
import signal
import sys
from market.bar import Bar
from market.warehouse import Origin, Warehouse
bars = [
    Bar(symbol="A", open_time=hour * 3_600_000, open=1, high=1, low=1, close=1, volume=1)
    for hour in range(20)
]
store = Warehouse.open(sys.argv[1])
for bar in bars:
    store.insert_bars([bar], venue="v", interval_ms=3_600_000, origin=Origin.REST, ingested_at=1)
print("stored", flush=True)
signal.pause()
"""

COUNT = """
import sys
from market.warehouse import Warehouse
print(Warehouse.open(sys.argv[1]).coverage(venue="v", interval_ms=3_600_000)[0].bars)
"""


MIGRATE = """
import sys
from market import migrations
from market.bar import Bar
from market.gap import Gap, GapKind
from market.warehouse import Origin, Warehouse
every = migrations.load_migrations()
scope = {"venue": "v", "interval_ms": 3_600_000}
bar = Bar(symbol="A", open_time=0, open=1, high=1, low=1, close=1, volume=1)
gap = Gap(symbol="A", open_time=0, kind=GapKind.ABSENT, noticed_at=1, updated_at=1)
migrations.load_migrations = lambda: every[:1]
store = Warehouse.open(sys.argv[1])
store.insert_bars([bar], **scope, origin=Origin.REST, ingested_at=1)
store.close()
migrations.load_migrations = lambda: every
for _ in range(2):
    store = Warehouse.open(sys.argv[1])
    store.insert_gaps([gap], **scope)
    print(store.coverage(**scope)[0].bars, len(store.gaps(**scope, since=0, until=1)))
    store.close()
"""


class Trickle(socketserver.BaseRequestHandler):
    """Answers a header every moment and never ends, until the client leaves."""

    left = threading.Event()

    def handle(self) -> None:
        self.request.sendall(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                self.request.sendall(b"X-Still: here\r\n")
                self.left.wait(0.05)
        except OSError:
            self.left.set()


def test_path_owned_by_another_process(warehouse: Warehouse, warehouse_path: Path) -> None:
    """A second process is told who is in the way and what to do."""
    with _python(OPEN, f"chdb://{warehouse_path}") as second:
        output, _ = second.communicate(timeout=60)
    assert f"another ballast process owns {warehouse_path}" in output
    assert "stop it or use its HTTP API" in output


def test_second_path_in_one_process(warehouse: Warehouse, tmp_path: Path) -> None:
    """One process serves one embedded path, and the message says so."""
    with pytest.raises(WarehouseError, match="may hold only one"):
        Warehouse.open(f"chdb://{tmp_path / 'second'}")


def test_same_path_may_be_opened_twice(warehouse: Warehouse, warehouse_path: Path) -> None:
    """Closing one handle leaves the other at work."""
    second = Warehouse.open(f"chdb://{warehouse_path}")
    second.close()
    second.close()
    with pytest.raises(WarehouseError, match="closed"):
        second.coverage(venue="v", interval_ms=1)
    assert warehouse.coverage(venue="nobody", interval_ms=1) == ()


def test_opening_leaves_the_signal_mask_alone(warehouse: Warehouse) -> None:
    """The engine would block SIGPIPE here and in every child process."""
    assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_acknowledged_rows_survive_a_kill(tmp_path: Path) -> None:
    """What an insert returned for is there after SIGKILL."""
    url = f"chdb://{tmp_path / 'store'}"
    with _python(WRITE_AND_WAIT, url) as writer:
        assert writer.stdout is not None
        while (line := writer.stdout.readline()) and line != "stored\n":
            pass
        writer.kill()
    with _python(COUNT, url) as reader:
        output, _ = reader.communicate(timeout=60)
    assert output.splitlines()[-1] == "20"


@pytest.mark.parametrize("url", ["chdb://relative/path", "chdb:///", "ftp://host/db", "/var/lib/x"])
def test_unusable_url_is_named_with_both_forms(url: str) -> None:
    """The message shows the URL and what one looks like."""
    with pytest.raises(WarehouseError, match="chdb:///absolute/path") as caught:
        Warehouse.open(url)
    assert url in str(caught.value)


def test_store_of_the_first_migration_is_brought_up_to_date(tmp_path: Path) -> None:
    """Its bars stay, the newer tables are there, and opening it again changes nothing."""
    with _python(MIGRATE, f"chdb://{tmp_path / 'store'}") as process:
        output, errors = process.communicate(timeout=60)
    assert output.splitlines()[-1:] == ["1 1"], errors
    assert output.splitlines().count("1 1") == 2
    assert output.count("migration=0001") == 1
    assert output.count("migration=0002") == 1
    assert output.count("migration=0003") == 1


def test_asynchronous_call_ends_although_packets_keep_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit is on the call as a whole, and its request is cancelled."""
    monkeypatch.setattr(connection, "CALL_LIMIT_SECONDS", 1)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickle) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(WarehouseError, match=r"http\+async://127.*no answer within 1 s"):
            Warehouse.open(f"http+async://127.0.0.1:{server.server_address[1]}/default")
        assert Trickle.left.wait(10)
        server.shutdown()


def test_server_that_does_not_answer_is_named_without_its_password() -> None:
    """The message names host, port and database, and never the login."""
    with pytest.raises(WarehouseError, match="check that the ClickHouse server runs") as caught:
        Warehouse.open("http://reader:secret@127.0.0.1:1/market")
    assert "http://127.0.0.1:1/market" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_url_of_a_server_is_read_in_full() -> None:
    """User, password, port and database come from the URL, percent-decoded."""
    assert parse_store_url("https://me:p%40ss@db.example/market") == ServerStore(
        scheme="https",
        host="db.example",
        port=8443,
        username="me",
        password="p@ss",
        database="market",
    )


def test_asynchronous_client_is_chosen_by_the_url() -> None:
    """Everything else of the URL means the same."""
    plain = parse_store_url("http://me@db.example:81/market")
    chosen = parse_store_url("http+async://me@db.example:81/market")
    assert isinstance(plain, ServerStore)
    assert chosen == replace(plain, is_async=True)
    assert chosen.location == "http+async://db.example:81/market"


def test_migrations_are_numbered_without_a_gap() -> None:
    """0001, 0002, ... and each holds statements."""
    migrations = load_migrations()
    assert [item.version for item in migrations] == list(range(1, len(migrations) + 1))
    assert all(item.statements for item in migrations)


def test_only_missing_migrations_are_due() -> None:
    """What was applied with the same content is not applied again."""
    first = load_migrations()[0]
    second = replace(first, version=2, sha256="two")
    assert due_migrations([first, second], {1: first.sha256}) == (second,)


def test_newer_schema_is_refused() -> None:
    """A store that a later program wrote is not touched."""
    first = load_migrations()[0]
    with pytest.raises(MigrationError, match="newer than this program's 0001"):
        due_migrations([first], {1: first.sha256, 7: "later"})


def test_changed_migration_is_refused() -> None:
    """A file that was applied must stay as it was."""
    first = load_migrations()[0]
    with pytest.raises(MigrationError, match="applied with other content"):
        due_migrations([first], {1: "other"})
