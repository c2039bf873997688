"""The authority on accounts: decisions, orders, fills and the ledger in one SQL database.

One transaction holds a decision and everything that belongs to it, keyed by
``(account_id, decision_time)``: committing it twice is committing it once. State is rebuilt from
entries and orders alone. Nothing here changes or deletes a row of the ledger, or computes money.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from broker import rebuild
from broker.append import LedgerConflict, append_decisions, append_entries, lock_accounts
from broker.check import ledger_problems
from broker.database import (
    ACCOUNTS,
    AUDIT,
    DECISIONS,
    FILLS,
    META,
    ORDERS,
    REJECTIONS,
    DatabaseUnavailable,
    SchemaMismatch,
    create_schema,
    open_engine,
    read_transaction,
    write_transaction,
)
from broker.ledger import Entry, EntryKind
from broker.orders import Fill, Order, Rejection
from broker.records import (
    AuditRecord,
    ChainedEntry,
    Commit,
    DecisionRecord,
    EquityCurve,
    decision_record,
    fill_value,
    order_value,
    rejection_value,
)
from broker.state import AccountState

__all__ = [
    "AuditRecord",
    "Commit",
    "DatabaseUnavailable",
    "DecisionRecord",
    "EquityCurve",
    "LedgerConflict",
    "SchemaMismatch",
    "Store",
    "open_engine",
    "write_transaction",
]


class Store:
    """An open ledger database; safe to share between threads."""

    def __init__(self, engine: Engine) -> None:
        """Use ``engine``, whose schema exists; see ``open``."""
        self.engine = engine

    @classmethod
    def open(cls, url: str) -> Store:
        """Connect, creating tables that are missing.

        Raises:
            DatabaseUnavailable: the database cannot be opened or written.
            SchemaMismatch: another version of the program wrote it.
        """
        engine = open_engine(url)
        try:
            create_schema(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def create_account(self, entry: Entry) -> bool:
        """Write a new account and its opening deposit; ``False`` when it is there already."""
        if entry.kind is not EntryKind.DEPOSIT:
            raise ValueError(f"an account opens with a deposit, not {entry.entry_id}")
        with write_transaction(self.engine) as connection:
            if _account_row(connection, entry.account_id) is not None:
                return False
            row = {
                "account_id": entry.account_id,
                "quote": entry.postings[0].currency,
                "opened_at": entry.event_time,
                "market": entry.facts["market"],
            }
            connection.execute(sa.insert(ACCOUNTS), row)
            append_entries(connection, entry.account_id, [entry])
        return True

    def commit_decision(
        self,
        record: DecisionRecord,
        entries: Sequence[Entry] = (),
        orders: Sequence[Order] = (),
        fills: Sequence[Fill] = (),
        rejections: Sequence[Rejection] = (),
        audits: Sequence[AuditRecord] = (),
    ) -> bool:
        """Write one decision in one transaction; ``False`` when it is there already.

        Raises:
            LedgerConflict: an entry's id is taken by other content; nothing is written.
            DatabaseUnavailable: nothing is known to be written; committing again is safe.
        """
        commit = Commit(
            record=record,
            entries=entries,
            orders=orders,
            fills=fills,
            rejections=rejections,
            audits=audits,
        )
        return self.commit_decisions([commit]) == 1

    def commit_decisions(self, commits: Sequence[Commit]) -> int:
        """Write decisions in one transaction; return how many were not there before."""
        if not commits:
            return 0
        with write_transaction(self.engine) as connection:
            return append_decisions(connection, commits)

    def post_entries(self, entries: Sequence[Entry]) -> int:
        """Append entries outside a decision (late settlements, deposits); return how many are new.

        Raises:
            LedgerConflict: an id is taken by other content; nothing is written.
        """
        with write_transaction(self.engine) as connection:
            written = 0
            account_ids = {entry.account_id for entry in entries}
            lock_accounts(connection, account_ids)
            for account_id in sorted(account_ids):
                own = [entry for entry in entries if entry.account_id == account_id]
                written += append_entries(connection, account_id, own)
        return written

    def account_ids(self) -> tuple[str, ...]:
        """Every account, by name."""
        with read_transaction(self.engine) as connection:
            query = sa.select(ACCOUNTS.c.account_id).order_by(ACCOUNTS.c.account_id)
            return tuple(connection.execute(query).scalars())

    def load_account(self, account_id: str) -> AccountState | None:
        """Rebuild an account from its entries and orders; ``None`` when there is none."""
        with read_transaction(self.engine) as connection:
            account = _account_row(connection, account_id)
            if account is None:
                return None
            return rebuild.account_state(connection, account_id, account)

    def last_decision_time(self, account_id: str) -> int | None:
        """Time of the latest decision of any status."""
        query = sa.select(sa.func.max(DECISIONS.c.decision_time))
        with read_transaction(self.engine) as connection:
            found = connection.execute(query.where(DECISIONS.c.account_id == account_id)).scalar()
        return None if found is None else int(found)

    def decisions(
        self, account_id: str, since: int | None = None, limit: int | None = None
    ) -> list[DecisionRecord]:
        """Decisions with ``decision_time ≥ since``, ascending; the last ``limit`` of them."""
        query = sa.select(DECISIONS).where(DECISIONS.c.account_id == account_id)
        if since is not None:
            query = query.where(DECISIONS.c.decision_time >= since)
        query = query.order_by(DECISIONS.c.decision_time.desc()).limit(limit)
        return [decision_record(row) for row in self._rows(query)][::-1]

    def recent_decisions(self, account_id: str, limit: int) -> list[DecisionRecord]:
        """The last ``limit`` decisions, newest first."""
        query = sa.select(DECISIONS).where(DECISIONS.c.account_id == account_id)
        query = query.order_by(DECISIONS.c.decision_time.desc()).limit(limit)
        return [decision_record(row) for row in self._rows(query)]

    def equity_curve(self, account_id: str, since: int | None = None) -> EquityCurve:
        """Equity, net return and turnover of every decision, ascending."""
        columns = DECISIONS.c
        query = sa.select(
            columns.decision_time, columns.equity, columns.net_return, columns.turnover
        ).where(columns.account_id == account_id)
        if since is not None:
            query = query.where(columns.decision_time >= since)
        with read_transaction(self.engine) as connection:
            rows = connection.execute(query.order_by(columns.decision_time)).all()
        table = list(zip(*rows, strict=True)) if rows else [(), (), (), ()]
        return EquityCurve(
            np.array(table[0], dtype=np.int64),
            *(np.array(column, dtype=np.float64) for column in table[1:]),
        )

    def entries(
        self, account_id: str, *, since: int | None = None, limit: int | None = None
    ) -> list[Entry]:
        """Entries in the order of posting, with ``event_time ≥ since``; the last ``limit``."""
        return [item.entry for item in self._chain(account_id, since=since, limit=limit)]

    def orders(
        self, account_id: str, *, since: int | None = None, limit: int | None = None
    ) -> list[Order]:
        """Orders decided at or after ``since``, ascending; the last ``limit``."""
        columns = ORDERS.c
        rows = self._tail(ORDERS, account_id, columns.decision_time, columns.position, since, limit)
        return [order_value(row) for row in rows]

    def fills(
        self, account_id: str, *, since: int | None = None, limit: int | None = None
    ) -> list[Fill]:
        """Fills that happened at or after ``since``, ascending; the last ``limit``."""
        columns = FILLS.c
        rows = self._tail(FILLS, account_id, columns.event_time, columns.fill_id, since, limit)
        return [fill_value(row) for row in rows]

    def rejections(
        self, account_id: str, *, since: int | None = None, limit: int | None = None
    ) -> list[Rejection]:
        """Rejections of decisions at or after ``since``, ascending; the last ``limit``."""
        columns = REJECTIONS.c
        rows = self._tail(
            REJECTIONS, account_id, columns.decision_time, columns.symbol, since, limit
        )
        return [rejection_value(row) for row in rows]

    def count_fills(self, account_id: str) -> int:
        """How many fills the account has."""
        query = sa.select(sa.func.count()).where(FILLS.c.account_id == account_id)
        with read_transaction(self.engine) as connection:
            return int(connection.execute(query).scalar_one())

    def meta(self, key: str) -> str | None:
        """A fact about the whole database, such as which market its accounts trade."""
        query = sa.select(META.c.value).where(META.c.key == key)
        with read_transaction(self.engine) as connection:
            value: str | None = connection.execute(query).scalar()
        return value

    def set_meta(self, key: str, value: str) -> None:
        """Note a fact about the whole database; it replaces an earlier value."""
        with write_transaction(self.engine) as connection:
            connection.execute(sa.delete(META).where(META.c.key == key))
            connection.execute(sa.insert(META).values(key=key, value=value))

    def audit(self, event: str, *, at: int, **facts: Any) -> None:
        """Append one line to the audit trail; ``facts`` must be JSON."""
        row = {"at": at, "event": event, "facts": facts}
        with write_transaction(self.engine) as connection:
            connection.execute(sa.insert(AUDIT), row)

    def audits(self, limit: int = 100, *, events: Sequence[str] | None = None) -> list[AuditRecord]:
        """The last ``limit`` lines of the audit trail, of ``events`` or of all, newest first."""
        query = sa.select(AUDIT).order_by(AUDIT.c.audit_id.desc()).limit(limit)
        if events is not None:
            query = query.where(AUDIT.c.event.in_(events))
        return [
            AuditRecord(at=row["at"], event=row["event"], facts=row["facts"])
            for row in self._rows(query)
        ]

    def check(self, account_id: str) -> list[str]:
        """Every way in which the stored account contradicts itself; empty when it is sound."""
        with read_transaction(self.engine) as connection:
            if _account_row(connection, account_id) is None:
                return [f"account {account_id} does not exist"]
            return ledger_problems(connection, account_id)

    def _rows(self, query: sa.Select[Any]) -> list[Mapping[str, Any]]:
        with read_transaction(self.engine) as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def _tail(
        self,
        table: sa.Table,
        account_id: str,
        time: sa.Column[Any],
        then: sa.Column[Any],
        since: int | None,
        limit: int | None,
    ) -> list[Mapping[str, Any]]:
        query = sa.select(table).where(table.c.account_id == account_id)
        if since is not None:
            query = query.where(time >= since)
        rows = self._rows(query.order_by(time.desc(), then.desc()).limit(limit))
        return rows[::-1]

    def _chain(
        self, account_id: str, *, since: int | None, limit: int | None
    ) -> list[ChainedEntry]:
        with read_transaction(self.engine) as connection:
            return rebuild.chain(connection, account_id, since=since, limit=limit)


def _account_row(connection: Connection, account_id: str) -> Mapping[str, Any] | None:
    query = sa.select(ACCOUNTS).where(ACCOUNTS.c.account_id == account_id)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else dict(row)
