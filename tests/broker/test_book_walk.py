"""Fills against a recorded order book: exact, bounded by what was there, with a memory."""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from broker.book_walk import (
    BookFill,
    BookFlaw,
    BookKey,
    Taken,
    book_flaw,
    book_id,
    parse_book_id,
    walk,
)
from broker.orders import RejectReason
from market.quote import Level, OrderBook
from tests.broker.independent_walk import walked

BTC = "BTC/USDT:USDT"
LOT = Decimal("0.001")
WIDE = Context(prec=2_000)


def book(bids: tuple[Level, ...], asks: tuple[Level, ...], *, available_at: int = 7) -> OrderBook:
    """A snapshot of BTC."""
    return OrderBook(
        symbol=BTC,
        decision_time=3_600_000,
        event_time=3_600_001,
        available_at=available_at,
        update_id=None,
        bids=bids,
        asks=asks,
    )


SOUND = book(bids=((99.0, 1.0), (98.0, 2.0)), asks=((101.0, 1.0), (102.0, 2.0), (110.0, 5.0)))


def buy(quantity: str, *, cap: float = 1.0, of: OrderBook = SOUND, lot: str = "0.001") -> BookFill:
    """A walk without memory."""
    return walk(of, Decimal(quantity), slippage_cap=cap, lot_step=Decimal(lot))


def test_a_buy_by_hand() -> None:
    """1 at 101 and 1.5 at 102 are 254; the mid is 100, so 4 of it is slippage."""
    fill = buy("2.5")
    assert (fill.filled, fill.notional, fill.levels) == (Decimal("2.5"), Decimal("254.0"), 2)
    assert (fill.reference_price, fill.worst_price) == (Decimal(100), Decimal(102))
    assert (fill.average_price, fill.fill_price) == (101.6, Decimal("101.6"))
    assert fill.slippage == Decimal("4.0")
    assert fill.shortfall is None


def test_a_sell_takes_the_bids() -> None:
    """1 at 99 and 1 at 98; what is paid for it is negative nowhere."""
    fill = buy("-2")
    assert (fill.filled, fill.notional) == (Decimal(-2), Decimal(197))
    assert fill.slippage == 3


def test_a_book_that_does_not_suffice_fills_what_it_holds() -> None:
    """Three bids wanted more than there is: the rest has a reason."""
    fill = buy("-3.5")
    assert (fill.filled, fill.shortfall) == (Decimal(-3), RejectReason.BOOK_EXHAUSTED)


def test_no_level_beyond_the_cap_is_touched() -> None:
    """At 2 % of the mid 102 is the last price paid, exactly on the limit included."""
    fill = buy("4", cap=0.02)
    assert (fill.filled, fill.worst_price) == (Decimal(3), Decimal(102))
    assert fill.shortfall is RejectReason.SLIPPAGE_CAP
    nothing = buy("4", cap=0.005)
    assert (nothing.filled, nothing.levels) == (Decimal(0), 0)
    assert nothing.fill_price is None
    assert nothing.shortfall is RejectReason.SLIPPAGE_CAP


def test_what_is_filled_is_whole_lots() -> None:
    """2.75 in lots of a half is 2.5; less than a lot is nothing, with its own reason."""
    assert buy("2.75", lot="0.5").filled == Decimal("2.5")
    assert buy("2.75", lot="0.5").shortfall is RejectReason.BELOW_LOT_STEP
    assert buy("0.4", lot="0.5").filled == 0
    thin = book(bids=((99.0, 1.0),), asks=((101.0, 0.7), (102.0, 0.7)))
    assert buy("2", of=thin, lot="0.5").filled == 1


def test_own_fills_are_gone_until_the_next_snapshot() -> None:
    """The second order of a snapshot begins where the first ended; sells do not touch asks."""
    first = buy("1")
    second = walk(SOUND, Decimal(1), taken=first.taken, slippage_cap=1.0, lot_step=LOT)
    assert second.notional == 102
    sold = walk(SOUND, Decimal(-1), taken=second.taken, slippage_cap=1.0, lot_step=LOT)
    assert sold.notional == 99
    later = book(bids=SOUND.bids, asks=SOUND.asks, available_at=8)
    with pytest.raises(ValueError, match="@7, not to .*@8"):
        walk(later, Decimal(1), taken=first.taken, slippage_cap=1.0, lot_step=LOT)
    assert buy("1", of=later).notional == 101


@pytest.mark.parametrize(
    ("bids", "asks", "flaw", "reason"),
    [
        ((), SOUND.asks, BookFlaw.EMPTY, RejectReason.EMPTY_BOOK),
        (SOUND.bids, (), BookFlaw.EMPTY, RejectReason.EMPTY_BOOK),
        (((101.0, 1.0),), ((101.0, 1.0),), BookFlaw.CROSSED, RejectReason.CROSSED_BOOK),
        (((102.0, 1.0),), ((101.0, 1.0),), BookFlaw.CROSSED, RejectReason.CROSSED_BOOK),
        (SOUND.bids[::-1], SOUND.asks, BookFlaw.UNSORTED, RejectReason.CROSSED_BOOK),
        (SOUND.bids, SOUND.asks[::-1], BookFlaw.UNSORTED, RejectReason.CROSSED_BOOK),
        (SOUND.bids, SOUND.asks[:1] * 2, BookFlaw.UNSORTED, RejectReason.CROSSED_BOOK),
        (((99.0, 0.0),), SOUND.asks, BookFlaw.NOT_POSITIVE, RejectReason.CROSSED_BOOK),
        (((-1.0, 1.0),), SOUND.asks, BookFlaw.NOT_POSITIVE, RejectReason.CROSSED_BOOK),
        (SOUND.bids, ((math.nan, 1.0),), BookFlaw.NOT_POSITIVE, RejectReason.CROSSED_BOOK),
        (SOUND.bids, ((101.0, math.inf),), BookFlaw.NOT_POSITIVE, RejectReason.CROSSED_BOOK),
    ],
)
def test_a_flawed_book_fills_nothing(
    bids: tuple[Level, ...], asks: tuple[Level, ...], flaw: BookFlaw, reason: RejectReason
) -> None:
    """Every flaw has a name, and an order against it gets nothing and a reason."""
    flawed = book(bids, asks)
    assert book_flaw(flawed) is flaw
    fill = buy("1", of=flawed)
    assert fill.filled == fill.notional == fill.slippage == 0
    assert (fill.shortfall, fill.reference_price) == (reason, None)


@pytest.mark.parametrize(
    ("quantity", "cap", "lot", "words"),
    [
        ("0", 1.0, "0.001", "quantity 0"),
        ("NaN", 1.0, "0.001", "quantity NaN"),
        ("1", 0.0, "0.001", "slippage_cap 0.0"),
        ("1", math.inf, "0.001", "slippage_cap inf"),
        ("1", 1.0, "0", "lot_step 0"),
    ],
)
def test_arguments_that_cannot_be(quantity: str, cap: float, lot: str, words: str) -> None:
    """They are named with their value."""
    with pytest.raises(ValueError, match=words):
        buy(quantity, cap=cap, lot=lot)


def test_an_id_names_one_stored_snapshot() -> None:
    """Symbol and decision find the row, the third part tells whether it was replaced since."""
    assert book_id(SOUND) == f"{BTC}@3600000@7"
    assert parse_book_id(book_id(SOUND)) == BookKey(BTC, 3_600_000, 7)
    for text in ("", BTC, f"{BTC}@7", f"{BTC}@-1@7", "@1@2", f"{BTC}@1@x"):
        with pytest.raises(ValueError, match="is not SYMBOL@decision_time@available_at"):
            parse_book_id(text)


# Seventeen digits, which no venue writes: products of them are where rounding would show.
NUMBERS = st.floats(min_value=1e-7, max_value=1e7) | st.integers(1, 10**17).map(lambda n: n / 1e10)
STEPS = st.sampled_from(["1", "0.1", "0.001", "0.00000001"])


@st.composite
def books(draw: st.DrawFn) -> OrderBook:
    """Any sound book: distinct float64 prices, any positive quantities."""
    prices = sorted(draw(st.lists(NUMBERS, min_size=2, max_size=16, unique=True)))
    cut = draw(st.integers(1, len(prices) - 1))
    levels: list[Level] = [(price, draw(NUMBERS)) for price in prices]
    return book(tuple(levels[:cut][::-1]), tuple(levels[cut:]))


@st.composite
def orders(draw: st.DrawFn, lot: str) -> Decimal:
    """A signed number of lots, from one to more than any book holds."""
    step = Decimal(lot)
    lots = draw(st.integers(1, 10 ** draw(st.integers(1, 15))))
    return lots * step * draw(st.sampled_from([1, -1]))


@given(st.data(), books(), STEPS, st.floats(min_value=1e-6, max_value=10.0))
def test_a_walk_equals_a_naive_loop(
    data: st.DataObject, of: OrderBook, lot: str, cap: float
) -> None:
    """Quantity and notional are those of a loop in decimals that shares no code with ours."""
    quantity = data.draw(orders(lot))
    fill = walk(of, quantity, slippage_cap=cap, lot_step=Decimal(lot))
    bids, asks = ([(repr(p), repr(q)) for p, q in side] for side in (of.bids, of.asks))
    expected = walked(bids, asks, quantity=str(quantity), cap=repr(cap), lot_step=lot)
    assert (fill.filled, fill.notional) == expected
    assert (fill.shortfall is None) == (fill.filled == quantity)


@given(st.data(), books(), STEPS)
def test_no_more_is_filled_than_the_book_holds(
    data: st.DataObject, of: OrderBook, lot: str
) -> None:
    """However much is ordered in however many orders, each level gives at most what it had."""
    memory, total = None, Decimal(0)
    for _ in range(3):
        quantity = abs(data.draw(orders(lot)))
        fill = walk(of, quantity, taken=memory, slippage_cap=1e20, lot_step=Decimal(lot))
        memory = fill.taken
        total += fill.filled
    assert memory is not None
    offered = {Decimal(repr(price)): Decimal(repr(quantity)) for price, quantity in of.asks}
    assert all(quantity <= offered[price] for price, quantity in memory.asks.items())
    with localcontext(WIDE):
        assert sum(memory.asks.values()) == total
        assert total <= sum(offered.values())


@given(st.data(), books(), STEPS, st.floats(min_value=1e-6, max_value=10.0))
def test_a_larger_order_never_has_a_better_average(
    data: st.DataObject, of: OrderBook, lot: str, cap: float
) -> None:
    """The average price of a buy does not fall with its size, that of a sell does not rise."""
    first, second = data.draw(orders(lot)), data.draw(orders(lot))
    sign = data.draw(st.sampled_from([1, -1]))
    small, large = (
        walk(of, sign * size, slippage_cap=cap, lot_step=Decimal(lot))
        for size in sorted((abs(first), abs(second)))
    )
    assume(small.average_price is not None)
    assert small.average_price is not None
    assert large.average_price is not None
    assert abs(small.filled) <= abs(large.filled)
    assert sign * small.average_price <= sign * large.average_price


@given(st.data(), books(), STEPS, st.floats(min_value=1e-6, max_value=10.0))
def test_two_orders_cost_the_same_as_one_of_the_sum(
    data: st.DataObject, of: OrderBook, lot: str, cap: float
) -> None:
    """Through the memory of the snapshot a split order gains nothing and loses nothing."""
    sign = data.draw(st.sampled_from([1, -1]))
    parts = [sign * abs(data.draw(orders(lot))) for _ in range(2)]
    with localcontext(WIDE):
        whole = walk(of, sum(parts, Decimal(0)), slippage_cap=cap, lot_step=Decimal(lot))
    first = walk(of, parts[0], slippage_cap=cap, lot_step=Decimal(lot))
    second = walk(of, parts[1], taken=first.taken, slippage_cap=cap, lot_step=Decimal(lot))
    with localcontext(WIDE):
        assert first.filled + second.filled == whole.filled
        assert first.notional + second.notional == whole.notional
    assert second.taken == whole.taken


@given(st.data(), books(), STEPS, st.floats(min_value=1e-6, max_value=0.999))
def test_every_level_used_lies_within_the_cap(
    data: st.DataObject, of: OrderBook, lot: str, cap: float
) -> None:
    """Distances from the mid of everything that was taken are at most the cap."""
    quantity = data.draw(orders(lot))
    fill = walk(of, quantity, slippage_cap=cap, lot_step=Decimal(lot))
    used = fill.taken.asks if quantity > 0 else fill.taken.bids
    assert fill.reference_price is not None
    with localcontext(WIDE):
        assert all(
            abs(price - fill.reference_price) <= Decimal(repr(cap)) * fill.reference_price
            for price in used
        )


def test_an_empty_memory_is_no_memory() -> None:
    """The first walk of a snapshot may be handed either."""
    empty = Taken(book_id=book_id(SOUND))
    assert walk(SOUND, Decimal(2), taken=empty, slippage_cap=1.0, lot_step=LOT) == buy("2")
