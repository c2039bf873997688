"""Orders of one decision filled in the books that were recorded with it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from broker.account import AccountState, open_account
from broker.book_filling import Venue, execute_on_books
from broker.filling import Execution
from broker.orders import Order, RejectReason
from market.bar import HOUR_MS
from market.instrument import Market
from market.quote import OrderBook
from tests.broker.factories import BTC, ETH, FREE, INSTRUMENTS, RULES, account, order

NOW = HOUR_MS + 700
COSTS = replace(FREE, fee_rate=0.001)


def book(symbol: str = BTC, *, decision_time: int = HOUR_MS, at: int = NOW - 200) -> OrderBook:
    """Bids 99 and 98, asks 101 and 102, two units each: the mid is 100."""
    return OrderBook(
        symbol=symbol,
        decision_time=decision_time,
        event_time=at,
        available_at=at,
        update_id=7,
        bids=((99.0, 2.0), (98.0, 2.0)),
        asks=((101.0, 2.0), (102.0, 2.0)),
    )


def run(
    state: AccountState, *orders: Order, books: dict[str, OrderBook] | None = None, cap: float = 0.5
) -> Execution:
    """Fill orders at ``NOW``."""
    venue = Venue(
        books={BTC: book(), ETH: book(ETH)} if books is None else books,
        instruments=INSTRUMENTS,
        filled_at=NOW,
    )
    return execute_on_books(
        state, orders, venue, costs=COSTS, rules=replace(RULES, slippage_cap=cap)
    )


def test_fill_by_hand() -> None:
    """3 units: 2 at 101 and 1 at 102, 304 in all, 4 above the mid, a fee of 0.304."""
    done = run(account(), order("3"))
    (one,), (entry,) = done.fills, done.entries
    assert (one.event_time, one.quantity, one.shortfall) == (NOW, Decimal(3), None)
    assert float(one.fill_price) == 304 / 3
    assert (one.reference_price, one.slippage) == (Decimal(100), Decimal(4))
    assert one.fee == Decimal("0.304")
    assert one.book_id == entry.facts["book_id"] == f"{BTC}@{HOUR_MS}@{NOW - 200}"
    assert done.state.wallet == Decimal("9999.696")
    assert done.state.positions[BTC].quantity == 3
    assert done.state.last_fill_time == NOW


def test_book_that_does_not_suffice_fills_what_it_has() -> None:
    """Of 9 sold, 4 meet a bid; the rest is given up with the reason."""
    done = run(account(), order("-9"))
    assert [(one.quantity, one.shortfall) for one in done.fills] == [
        (Decimal(-4), RejectReason.BOOK_EXHAUSTED)
    ]


def test_slippage_cap_stops_the_walk() -> None:
    """Within 1.5 % of the mid lies the level at 101, not the one at 102."""
    done = run(account(), order("3"), cap=0.015)
    assert [(one.quantity, one.shortfall) for one in done.fills] == [
        (Decimal(2), RejectReason.SLIPPAGE_CAP)
    ]


@pytest.mark.parametrize(
    ("books", "reason"),
    [
        ({}, RejectReason.NO_BOOK),
        ({BTC: book(decision_time=0)}, RejectReason.STALE_BOOK),
        ({BTC: book(at=NOW + 1)}, RejectReason.STALE_BOOK),
        ({BTC: replace(book(), asks=())}, RejectReason.EMPTY_BOOK),
        ({BTC: replace(book(), asks=((98.5, 1.0),))}, RejectReason.CROSSED_BOOK),
    ],
)
def test_order_without_a_usable_book_is_refused(
    books: dict[str, OrderBook], reason: RejectReason
) -> None:
    """No price is guessed: nothing is filled, nothing is posted, the reason is kept."""
    done = run(account(), order("3"), books=books)
    assert (done.fills, done.entries, done.state) == ((), (), account())
    assert [one.reason for one in done.rejections] == [reason]


def test_spot_account_buys_what_its_cash_pays_for() -> None:
    """250 in cash: 2 at 101 are 202 and 0.202, which leaves 47.798; 0.468 more at 102 fit."""
    state = open_account("main", deposit=Decimal(250), quote="USDT", time=0, market=Market.SPOT)[0]
    done = run(state, order("4"))
    (one,) = done.fills
    assert one.shortfall is RejectReason.INSUFFICIENT_CASH
    assert Decimal(2) < one.quantity <= Decimal("2.468")
    assert 0 <= done.state.wallet < 8


def test_spot_account_keeps_what_the_fee_takes() -> None:
    """202 in cash pay for 2 at 101, and not for the fee of 0.202: 1.998 it is."""
    state = open_account("main", deposit=Decimal(202), quote="USDT", time=0, market=Market.SPOT)[0]
    done = run(state, order("2"))
    (one,) = done.fills
    assert (one.quantity, one.shortfall) == (Decimal("1.998"), RejectReason.INSUFFICIENT_CASH)
    assert done.state.wallet == Decimal("202") - Decimal("1.998") * 101 * Decimal("1.001")


def test_nothing_is_filled_before_the_last_fill() -> None:
    """The clock went backwards: a bug of the caller, and no entry."""
    state = run(account(), order("1")).state
    with pytest.raises(ValueError, match="not after its last fill"):
        run(state, order("1", decision_time=HOUR_MS))
