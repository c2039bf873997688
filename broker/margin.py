"""Maintenance margin and liquidation: whether an account survives a bar, and what is left.

Elementwise float64 over ``(..., asset)``, like ``kernel``. Linear perpetuals under cross margin:
an account is liquidated when its equity falls to the maintenance margin of all it holds. Within a
bar the mark is taken along a straight path from its open to the adverse extreme of every position
at once (the low for what is held long, the high for what is held short). That is the worst order
of events that the candle allows, so an account may be liquidated that in truth was not, never the
reverse.
"""

from __future__ import annotations

import numpy as np

from broker.book import (
    Book,
    BoolArray,
    Float64Array,
    Int64Array,
    Interval,
    Liquidation,
    MarginSchedule,
)
from broker.kernel import equity

BISECTIONS = 60
"""Halvings of the path: the trigger is found to 2⁻⁶⁰ of the candle's range."""


def no_margin(assets: int) -> MarginSchedule:
    """Return the schedule of an account that can owe nothing, as on a spot market."""
    nothing = np.zeros((1, assets, 1))
    return MarginSchedule(
        since=np.zeros(1, dtype=np.int64),
        floor=nothing,
        rate=nothing,
        amount=nothing,
        top_rate=np.zeros(assets),
        liquidation_fee=np.zeros((1, assets)),
    )


def maintenance_margin(
    quantity: Float64Array, mark: Float64Array, schedule: MarginSchedule, ladder: Int64Array
) -> Float64Array:
    """Return ``V·rate − amount`` of each position's tier, quote currency, (..., asset).

    ``V = |quantity|·mark``; the tiers are the venues' published brackets (Binance USD-M: Leverage
    and Margin; Bybit: Risk Limit). ``ladder`` (...,) picks the schedule's ladder.
    """
    notional = np.abs(quantity) * mark
    tier = np.sum(notional[..., None] >= schedule.floor[ladder], axis=-1) - 1
    rate = np.take_along_axis(schedule.rate[ladder], tier[..., None], axis=-1)[..., 0]
    amount = np.take_along_axis(schedule.amount[ladder], tier[..., None], axis=-1)[..., 0]
    value: Float64Array = notional * rate - amount
    return value


def ladder_at(schedule: MarginSchedule, close_time: Int64Array) -> Int64Array:
    """Index of the ladder in force in bars that close at ``close_time``, of the same shape.

    UTC milliseconds. A bar does not contain its close: one that ends where a ladder begins is still
    tested by the ladder before it.
    """
    found = np.searchsorted(schedule.since, close_time, side="left") - 1
    return np.maximum(found, 0).astype(np.int64)


def liquidate(book: Book, interval: Interval, schedule: MarginSchedule) -> Liquidation:
    """Test every account inside the bar and close those that reach their maintenance margin.

    Everything that such an account holds is closed at the mark where it happens, with the
    liquidation fee; what it then owes is forgiven by an insurance posting. Where the margin is
    gone at the bar's first mark, that mark is the price. An account that holds nothing and owes
    (a gap that its own order realised) is insured, too.
    """
    worst = np.where(book.quantity < 0, interval.mark_high, interval.mark_low)
    bound = np.vecdot(np.abs(book.quantity) * worst, schedule.top_rate)
    could_owe = np.any(book.quantity != 0, axis=-1) | (book.wallet < 0)
    suspect = (equity(book, worst) <= bound) & could_owe
    if not np.any(suspect):
        return _untouched(book)
    rows = np.nonzero(np.atleast_1d(suspect))[0]
    few, path, ladder = _rows(book, interval, worst, rows)
    reached = _is_reached(few, path[1], schedule, ladder)
    if not np.any(reached):
        return _untouched(book)
    few, path, ladder = _keep(few, reached), path[:, reached], ladder[reached]
    price = _trigger(few, path, schedule, ladder)
    return _close(book, rows[reached], few, price, schedule.liquidation_fee[ladder])


def _is_reached(
    book: Book, mark: Float64Array, schedule: MarginSchedule, ladder: Int64Array
) -> BoolArray:
    """Which of R accounts have no more than their maintenance margin at ``mark`` (R, asset)."""
    need = maintenance_margin(book.quantity, mark, schedule, ladder).sum(axis=-1)
    reached: BoolArray = equity(book, mark) <= need
    return reached


def _trigger(
    book: Book, path: Float64Array, schedule: MarginSchedule, ladder: Int64Array
) -> Float64Array:
    """Marks (R, asset) at which R accounts reach their margin, which they do, on ``path``.

    Equity less margin falls along the path (2, R, asset), because every position loses and no rate
    exceeds 1.
    """
    start, worst = path
    low, high = np.zeros(len(ladder)), np.ones(len(ladder))
    at_start = _is_reached(book, start, schedule, ladder)  # a gap beyond the margin
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        mark = start + middle[:, None] * (worst - start)
        inside = _is_reached(book, mark, schedule, ladder)
        low, high = np.where(inside, low, middle), np.where(inside, middle, high)
    share = np.where(at_start, 0.0, high)
    price: Float64Array = start + share[:, None] * (worst - start)
    return price


def _close(
    book: Book, rows: Int64Array, few: Book, price: Float64Array, fee_rate: Float64Array
) -> Liquidation:
    """Close accounts ``rows``, given as ``few``, at ``price`` (R, asset)."""
    result = _untouched(book)
    shape = book.quantity.shape
    wallet, quantity, entry = (np.array(part, copy=True) for part in book)
    flat = (wallet.reshape(-1), quantity.reshape(-1, shape[-1]), entry.reshape(-1, shape[-1]))
    realised = few.quantity * (price - few.entry_price)
    fee = np.abs(few.quantity) * price * fee_rate
    left = few.wallet + realised.sum(axis=-1) - fee.sum(axis=-1)
    flat[0][rows], flat[1][rows], flat[2][rows] = np.maximum(left, 0.0), 0.0, 0.0
    for values, into in (
        (True, result.hit),
        (few.quantity, result.closed),
        (price, result.price),
        (fee, result.fee),
        (realised, result.realised),
        (np.maximum(-left, 0.0), result.insurance),
    ):
        depth = () if into.ndim < len(shape) else (shape[-1],)
        into.reshape(-1, *depth)[rows] = values
    return result._replace(book=Book(wallet, quantity, entry))


def _rows(
    book: Book, interval: Interval, worst: Float64Array, rows: Int64Array
) -> tuple[Book, Float64Array, Int64Array]:
    """Accounts ``rows`` as (R, asset) arrays, their path of marks (2, R, asset), their ladders."""
    assets = book.quantity.shape[-1]
    shape = book.quantity.shape
    few = Book(
        book.wallet.reshape(-1)[rows],
        book.quantity.reshape(-1, assets)[rows],
        book.entry_price.reshape(-1, assets)[rows],
    )
    marks = (np.broadcast_to(each, shape) for each in (interval.mark_open, worst))
    path = np.stack([each.reshape(-1, assets)[rows] for each in marks])
    ladder = np.broadcast_to(interval.ladder, shape[:-1]).reshape(-1)[rows]
    return few, path, ladder


def _keep(book: Book, which: BoolArray) -> Book:
    return Book(book.wallet[which], book.quantity[which], book.entry_price[which])


def _untouched(book: Book) -> Liquidation:
    accounts, assets = book.wallet.shape, book.quantity.shape
    return Liquidation(
        book=book,
        hit=np.zeros(accounts, dtype=np.bool_),
        closed=np.zeros(assets),
        price=np.zeros(assets),
        fee=np.zeros(assets),
        realised=np.zeros(assets),
        insurance=np.zeros(accounts),
    )
