"""From weights to orders: what is ordered, what is not, and the reason given."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.account import AccountState, place_orders, plan_orders
from broker.costs import TradingRules
from broker.orders import RejectReason
from broker.rebalance import Plan, WeightsRejected
from market.bar import HOUR_MS
from tests.broker.factories import (
    BTC,
    DEEP,
    ETH,
    FREE,
    INSTRUMENTS,
    RULES,
    SOL,
    USUAL,
    account,
    filled,
    instrument,
    order,
)

PRICES = {BTC: 100.0, ETH: 50.0, SOL: 10.0}


def plan(state: AccountState, target: dict[str, float], **changes: Any) -> Plan:
    """Plan at the usual prices, free of cost, everything tradable."""
    arguments: dict[str, Any] = {
        "price": PRICES, "mark": PRICES, "instruments": INSTRUMENTS, "costs": FREE,
        "rules": RULES, "decision_time": HOUR_MS, "tradable": set(INSTRUMENTS),
        "liquidity": dict.fromkeys(INSTRUMENTS, DEEP),
    }  # fmt: skip
    return plan_orders(state, target_weights=target, **{**arguments, **changes})


def outcome(planned: Plan) -> tuple[dict[str, Decimal], dict[str, RejectReason]]:
    """Ordered quantities and rejection reasons by symbol."""
    ordered = {one.symbol: one.quantity for one in planned.orders}
    return ordered, {one.symbol: one.reason for one in planned.rejections}


def test_target_quantity_by_hand() -> None:
    """Half of 10 000 at 100 is 50; a third at 50 is 66.666 rounded toward zero."""
    ordered, rejected = outcome(plan(account(), {BTC: 0.5, ETH: 1 / 3}))
    assert ordered == {BTC: Decimal("50"), ETH: Decimal("66.666")}
    assert rejected == {}


def test_ids_are_functions_of_content() -> None:
    """Account, decision time and symbol name the order."""
    (one,) = plan(account(), {BTC: 0.5}).orders
    assert one.order_id == f"main:order:{HOUR_MS}:{BTC}"


def test_reductions_come_first() -> None:
    """Sells free the room that buys need."""
    state = filled(account(), "90", 100.0, symbol=SOL)
    planned = plan(state, {BTC: 0.3, SOL: 0.01}, decision_time=2 * HOUR_MS)
    assert [one.symbol for one in planned.orders] == [SOL, BTC]


def test_symbol_without_a_target_is_sold() -> None:
    """Cash is the rest: what the target does not name is not held."""
    ordered, _ = outcome(plan(filled(account(), "10", 100.0), {ETH: 0.1}))
    assert ordered[BTC] == Decimal(-10)


def test_buys_leave_room_for_costs() -> None:
    """All in at 0.05 % + 1 bp: one factor 1/1.0006 for both buys, recorded."""
    costs = replace(USUAL, impact_coefficient=0.0)
    planned = plan(account(), {BTC: 0.5, ETH: 0.5}, costs=costs)
    assert planned.buy_scale == pytest.approx(1 / 1.0006)
    assert outcome(planned)[0] == {BTC: Decimal("49.970"), ETH: Decimal("99.940")}


@pytest.mark.parametrize("price", [math.nan, 0.0, -5.0, None])
def test_no_price_keeps_the_position(price: float | None) -> None:
    """A missing, zero or broken price is ``NO_PRICE``; the others trade."""
    prices = {name: value for name, value in {**PRICES, BTC: price}.items() if value is not None}
    planned = plan(filled(account(), "10", 100.0), {BTC: 0.9, ETH: 0.1}, price=prices)
    assert outcome(planned) == ({ETH: Decimal("20")}, {BTC: RejectReason.NO_PRICE})


def test_excluded_symbol_keeps_its_position() -> None:
    """A symbol that the caller masks is ``NOT_TRADABLE`` and states what was wanted."""
    planned = plan(filled(account(), "10", 100.0), {BTC: 0.5}, tradable={ETH})
    (rejection,) = planned.rejections
    assert rejection.reason is RejectReason.NOT_TRADABLE
    assert rejection.wanted_quantity == Decimal(40)


def test_held_symbol_that_vanished_is_kept() -> None:
    """A delisted holding keeps its position and is reported."""
    only_eth = {ETH: INSTRUMENTS[ETH]}
    planned = plan(filled(account(), "10", 100.0), {ETH: 0.5}, instruments=only_eth)
    assert outcome(planned) == ({ETH: Decimal("100")}, {BTC: RejectReason.NOT_TRADABLE})


@pytest.mark.parametrize(
    ("weight", "rules", "item", "reason"),
    [
        (0.009, TradingRules(no_trade_band=0.01), instrument(), RejectReason.WITHIN_BAND),
        (0.005, RULES, instrument(lot_step="1"), RejectReason.BELOW_LOT_STEP),
        (0.001, RULES, instrument(min_notional="20"), RejectReason.BELOW_MIN_NOTIONAL),
        (
            0.1,
            RULES,
            replace(instrument(), min_quantity=Decimal(20)),
            RejectReason.BELOW_MIN_QUANTITY,
        ),
    ],
)
def test_every_refusal_has_its_reason(
    weight: float, rules: TradingRules, item: Any, reason: RejectReason
) -> None:
    """The first rule that stops an order is the one reported."""
    planned = plan(account(), {BTC: weight}, rules=rules, instruments={BTC: item})
    assert outcome(planned) == ({}, {BTC: reason})


def test_scaled_to_nothing_is_the_leverage_limit() -> None:
    """A stuck position fills the limit: the buy is refused with that reason."""
    state = filled(account(), "100", 100.0)
    planned = plan(state, {BTC: 0.0, ETH: 1.0}, tradable={ETH})
    assert planned.buy_scale == 0.0
    assert outcome(planned)[1] == {
        BTC: RejectReason.NOT_TRADABLE, ETH: RejectReason.LEVERAGE_LIMIT,
    }  # fmt: skip


def test_holding_is_not_a_rejection() -> None:
    """The target that is held already asks for nothing and reports nothing."""
    planned = plan(filled(account(), "50", 100.0), {BTC: 0.5})
    assert (planned.orders, planned.rejections) == ((), ())


@pytest.mark.parametrize(
    ("target", "named"),
    [
        ({BTC: math.nan}, "nan"),
        ({BTC: math.inf}, "inf"),
        ({BTC: -0.1}, "-0.1"),
        ({BTC: 0.6, ETH: 0.5}, "1.1"),
        ({"DOGE/USDT:USDT": 0.1}, "DOGE"),
    ],
)
def test_bad_weights_are_rejected_by_name(target: dict[str, float], named: str) -> None:
    """Not finite, negative, above the limit, unknown: the message says which."""
    with pytest.raises(WeightsRejected, match=named):
        plan(account(), target)


def test_sum_of_weights_has_float_slack() -> None:
    """A sum above the limit by 1e-10 is float noise."""
    assert plan(account(), {BTC: 0.5, ETH: 0.5 + 1e-10}).orders


def test_pending_orders_forbid_a_plan() -> None:
    """A second decision before the first is settled is a bug of the caller."""
    with pytest.raises(ValueError, match="pending"):
        plan(place_orders(account(), (order("1"),)), {BTC: 0.5})


@given(raw=st.lists(st.floats(0, 1), min_size=3, max_size=3), held=st.integers(0, 99))
def test_every_wanted_symbol_is_ordered_or_explained(raw: list[float], held: int) -> None:
    """A symbol is in the orders, or in the rejections, or holds what it should; never in two."""
    state = filled(account(), str(held), 100.0) if held else account()
    total = max(1.0, sum(raw))
    target = dict(zip((BTC, ETH, SOL), (weight / total for weight in raw), strict=True))
    planned = plan(state, target, costs=USUAL, rules=TradingRules(no_trade_band=0.05))
    ordered, rejected = outcome(planned)
    assert not set(ordered) & set(rejected)
    for symbol, weight in target.items():
        quantity = Decimal(held) if symbol == BTC else Decimal(0)
        wanted = weight * 10_000 / PRICES[symbol] - float(quantity)
        if symbol not in ordered and symbol not in rejected:
            assert abs(wanted) <= 1e-6
