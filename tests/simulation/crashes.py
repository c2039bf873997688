"""A process that is stopped at one chosen write point of the store, and the one that comes after.

A write point lies before and after every SQL statement inside a write transaction, and before and
after its commit. What the stopped process leaves is what the next one starts from: for SQLite the
files as they are at that moment, for PostgreSQL a connection that breaks off. Run as a program, it
replays into a database and ends itself (``os._exit``) at a point.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NoReturn, Protocol

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from broker import database
from broker.store import DatabaseUnavailable, Store
from daemon import replay
from tests.broker.worlds import World
from tests.simulation.histories import carry_on, make_history, make_job, make_schedule

SEED = 5
EXIT_CODE = 41
AFTER_COMMIT = "after commit"
Rows = dict[str, list[tuple[Any, ...]]]


class Stopped(BaseException):
    """The process is gone; no handler of ``Exception`` may see it."""


@dataclass(kw_only=True)
class WritePoints:
    """Counts the write points of an engine, and stops at one of them.

    Attributes:
        stop_at: number of the point, from 0; ``None`` never stops.
        stop: ends the process at a point inside a transaction of the given connection.
        on_commit: called when a commit has returned.
        new_ledger: whether the process creates the schema; one that finds it there writes nothing
            when it opens, and is spared the check.
        passed: the points so far, by name.
    """

    stop_at: int | None = None
    stop: Callable[[Connection], NoReturn] | None = None
    on_commit: Callable[[], None] = lambda: None
    new_ledger: bool = True
    passed: list[str] = field(default_factory=list)
    stopped: bool = False
    _writer: Connection | None = None

    def watch(self, engine: Engine) -> None:
        """Attach to every write transaction of ``engine``."""
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        commit = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            writer, self._writer = self._writer, None
            if writer is not None:
                self._pass("before commit", writer)
            commit(connection)
            if writer is not None:
                self.on_commit()
                self._pass(AFTER_COMMIT, writer)

        # There is no event for what follows a commit.
        engine.dialect.do_commit = do_commit  # type: ignore[method-assign,assignment]  # the seam where a commit is stopped

    def _before(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if connection.get_execution_options().get(database._WRITES):
            self._writer = connection
            self._pass(f"before {_named(statement)}", connection)

    def _after(self, connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        if connection.get_execution_options().get(database._WRITES):
            self._pass(f"after {_named(statement)}", connection)

    def _pass(self, name: str, connection: Connection) -> None:
        if self.stopped:
            return
        self.passed.append(name)
        if self.stop is not None and self.stop_at == len(self.passed) - 1:
            self.stopped = True
            self.stop(connection)


class Place(Protocol):
    """A database that survives the processes that use it."""

    @property
    def url(self) -> str:
        """Where the next process finds it."""
        ...

    def stop(self, connection: Connection) -> NoReturn:
        """End the process that holds ``connection``, as the system would."""
        ...


class Files:
    """SQLite: at the stop the files are copied, and the next process finds the copy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count(1)
        self._current = folder / "0" / "ledger.db"

    @property
    def url(self) -> str:
        return f"sqlite:///{self._current}"

    def stop(self, connection: Connection) -> NoReturn:
        left, self._current = self._current, self._folder / f"{next(self._numbers)}" / "ledger.db"
        self._current.parent.mkdir()
        for file in (left, left.with_name("ledger.db-wal")):
            if file.exists():
                shutil.copyfile(file, self._current.with_name(file.name))
        shutil.rmtree(left.parent)
        raise Stopped


class Server:
    """PostgreSQL: at the stop the connection breaks off, without a word of farewell."""

    def __init__(self, url: str) -> None:
        self.url = url

    def stop(self, connection: Connection) -> NoReturn:
        driver: Any = connection.connection.driver_connection
        with socket.socket(fileno=os.dup(driver.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)
        driver.close()  # only this side: the server has heard nothing
        raise Stopped


@dataclass(frozen=True, kw_only=True)
class History:
    """What is replayed: so many decisions, so many of them in one transaction."""

    decisions: int
    commit_every: int = 1

    def world(self) -> World:
        """The market, the same in every process."""
        return make_history(SEED, decisions=self.decisions)


def live(url: str, history: History, world: World, points: WritePoints) -> WritePoints:
    """Open the ledger and replay from where it stands; return when finished or stopped."""
    usual, replay.COMMIT_EVERY = replay.COMMIT_EVERY, history.commit_every
    engine = database.open_engine(url)
    points.watch(engine)
    try:
        if points.new_ledger:
            database.create_schema(engine)
        carry_on(make_job(world, make_schedule(world, SEED)), world, Store(engine))
    except (Stopped, DatabaseUnavailable, sa.exc.DBAPIError):
        if not points.stopped:
            raise
    finally:
        replay.COMMIT_EVERY = usual
        engine.dispose()
    return points


def ledger_rows(url: str) -> Rows:
    """Every row of every table in the order of its key; the audit trail without its numbering.

    PostgreSQL does not take numbers back that an aborted transaction drew.
    """
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            if not sa.inspect(connection).has_table("postings"):
                return {}
            return {
                table.name: _rows_of(table, connection) for table in database.METADATA.sorted_tables
            }
    finally:
        engine.dispose()


def _rows_of(table: sa.Table, connection: Connection) -> list[tuple[Any, ...]]:
    names = ", ".join(column.name for column in table.c if column.name != "audit_id")
    order = "audit_id" if table is database.AUDIT else "1, 2"
    query = f"SELECT {names} FROM {table.name} ORDER BY {order}"  # raw: JSON as it is stored
    rows = [tuple(row) for row in connection.exec_driver_sql(query)]
    # Each database sorts text in its own way.
    return rows if table is database.AUDIT else sorted(rows, key=repr)


def emptied(url: str, folder: Path) -> str:
    """An empty database like the one behind ``url``: a file in ``folder``, or that server's."""
    if url.startswith("sqlite"):
        return f"sqlite:///{folder}/ledger.db"
    engine = sa.create_engine(url)
    database.METADATA.drop_all(engine)
    engine.dispose()
    return url


def _named(statement: str) -> str:
    """The first words of a statement."""
    return " ".join(statement.split()[:3])


def main(url: str, decisions: str, commit_every: str, point: str) -> None:
    """Replay into ``url`` and exit with ``EXIT_CODE`` at write point ``point``."""
    history = History(decisions=int(decisions), commit_every=int(commit_every))

    def leave(_connection: Connection) -> NoReturn:
        os._exit(EXIT_CODE)

    live(url, history, history.world(), WritePoints(stop_at=int(point), stop=leave))


if __name__ == "__main__":
    main(*sys.argv[1:])
