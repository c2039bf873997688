"""The decision: one interval in, one record out, worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from broker.account import open_account
from broker.costs import CostModel, TradingRules
from broker.execution import latest_liquidity
from broker.tiers import shipped_tiers
from daemon.decide import decide
from daemon.decision import (
    DecisionEvent,
    DecisionInputs,
    DecisionRules,
    DecisionState,
    Effects,
    FillMode,
    Source,
    Target,
)
from daemon.targets import CashTarget, Describe, EqualWeightTarget, HoldTarget
from market.bar import HOUR_MS, MarkSource, Settlement
from market.instrument import Instrument, Market
from market.panel import ARRAY_FIELDS, Float64Array, Panel
from market.quote import OrderBook
from training.observation import portfolio_state

SYMBOLS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
T0 = 1_767_225_600_000  # 2026-01-01T00:00Z


def instrument(symbol: str) -> Instrument:
    return Instrument(
        symbol=symbol,
        venue_symbol=symbol.replace("/USDT:USDT", "USDT"),
        base=symbol.split("/")[0],
        quote="USDT",
        tick_size=Decimal("0.1"),
        lot_step=Decimal("0.001"),
        min_quantity=Decimal("0.001"),
        max_quantity=None,
        min_notional=Decimal(5),
        funding_interval_minutes=480,
    )


COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.0)
RULES = DecisionRules(
    instruments={symbol: instrument(symbol) for symbol in SYMBOLS},
    costs=COSTS,
    quoted_costs=COSTS,
    trading=TradingRules(),
    margin=shipped_tiers(),
    market=Market.PERP,
    fills=FillMode.MODELLED,
    quote="USDT",
    sigma_window_bars=24,
    drawdown_limit=0.5,
)


def panel(prices: list[tuple[float, float]], *, end: int = T0) -> Panel:
    """Bars whose open and close are the given prices of both symbols, ending at ``end``."""
    close = np.array(prices, dtype=np.float64)
    arrays = {name: np.full(close.shape, np.nan) for name in ARRAY_FIELDS}
    arrays |= {name: close.copy() for name in ("open", "high", "low", "close")}
    arrays |= {name: np.zeros(close.shape) for name in ("funding_at_open", "funding_in_bar")}
    arrays["volume"] = np.full(close.shape, 1e6)
    first = end - len(close) * HOUR_MS
    return Panel(
        symbols=SYMBOLS,
        interval_ms=HOUR_MS,
        open_time=np.arange(first, end, HOUR_MS, dtype=np.int64),
        **arrays,
    )


def fresh_state() -> DecisionState:
    account, _ = open_account("main", deposit=Decimal(10_000), quote="USDT", time=T0 - HOUR_MS)
    return DecisionState(
        account=account,
        equity=10_000.0,
        peak_equity=10_000.0,
        net_returns=(),
        bars_since_trade=0,
        halted=False,
        marks={},
    )


def step(
    state: DecisionState,
    prices: list[tuple[float, float]],
    *,
    hour: int,
    target: Target | None,
    settlements: tuple[Settlement, ...] = (),
    rules: DecisionRules = RULES,
    books: Mapping[str, OrderBook] | None = None,
    decided_after_ms: int = 1_500,
) -> tuple[DecisionState, Effects]:
    time = T0 + hour * HOUR_MS
    bars = panel(prices, end=time)
    inputs = DecisionInputs(
        decision_time=time,
        decided_at=time + decided_after_ms,
        panel=bars,
        liquidity=latest_liquidity(bars),
        settlements=settlements,
        books=books or {},
        target=target,
        reason="test",
    )
    return decide(state, inputs, rules)


class Half:
    """Half of equity in the first symbol."""

    source = Source.WEIGHTS_FILE
    model_id = None

    def target_weights(self, _panel: Panel, _describe: Describe) -> Float64Array | None:
        return np.array([0.5, 0.0])


class Broken:
    """A target whose observation is unusable."""

    source = Source.POLICY
    model_id = "broken"

    def target_weights(self, _panel: Panel, _describe: Describe) -> Float64Array | None:
        raise ValueError("the observation is not finite")


FLAT = [(100.0, 50.0)] * 3


def test_orders_are_filled_at_the_next_bars_open_with_fee_and_half_spread() -> None:
    """Weight ½ of 10,000 at 100 is 50 units; filled one bar later at 101·1.0001, fee 5 bp."""
    state, first = step(fresh_state(), FLAT, hour=0, target=Half())
    assert first.fills == ()
    assert [order.quantity for order in first.orders] == [Decimal("50.000")]
    state, second = step(state, [*FLAT, (101.0, 50.0)], hour=1, target=HoldTarget())
    (fill,) = second.fills
    assert fill.event_time == T0 + 1_000
    assert float(fill.fill_price) == pytest.approx(101.0101)
    assert float(fill.fee) == pytest.approx(50 * 101.0101 * 0.0005, abs=1e-8)
    assert float(fill.slippage) == pytest.approx(50 * 0.0101, abs=1e-8)
    # 10,000 less the fee, and 50 units marked at 101 that were bought at 101.0101.
    assert second.record.equity == pytest.approx(10_000 - 2.5252525 - 0.505, abs=1e-6)


def test_funding_at_the_open_counts_what_was_held_before_the_fill() -> None:
    """A settlement at the moment of the decision does not charge the position it leads to."""
    settlement = Settlement(
        symbol=SYMBOLS[0],
        funding_time=T0 + 7,
        rate=0.001,
        mark_price=100.0,
        mark_source=MarkSource.VENUE,
    )
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    state, second = step(state, FLAT, hour=1, target=HoldTarget(), settlements=(settlement,))
    assert second.record.funding == 0.0
    later = replace(settlement, funding_time=T0 + HOUR_MS + 12)
    _, third = step(state, FLAT, hour=2, target=HoldTarget(), settlements=(settlement, later))
    assert third.record.funding == pytest.approx(-50 * 100.0 * 0.001)


def test_a_late_settlement_is_posted_once_and_dated() -> None:
    """Funding that becomes known two bars late is posted then, for the quantity held then."""
    late = Settlement(
        symbol=SYMBOLS[0],
        funding_time=T0 + HOUR_MS,
        rate=0.001,
        mark_price=100.0,
        mark_source=MarkSource.VENUE,
    )
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    state, _ = step(state, FLAT, hour=1, target=CashTarget())
    state, _ = step(state, FLAT, hour=2, target=HoldTarget())
    state, effects = step(state, FLAT, hour=3, target=HoldTarget(), settlements=(late,))
    (entry,) = effects.entries
    assert entry.event_time == T0 + HOUR_MS
    assert effects.record.funding == pytest.approx(-5.0)
    assert DecisionEvent.FUNDING_POSTED_LATE in {kind for kind, _ in effects.events}
    _, again = step(state, FLAT, hour=4, target=HoldTarget(), settlements=(late,))
    assert again.entries == ()


def test_a_settlement_without_a_mark_is_deferred_not_zero() -> None:
    """Without any mark nothing is posted, and the decision says so."""
    unknown = Settlement(
        symbol=SYMBOLS[0],
        funding_time=T0 + HOUR_MS,
        rate=0.001,
        mark_price=None,
        mark_source=MarkSource.UNKNOWN,
    )
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    state, _ = step(state, FLAT, hour=1, target=HoldTarget())
    _, effects = step(state, FLAT, hour=2, target=HoldTarget(), settlements=(unknown,))
    assert effects.entries == ()
    assert [kind for kind, _ in effects.events] == [DecisionEvent.FUNDING_DEFERRED]


def test_a_symbol_without_a_bar_keeps_its_position_and_the_others_trade() -> None:
    """The masked symbol is reported and gets no order; equity uses its last known price."""
    state, _ = step(fresh_state(), FLAT, hour=0, target=EqualWeightTarget())
    state, _ = step(state, FLAT, hour=1, target=HoldTarget())
    held = state.account.positions[SYMBOLS[0]]
    gap = [*FLAT, (np.nan, 60.0)]
    _, effects = step(state, gap, hour=2, target=CashTarget())
    assert {order.symbol for order in effects.orders} == {SYMBOLS[1]}
    assert effects.record.missing == (SYMBOLS[0],)
    assert (DecisionEvent.SYMBOL_MASKED, SYMBOLS[0]) in effects.events
    assert state.account.positions[SYMBOLS[0]] == held


def test_a_missed_interval_settles_but_does_not_trade() -> None:
    """Without a target the pending orders still fill and nothing new is ordered."""
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    _, effects = step(state, FLAT, hour=1, target=None)
    assert effects.record.status == "missed"
    assert len(effects.fills) == 1
    assert effects.orders == ()


def test_an_unusable_observation_holds() -> None:
    """A target that raises ValueError never trades; the reason is on the record."""
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    state, _ = step(state, FLAT, hour=1, target=HoldTarget())
    _, effects = step(state, FLAT, hour=2, target=Broken())
    assert effects.record.status == "held"
    assert "not finite" in effects.record.reason
    assert effects.orders == ()


def test_the_drawdown_limit_flattens_and_halts_for_good() -> None:
    """At the limit everything is sold, and the account stays flat when prices recover."""
    rules = replace(RULES, drawdown_limit=0.1)
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    state, _ = step(state, FLAT, hour=1, target=HoldTarget())
    state, effects = step(state, [*FLAT, (70.0, 50.0)], hour=2, target=Half(), rules=rules)
    assert effects.record.status == "halted"
    assert [kind for kind, _ in effects.events] == [DecisionEvent.DRAWDOWN_LIMIT]
    assert [order.quantity for order in effects.orders] == [Decimal("-50.000")]
    state, _ = step(state, FLAT, hour=3, target=Half(), rules=rules)
    assert state.halted
    assert state.account.positions == {}


def test_hold_trades_nothing() -> None:
    """Holding has no turnover and no cost."""
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    state, _ = step(state, FLAT, hour=1, target=HoldTarget())
    _, effects = step(state, [*FLAT, (120.0, 40.0)], hour=2, target=HoldTarget())
    assert (effects.record.turnover, effects.record.fees, effects.orders) == (0.0, 0.0, ())


class Heavy:
    """Weights above the leverage limit."""

    source = Source.POLICY
    model_id = "heavy"

    def target_weights(self, _panel: Panel, _describe: Describe) -> Float64Array | None:
        return np.array([0.8, 0.3])


def test_weights_that_break_a_rule_hold() -> None:
    """A target above the leverage limit is refused by the decision, not by a traceback."""
    _, effects = step(fresh_state(), FLAT, hour=0, target=Heavy())
    assert effects.record.status == "held"
    assert effects.orders == ()


def test_a_symbol_that_left_the_venue_keeps_its_last_mark() -> None:
    """Without any bar in the window the position is valued at the last mark that was known."""
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    state, _ = step(state, FLAT, hour=1, target=HoldTarget())
    gone = [(np.nan, 50.0)] * 3
    _, effects = step(state, gone, hour=2, target=HoldTarget())
    assert effects.record.equity == pytest.approx(state.equity)
    assert effects.record.marks[SYMBOLS[0]] == 100.0


def test_a_halt_outlives_a_missed_interval() -> None:
    """The record of a missed interval says that the account is halted, for the next start."""
    rules = replace(RULES, drawdown_limit=0.1)
    state, _ = step(fresh_state(), FLAT, hour=0, target=Half())
    state, _ = step(state, FLAT, hour=1, target=HoldTarget())
    state, _ = step(state, [*FLAT, (70.0, 50.0)], hour=2, target=Half(), rules=rules)
    _, effects = step(state, FLAT, hour=3, target=None, rules=rules)
    assert effects.record.status == "missed"
    assert effects.record.halted


def test_equal_weights_leave_room_for_a_masked_position() -> None:
    """What a masked symbol weighs is taken from the others, so the limit is never broken."""
    portfolio = portfolio_state(
        weights=[0.7, 0.1], drawdown=0.0, sigma=0.0, bars_since_trade=0, unit_cost=0.0
    )
    weights = EqualWeightTarget().target_weights(panel([*FLAT, (np.nan, 50.0)]), lambda: portfolio)
    assert weights is not None
    np.testing.assert_allclose(weights, [0.7, 0.25])
