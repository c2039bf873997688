"""What bounds a fill: the bar's volume, the cash of a spot account, the venue's largest order."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from broker.account import AccountState, open_account, place_orders, plan_orders
from broker.costs import TradingRules
from broker.orders import RejectReason
from broker.rebalance import Plan
from market.bar import HOUR_MS
from market.instrument import Instrument, Market
from tests.broker.factories import BTC, ETH, FREE, RULES, USUAL, account, fill, instrument, order

CAPPED = TradingRules(participation_cap=0.1)


def spot_account(deposit: str = "1000") -> AccountState:
    """A fresh account of cash."""
    return open_account("main", deposit=Decimal(deposit), quote="USDT", time=0, market=Market.SPOT)[
        0
    ]


def test_order_takes_no_more_than_its_share_of_the_volume() -> None:
    """A tenth of 12.3456 base units, in lots of 0.001: 1.234 of the 5 that were ordered."""
    state = place_orders(account(), (order("5"),))
    done = fill(state, {BTC: 100.0}, volume={BTC: 12.3456}, rules=CAPPED)
    (one,) = done.fills
    assert one.quantity == Decimal("1.234")
    assert one.shortfall is RejectReason.PARTICIPATION_CAP
    assert done.state.positions[BTC].quantity == Decimal("1.234")
    assert done.state.pending == ()


@pytest.mark.parametrize("side", ["2", "-2"])
def test_order_within_its_share_is_filled_whole(side: str) -> None:
    """Exactly the share is enough, on either side."""
    done = fill(
        place_orders(account(), (order(side),)), {BTC: 100.0}, volume={BTC: 20.0}, rules=CAPPED
    )
    assert [(one.quantity, one.shortfall) for one in done.fills] == [(Decimal(side), None)]


def test_order_that_is_its_share_but_for_float_noise_is_filled_whole() -> None:
    """0.3 of a share that is 0.3 in all but its last digits: all of it, and no shortfall."""
    tenths = {BTC: instrument(lot_step="0.1")}
    state = place_orders(account(), (order("0.3"),))
    done = fill(state, {BTC: 100.0}, volume={BTC: 3.0 - 1e-14}, instruments=tenths, rules=CAPPED)
    assert [(one.quantity, one.shortfall) for one in done.fills] == [(Decimal("0.3"), None)]


@pytest.mark.parametrize("volume", [{}, {BTC: 0.0}, {BTC: np.nan}])
def test_bar_without_volume_fills_nothing(volume: dict[str, float]) -> None:
    """The order ends as a refusal with the reason, and no fill is posted."""
    state = place_orders(account(), (order("2"), order("1", symbol=ETH)))
    done = fill(state, {BTC: 100.0, ETH: 50.0}, volume={ETH: 100.0, **volume}, rules=CAPPED)
    assert [one.symbol for one in done.fills] == [ETH]
    assert [(one.symbol, one.reason, one.wanted_quantity) for one in done.rejections] == [
        (BTC, RejectReason.PARTICIPATION_CAP, Decimal(2))
    ]


def test_costs_of_a_partial_fill_are_those_of_what_was_filled() -> None:
    """Fee and slippage of 1 BTC, not of the 4 that were ordered."""
    depth = {BTC: (1e30, 0.0)}
    part = fill(
        place_orders(account(), (order("4"),)), {BTC: 100.0},
        volume={BTC: 10.0}, liquidity=depth, costs=USUAL, rules=CAPPED,
    )  # fmt: skip
    whole = fill(place_orders(account(), (order("1"),)), {BTC: 100.0}, liquidity=depth, costs=USUAL)
    keys = ("quantity", "fill_price", "fee", "slippage")
    assert [getattr(part.fills[0], key) for key in keys] == [
        getattr(whole.fills[0], key) for key in keys
    ]


def test_spot_purchase_by_hand() -> None:
    """3 at 100 with a fee of 0.05 %: cash 699.85, cost 300, equity by the mark."""
    done = fill(place_orders(spot_account(), (order("3"),)), {BTC: 100.0},
                liquidity={BTC: (1e30, 0.0)},
                costs=replace(FREE, fee_rate=0.0005))  # fmt: skip
    (entry,) = done.entries
    assert done.state.wallet == Decimal("699.85")
    assert {leg.ledger_account: leg.amount for leg in entry.postings} == {
        f"assets:position:{BTC}": Decimal(3),
        f"equity:counterparty:{BTC}": Decimal(-3),
        "assets:wallet": Decimal("-300.15"),
        f"assets:cost:{BTC}": Decimal(300),
        f"expenses:fees:{BTC}": Decimal("0.15"),
    }


def test_spot_sale_realises_against_what_was_paid() -> None:
    """Of 3 bought at 100, 2 are sold at 130: 60 is income, 200 of the cost goes."""
    state = fill(place_orders(spot_account(), (order("3"),)), {BTC: 100.0}).state
    done = fill(
        place_orders(state, (order("-2", decision_time=2 * HOUR_MS),)),
        {BTC: 130.0},
        open_time=2 * HOUR_MS,
    )
    (entry,) = done.entries
    assert done.state.wallet == Decimal(960)
    assert entry.paid_to(f"assets:cost:{BTC}") == Decimal(-200)
    assert entry.paid_to(f"income:realised:{BTC}") == Decimal(-60)


def test_spot_account_never_buys_on_credit() -> None:
    """Ordered at 100, the open is 150: of 10 only 6.666 can be paid, and cash stays above 0."""
    done = fill(place_orders(spot_account(), (order("10"),)), {BTC: 150.0})
    (one,) = done.fills
    assert (one.quantity, one.shortfall) == (Decimal("6.666"), RejectReason.INSUFFICIENT_CASH)
    assert done.state.wallet == 1000 - Decimal("6.666") * 150


def test_spot_account_that_is_a_hair_short_buys_a_lot_less() -> None:
    """10 at 100 with 999.99999: the tenth lot is not paid for, however little is missing."""
    whole = {BTC: instrument(lot_step="1")}
    state = place_orders(spot_account("999.99999"), (order("10"),))
    done = fill(state, {BTC: 100.0}, instruments=whole)
    (one,) = done.fills
    assert (one.quantity, one.shortfall) == (Decimal(9), RejectReason.INSUFFICIENT_CASH)
    assert done.state.wallet == Decimal("99.99999")


def test_spot_purchase_may_use_what_is_sold_at_the_same_open() -> None:
    """All cash is in BTC; selling it pays for ETH within the same bar."""
    state = fill(place_orders(spot_account(), (order("10"),)), {BTC: 100.0}).state
    swap = (
        order("-10", decision_time=2 * HOUR_MS),
        order("20", symbol=ETH, decision_time=2 * HOUR_MS),
    )
    done = fill(place_orders(state, swap), {BTC: 100.0, ETH: 50.0}, open_time=2 * HOUR_MS)
    assert [one.shortfall for one in done.fills] == [None, None]
    assert set(done.state.positions) == {ETH}
    assert done.state.wallet == 0


def planned(
    state: AccountState, weight: float, *, item: Instrument, rules: TradingRules = RULES
) -> Plan:
    """The plan of one decision at a price of 100."""
    return plan_orders(
        state,
        target_weights={BTC: weight},
        price={BTC: 100.0},
        mark={BTC: 100.0},
        instruments={BTC: item},
        costs=FREE,
        rules=rules,
        decision_time=HOUR_MS,
        tradable={BTC},
    )


def test_order_is_cut_to_the_venues_largest_market_order() -> None:
    """100 units are wanted, 30.5 is the most: 30 in whole lots, and the order says why."""
    item = replace(instrument(lot_step="1"), max_quantity=Decimal("30.5"))
    (one,) = planned(account(), 1.0, item=item).orders
    assert (one.quantity, one.limited_by) == (Decimal(30), RejectReason.ABOVE_MAX_QUANTITY)
    (free,) = planned(account(), 0.3, item=item).orders
    assert (free.quantity, free.limited_by) == (Decimal(30), None)


def test_a_short_and_its_flip_by_hand() -> None:
    """A weight of −0.5 sells 50; from there +0.25 buys 75 in one order."""
    rules = replace(RULES, allow_short=True)
    (sold,) = planned(account(), -0.5, item=instrument(), rules=rules).orders
    state = fill(place_orders(account(), (sold,)), {BTC: 100.0}, rules=rules).state
    (flip,) = planned(state, 0.25, item=instrument(), rules=rules).orders
    assert (sold.quantity, flip.quantity) == (Decimal(-50), Decimal(75))


def test_gross_exposure_counts_shorts_in_full() -> None:
    """−0.7 and +0.7 are 1.4 times the equity, not nothing."""
    rules = replace(RULES, allow_short=True)
    with pytest.raises(ValueError, match="sum to 1.4, above 1.0"):
        plan_orders(
            account(), target_weights={BTC: -0.7, ETH: 0.7}, price={}, mark={},
            instruments={BTC: instrument(), ETH: instrument(ETH)}, costs=FREE, rules=rules,
            decision_time=HOUR_MS, tradable=set(),
        )  # fmt: skip


def test_weights_of_a_long_account_must_not_be_negative() -> None:
    """The message names the setting that permits it."""
    with pytest.raises(ValueError, match=r"negative.*account.allow_short"):
        planned(account(), -0.1, item=instrument())


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_weights_must_be_finite(weight: float) -> None:
    """Nothing is planned from what is no number."""
    with pytest.raises(ValueError, match="finite"):
        planned(account(), weight, item=instrument())
