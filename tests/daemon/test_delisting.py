"""A delisting between two runs: the daemon starts all the same, and says what is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.store import Store
from daemon.recovery import recall_instruments, remember_instruments
from daemon.run import RunOptions, run_daemon
from daemon.settings import Settings, load_settings
from market.instrument import Instrument, Venue
from market.retry import NotOffered
from market.warehouse import Warehouse
from tests.market.delisted_venue import venue_without_sol
from tests.market.small_tape import BTC, ETH, SOL, SYMBOLS, small_tape

INSTRUMENTS = small_tape(Venue.BYBIT).instruments


def settings_of(folder: Path, url: str, warehouse_url: str) -> Settings:
    """An account that holds cash and follows all three symbols."""
    overrides: dict[str, dict[str, Any]] = {
        "": {"state_dir": str(folder)},
        "exchange": {"name": "bybit", "base_url": url, "symbols": SYMBOLS, "book_depth": 0},
        "storage": {"warehouse_url": warehouse_url},
        "training": {"enabled": False},
        "monitor": {"enabled": False},
    }
    return load_settings(None, overrides=overrides)


def remembered(settings: Settings, instruments: tuple[Instrument, ...]) -> None:
    """Keep the rules that an earlier run knew."""
    store = Store.open(settings.ledger_url)
    remember_instruments(store, instruments)
    store.close()


def test_the_rules_of_an_earlier_run_are_recalled(tmp_path: Path) -> None:
    """Every field of every instrument, exactly; without an earlier run there are none."""
    settings = settings_of(tmp_path, "http://127.0.0.1:1", "chdb:///nowhere")
    assert recall_instruments(settings.ledger_url) == {}
    remembered(settings, INSTRUMENTS)
    assert recall_instruments(settings.ledger_url) == {one.symbol: one for one in INSTRUMENTS}


async def test_a_symbol_delisted_before_the_start_is_named_and_nothing_else_fails(
    empty_warehouse: Warehouse, warehouse_path: Path, tmp_path: Path
) -> None:
    """Its rules are recalled; the first decision has the others' bars and names it as missing."""
    async with venue_without_sol(Venue.BYBIT) as venue:
        settings = settings_of(tmp_path, venue.url, f"chdb://{warehouse_path}")
        remembered(settings, INSTRUMENTS)
        await run_daemon(settings, RunOptions(until_bars=1))
    store = Store.open(settings.ledger_url)
    (record,) = store.decisions(settings.account.id)
    store.close()
    assert (record.status, record.missing) == ("decided", (SOL,))
    assert set(record.marks) == {BTC, ETH}
    recalled = recall_instruments(settings.ledger_url)
    assert {symbol: one.is_trading for symbol, one in recalled.items()} == {
        BTC: True,
        ETH: True,
        SOL: False,
    }


async def test_a_symbol_that_no_run_knew_ends_the_start(
    empty_warehouse: Warehouse, warehouse_path: Path, tmp_path: Path
) -> None:
    """Without rules from an earlier run it may be a slip of the pen: its name is in the message."""
    async with venue_without_sol(Venue.BYBIT) as venue:
        settings = settings_of(tmp_path, venue.url, f"chdb://{warehouse_path}")
        with pytest.raises(NotOffered, match="SOL/USDT:USDT"):
            await run_daemon(settings, RunOptions(until_bars=1))
