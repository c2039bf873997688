"""A whole account read in batches: its entries, its decisions, the figures of each; nothing kept.

It reads inside a given transaction, so that everything read in it belongs together. ``Store`` has
the short reads of a running daemon; here is what may be years long.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.database import DECISIONS, ENTRIES
from broker.ledger import Entry
from broker.metrics import Record
from broker.rebuild import legs_by_sequence
from broker.records import DecisionRecord, Row, chained_entry, decision_record

ROWS_AT_ONCE = 5_000


class History(NamedTuple):
    """The decisions of a span: when, each (T,) ascending, and what each says of the account."""

    decision_time: npt.NDArray[np.int64]
    record: Record


@contextmanager
def streamed(
    connection: Connection, query: sa.Select[tuple[object, ...]]
) -> Iterator[Iterator[list[Row]]]:
    """Give the rows of a query in its order, a batch in memory at a time."""
    with connection.execution_options(yield_per=ROWS_AT_ONCE).execute(query) as result:
        yield ([dict(row) for row in batch] for batch in result.mappings().partitions())


def read_entries(connection: Connection, account_id: str) -> Generator[Entry, None, None]:
    """Yield every entry of an account in the order of posting; close it where it is left early.

    Raises:
        ValueError: the postings of an entry do not balance.
    """
    query = (
        sa.select(ENTRIES).where(ENTRIES.c.account_id == account_id).order_by(ENTRIES.c.sequence)
    )
    with streamed(connection, query) as batches:
        for rows in batches:
            first, last = rows[0]["sequence"], rows[-1]["sequence"]
            legs = legs_by_sequence(connection, account_id, first, last)
            for row in rows:
                yield chained_entry(row, legs.get(row["sequence"], [])).entry


def decision_at(connection: Connection, account_id: str, time: int | None) -> DecisionRecord | None:
    """Return the last decision with ``decision_time ≤ time``, or the last of all."""
    query = sa.select(DECISIONS).where(DECISIONS.c.account_id == account_id)
    if time is not None:
        query = query.where(DECISIONS.c.decision_time <= time)
    query = query.order_by(DECISIONS.c.decision_time.desc()).limit(1)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else decision_record(dict(row))


def read_history(
    connection: Connection, account_id: str, *, after: int | None, until: int
) -> History:
    """Return the decisions with ``after < decision_time ≤ until``; ``None``: from the first."""
    columns = DECISIONS.c
    query = (
        sa.select(columns.decision_time, columns.net_return, columns.turnover, columns.weights)
        .where(columns.account_id == account_id, columns.decision_time <= until)
        .order_by(columns.decision_time)
    )
    if after is not None:
        query = query.where(columns.decision_time > after)
    times: list[int] = []
    figures: list[tuple[float, float, float, float]] = []
    with streamed(connection, query) as batches:
        for rows in batches:
            times += [row["decision_time"] for row in rows]
            figures += [_figures(row) for row in rows]
    table = np.array(figures, dtype=np.float64).reshape(-1, 4)
    return History(np.array(times, dtype=np.int64), Record(*table.T))


def _figures(row: Row) -> tuple[float, float, float, float]:
    weights: Sequence[float] = list(row["weights"].values())
    return row["net_return"], row["turnover"], sum(map(abs, weights)), sum(weights)
