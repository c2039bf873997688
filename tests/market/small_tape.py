"""A hand-sized tape for sandbox tests: three symbols, ten days of hourly bars, known oddities.

A spot venue has the same bars under spot symbols, without marks and settlements.

BTC has every field. ETH has neither quote volume nor trades, and its bar number 100 is missing.
SOL has no mark candles, a mark-less settlement, and funding every four hours.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np

from market.bar import HOUR_MS, MarkSource, Settlement
from market.instrument import Instrument, Market, Venue
from market.panel import ARRAY_FIELDS, Float64Array, Panel
from market.sandbox.tape import Tape

BARS = 240
FIRST_OPEN = 1_700_006_400_000  # 2023-11-15 00:00 UTC
MISSING_ETH_BAR = 100
BTC, ETH, SOL = "BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT"
SYMBOLS = (BTC, ETH, SOL)
SPOT_BTC, SPOT_ETH, SPOT_SOL = "BTC/USDT", "ETH/USDT", "SOL/USDT"
SPOT_SYMBOLS = (SPOT_BTC, SPOT_ETH, SPOT_SOL)


def open_time(bar: int) -> int:
    """Return the open_time of bar number ``bar``, UTC milliseconds."""
    return FIRST_OPEN + bar * HOUR_MS


def small_tape(venue: Venue, *, seed: int = 7) -> Tape:
    """Return the tape; prices are arbitrary floats, so that any rounding shows."""
    spot = venue.market is Market.SPOT
    panel = _panel(np.random.default_rng(seed), spot=spot)
    instruments = (
        _instrument("BTC", tick="0.10", step="0.001", minutes=480),
        _instrument("ETH", tick="0.01", step="0.01", minutes=480),
        _instrument("SOL", tick="0.001", step="1", minutes=240),
    )
    return Tape(
        venue=venue,
        panel=panel,
        settlements=() if spot else _settlements(panel),
        instruments=tuple(_spot(one) for one in instruments) if spot else instruments,
        synthetic=True,
        description="test tape, not real data",
    )


def _panel(rng: np.random.Generator, *, spot: bool) -> Panel:
    shape = (BARS, len(SYMBOLS))
    level = np.array([60_000.0, 2_500.0, 0.00012])
    close = level * np.exp(np.cumsum(rng.normal(0, 0.01, shape), axis=0))
    opened = np.vstack([level, close[:-1]])
    high = np.maximum(opened, close) * (1 + rng.random(shape) / 100)
    low = np.minimum(opened, close) * (1 - rng.random(shape) / 100)
    volume = rng.random(shape) * 1000 / 3
    arrays: dict[str, Float64Array] = {name: np.full(shape, np.nan) for name in ARRAY_FIELDS}
    arrays |= {"open": opened, "high": high, "low": low, "close": close, "volume": volume}
    arrays["quote_volume"] = volume * close
    arrays["trades"] = np.floor(volume)
    arrays["taker_buy_volume"] = volume / 3
    for name in ("open", "high", "low", "close"):
        arrays[f"mark_{name}"] = arrays[name] * 1.0001
        arrays[f"mark_{name}"][:, 0 if spot else 2 :] = np.nan
    for name in ("quote_volume", "trades", "taker_buy_volume"):
        arrays[name][:, 1] = np.nan
    for name in ("open", "high", "low", "close", "volume"):
        arrays[name][MISSING_ETH_BAR, 1] = np.nan
    for name in ("funding_at_open", "funding_in_bar"):
        arrays[name] = np.zeros(shape)
    times = FIRST_OPEN + HOUR_MS * np.arange(BARS, dtype=np.int64)
    symbols = SPOT_SYMBOLS if spot else SYMBOLS
    return Panel(symbols=symbols, interval_ms=HOUR_MS, open_time=times, **arrays)


def _settlements(panel: Panel) -> tuple[Settlement, ...]:
    rows = []
    for bar in range(0, BARS, 4):
        for index, symbol in enumerate(SYMBOLS):
            if symbol != SOL and bar % 8:
                continue
            mark = None if symbol == SOL else float(panel.mark_open[bar, index])
            source = MarkSource.UNKNOWN if mark is None else MarkSource.VENUE
            rows.append(
                Settlement(
                    symbol=symbol,
                    funding_time=open_time(bar) + bar % 48,
                    rate=(bar - 90) / 3e6,
                    mark_price=mark,
                    mark_source=source,
                )
            )
    return tuple(sorted(rows, key=lambda one: (one.funding_time, one.symbol)))


def _instrument(base: str, *, tick: str, step: str, minutes: int) -> Instrument:
    return Instrument(
        symbol=f"{base}/USDT:USDT",
        venue_symbol=f"{base}USDT",
        base=base,
        quote="USDT",
        tick_size=Decimal(tick),
        lot_step=Decimal(step),
        min_quantity=Decimal(step),
        max_quantity=Decimal("120"),
        min_notional=Decimal("5"),
        funding_interval_minutes=minutes,
    )


def _spot(instrument: Instrument) -> Instrument:
    symbol = instrument.symbol.removesuffix(":USDT")
    return replace(instrument, symbol=symbol, funding_interval_minutes=None)
