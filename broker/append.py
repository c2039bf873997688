"""Appending to the ledger inside a transaction: decisions once, entries chained, never a change.

It reads only what tells whether a thing is there already, and where an account's chain ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.database import (
    ACCOUNTS,
    AUDIT,
    DECISIONS,
    ENTRIES,
    FILLS,
    ORDERS,
    POSTINGS,
    REJECTIONS,
    insert_rows,
)
from broker.ledger import Entry
from broker.records import (
    GENESIS_HASH,
    Commit,
    chain_hash,
    content_hash,
    decision_row,
    entry_row,
    fill_row,
    order_row,
    posting_rows,
    rejection_row,
)

_IN_CHUNK = 500
_ACCOUNT: sa.BindParameter[str] = sa.bindparam("account_id")
_KEYS: sa.BindParameter[Any] = sa.bindparam("keys", expanding=True)
# One writer for each account; SQLite's write lock does the same and ignores FOR UPDATE.
_LOCK = (
    sa.select(ACCOUNTS.c.account_id)
    .where(ACCOUNTS.c.account_id.in_(_KEYS))
    .order_by(ACCOUNTS.c.account_id)
    .with_for_update()
)
_STORED_DECISIONS = sa.select(DECISIONS.c.decision_time).where(
    DECISIONS.c.account_id == _ACCOUNT, DECISIONS.c.decision_time.in_(_KEYS)
)
_STORED_ENTRIES = sa.select(ENTRIES.c.entry_id, ENTRIES.c.content_hash).where(
    ENTRIES.c.entry_id.in_(_KEYS)
)
_CHAIN_HEAD = (
    sa.select(ENTRIES.c.sequence, ENTRIES.c.hash)
    .where(ENTRIES.c.account_id == _ACCOUNT)
    .order_by(ENTRIES.c.sequence.desc())
    .limit(1)
)


class LedgerConflict(Exception):
    """An id is already in the ledger with other content: a bug, never to be written over."""


def append_decisions(connection: Connection, commits: Sequence[Commit]) -> int:
    """Insert the decisions that are not stored, with all that belongs to them; return how many.

    Raises:
        LedgerConflict: an entry's id is taken by other content.
    """
    lock_accounts(connection, {commit.record.account_id for commit in commits})
    fresh = _fresh(connection, commits)
    insert_rows(connection, DECISIONS, [decision_row(commit.record) for commit in fresh])
    insert_rows(
        connection,
        ORDERS,
        [
            order_row(order, commit.record.account_id, position)
            for commit in fresh
            for position, order in enumerate(commit.orders)
        ],
    )
    for account_id in sorted({commit.record.account_id for commit in fresh}):
        own = [commit for commit in fresh if commit.record.account_id == account_id]
        _append_consequences(connection, account_id, own)
    audits = [
        {"at": item.at, "event": item.event, "facts": dict(item.facts)}
        for commit in fresh
        for item in commit.audits
    ]
    insert_rows(connection, AUDIT, audits)
    return len(fresh)


def lock_accounts(connection: Connection, account_ids: Set[str]) -> None:
    """Make other writers of these accounts wait for the end of the transaction."""
    if connection.dialect.name != "sqlite":
        connection.execute(_LOCK, {"keys": sorted(account_ids)}).all()


def append_entries(connection: Connection, account_id: str, entries: Sequence[Entry]) -> int:
    """Add entries to the account's chain, skipping those already in it; return how many.

    Raises:
        LedgerConflict: an entry's id is taken by other content.
        ValueError: an entry belongs to another account.
    """
    if not entries:
        return 0
    alien = [entry.entry_id for entry in entries if entry.account_id != account_id]
    if alien:
        raise ValueError(f"entries of another account than {account_id}: {alien}")
    known = _known_contents(connection, [entry.entry_id for entry in entries])
    sequence, previous = _chain_head(connection, account_id)
    entry_rows, leg_rows = [], []
    for entry in entries:
        content = content_hash(entry)
        if entry.entry_id in known:
            if known[entry.entry_id] != content:
                raise LedgerConflict(f"entry {entry.entry_id} is stored with other content")
            continue
        known[entry.entry_id] = content
        sequence += 1
        entry_rows.append(entry_row(entry, sequence, content, previous))
        leg_rows.extend(posting_rows(entry, sequence))
        previous = chain_hash(previous, content)
    insert_rows(connection, ENTRIES, entry_rows)
    insert_rows(connection, POSTINGS, leg_rows)
    return len(entry_rows)


def _append_consequences(
    connection: Connection, account_id: str, commits: Sequence[Commit]
) -> None:
    """Insert the entries, fills and rejections of one account's decisions."""
    entries = [entry for commit in commits for entry in commit.entries]
    append_entries(connection, account_id, entries)
    fills = [fill_row(fill, account_id) for commit in commits for fill in commit.fills]
    insert_rows(connection, FILLS, fills)
    rejected = [rejection_row(item, account_id) for commit in commits for item in commit.rejections]
    insert_rows(connection, REJECTIONS, rejected)


def _fresh(connection: Connection, commits: Sequence[Commit]) -> list[Commit]:
    """Return the decisions that are not stored, each key once."""
    waiting: dict[tuple[str, int], Commit] = {}
    for commit in commits:
        waiting.setdefault((commit.record.account_id, commit.record.decision_time), commit)
    for account_id in {key[0] for key in waiting}:
        times = [time for owner, time in waiting if owner == account_id]
        for chunk in _chunks(times):
            bound = {"account_id": account_id, "keys": chunk}
            for time in connection.execute(_STORED_DECISIONS, bound).scalars().all():
                del waiting[account_id, time]
    return list(waiting.values())


def _known_contents(connection: Connection, entry_ids: Sequence[str]) -> dict[str, str]:
    known: dict[str, str] = {}
    for chunk in _chunks(entry_ids):
        for entry_id, content in connection.execute(_STORED_ENTRIES, {"keys": chunk}):
            known[entry_id] = content
    return known


def _chain_head(connection: Connection, account_id: str) -> tuple[int, str]:
    row = connection.execute(_CHAIN_HEAD, {"account_id": account_id}).one_or_none()
    return (0, GENESIS_HASH) if row is None else (int(row[0]), str(row[1]))


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), _IN_CHUNK):
        yield items[start : start + _IN_CHUNK]
