"""The SQL database: its engine, its tables and its transactions; SQLite or PostgreSQL by URL.

It owns how we connect and what is durable. It knows nothing of accounts beyond column names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, make_url

SCHEMA_VERSION = 2
BUSY_TIMEOUT_MS = 30_000
_WRITES = "ballast_writes"

METADATA = sa.MetaData()
_TIME = sa.BigInteger

META = sa.Table(
    "meta",
    METADATA,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
ACCOUNTS = sa.Table(
    "accounts",
    METADATA,
    sa.Column("account_id", sa.String, primary_key=True),
    sa.Column("quote", sa.String, nullable=False),
    sa.Column("opened_at", _TIME, nullable=False),
    sa.Column("market", sa.String, nullable=False, server_default="perp"),
)


def _account_column() -> sa.Column[Any]:
    return sa.Column(
        "account_id", sa.String, sa.ForeignKey("accounts.account_id"), primary_key=True
    )


DECISIONS = sa.Table(
    "decisions",
    METADATA,
    _account_column(),
    sa.Column("decision_time", _TIME, primary_key=True, autoincrement=False),
    sa.Column("decided_at", _TIME, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("model_id", sa.String),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("target_weights", sa.JSON, nullable=False),
    sa.Column("weights", sa.JSON, nullable=False),
    sa.Column("missing", sa.JSON, nullable=False),
    sa.Column("marks", sa.JSON, nullable=False),
    sa.Column("halted", sa.Boolean, nullable=False),
    sa.Column("buy_scale", sa.Double),
    *(
        sa.Column(name, sa.Double, nullable=False)
        for name in (
            "equity",
            "wallet",
            "peak_equity",
            "net_return",
            "turnover",
            "fees",
            "slippage",
            "funding",
        )
    ),
)
ORDERS = sa.Table(
    "orders",
    METADATA,
    sa.Column("order_id", sa.String, primary_key=True),
    sa.Column("account_id", sa.String, nullable=False),
    sa.Column("decision_time", _TIME, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("symbol", sa.String, nullable=False),
    sa.Column("quantity", sa.String, nullable=False),
    sa.Column("decision_price", sa.String, nullable=False),
    sa.Column("limited_by", sa.String),
    sa.ForeignKeyConstraint(
        ["account_id", "decision_time"], ["decisions.account_id", "decisions.decision_time"]
    ),
    sa.UniqueConstraint("account_id", "decision_time", "symbol"),
)
REJECTIONS = sa.Table(
    "rejections",
    METADATA,
    _account_column(),
    sa.Column("decision_time", _TIME, primary_key=True, autoincrement=False),
    sa.Column("symbol", sa.String, primary_key=True),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("wanted_quantity", sa.String, nullable=False),
)
FILLS = sa.Table(
    "fills",
    METADATA,
    sa.Column("fill_id", sa.String, primary_key=True),
    sa.Column("order_id", sa.String, sa.ForeignKey("orders.order_id"), nullable=False),
    sa.Column("account_id", sa.String, nullable=False),
    sa.Column("symbol", sa.String, nullable=False),
    sa.Column("event_time", _TIME, nullable=False),
    *(
        sa.Column(name, sa.String, nullable=False)
        for name in ("quantity", "reference_price", "fill_price", "fee", "slippage")
    ),
    sa.Column("shortfall", sa.String),
    sa.Column("book_id", sa.String),
    sa.UniqueConstraint("order_id"),
    sa.Index("fills_by_time", "account_id", "event_time"),
)
ENTRIES = sa.Table(
    "entries",
    METADATA,
    _account_column(),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("entry_id", sa.String, nullable=False, unique=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("symbol", sa.String),
    sa.Column("event_time", _TIME, nullable=False),
    sa.Column("posted_at", _TIME, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("content_hash", sa.String, nullable=False),
    sa.Column("previous_hash", sa.String, nullable=False),
    sa.Column("hash", sa.String, nullable=False),
    sa.Index("entries_by_kind", "account_id", "kind", "event_time"),
)
POSTINGS = sa.Table(
    "postings",
    METADATA,
    sa.Column("account_id", sa.String, primary_key=True),
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("leg", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("ledger_account", sa.String, nullable=False),
    sa.Column("currency", sa.String, nullable=False),
    sa.Column("amount", sa.String, nullable=False),
    sa.ForeignKeyConstraint(["account_id", "sequence"], ["entries.account_id", "entries.sequence"]),
    sa.Index("postings_by_ledger_account", "account_id", "ledger_account"),
)
AUDIT = sa.Table(
    "audit",
    METADATA,
    sa.Column(
        "audit_id",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    sa.Column("at", _TIME, nullable=False),
    sa.Column("event", sa.String, nullable=False),
    sa.Column("facts", sa.JSON, nullable=False),
)

# Columns that a version added to tables which the version before had.
_ADDED = {
    2: (
        ACCOUNTS.c.market,
        DECISIONS.c.buy_scale,
        ORDERS.c.limited_by,
        FILLS.c.shortfall,
        FILLS.c.book_id,
    )
}


class DatabaseUnavailable(Exception):
    """The database cannot be opened, is locked, full or gone; says which and what to do."""


class SchemaMismatch(Exception):
    """The database was written by another version of the schema."""


def open_engine(url: str) -> Engine:
    """Return an engine for ``sqlite:///PATH`` or ``postgresql+psycopg://…``.

    SQLite: write-ahead log, every commit fsynced, foreign keys on, 30 s of patience with a lock.
    A plain transaction is for reading; write inside ``write_transaction``.

    Raises:
        DatabaseUnavailable: the URL is not usable or the directory cannot be made.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed)
    except (sa.exc.ArgumentError, OSError, ModuleNotFoundError) as error:
        raise DatabaseUnavailable(f"cannot open database {_shown(url)}: {error}") from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def database_exists(url: str) -> bool:
    """Whether there is something to read at ``url``: always for a server, the file for SQLite."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        return True
    return Path(parsed.database).exists()


def create_schema(engine: Engine) -> None:
    """Create missing tables, and bring those of an earlier version up to date.

    Raises:
        SchemaMismatch: the database holds a later version.
        DatabaseUnavailable: it cannot be read or written.
    """
    with write_transaction(engine) as connection:
        METADATA.create_all(connection)
        row = sa.select(META.c.value).where(META.c.key == "schema_version")
        found = connection.execute(row).scalar()
        if found is None:
            values = {"key": "schema_version", "value": str(SCHEMA_VERSION)}
            connection.execute(sa.insert(META), values)
        elif int(found) > SCHEMA_VERSION:
            raise SchemaMismatch(
                f"database {_shown(str(engine.url))} has schema version {found}, "
                f"this program knows {SCHEMA_VERSION}: run the Ballast that wrote it or a later one"
            )
        elif int(found) < SCHEMA_VERSION:
            _upgrade(connection, int(found))


def _upgrade(connection: Connection, version: int) -> None:
    """Add the columns that came after ``version``; nothing that is stored changes."""
    for added in range(version + 1, SCHEMA_VERSION + 1):
        for column in _ADDED[added]:
            ddl = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {column.table.name} ADD COLUMN {ddl}")
    connection.execute(
        sa.update(META).where(META.c.key == "schema_version").values(value=str(SCHEMA_VERSION))
    )


@contextmanager
def write_transaction(engine: Engine) -> Iterator[Connection]:
    """One durable transaction, rolled back on any exception.

    On SQLite it takes the write lock at once: a transaction that reads first and is overtaken by
    another writer would otherwise fail without waiting.

    Raises:
        DatabaseUnavailable: locked for longer than the timeout, disk full, connection lost.
    """
    with _faults(engine), engine.execution_options(**{_WRITES: True}).begin() as connection:
        yield connection


@contextmanager
def read_transaction(engine: Engine) -> Iterator[Connection]:
    """One consistent view for reading.

    Raises:
        DatabaseUnavailable: the database cannot be read.
    """
    with _faults(engine), engine.connect() as connection:
        yield connection


@contextmanager
def _faults(engine: Engine) -> Iterator[None]:
    try:
        yield
    except sa.exc.OperationalError as error:
        raise DatabaseUnavailable(
            f"database {_shown(str(engine.url))}: {error.orig}. "
            "Check that the disk has room and that no other process holds it locked"
        ) from error


def insert_rows(connection: Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many rows that name the same columns.

    The statement and the values go to the driver as they are: preparing the values of each row
    anew costs the engine more than storing them costs the database.
    """
    if not rows:
        return
    columns = tuple(rows[0])
    insert = sa.insert(table).compile(dialect=connection.dialect, column_keys=columns)
    written = [name for name in columns if isinstance(table.c[name].type, sa.JSON)]
    given = [{**row, **{name: json.dumps(row[name]) for name in written}} for row in rows]
    if insert.positiontup is None:
        connection.exec_driver_sql(str(insert), given)
    else:
        in_order = itemgetter(*insert.positiontup)
        connection.exec_driver_sql(str(insert), [in_order(row) for row in given])


def _configure_sqlite(connection: Any, _record: Any) -> None:
    """Set the pragmas; the driver must not open transactions by itself."""
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _shown(url: str) -> str:
    """The URL without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return repr(url)
