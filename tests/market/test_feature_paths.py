"""Live and batch: the newest bars out of the warehouse give what all of its history gives."""

from __future__ import annotations

import math

import pytest

from market.bar import HOUR_MS, MINUTE_MS, Bar, MarkBar, MarkSource, Settlement
from market.features import compute_features, warmup_bars
from market.panel import Panel
from market.tables import Origin
from market.warehouse import Warehouse
from tests.market.feature_market import ALL, SYMBOLS, full_panel

ASSETS = 3
LOOKBACK_BARS = 5


def cells(panel: Panel) -> list[tuple[int, int]]:
    """Return the (bar, asset) of every bar that the venue gave."""
    return [
        (bar, asset)
        for bar in range(len(panel))
        for asset in range(ASSETS)
        if not math.isnan(panel.close[bar, asset])
    ]


def bars_of(panel: Panel) -> list[Bar]:
    """Return the panel's bars as a feed hands them over."""
    return [
        Bar(
            symbol=panel.symbols[asset],
            open_time=int(panel.open_time[bar]),
            open=float(panel.open[bar, asset]),
            high=float(panel.high[bar, asset]),
            low=float(panel.low[bar, asset]),
            close=float(panel.close[bar, asset]),
            volume=float(panel.volume[bar, asset]),
            quote_volume=float(panel.quote_volume[bar, asset]),
            trades=int(panel.trades[bar, asset]),
            taker_buy_volume=float(panel.taker_buy_volume[bar, asset]),
        )
        for bar, asset in cells(panel)
    ]


def mark_bars_of(panel: Panel) -> list[MarkBar]:
    """Return the panel's mark candles."""
    return [
        MarkBar(
            symbol=panel.symbols[asset],
            open_time=int(panel.open_time[bar]),
            open=float(panel.mark_open[bar, asset]),
            high=float(panel.mark_high[bar, asset]),
            low=float(panel.mark_low[bar, asset]),
            close=float(panel.mark_close[bar, asset]),
        )
        for bar, asset in cells(panel)
    ]


def settlements_of(panel: Panel) -> list[Settlement]:
    """Return the panel's settlements, a few milliseconds late as venues stamp them."""
    return [
        Settlement(
            symbol=panel.symbols[asset],
            funding_time=int(panel.open_time[bar]) + 11,
            rate=float(panel.funding_rate[bar, asset]),
            mark_price=100.0,
            mark_source=MarkSource.VENUE,
        )
        for bar in range(len(panel))
        for asset in range(ASSETS)
        if not math.isnan(panel.funding_rate[bar, asset])
    ]


def store(warehouse: Warehouse, panel: Panel, *, venue: str, now: int) -> None:
    """Store everything that ``panel`` holds."""
    interval_ms = panel.interval_ms
    warehouse.insert_bars(
        bars_of(panel), venue=venue, interval_ms=interval_ms, origin=Origin.REST, ingested_at=now
    )
    warehouse.insert_mark_bars(
        mark_bars_of(panel), venue=venue, interval_ms=interval_ms, ingested_at=now
    )
    warehouse.insert_settlements(settlements_of(panel), venue=venue, ingested_at=now)


@pytest.mark.parametrize("interval_ms", [15 * MINUTE_MS, HOUR_MS])
def test_the_newest_bars_of_the_warehouse_give_what_all_of_them_give(
    warehouse: Warehouse, venue_name: str, interval_ms: int
) -> None:
    """At every one of the last closes, the window that live loads is bit-equal to the batch."""
    required = warmup_bars(ALL, interval_ms) + LOOKBACK_BARS - 1
    truth = full_panel(30, bars=required + 60, assets=ASSETS, interval_ms=interval_ms, missing=0.02)
    now = int(truth.close_time[-1])
    store(warehouse, truth, venue=venue_name, now=now)

    def stored(since: int, until: int) -> Panel:
        return warehouse.load_panel(
            SYMBOLS[:ASSETS], venue=venue_name, interval_ms=interval_ms, since=since, until=until
        )

    batch = compute_features(stored(int(truth.open_time[0]), now), ALL)
    assert batch.values.tobytes() == compute_features(truth, ALL).values.tobytes()
    for age in (0, 1, 17):
        until = now - age * interval_ms
        live = compute_features(stored(until - required * interval_ms, until), ALL)
        rows = slice(len(truth) - age - LOOKBACK_BARS, len(truth) - age)
        assert live.known[-LOOKBACK_BARS:].tobytes() == batch.known[rows].tobytes()
        assert live.values[-LOOKBACK_BARS:].tobytes() == batch.values[rows].tobytes()
    assert batch.known[-LOOKBACK_BARS:].mean() > 0.8
