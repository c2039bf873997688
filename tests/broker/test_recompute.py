"""A fill computed again from what was stored is equal to the last digit, or says what differs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

import pytest

from broker.account import open_account, place_orders
from broker.book_filling import Venue, execute_on_books
from broker.book_walk import book_id
from broker.costs import CostModel, TradingRules
from broker.filling import FillBar, execute_pending
from broker.orders import Fill, Order, RejectReason
from broker.recompute import FillKind, Recomputed, kind_of, recompute_modelled, recompute_walk
from market.bar import HOUR_MS
from market.quote import OrderBook
from tests.broker.factories import BTC, INSTRUMENTS

COSTS = CostModel(fee_rate=0.0005, half_spread_bps=10.0, impact_coefficient=1.0)
DEPTH = (1_234_567.0, 0.0321)
OPEN = 61_234.5
BOOK = OrderBook(
    symbol=BTC,
    decision_time=HOUR_MS,
    event_time=HOUR_MS,
    available_at=HOUR_MS + 80,
    update_id=5,
    bids=((99.9, 1.0), (99.8, 4.0)),
    asks=((100.2, 1.0), (100.3, 4.0)),
)


def posted(
    quantity: str = "-0.017",
    cap: float = math.inf,
    *,
    volume: float = 0.1,
    depth: tuple[float, float] = DEPTH,
) -> tuple[Fill, Mapping[str, str]]:
    """A modelled fill as the account makes it, and the facts of its entry."""
    state, _ = open_account("main", deposit=Decimal(10_000), quote="USDT", time=0)
    order = Order(
        order_id="main:order",
        symbol=BTC,
        decision_time=HOUR_MS,
        quantity=Decimal(quantity),
        decision_price=Decimal(100),
    )
    bar = FillBar(
        open_time=HOUR_MS,
        open_price={BTC: OPEN},
        volume={BTC: volume},
        liquidity={BTC: depth},
    )
    done = execute_pending(
        place_orders(state, (order,)),
        bar,
        instruments=INSTRUMENTS,
        costs=COSTS,
        rules=TradingRules(participation_cap=cap),
    )
    return done.fills[0], done.entries[0].facts


def walked(quantity: str, price: str, *, fee: str, slippage: str) -> Fill:
    """A fill against ``BOOK``, whose mid is 100.05."""
    return Fill(
        fill_id=f"fill {quantity}",
        order_id="order",
        symbol=BTC,
        event_time=HOUR_MS + 80,
        quantity=Decimal(quantity),
        reference_price=Decimal("100.05"),
        fill_price=Decimal(price),
        fee=Decimal(fee),
        slippage=Decimal(slippage),
        book_id=book_id(BOOK),
    )


FACTS = {"fee_rate": "0.0005"}


def differing(found: Recomputed) -> list[str]:
    return [one.figure for one in found.differences]


@pytest.mark.parametrize("quantity", ["0.017", "-0.017", "0.003"])
def test_a_modelled_fill_is_equal_to_the_last_digit(quantity: str) -> None:
    """From the open, the liquidity and the parameters that the entry states."""
    fill, facts = posted(quantity)
    found = recompute_modelled(fill, facts, open_price=OPEN, liquidity=DEPTH)
    assert (found.kind, found.differences, found.is_equal) == (FillKind.MODELLED, (), True)


def test_a_fill_cut_by_the_participation_cap_is_equal_too() -> None:
    """Its price is that of the quantity that was filled."""
    fill, facts = posted("0.05", cap=0.2)
    assert (fill.quantity, fill.shortfall) == (Decimal("0.020"), RejectReason.PARTICIPATION_CAP)
    assert recompute_modelled(fill, facts, open_price=OPEN, liquidity=DEPTH).is_equal


def test_a_fill_of_lots_that_do_not_add_up_in_binary_is_equal_too() -> None:
    """102 lots of 0.001 are not 0.102 in float64; where impact is large the price would tell."""
    assert 102 * 0.001 != 0.102
    thin = (400_000.0, 0.4)
    fill, facts = posted("5", cap=0.2, volume=0.5101, depth=thin)
    assert fill.quantity == Decimal("0.102")
    assert recompute_modelled(fill, facts, open_price=OPEN, liquidity=thin).differences == ()


def test_what_was_changed_since_is_named_with_both_figures() -> None:
    """Another open changes prices and costs, another volume the price; a touched fee is itself."""
    fill, facts = posted()
    revised = recompute_modelled(fill, facts, open_price=OPEN + 0.1, liquidity=DEPTH)
    assert differing(revised) == ["fill_price", "fee", "reference_price", "slippage"]
    assert (revised.differences[2].stored, revised.differences[2].recomputed) == (
        "61234.5",
        "61234.6",
    )
    thinner = recompute_modelled(fill, facts, open_price=OPEN, liquidity=(1e6, 0.0321))
    assert differing(thinner) == ["fill_price", "fee", "slippage", "adv_quote"]
    touched = replace(fill, fee=fill.fee + Decimal("0.00000001"))
    assert differing(recompute_modelled(touched, facts, open_price=OPEN, liquidity=DEPTH)) == [
        "fee"
    ]


def test_what_is_not_stored_is_said() -> None:
    """A bar, or the parameters of an entry that an older program wrote."""
    fill, facts = posted()
    unseen = recompute_modelled(fill, facts, open_price=math.nan, liquidity=DEPTH)
    assert not unseen.is_equal
    assert f"no bar of {BTC}" in unseen.missing
    older = {name: value for name, value in facts.items() if name != "sigma_daily"}
    without = recompute_modelled(fill, older, open_price=OPEN, liquidity=DEPTH)
    assert without.missing == "its entry states no sigma_daily"


def test_a_walk_of_a_stored_book_by_hand() -> None:
    """1 at 100.2 and 1 at 100.3: 100.25 on average, 0.4 of slippage, 0.10025 of fee."""
    fill = walked("2.0", "100.25", fee="0.10025", slippage="0.4")
    found, taken = recompute_walk(fill, FACTS, book=BOOK, taken=None)
    assert (found.kind, found.differences, found.is_equal) == (FillKind.BOOK, (), True)
    then = walked("1.0", "100.3", fee="0.05015", slippage="0.25")
    assert recompute_walk(then, FACTS, book=BOOK, taken=taken)[0].is_equal
    alone, _ = recompute_walk(then, FACTS, book=BOOK, taken=None)
    assert differing(alone) == ["fill_price", "fee", "slippage"]
    sold = walked("-0.5", "99.9", fee="0.024975", slippage="0.075")
    assert recompute_walk(sold, FACTS, book=BOOK, taken=taken)[0].is_equal


@pytest.mark.parametrize("quantity", ["3.217", "-4.999", "7"])
def test_a_fill_that_the_account_walked_is_equal_to_the_last_digit(quantity: str) -> None:
    """What the ledger states of a walk comes out of the stored book, a partial fill's too."""
    state, _ = open_account("main", deposit=Decimal(10_000), quote="USDT", time=0)
    order = Order(
        order_id="main:order",
        symbol=BTC,
        decision_time=HOUR_MS,
        quantity=Decimal(quantity),
        decision_price=Decimal(100),
    )
    done = execute_on_books(
        state,
        (order,),
        Venue(books={BTC: BOOK}, instruments=INSTRUMENTS, filled_at=HOUR_MS + 100),
        costs=COSTS,
        rules=TradingRules(),
    )
    (fill,), (entry,) = done.fills, done.entries
    assert recompute_walk(fill, entry.facts, book=BOOK, taken=None)[0].is_equal


def test_more_than_the_book_held_differs_in_quantity() -> None:
    """It held 5."""
    fill = walked("5.5", "100.28", fee="0.27577", slippage="1.265")
    found, _ = recompute_walk(fill, FACTS, book=BOOK, taken=None)
    assert found.differences[0].figure == "quantity"
    assert (found.differences[0].stored, found.differences[0].recomputed) == ("5.5", "5")


def test_another_book_than_the_one_that_was_walked_is_not_walked() -> None:
    """The id names one snapshot; what replaced it, or nothing, is said."""
    fill = walked("1", "100.2", fee="0.0501", slippage="0.15")
    replaced, _ = recompute_walk(
        fill, FACTS, book=replace(BOOK, available_at=HOUR_MS + 90), taken=None
    )
    assert f"replaced by {BTC}@3600000@3600090" in replaced.missing
    gone, _ = recompute_walk(fill, FACTS, book=None, taken=None)
    assert f"no order book {BTC}@3600000@3600080 is stored" in gone.missing
    crossed, _ = recompute_walk(fill, FACTS, book=replace(BOOK, bids=BOOK.asks), taken=None)
    assert "best_bid_not_below_best_ask" in crossed.missing
    other, _ = recompute_walk(replace(fill, symbol="x"), FACTS, book=BOOK, taken=None)
    assert other.missing.endswith("is not of x")
    older, _ = recompute_walk(fill, {}, book=BOOK, taken=None)
    assert older.missing == "its entry states no fee_rate"
    assert {one.kind for one in (replaced, gone, crossed, older)} == {FillKind.BOOK}
    assert kind_of(replace(fill, book_id=None)) is FillKind.MODELLED
