"""An account as files: its entries, postings, fills, orders, rejections and decisions, whole.

One file for each, with the columns of its table in the ledger (docs/account.md). Amounts, prices
and quantities stay the text that the ledger holds, in Parquet too: a price is the shortest decimal
of a float64 and has no fixed scale, and the hashes of the chain cover the text. All files are read
in one transaction, a batch in memory at a time, and have their names only once all are complete.
It must never replace a file unasked.
"""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from broker.database import (
    DECISIONS,
    ENTRIES,
    FILLS,
    ORDERS,
    POSTINGS,
    REJECTIONS,
    read_transaction,
)
from broker.history import streamed
from broker.records import Row

Progress = Callable[[str, int, int], None]
"""Called with a table's name, its rows written so far, and how many it has."""

# In the order in which they are written, each with the columns that its rows are sorted by.
TABLES: Mapping[sa.Table, tuple[str, ...]] = {
    ENTRIES: ("sequence",),
    POSTINGS: ("sequence", "leg"),
    FILLS: ("event_time", "fill_id"),
    ORDERS: ("decision_time", "position"),
    REJECTIONS: ("decision_time", "symbol"),
    DECISIONS: ("decision_time",),
}


class ExportFormat(enum.StrEnum):
    """What the files are."""

    CSV = "csv"
    PARQUET = "parquet"


class ExportRefused(Exception):
    """The files cannot be written; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """One file and its rows."""

    table: str
    path: Path
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written.

    Attributes:
        files: one for each table.
        last_sequence, last_hash: the end of the hash chain, which a later export must contain; 0
            and empty without entries.
    """

    files: tuple[ExportedFile, ...]
    last_sequence: int
    last_hash: str


def export_account(
    engine: Engine,
    account_id: str,
    folder: Path,
    *,
    file_format: ExportFormat,
    force: bool = False,
    progress: Progress | None = None,
) -> Export:
    """Write everything that the ledger has of an account into a folder.

    Args:
        engine: of the ledger.
        account_id: an account that exists.
        folder: made where it is missing.
        file_format: of the files, which are named ``entries.csv`` and so on.
        force: whether files of these names are replaced.
        progress: told how far it is.

    Raises:
        ExportRefused: a file exists, or the folder is no folder.
        OSError: the disk failed; nothing is left behind.
        DatabaseUnavailable: the ledger cannot be read.
    """
    targets = {table: folder / f"{table.name}.{file_format}" for table in TABLES}
    check_targets(folder, targets.values(), force=force)
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = {
        table: path.with_name(f".{path.name}.{os.getpid()}.partial")
        for table, path in targets.items()
    }
    rows: dict[sa.Table, int] = {}
    try:
        with _one_view(engine) as connection:
            for table, path in unfinished.items():
                with closing(_batches(connection, account_id, table, progress)) as batches:
                    rows[table] = _write(batches, path, schema_of(table), file_format)
            last_sequence, last_hash = _chain_end(connection, account_id)
        check_targets(folder, targets.values(), force=force)
        for table, path in unfinished.items():
            path.replace(targets[table])
        _sync(folder)
    finally:
        for path in unfinished.values():
            path.unlink(missing_ok=True)
    files = tuple(
        ExportedFile(table=table.name, path=targets[table], rows=rows[table]) for table in TABLES
    )
    return Export(files=files, last_sequence=last_sequence, last_hash=last_hash)


def check_targets(folder: Path, targets: Iterable[Path], *, force: bool) -> None:
    """Refuse a folder that is none, and files that exist; see ``export_account``."""
    if folder.exists() and not folder.is_dir():
        raise ExportRefused(f"{folder} is not a folder; name another with --out")
    taken = [path.name for path in targets if path.exists()]
    if taken and not force:
        raise ExportRefused(
            f"{folder} has {', '.join(taken)} already; --force replaces what is there, or name "
            "another folder with --out"
        )


def schema_of(table: sa.Table) -> pa.Schema:
    """Return the columns of an exported table, in their order: JSON and amounts are text."""
    return pa.schema([pa.field(one.name, _type_of(one), one.nullable) for one in table.columns])


def _type_of(column: sa.Column[object]) -> pa.DataType:
    match column.type:
        case sa.Boolean():
            return pa.bool_()
        case sa.Integer():
            return pa.int64()
        case sa.Double():
            return pa.float64()
        case sa.String() | sa.JSON():
            return pa.string()
        case _:
            raise TypeError(f"column {column}: no file type for {column.type!r}")


@contextmanager
def _one_view(engine: Engine) -> Iterator[Connection]:
    """Read everything as of one moment, whatever a running daemon commits meanwhile."""
    if engine.dialect.name != "sqlite":  # SQLite's transactions are so anyway
        engine = engine.execution_options(isolation_level="REPEATABLE READ")
    with read_transaction(engine) as connection:
        yield connection


def _batches(
    connection: Connection, account_id: str, table: sa.Table, progress: Progress | None
) -> Generator[pa.Table, None, None]:
    own = table.c.account_id == account_id
    count = sa.select(sa.func.count()).select_from(table).where(own)
    total = connection.execute(count).scalar_one()
    query = sa.select(table).where(own).order_by(*(table.c[name] for name in TABLES[table]))
    schema, done = schema_of(table), 0
    with streamed(connection, query) as batches:
        for rows in batches:
            yield pa.Table.from_pylist([_plain(row) for row in rows], schema)
            done += len(rows)
            if progress is not None:
                progress(table.name, done, total)


def _plain(row: Row) -> dict[str, object]:
    return {
        name: json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        if isinstance(value, dict | list)
        else value
        for name, value in row.items()
    }


class _Writer(Protocol):
    def write_table(self, table: pa.Table) -> None: ...

    def close(self) -> None: ...


def _write(
    batches: Iterable[pa.Table], path: Path, schema: pa.Schema, file_format: ExportFormat
) -> int:
    """Write a file to the disk and return its rows."""
    rows = 0
    with path.open("wb") as file:
        writer: _Writer
        match file_format:
            case ExportFormat.CSV:
                writer = pa_csv.CSVWriter(file, schema)
            case ExportFormat.PARQUET:
                writer = pq.ParquetWriter(file, schema, compression="zstd")
        try:
            for batch in batches:
                writer.write_table(batch)
                rows += len(batch)
        finally:
            writer.close()
        file.flush()
        os.fsync(file.fileno())
    return rows


def _chain_end(connection: Connection, account_id: str) -> tuple[int, str]:
    query = (
        sa.select(ENTRIES.c.sequence, ENTRIES.c.hash)
        .where(ENTRIES.c.account_id == account_id)
        .order_by(ENTRIES.c.sequence.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return (0, "") if row is None else (row.sequence, row.hash)


def _sync(folder: Path) -> None:
    """Keep the new names on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
