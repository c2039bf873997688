"""The recorder: the market as it stood at each close, exactly, and never at a close's expense."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market import recorder as recorder_module
from market.bar import HOUR_MS
from market.clock import monotonic_seconds
from market.instrument import Market, Venue
from market.quote import OrderBook, Quote
from market.warehouse import Warehouse
from tests.market.fault_proxy import Fault
from tests.market.rehearsal import LockStep, lock_step
from tests.market.sandbox_client import T0, commit, get
from tests.market.small_tape import BTC, ETH, SOL

DEPTH = 5
DEPTH_PATH = "/fapi/v1/depth"
DOWN = Fault(status=502, body="<html></html>", content_type="text/html")
STALLED = Fault(body="{}", delay_seconds=30.0)
all_venues = pytest.mark.parametrize("venue", list(Venue))


def recorded_quotes(warehouse: Warehouse, one: LockStep) -> tuple[Quote, ...]:
    """Return every quote since T0."""
    return warehouse.quotes(
        one.symbols, venue=one.exchange.venue, since=T0, until=T0 + 99 * HOUR_MS
    )


def recorded_books(warehouse: Warehouse, one: LockStep) -> tuple[OrderBook, ...]:
    """Return every book since T0."""
    return warehouse.books(one.symbols, venue=one.exchange.venue, since=T0, until=T0 + 99 * HOUR_MS)


async def shown_book(url: str, venue: Venue, venue_symbol: str) -> tuple[Any, Any]:
    """Return the raw bids and asks that the venue shows now."""
    if venue in (Venue.BYBIT, Venue.BYBITSPOT):
        category = "linear" if venue is Venue.BYBIT else "spot"
        path = f"/v5/market/orderbook?category={category}&symbol={venue_symbol}&limit={DEPTH}"
        book = (await get(url, path))[1]["result"]
        return book["b"], book["a"]
    root = "/fapi/v1" if venue is Venue.BINANCEUSDM else "/api/v3"
    book = (await get(url, f"{root}/depth?symbol={venue_symbol}&limit={DEPTH}"))[1]
    return book["bids"], book["asks"]


async def shown_quote(url: str, venue: Venue, venue_symbol: str) -> dict[str, float | None]:
    """Return what the venue's raw tickers say now, by the names of ``Quote``."""
    if venue in (Venue.BYBIT, Venue.BYBITSPOT):
        category = "linear" if venue is Venue.BYBIT else "spot"
        path = f"/v5/market/tickers?category={category}&symbol={venue_symbol}"
        raw = (await get(url, path))[1]["result"]["list"][0]
        names = ("bid1Price", "bid1Size", "ask1Price", "ask1Size",
                 "markPrice", "indexPrice", "fundingRate", "nextFundingTime")  # fmt: skip
    else:
        root = "/fapi/v1" if venue is Venue.BINANCEUSDM else "/api/v3"
        raw = (await get(url, f"{root}/ticker/bookTicker?symbol={venue_symbol}"))[1]
        if venue is Venue.BINANCEUSDM:
            raw |= (await get(url, f"{root}/premiumIndex?symbol={venue_symbol}"))[1]
        names = ("bidPrice", "bidQty", "askPrice", "askQty",
                 "markPrice", "indexPrice", "lastFundingRate", "nextFundingTime")  # fmt: skip
    ours = ("bid", "bid_quantity", "ask", "ask_quantity",
            "mark_price", "index_price", "predicted_funding_rate", "next_funding_time")  # fmt: skip
    is_spot = venue.market is Market.SPOT
    cells = {our: None if is_spot else raw[name] for our, name in zip(ours, names, strict=True)}
    cells |= {our: raw[name] for our, name in zip(ours[:4], names[:4], strict=True)}
    return {our: None if cell in (None, "") else float(cell) for our, cell in cells.items()}


@all_venues
async def test_a_quote_is_what_the_venue_showed(venue: Venue, empty_warehouse: Warehouse) -> None:
    """Each number of the raw tickers, under its name; a spot pair has no mark and no funding."""
    async with lock_step(empty_warehouse, venue, book_depth=DEPTH) as one:
        await one.close(T0)
        shown = await shown_quote(one.url, venue, "BTCUSDT")
    quotes = {quote.symbol: quote for quote in recorded_quotes(empty_warehouse, one)}
    assert set(quotes) == set(one.symbols)
    btc = quotes[one.symbols[0]]
    assert {name: getattr(btc, name) for name in shown} == shown
    assert btc.bid is not None
    assert btc.ask is not None
    assert 0 < btc.bid < btc.ask
    assert T0 + HOUR_MS <= btc.available_at < T0 + 2 * HOUR_MS
    assert (btc.mark_price is None) == (venue.market is Market.SPOT)


@all_venues
async def test_a_book_is_what_the_venue_showed(venue: Venue, empty_warehouse: Warehouse) -> None:
    """Every level of both sides, best first, under the decision that it was recorded for."""
    async with lock_step(empty_warehouse, venue, book_depth=DEPTH) as one:
        await one.close(T0)
        bids, asks = await shown_book(one.url, venue, "BTCUSDT")
    books = {book.symbol: book for book in recorded_books(empty_warehouse, one)}
    assert set(books) == set(one.symbols)
    btc = books[one.symbols[0]]
    assert btc.decision_time == T0 + HOUR_MS
    assert [list(level) for level in btc.bids] == [[float(cell) for cell in row] for row in bids]
    assert [list(level) for level in btc.asks] == [[float(cell) for cell in row] for row in asks]
    assert len(btc.bids) == DEPTH
    assert btc.bids[0][0] < btc.asks[0][0]


async def test_each_decision_is_recorded_once(empty_warehouse: Warehouse) -> None:
    """Two closes, three symbols: six quotes and six books, also when a close is asked for twice."""
    async with lock_step(empty_warehouse, Venue.BINANCEUSDM, book_depth=DEPTH) as one:
        await one.close(T0)
        await one.close(T0 + HOUR_MS)
        assert len(recorded_quotes(empty_warehouse, one)) == 6
        assert one.feed.counters["quotes"] == 6
        await one.feed.next_close(T0 + HOUR_MS)
        books = recorded_books(empty_warehouse, one)
    decisions = sorted((book.decision_time, book.symbol) for book in books)
    expected = [(T0 + hour * HOUR_MS, symbol) for hour in (1, 2) for symbol in (BTC, ETH, SOL)]
    assert decisions == expected


async def test_a_decision_that_is_past_has_no_book(empty_warehouse: Warehouse) -> None:
    """A daemon that comes late records the market for the close that is now, and no other."""
    async with lock_step(empty_warehouse, Venue.BINANCEUSDM, book_depth=DEPTH) as one:
        await commit(one.url, T0 + 3 * HOUR_MS)
        one.clock.advance(T0 + 4 * HOUR_MS)
        async with asyncio.timeout(10):
            for hour in range(4):
                await one.feed.next_close(T0 + hour * HOUR_MS)
        books = recorded_books(empty_warehouse, one)
    assert {book.decision_time for book in books} == {T0 + 4 * HOUR_MS}


async def test_the_venues_next_larger_depth_is_asked_for(empty_warehouse: Warehouse) -> None:
    """Seven levels are not on offer: ten are."""
    async with lock_step(empty_warehouse, Venue.BINANCEUSDM, book_depth=7) as one:
        await one.close(T0)
        asked = one.proxy.asked(DEPTH_PATH)
    assert len(asked) == 3
    assert all("limit=10" in request for request in asked)


async def test_without_a_depth_nothing_is_asked(empty_warehouse: Warehouse) -> None:
    """Recording that is switched off costs no request."""
    async with lock_step(empty_warehouse, Venue.BINANCEUSDM, book_depth=0) as one:
        await one.close(T0)
        assert one.proxy.asked("depth") + one.proxy.asked("bookTicker") == []
        assert recorded_quotes(empty_warehouse, one) == ()


async def test_a_failing_book_costs_itself_only(empty_warehouse: Warehouse) -> None:
    """SOL's depth is down: the close is whole, the other books and all quotes are there."""
    async with lock_step(empty_warehouse, Venue.BINANCEUSDM, book_depth=DEPTH) as one:
        one.proxy.answer = lambda path: (
            DOWN if path.startswith(DEPTH_PATH) and "SOLUSDT" in path else None
        )
        close = await one.close(T0)
        books = recorded_books(empty_warehouse, one)
        assert len(recorded_quotes(empty_warehouse, one)) == 3
    assert close.missing == ()
    assert {book.symbol for book in books} == {BTC, ETH}
    assert one.feed.counters["books_failed"] == 1
    assert one.feed.counters["quotes_failed"] == 0


async def test_a_slow_book_never_holds_a_close(
    empty_warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Depths that do not answer cost the limit, are counted, and the quotes are kept."""
    monkeypatch.setattr(recorder_module, "RECORD_SECONDS", 0.4)
    async with lock_step(empty_warehouse, Venue.BINANCEUSDM, book_depth=DEPTH) as one:
        one.proxy.answer = lambda path: STALLED if path.startswith(DEPTH_PATH) else None
        began = monotonic_seconds()
        close = await one.close(T0)
        took = monotonic_seconds() - began
        assert recorded_books(empty_warehouse, one) == ()
        assert len(recorded_quotes(empty_warehouse, one)) == 3
    assert close.missing == ()
    assert 0.4 <= took < 1.4
    assert one.feed.counters["quotes_failed"] == 1


async def test_nothing_is_asked_behind_a_closed_door(empty_warehouse: Warehouse) -> None:
    """During a ban the market is not recorded, which is counted; no request leaves."""
    async with lock_step(empty_warehouse, Venue.BINANCEUSDM, book_depth=DEPTH) as one:
        await one.close(T0)
        one.proxy.requests.clear()
        one.exchange.budget.close(5, because="HTTP 418")
        await one.feed._recorder.record(T0 + 2 * HOUR_MS)
        assert one.proxy.requests == []
    assert one.feed.counters["quotes_failed"] == 1


_NUMBERS = count()
_price = st.floats(min_value=1e-12, max_value=1e12, allow_nan=False)
_level = st.tuples(_price, st.floats(min_value=0, max_value=1e15, allow_nan=False))


@settings(max_examples=20)
@given(
    bids=st.lists(_level, max_size=6),
    asks=st.lists(_level, max_size=6),
    update_id=st.none() | st.integers(0, 2**62),
)
def test_a_book_is_read_back_exactly(
    warehouse: Warehouse,
    bids: list[tuple[float, float]],
    asks: list[tuple[float, float]],
    update_id: int | None,
) -> None:
    """Every bit of every level, any number of them, in their order."""
    book = OrderBook(
        symbol=BTC,
        decision_time=T0,
        event_time=T0 + 3,
        available_at=T0 + 7,
        update_id=update_id,
        bids=tuple(bids),
        asks=tuple(asks),
    )
    venue = f"books_{next(_NUMBERS)}"
    warehouse.insert_books([book], venue=venue)
    assert warehouse.books([BTC], venue=venue, since=T0, until=T0 + 1) == (book,)
