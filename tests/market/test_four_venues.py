"""One protocol after the other: history and closes of each venue are its tape, in every field."""

from __future__ import annotations

import numpy as np
import pytest

from market.bar import DAY_MS, HOUR_MS, MarkSource
from market.instrument import Market, Venue
from market.panel import Float64Array
from market.warehouse import Warehouse
from tests.market.rehearsal import LockStep, lock_step
from tests.market.sandbox_client import T0, T0_BAR, served
from tests.market.small_tape import small_tape

CLOSES = 5
HISTORY = 48
SPOT = [Venue.BINANCE, Venue.BYBITSPOT]
COUNTED_BY_BINANCE = ("trades", "taker_buy_volume")
FIELDS = (
    "open", "high", "low", "close", "volume", "quote_volume", *COUNTED_BY_BINANCE,
    "mark_open", "mark_high", "mark_low", "mark_close",
)  # fmt: skip
OF_PERPETUALS = ("markprice", "mark-price", "premium", "funding")
all_venues = pytest.mark.parametrize("venue", list(Venue))


async def follow(one: LockStep) -> None:
    """Take five closes; each must be whole."""
    for hour in range(CLOSES):
        close = await one.close(T0 + hour * HOUR_MS)
        assert close.missing == ()


def taped(venue: Venue, name: str) -> Float64Array:
    """Return the tape's values of the two days before T0 and the five bars after it."""
    panel = small_tape(venue).panel.window(T0_BAR - HISTORY, T0_BAR + CLOSES)
    values: Float64Array = getattr(panel, name)
    is_binance = venue in (Venue.BINANCEUSDM, Venue.BINANCE)
    if name in COUNTED_BY_BINANCE and not is_binance:
        return np.full_like(values, np.nan)
    return values


@all_venues
async def test_the_warehouse_is_the_tape(venue: Venue, empty_warehouse: Warehouse) -> None:
    """48 bars of history and five streamed ones, three symbols: every number bit for bit."""
    async with lock_step(empty_warehouse, venue, book_depth=5) as one:
        await follow(one)
        streamed = one.feed.counters["bars_stream"]
    stored = empty_warehouse.load_panel(
        one.symbols,
        venue=venue,
        interval_ms=HOUR_MS,
        since=T0 - HISTORY * HOUR_MS,
        until=T0 + CLOSES * HOUR_MS,
    )
    wrong = [
        name
        for name in FIELDS
        if not np.array_equal(getattr(stored, name), taped(venue, name), equal_nan=True)
    ]
    assert wrong == []
    assert streamed >= CLOSES  # the socket brought bars: REST did not have to bring all


@all_venues
async def test_nothing_had_to_be_revised(venue: Venue, empty_warehouse: Warehouse) -> None:
    """An audit of what was streamed finds no difference: both ways to a bar agree."""
    async with lock_step(empty_warehouse, venue) as one:
        await follow(one)
        assert await one.feed.audit()
        assert one.feed.counters["bars_audited"] >= (CLOSES - 1) * len(one.symbols)
        assert one.feed.counters["bars_revised"] == 0
    assert one.feed.counters["bars_quarantined"] == 0
    assert one.feed.counters["requests_failed"] == 0


@pytest.mark.parametrize("venue", [Venue.BINANCEUSDM, Venue.BYBIT])
async def test_the_settlements_are_the_tape(venue: Venue, empty_warehouse: Warehouse) -> None:
    """Each settlement of the perpetuals with its own jitter and rate, once."""
    async with lock_step(empty_warehouse, venue) as one:
        await follow(one)
    since, until = T0 - HISTORY * HOUR_MS, T0 + CLOSES * HOUR_MS
    stored = empty_warehouse.settlements(
        one.symbols, venue=venue, interval_ms=HOUR_MS, since=since, until=until
    )
    expected = [row for row in small_tape(venue).settlements if since <= row.nominal_time < until]
    facts = sorted((row.symbol, row.funding_time, row.rate) for row in stored)
    assert facts == sorted((row.symbol, row.funding_time, row.rate) for row in expected)
    assert len(facts) > 20
    stated = {row.symbol for row in stored if row.mark_source is MarkSource.VENUE}
    assert stated == (set(one.symbols[:2]) if venue is Venue.BINANCEUSDM else set())


@pytest.mark.parametrize("venue", SPOT)
async def test_spot_is_never_asked_for_marks_or_funding(
    venue: Venue, empty_warehouse: Warehouse
) -> None:
    """Not in the backfill, not at a close, not for a quote; and none is stored."""
    assert venue.market is Market.SPOT
    async with lock_step(empty_warehouse, venue, book_depth=5) as one:
        await follow(one)
        asked = [entry["detail"] for entry in await served(one.url, "request")]
    assert len(asked) > 10
    assert [path for path in asked if any(word in path.lower() for word in OF_PERPETUALS)] == []
    symbol, until = one.symbols[0], T0 + 9 * DAY_MS
    marks = empty_warehouse.mark_bar_times(
        symbol, venue=venue, interval_ms=HOUR_MS, since=0, until=until
    )
    settled = empty_warehouse.settlement_times(symbol, venue=venue, since=0, until=until)
    assert (len(marks), len(settled)) == (0, 0)


@all_venues
async def test_a_second_start_asks_only_for_the_present(
    venue: Venue, empty_warehouse: Warehouse
) -> None:
    """What the first run stored is found again: no bar of BTC is asked for twice."""
    async with lock_step(empty_warehouse, venue):
        pass
    async with lock_step(empty_warehouse, venue) as one:
        asked = [entry["detail"] for entry in await served(one.url, "request")]
    bars = "/v5/market/kline?" if "bybit" in venue else "/klines?"
    assert [path for path in asked if bars in path and "BTCUSDT" in path] == []
    assert [path for path in asked if bars in path and "ETHUSDT" in path] == []
