"""Small markets for the tests of judging: panels from a table of closes."""

from __future__ import annotations

from decimal import Decimal

import numpy as np

from market.bar import HOUR_MS
from market.instrument import Instrument
from market.panel import Float64Array, Panel

START = 1_704_067_200_000  # 2024-01-01 00:00 UTC, a Monday


def panel_of(
    close: Float64Array,
    *,
    opening: Float64Array | None = None,
    funding_at_open: Float64Array | None = None,
    volume: float = 1e9,
) -> Panel:
    """An hourly panel whose bars open at the close before (or at ``opening``).

    Args:
        close: (T, N) quote currency, NaN where the bar is missing.
        opening: (T, N) opens where they differ from the close before.
        funding_at_open: (T, N) rate·mark settled at each bar's open; zero when not given.
        volume: base units in every bar, large enough for impact to be nothing by default.
    """
    bars, assets = close.shape
    if opening is None:
        opening = np.vstack((close[:1], close[:-1]))
        opening = np.where(np.isnan(close), np.nan, opening)
    missing = np.where(np.isnan(close), np.nan, 1.0)
    zero = np.zeros((bars, assets))
    paid = zero if funding_at_open is None else funding_at_open
    return Panel(
        symbols=tuple(f"A{number}/USDT:USDT" for number in range(assets)),
        interval_ms=HOUR_MS,
        open_time=START + HOUR_MS * np.arange(bars, dtype=np.int64),
        open=opening,
        high=np.fmax(opening, close),
        low=np.fmin(opening, close),
        close=close,
        volume=volume * missing,
        quote_volume=volume * close,
        trades=np.full((bars, assets), np.nan),
        taker_buy_volume=np.full((bars, assets), np.nan),
        mark_open=opening,
        mark_high=np.fmax(opening, close),
        mark_low=np.fmin(opening, close),
        mark_close=close,
        funding_rate=np.where(paid != 0, paid / opening, np.nan),
        funding_at_open=paid,
        funding_in_bar=zero,
    )


def instruments_of(panel: Panel) -> tuple[Instrument, ...]:
    """Instruments whose steps are too small to round anything that a test looks at."""
    return tuple(
        Instrument(
            symbol=symbol,
            venue_symbol=symbol.split("/")[0] + "USDT",
            base=symbol.split("/")[0],
            quote="USDT",
            tick_size=Decimal("0.000001"),
            lot_step=Decimal("0.00000001"),
            min_quantity=Decimal("0.00000001"),
            max_quantity=None,
            min_notional=Decimal("0"),
            funding_interval_minutes=480,
        )
        for symbol in panel.symbols
    )


def random_close(seed: int, bars: int, assets: int, *, drift: float = 0.0) -> Float64Array:
    """(bars, assets) geometric random walks from 100 with 1 % volatility per bar."""
    steps = np.random.default_rng(seed).normal(drift, 0.01, (bars, assets))
    return 100.0 * np.exp(np.cumsum(steps, axis=0))
