"""Filling the orders of one account against the order books that were recorded at its decision.

``book_walk`` says what a book gives; this module does it for every order of a decision, reductions
first, and posts what came of it. An order that a book cannot fill is given up with the reason; no
price is ever guessed. Pure: no clock, no storage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from broker import kernel
from broker.book_walk import BookFill, book_id, walk
from broker.costs import CostModel, TradingRules
from broker.filling import Execution, post_fill, rejection, with_holding
from broker.ledger import Entry
from broker.money import money, to_float, to_money, to_price
from broker.orders import Fill, Order, Rejection, RejectReason, fill_id
from broker.state import AccountState
from broker.valuation import account_book
from market.instrument import Instrument, Market
from market.quote import OrderBook


@dataclass(frozen=True, slots=True, kw_only=True)
class Venue:
    """Where orders are filled at one moment.

    Attributes:
        books: by symbol, as recorded at the decision of the orders.
        instruments: by symbol, of every order.
        filled_at: UTC milliseconds; the fills' ``event_time``.
    """

    books: Mapping[str, OrderBook]
    instruments: Mapping[str, Instrument]
    filled_at: int


def execute_on_books(
    state: AccountState,
    orders: Sequence[Order],
    venue: Venue,
    *,
    costs: CostModel,
    rules: TradingRules,
) -> Execution:
    """Walk the book of each order, in their sequence, and post the fills.

    A spot account buys no more than its cash pays for, fees included.

    Args:
        state: the account, nothing pending.
        orders: of one decision, reductions first.
        venue: the books and the moment.
        costs: gives the fee; spread and impact are the book's own.
        rules: gives the slippage cap.

    Raises:
        ValueError: orders are pending, or the moment is not after the last fill.
    """
    if state.pending:
        raise ValueError(f"account {state.account_id} has pending orders")
    if orders and venue.filled_at <= state.last_fill_time:
        raise ValueError(
            f"account {state.account_id}: a fill at {venue.filled_at} is not after its last fill "
            f"at {state.last_fill_time}; decide each close once, in their order"
        )
    fills, entries, refused = [], [], []
    for order in orders:
        found = _walk(state, order, venue, costs, rules)
        if isinstance(found, Rejection):
            refused.append(found)
            continue
        state, fill, entry = _post(state, order, found, venue, costs)
        fills.append(fill)
        entries.append(entry)
    return Execution(
        state=with_holding(state, venue.filled_at) if fills else state,
        fills=tuple(fills),
        entries=tuple(entries),
        rejections=tuple(refused),
    )


def _walk(
    state: AccountState, order: Order, venue: Venue, costs: CostModel, rules: TradingRules
) -> BookFill | Rejection:
    book = venue.books.get(order.symbol)
    if book is None:
        return rejection(order, RejectReason.NO_BOOK)
    if book.decision_time != order.decision_time or book.available_at > venue.filled_at:
        return rejection(order, RejectReason.STALE_BOOK)
    lot_step = venue.instruments[order.symbol].lot_step
    done = walk(book, order.quantity, slippage_cap=rules.slippage_cap, lot_step=lot_step)
    if state.market is Market.SPOT and order.quantity > 0:
        payable = _payable(state.wallet, done, costs, lot_step)
        if payable == 0:
            return rejection(order, done.shortfall or RejectReason.INSUFFICIENT_CASH)
        if payable < done.filled:
            done = walk(book, payable, slippage_cap=rules.slippage_cap, lot_step=lot_step)
    if done.filled == 0:
        return rejection(order, done.shortfall or RejectReason.BOOK_EXHAUSTED)
    return done


def _payable(cash: Decimal, done: BookFill, costs: CostModel, lot_step: Decimal) -> Decimal:
    """Base units of a purchase that ``cash`` pays for; the average price only falls with them."""
    needed = done.notional * (1 + to_price(costs.fee_rate))
    if needed <= cash:
        return done.filled
    share = max(cash, Decimal(0)) / needed
    return done.filled * share // lot_step * lot_step


def _post(
    state: AccountState, order: Order, done: BookFill, venue: Venue, costs: CostModel
) -> tuple[AccountState, Fill, Entry]:
    price, reference = done.fill_price, done.reference_price
    assert price is not None
    assert reference is not None
    traded, at = np.array([to_float(done.filled)]), np.array([to_float(price)])
    before = account_book(state, (order.symbol,))
    fee = kernel.trade_fee(traded, at, costs)
    _, _, entry_price, realised = kernel.apply_fills(*before, traded, at, fee)
    cut = done.filled != order.quantity
    fill = Fill(
        fill_id=fill_id(order),
        order_id=order.order_id,
        symbol=order.symbol,
        event_time=venue.filled_at,
        quantity=done.filled,
        reference_price=reference,
        fill_price=price,
        fee=to_money(float(fee[0])),
        slippage=money(done.slippage),
        shortfall=(done.shortfall or RejectReason.INSUFFICIENT_CASH) if cut else None,
        book_id=book_id(venue.books[order.symbol]),
    )
    state, entry = post_fill(
        state,
        fill,
        realised=float(realised[0]),
        entry_price=to_price(float(entry_price[0])),
        facts={"fee_rate": repr(costs.fee_rate), "book_id": str(fill.book_id)},
    )
    return state, fill, entry
