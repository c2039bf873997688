"""Decisions that fill in recorded books, and accounts that run out of margin."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from broker.account import open_account
from broker.costs import TradingRules
from broker.execution import market_arrays
from broker.orders import RejectReason
from broker.store import Store
from daemon.decision import DecisionEvent, FillMode, Source
from daemon.loop import effects_commit
from daemon.recovery import restore_state
from daemon.settle import mark_ranges
from daemon.targets import Describe, HoldTarget
from market.bar import HOUR_MS, MarkSource, Settlement
from market.panel import Float64Array, Panel
from market.quote import OrderBook
from tests.broker.worlds import make_world
from tests.daemon.test_decide import FLAT, RULES, SYMBOLS, T0, Half, fresh_state, step


def recorded_book(hour: int) -> OrderBook:
    """A book of the first symbol whose mid is 100, recorded half a second after a close."""
    time = T0 + hour * HOUR_MS
    return OrderBook(
        symbol=SYMBOLS[0],
        decision_time=time,
        event_time=time + 400,
        available_at=time + 500,
        update_id=None,
        bids=((99.0, 1_000.0),),
        asks=((101.0, 1_000.0),),
    )


def test_book_fills_happen_at_the_decision_and_cost_the_next_interval(tmp_path: Path) -> None:
    """The order is filled at once; its fee and turnover stand in the record after it."""
    rules = replace(RULES, fills=FillMode.BOOK)
    books = {SYMBOLS[0]: recorded_book(0)}
    state, first = step(fresh_state(), FLAT, hour=0, target=Half(), rules=rules, books=books)
    (fill,) = first.fills
    assert (fill.event_time, fill.quantity) == (T0 + 1_500, Decimal(50))
    assert fill.fill_price == Decimal(101)
    assert state.account.pending == ()
    assert (first.record.equity, first.record.fees, first.record.turnover) == (10_000, 0, 0)
    store = Store.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    _, opening = open_account("main", deposit=Decimal(10_000), quote="USDT", time=T0 - HOUR_MS)
    store.create_account(opening)
    store.commit_decisions([effects_commit(first)])
    restored, _ = restore_state(store, "main", sigma_window_bars=24)
    assert store.check("main") == []
    store.close()
    after = [*FLAT, (100.0, 50.0)]
    next_state, second = step(state, after, hour=1, target=HoldTarget(), rules=rules)
    assert step(restored, after, hour=1, target=HoldTarget(), rules=rules) == (next_state, second)
    assert second.record.fees == pytest.approx(50 * 101 * 0.0005)
    assert second.record.slippage == pytest.approx(50)
    assert second.record.turnover == pytest.approx(0.5)
    assert second.record.equity == pytest.approx(10_000 - 50 - 2.525)
    _, third = step(next_state, after, hour=2, target=HoldTarget(), rules=rules)
    assert (third.record.fees, third.record.turnover) == (0, 0)


class Weights:
    """Given weights of both symbols."""

    source = Source.WEIGHTS_FILE
    model_id = None

    def __init__(self, *weights: float) -> None:
        self._weights = np.array(weights)

    def target_weights(self, _panel: Panel, _describe: Describe) -> Float64Array | None:
        return self._weights


def test_a_restart_after_book_fills_is_the_same_state(tmp_path: Path) -> None:
    """The second symbol is sold before the first is bought; the ledger knows them by id."""
    rules = replace(RULES, fills=FillMode.BOOK)
    store = Store.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    _, opening = open_account("main", deposit=Decimal(10_000), quote="USDT", time=T0 - HOUR_MS)
    store.create_account(opening)
    state = fresh_state()
    for hour, target in enumerate((Weights(0.0, 0.6), Weights(0.5, 0.1))):
        books = {symbol: replace(recorded_book(hour), symbol=symbol) for symbol in SYMBOLS}
        prices = [(100.0, 100.0)] * 3
        state, effects = step(state, prices, hour=hour, target=target, rules=rules, books=books)
        store.commit_decisions([effects_commit(effects)])
        assert restore_state(store, "main", sigma_window_bars=24)[0] == state
    assert len(effects.fills) == 2
    assert store.check("main") == []
    store.close()


def test_settlement_of_the_decision_time_does_not_count_a_book_fill() -> None:
    """Bought a second and a half after the settlement: it is not owed."""
    rules = replace(RULES, fills=FillMode.BOOK)
    books = {SYMBOLS[0]: recorded_book(0)}
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half(), rules=rules, books=books)
    due = Settlement(
        symbol=SYMBOLS[0], funding_time=T0 + 12, rate=0.001, mark_price=100.0,
        mark_source=MarkSource.VENUE,
    )  # fmt: skip
    later = replace(due, funding_time=T0 + HOUR_MS // 2)
    _, effects = step(state, FLAT, hour=1, target=HoldTarget(), settlements=(due, later))
    assert effects.record.funding == pytest.approx(-5.0)


def test_order_without_a_book_is_given_up_and_said() -> None:
    """No book was recorded: the rejection names it, and nothing waits for the next bar."""
    rules = replace(RULES, fills=FillMode.BOOK)
    state, effects = step(fresh_state(), FLAT, hour=0, target=Half(), rules=rules)
    assert [one.reason for one in effects.rejections] == [RejectReason.NO_BOOK]
    assert state.account.pending == ()


class Levered:
    """Eight times the equity in the first symbol."""

    source = Source.WEIGHTS_FILE
    model_id = None

    def target_weights(self, _panel: Panel, _describe: Describe) -> Float64Array | None:
        return np.array([8.0, 0.0])


def test_liquidated_account_is_flat_and_halts() -> None:
    """Eight times levered, a fall of 20 %: closed inside the bar, and no longer traded."""
    rules = replace(RULES, trading=TradingRules(leverage_limit=8.0), drawdown_limit=1.5)
    state, _ = step(fresh_state(), FLAT, hour=0, target=Levered(), rules=rules)
    state, _ = step(state, FLAT, hour=1, target=HoldTarget(), rules=rules)
    assert state.account.positions
    state, effects = step(
        state, [*FLAT, (100.0, 50.0), (80.0, 50.0)], hour=2, target=Levered(), rules=rules
    )
    assert DecisionEvent.LIQUIDATED in {kind for kind, _ in effects.events}
    assert state.account.positions == {}
    assert state.halted
    assert effects.record.equity == float(state.account.wallet) >= 0
    assert effects.record.reason == "halted by a liquidation"
    assert DecisionEvent.DRAWDOWN_LIMIT not in {kind for kind, _ in effects.events}
    assert effects.orders == ()


def test_margin_is_tested_on_the_marks_of_the_environment() -> None:
    """Bar by bar and symbol by symbol: a candle, a bar without one, and no bar at all."""
    world = make_world(9, bars=60, symbols=3, missing=0.2)
    candle = np.where(np.arange(60)[:, None] % 2, world.panel.mark_close, np.nan)
    whole = replace(world.panel, mark_open=candle, mark_low=candle * 0.99, mark_high=candle * 1.01)
    arrays, symbols = market_arrays(whole), whole.symbols
    for bar in range(1, 60):
        known = dict(zip(symbols, map(float, arrays.mark[bar - 1]), strict=True))
        for asset, found in enumerate(
            mark_ranges(whole.window(0, bar + 1), known, symbols).values()
        ):
            assert (found.opened, found.low, found.high) == (
                arrays.mark_open[bar, asset],
                arrays.mark_low[bar, asset],
                arrays.mark_high[bar, asset],
            )
