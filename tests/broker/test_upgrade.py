"""A ledger of the first schema version is brought up to date, and nothing in it changes."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from broker.database import open_engine, write_transaction
from broker.store import Store
from market.instrument import Market
from tests.broker.journeys import journey

ADDED = {
    "accounts": ["market"],
    "decisions": ["buy_scale"],
    "orders": ["limited_by"],
    "fills": ["shortfall", "book_id"],
}


def test_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """The same account, entries and fills after the upgrade, and the next decision fits on."""
    url = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    opening, commits, states = journey()
    store = Store.open(url)
    store.create_account(opening)
    store.commit_decisions(commits[:-1])
    before = (store.load_account("main"), store.entries("main"), store.fills("main"))
    store.close()
    engine = open_engine(url)
    with write_transaction(engine) as connection:
        for table, columns in ADDED.items():
            for column in columns:
                connection.execute(sa.text(f"ALTER TABLE {table} DROP COLUMN {column}"))
        connection.execute(sa.text("UPDATE meta SET value = '1' WHERE key = 'schema_version'"))
    engine.dispose()
    store = Store.open(url)
    after = (store.load_account("main"), store.entries("main"), store.fills("main"))
    assert after == before
    assert store.check("main") == []
    assert store.commit_decisions(commits[-1:]) == 1
    state = store.load_account("main")
    assert state == states[-1]
    assert state is not None
    assert state.market is Market.PERP
    store.close()
