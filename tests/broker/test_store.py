"""The store on SQLite and PostgreSQL: once is once, and what is read is what was written."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from broker import database
from broker.account import open_account, place_orders, post_settlement
from broker.database import META, SCHEMA_VERSION, database_exists
from broker.filling import rejection
from broker.orders import RejectReason
from broker.records import Commit
from broker.store import (
    DatabaseUnavailable,
    DecisionRecord,
    LedgerConflict,
    SchemaMismatch,
    Store,
    write_transaction,
)
from market.bar import HOUR_MS
from market.instrument import Market
from tests.broker.factories import BTC, RULES, fill, order, record, settlement
from tests.broker.journeys import BARS, journey


def commit(store: Store, one: Commit) -> bool:
    """Commit through the plain call."""
    return store.commit_decision(
        one.record, one.entries, one.orders, one.fills, one.rejections, one.audits
    )


def dump(store: Store) -> dict[str, list[Any]]:
    """Every row of every table."""
    with store.engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        return {
            name: sorted(map(str, connection.execute(sa.text(f"SELECT * FROM {name}"))))
            for name in sorted(tables)
        }


def test_state_is_rebuilt_after_every_decision(store: Store) -> None:
    """What a restart loads equals what the process had in memory, at every point."""
    opening, commits, states = journey()
    assert store.load_account("main") is None
    assert store.create_account(opening)
    for one, state in zip(commits, states, strict=True):
        assert commit(store, one)
        assert store.load_account("main") == state
    assert store.check("main") == []


def test_spot_account_is_rebuilt_and_sound(store: Store) -> None:
    """Its wallet is cash, never below zero; by a perpetual's rules it would not add up."""
    opening, commits, states = journey(market=Market.SPOT)
    store.create_account(opening)
    for one, state in zip(commits, states, strict=True):
        assert commit(store, one)
        assert store.load_account("main") == state
        assert state.wallet >= 0
    assert store.check("main") == []
    with write_transaction(store.engine) as connection:
        connection.execute(sa.text("UPDATE accounts SET market = 'perp'"))
    assert any("wallet: postings sum to" in one for one in store.check("main"))


def test_rejected_order_is_not_pending(store: Store) -> None:
    """An order that found no bar is over, also when nothing was ordered since."""
    opening, commits, states = journey(bars=1)
    store.create_account(opening)
    store.commit_decisions(commits)
    waiting = states[-1].pending
    assert waiting
    rejections = [rejection(order, RejectReason.NO_BAR_TO_FILL) for order in waiting[1:]]
    later = record(commits[-1].record.decision_time + HOUR_MS)
    store.commit_decision(later, rejections=rejections)
    state = store.load_account("main")
    assert state is not None
    assert state.pending == waiting[:1]


def test_holdings_survive_a_restart_beyond_eight_days(store: Store) -> None:
    """The log of holdings and of settlements is cut at the same place in memory and in rows."""
    opening, commits, states = journey(bars=240, seed=3)
    store.create_account(opening)
    store.commit_decisions(commits)
    assert len(states[-1].holdings) < 230
    assert store.load_account("main") == states[-1]


def test_settlement_at_the_cutoff_is_remembered_by_memory_and_rows(store: Store) -> None:
    """Eight days to the millisecond before the last fill: told again, it is still posted once."""
    state, opening = open_account("main", deposit=Decimal(10_000), quote="USDT", time=0)
    store.create_account(opening)
    due = settlement(2 * HOUR_MS)
    for hour in (1, 2 + 8 * 24):
        placed = order("2", decision_time=hour * HOUR_MS)
        done = fill(
            place_orders(state, (placed,)),
            {BTC: 100.0},
            open_time=hour * HOUR_MS,
            rules=replace(RULES, latency_ms=0),
        )
        state, entry = post_settlement(done.state, due, posted_at=(hour + 2) * HOUR_MS)
        entries = (*done.entries, entry) if entry else done.entries
        one = record(hour * HOUR_MS)
        assert store.commit_decision(one, entries, [placed], done.fills)
    assert state.posted == {(BTC, 2 * HOUR_MS)}
    assert store.load_account("main") == state
    assert len(store.entries("main")) == 4


def test_committing_twice_is_committing_once(store: Store) -> None:
    """The second time returns False and changes no row, even with other content."""
    opening, commits, _ = journey()
    assert [store.create_account(opening), store.create_account(opening)] == [True, False]
    for one in commits:
        commit(store, one)
    before = dump(store)
    assert [one for one in commits if commit(store, one)] == []
    assert not commit(store, replace(commits[3], record=replace(commits[3].record, equity=1.0)))
    assert dump(store) == before


def test_batch_gives_the_same_rows(store: Store, tmp_path: Path) -> None:
    """Committing in groups writes what one by one writes, and again it writes nothing."""
    opening, commits, _ = journey()
    one_by_one = Store.open(f"sqlite:///{tmp_path}/single.db")
    for each in (store, one_by_one):
        each.create_account(opening)
    for one in commits:
        commit(one_by_one, one)
    for _ in range(2):
        for start in range(0, len(commits), 7):
            store.commit_decisions(commits[start : start + 7])
    assert store.entries("main") == one_by_one.entries("main")
    assert store.decisions("main") == one_by_one.decisions("main")
    assert store.check("main") == []
    one_by_one.close()


def test_what_is_read_is_what_was_written(store: Store) -> None:
    """Decisions, orders, fills, rejections and entries come back equal, in order."""
    opening, commits, _ = journey()
    store.create_account(opening)
    store.commit_decisions(commits)
    assert store.decisions("main") == [one.record for one in commits]
    assert store.orders("main") == [order for one in commits for order in one.orders]
    assert store.entries("main") == [opening, *(e for one in commits for e in one.entries)]
    fills = [fill for one in commits for fill in one.fills]
    assert store.count_fills("main") == len(fills)
    assert sorted(store.fills("main"), key=lambda fill: fill.fill_id) == sorted(
        fills, key=lambda fill: fill.fill_id
    )
    rejections = [(r.decision_time, r.symbol) for one in commits for r in one.rejections]
    assert [(r.decision_time, r.symbol) for r in store.rejections("main")] == sorted(rejections)


def test_windows_of_history(store: Store) -> None:
    """``since`` and ``limit`` choose; recent decisions come newest first."""
    opening, commits, _ = journey()
    store.create_account(opening)
    store.commit_decisions(commits)
    times = [one.record.decision_time for one in commits]
    assert store.last_decision_time("main") == times[-1]
    assert [d.decision_time for d in store.recent_decisions("main", 3)] == times[:-4:-1]
    chosen = store.decisions("main", since=times[5], limit=2)
    assert [d.decision_time for d in chosen] == times[-2:]
    assert [d.decision_time for d in store.decisions("main", since=times[5])] == times[5:]
    assert store.entries("main", limit=2) == store.entries("main")[-2:]
    late = store.fills("main", since=times[10])
    assert late == [fill for fill in store.fills("main") if fill.event_time >= times[10]]
    assert store.fills("main", limit=3) == store.fills("main")[-3:]
    assert [one.facts["bar"] for one in store.audits(2)] == [BARS - 1, BARS - 2]


def test_accounts_do_not_mix(store: Store) -> None:
    """Two accounts in one store, decisions at the same times, each sound and separate."""
    live, shadow = journey(seed=1), journey(seed=2, account_id="shadow")
    for opening, commits, _ in (live, shadow):
        store.create_account(opening)
        store.commit_decisions(commits)
    assert store.account_ids() == ("main", "shadow")
    for name, (_, _, states) in {"main": live, "shadow": shadow}.items():
        assert store.load_account(name) == states[-1]
        assert store.check(name) == []


def test_equity_curve_is_in_order(store: Store) -> None:
    """Times ascend, figures are those of the records; an empty account has an empty curve."""
    opening, commits, _ = journey()
    store.create_account(opening)
    assert len(store.equity_curve("main").decision_time) == 0
    store.commit_decisions(commits[::-1])
    curve = store.equity_curve("main", since=commits[10].record.decision_time)
    np.testing.assert_array_equal(
        curve.decision_time, [one.record.decision_time for one in commits[10:]]
    )
    assert set(curve.net_return) == {0.01}


def test_other_content_under_a_known_id_is_a_conflict(store: Store) -> None:
    """Nothing of the decision that carries it is written."""
    opening, commits, _ = journey()
    store.create_account(opening)
    store.commit_decisions(commits[:5])
    before = dump(store)
    forged = replace(opening, facts={"amount": "1"})
    with pytest.raises(LedgerConflict, match="deposit"):
        commit(store, replace(commits[5], entries=(*commits[5].entries, forged)))
    assert dump(store) == before


def test_known_entries_are_skipped(store: Store) -> None:
    """An entry that came with an earlier transaction is not added again."""
    opening, commits, states = journey()
    store.create_account(opening)
    for one in commits:
        commit(store, replace(one, entries=(opening, *one.entries)))
    assert store.post_entries([opening]) == 0
    assert store.load_account("main") == states[-1]
    assert store.check("main") == []


def test_deposit_outside_a_decision(store: Store) -> None:
    """Entries may be posted between decisions; the wallet is their sum."""
    opening, _, _ = journey()
    store.create_account(opening)
    _, more = open_account("main", deposit=Decimal("0.5"), quote="USDT", time=77)
    assert store.post_entries([more]) == 1
    state = store.load_account("main")
    assert state is not None
    assert state.wallet == Decimal("10000.5")


def _set(statement: str) -> Callable[[sa.Connection], Any]:
    return lambda connection: connection.execute(sa.text(statement))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_set("UPDATE postings SET amount = '7' WHERE sequence = 3 AND leg = 0"), "balance"),
        (_set("UPDATE entries SET posted_at = posted_at + 1 WHERE sequence = 4"), "was changed"),
        (_set("UPDATE entries SET hash = 'x' WHERE sequence = 2"), "does not follow"),
        (_set("UPDATE fills SET fee = '0' WHERE event_time = (SELECT max(event_time) FROM fills)"),
         "other figures"),
        (_set("UPDATE fills SET reference_price = '1'"), "other figures"),
        (_set("UPDATE fills SET event_time = event_time + 1"), "its entry states other figures"),
        (_set("UPDATE orders SET quantity = '5'"), "not what was ordered"),
        (_set("DELETE FROM fills"), "there is no fill"),
        (_set("UPDATE fills SET fill_id = fill_id || 'x'"), "there is no entry"),
        (_set("UPDATE postings SET ledger_account = 'assets:elsewhere' WHERE sequence > 4"),
         "wallet: postings sum to"),
        (_set("UPDATE entries SET symbol = 'S0/USDT:USDT', event_time = 1 WHERE kind = 'funding'"),
         "times"),
    ],
)  # fmt: skip
def test_check_finds_damage(
    store: Store, damage: Callable[[sa.Connection], Any], found: str
) -> None:
    """A row changed behind the program's back is reported in words."""
    opening, commits, _ = journey()
    store.create_account(opening)
    store.commit_decisions(commits)
    with write_transaction(store.engine) as connection:
        damage(connection)
    assert any(found in problem for problem in store.check("main"))


def test_check_finds_a_missing_entry(store: Store) -> None:
    """An entry cut out of the middle breaks the chain and the sums."""
    opening, commits, _ = journey()
    store.create_account(opening)
    store.commit_decisions(commits)
    with write_transaction(store.engine) as connection:
        connection.execute(sa.text("DELETE FROM postings WHERE sequence = 5"))
        connection.execute(sa.text("DELETE FROM entries WHERE sequence = 5"))
    problems = store.check("main")
    assert any("sequence 6, expected 5" in problem for problem in problems)
    assert any("does not follow" in problem for problem in problems)
    assert store.check("nobody") == ["account nobody does not exist"]


def test_crash_at_every_statement_and_restart_gives_the_same_ledger(
    store: Store, tmp_path: Path
) -> None:
    """Interrupted at any write point and committed again, the rows are as if nothing happened."""
    opening, commits, _ = journey(bars=5)
    clean = Store.open(f"sqlite:///{tmp_path}/clean.db")
    clean.create_account(opening)
    clean.commit_decisions(commits)
    store.create_account(opening)
    point = 0
    for one in commits:
        while not interrupted_commit(store, one, point):
            point += 1
            assert store.check("main") == []
        point = 0
    assert store.entries("main") == clean.entries("main")
    assert store.load_account("main") == clean.load_account("main")
    assert store.decisions("main") == clean.decisions("main")
    clean.close()


class Crash(BaseException):
    """The process dies here."""


def interrupted_commit(store: Store, one: Commit, point: int) -> bool:
    """Commit, dying at the statement number ``point``; True when it finished before that."""
    seen = 0

    def die(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen > point:
            raise Crash

    sa.event.listen(store.engine, "before_cursor_execute", die)
    try:
        return commit(store, one)
    except Crash:
        return False
    finally:
        sa.event.remove(store.engine, "before_cursor_execute", die)


def test_two_writers_do_not_lose_a_decision(store_url: str) -> None:
    """Two stores commit the same decisions at once: each is written by exactly one."""
    opening, commits, _ = journey()
    stores = [Store.open(store_url), Store.open(store_url)]
    stores[0].create_account(opening)
    wins: list[int] = []
    errors: list[Exception] = []

    def work(one: Store) -> None:
        try:
            wins.append(sum(commit(one, each) for each in commits))
        except Exception as error:  # noqa: BLE001 - handed to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sum(wins) == len(commits)
    assert stores[0].check("main") == []
    for one in stores:
        one.close()


def test_audit_keeps_facts(store: Store) -> None:
    """An audit line has its time, its event and its facts, newest first."""
    store.audit("daemon_started", at=1, version="0.1", pid=7)
    store.audit("halted", at=2, drawdown=0.25)
    assert [(one.at, one.event, one.facts) for one in store.audits(5)] == [
        (2, "halted", {"drawdown": 0.25}),
        (1, "daemon_started", {"version": "0.1", "pid": 7}),
    ]


def test_facts_about_the_database_are_replaced(store: Store) -> None:
    """A fact has one value, the last one; an unknown fact has none."""
    assert store.meta("market") is None
    for value in ("binanceusdm 1h", "bybit 1h"):
        store.set_meta("market", value)
    assert store.meta("market") == "bybit 1h"


def test_schema_version_is_checked(store: Store, store_url: str) -> None:
    """A database of another version is refused with both numbers."""
    with write_transaction(store.engine) as connection:
        connection.execute(sa.update(META).values(value="99").where(META.c.key == "schema_version"))
    with pytest.raises(SchemaMismatch, match=f"99.*{SCHEMA_VERSION}"):
        Store.open(store_url)


@pytest.mark.parametrize(
    "url", ["nonsense", "sqlite:////proc/nowhere/x.db", "unknowndb://localhost/x"]
)
def test_unusable_database_is_named(url: str) -> None:
    """The error says which database and why."""
    with pytest.raises(DatabaseUnavailable, match="database"):
        Store.open(url)


def test_passwords_are_not_shown() -> None:
    """An error about a URL leaves its password out."""
    with pytest.raises(DatabaseUnavailable) as caught:
        Store.open("unknowndb://user:secret@localhost/x")
    assert "secret" not in str(caught.value)


def test_whether_a_database_exists(tmp_path: Path) -> None:
    """A SQLite file is there or not; a server is always asked."""
    assert not database_exists(f"sqlite:///{tmp_path}/a.db")
    Store.open(f"sqlite:///{tmp_path}/a.db").close()
    assert database_exists(f"sqlite:///{tmp_path}/a.db")
    assert database_exists("postgresql+psycopg://localhost/x")


def test_sqlite_is_durable(tmp_path: Path) -> None:
    """Write-ahead log, full synchronisation, foreign keys, thirty seconds of patience."""
    store = Store.open(f"sqlite:///{tmp_path}/a.db")
    with store.engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    store.close()
    assert pragmas == {
        "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000,
    }  # fmt: skip


def test_a_locked_database_is_a_named_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When patience with another writer ends, the error says locked, and nothing is written."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 20)
    url = f"sqlite:///{tmp_path}/a.db"
    holder, waiter = Store.open(url), Store.open(url)
    with (
        write_transaction(holder.engine),
        pytest.raises(DatabaseUnavailable, match=r"a\.db.*locked"),
    ):
        waiter.audit("x", at=1)
    assert waiter.audits() == []
    for one in (holder, waiter):
        one.close()


def test_calls_that_make_no_sense_are_refused(store: Store) -> None:
    """An account opens with a deposit, and entries stay in their account."""
    opening, commits, _ = journey()
    store.create_account(opening)
    fill = next(entry for one in commits for entry in one.entries)
    with pytest.raises(ValueError, match="opens with a deposit"):
        store.create_account(fill)
    stranger = replace(opening, account_id="other", entry_id="other:deposit:1")
    with pytest.raises(ValueError, match="another account"):
        commit(store, replace(commits[0], entries=(stranger,)))


def test_nothing_to_commit_is_nothing(store: Store) -> None:
    """An empty group writes nothing; a time after the last entry has no entries."""
    opening, commits, _ = journey()
    store.create_account(opening)
    assert store.commit_decisions([]) == 0
    store.commit_decisions(commits)
    last = commits[-1].record.decision_time
    assert store.entries("main", since=last + 1) == []
    assert store.entries("main", since=0) == store.entries("main")


def test_orphans_are_impossible(store: Store) -> None:
    """A decision of an account that does not exist is refused by the database."""
    with pytest.raises(sa.exc.IntegrityError):
        store.commit_decision(record(HOUR_MS, account_id="nobody"))


@pytest.mark.parametrize("field", ["equity", "net_return", "weights", "status"])
def test_records_hold_finite_numbers(field: str) -> None:
    """NaN, infinity and unknown states cannot be recorded."""
    wrong: dict[str, dict[str, Any]] = {
        "equity": {"equity": float("nan")},
        "net_return": {"net_return": float("inf")},
        "weights": {"weights": {"X": float("nan")}},
        "status": {"status": "perhaps"},
    }
    with pytest.raises(ValueError, match=r"finite|unknown"):
        replace(record(1), **wrong[field])
    assert isinstance(record(1), DecisionRecord)
