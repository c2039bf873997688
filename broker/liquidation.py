"""The margin test of one account inside one bar, and what it posts where the margin is gone.

``margin`` says whether and at which mark; this module turns that into double entries: every
position is closed with the liquidation fee, and what the account then owes is paid by an insurance
posting, so that no wallet ends below zero. Pure: no clock, no storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from broker import margin
from broker.book import Int64Array, Interval, Liquidation
from broker.filling import post_fill, with_holding
from broker.ledger import WALLET, Entry, EntryKind, postings
from broker.money import to_money, to_price
from broker.orders import Fill
from broker.state import AccountState
from broker.tiers import MarginTable
from broker.valuation import account_book
from market.instrument import Market


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRange:
    """Where the mark of one symbol was within a bar, quote currency: low ≤ opened ≤ high."""

    opened: float
    low: float
    high: float


def check_margin(
    state: AccountState, marks: Mapping[str, MarkRange], *, close_time: int, table: MarginTable
) -> tuple[AccountState, tuple[Entry, ...]]:
    """Close every position if the margin was gone at the bar's adverse extreme; insure a debt.

    A bar does not say when: the entries are dated one millisecond before its close, so that a
    settlement at the close finds nothing held.

    Args:
        state: the account with the fills and the funding of the bar.
        marks: of every held symbol.
        close_time: of the bar, UTC milliseconds.
        table: the venue's maintenance margin.

    Returns:
        The state and the entries, none where the margin sufficed.

    Raises:
        KeyError: a held symbol has no range of marks.
    """
    if state.market is Market.SPOT:
        return state, ()
    if not state.positions:
        return _insured(state, close_time - 1) if state.wallet < 0 else (state, ())
    symbols = tuple(sorted(state.positions))
    schedule = table.schedule(symbols)
    done = margin.liquidate(
        account_book(state, symbols),
        _path(symbols, marks, margin.ladder_at(schedule, np.array(close_time))),
        schedule,
    )
    if not done.hit:
        return state, ()
    time = close_time - 1
    entries: list[Entry] = []
    for index, symbol in enumerate(symbols):
        state, entry = _closed(state, symbol, time, done, index)
        entries.append(entry)
    if state.wallet < 0:
        state, insured = _insured(state, time)
        entries += insured
    return with_holding(state, time), tuple(entries)


def _path(symbols: tuple[str, ...], marks: Mapping[str, MarkRange], ladder: Int64Array) -> Interval:
    """The bar as the margin test reads it; what only fills read is left at zero."""
    nothing = np.zeros(len(symbols))
    ranges = [marks[symbol] for symbol in symbols]
    return Interval(
        open_price=nothing,
        fillable=np.zeros(len(symbols), dtype=np.bool_),
        volume=nothing,
        funding_at_open=nothing,
        funding_in_bar=nothing,
        mark_open=np.array([one.opened for one in ranges]),
        mark_low=np.array([one.low for one in ranges]),
        mark_high=np.array([one.high for one in ranges]),
        mark=nothing,
        ladder=ladder,
    )


def _closed(
    state: AccountState, symbol: str, time: int, done: Liquidation, index: int
) -> tuple[AccountState, Entry]:
    price = to_price(float(done.price[index]))
    name = f"{state.account_id}:liquidation:{symbol}:{time}"
    trade = Fill(
        fill_id=name,
        order_id=name,
        symbol=symbol,
        event_time=time,
        quantity=-state.positions[symbol].quantity,
        reference_price=price,
        fill_price=price,
        fee=to_money(float(done.fee[index])),
        slippage=Decimal(0),
    )
    return post_fill(
        state,
        trade,
        realised=float(done.realised[index]),
        entry_price=Decimal(0),
        facts={},
        kind=EntryKind.LIQUIDATION,
    )


def _insured(state: AccountState, time: int) -> tuple[AccountState, tuple[Entry, ...]]:
    amount = -state.wallet
    entry = Entry(
        entry_id=f"{state.account_id}:insurance:{time}",
        account_id=state.account_id,
        kind=EntryKind.INSURANCE,
        symbol=None,
        event_time=time,
        posted_at=time,
        postings=postings(
            (WALLET, state.quote, amount), ("income:insurance", state.quote, -amount)
        ),
        facts={"amount": format(amount, "f")},
    )
    return replace(state, wallet=Decimal(0)), (entry,)
