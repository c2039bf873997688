"""The one-minute market: sound, on the venues' grids, repeatable, and twenty symbols wide."""

from __future__ import annotations

import numpy as np
import pytest

from market.bar import HOUR_MS, MINUTE_MS
from market.instrument import Market, Venue
from market.panel import ARRAY_FIELDS
from market.sandbox.minutes import minute_tape
from market.sandbox.rules import listed_symbols
from market.sandbox.tape import Tape

START = 1_767_225_600_000  # 2026-01-01 00:00 UTC
BARS = 1_500
PERPS = (Venue.BINANCEUSDM, Venue.BYBIT)


def tape(venue: Venue, *, bars: int = BARS, count: int = 20) -> Tape:
    """Return a tape of the venue's first ``count`` symbols."""
    return minute_tape(
        seed=3, venue=venue, symbols=listed_symbols(venue)[:count], start=START, bars=bars
    )


@pytest.mark.parametrize("venue", list(Venue))
def test_twenty_symbols_are_sound_and_on_the_grid(venue: Venue) -> None:
    """Every bar has low <= open, close <= high, prices on ticks and volumes on lots."""
    one = tape(venue)
    panel = one.panel
    assert panel.close.shape == (BARS, 20)
    assert panel.open_time[-1] == START + (BARS - 1) * MINUTE_MS
    assert (panel.low > 0).all()
    assert (panel.low <= np.minimum(panel.open, panel.close)).all()
    assert (panel.high >= np.maximum(panel.open, panel.close)).all()
    ticks = np.array([float(rules.tick_size) for rules in one.instruments])
    lots = np.array([float(rules.lot_step) for rules in one.instruments])
    for values, steps in ((panel.close, ticks), (panel.high, ticks), (panel.volume, lots)):
        assert np.allclose(values / steps, np.rint(values / steps), rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize("venue", list(Venue))
def test_only_perpetuals_have_marks_and_settlements(venue: Venue) -> None:
    """Perpetuals settle at 00, 08 and 16 UTC; spot has neither marks nor settlements."""
    one = tape(venue, count=2)
    is_perp = venue.market is Market.PERP
    assert np.isfinite(one.panel.mark_close).all() == is_perp
    nominal = [settlement.nominal_time - START for settlement in one.settlements]
    wanted = [hour * HOUR_MS for hour in (0, 0, 8, 8, 16, 16, 24, 24)]
    assert nominal == (wanted if is_perp else [])


@pytest.mark.parametrize("venue", [Venue.BYBIT, Venue.BYBITSPOT])
def test_bybit_counts_neither_trades_nor_taker_volume(venue: Venue) -> None:
    """Bybit's bars have turnover and no trade count, as on the venue."""
    panel = tape(venue, count=2).panel
    assert np.isnan(panel.trades).all()
    assert np.isnan(panel.taker_buy_volume).all()
    assert (panel.quote_volume > 0).all()


@pytest.mark.parametrize("venue", list(Venue))
def test_a_longer_tape_begins_with_the_shorter_one(venue: Venue) -> None:
    """What happens later never changes what happened, bit for bit."""
    short, long = tape(venue, bars=600, count=3), tape(venue, bars=900, count=3)
    for name in ARRAY_FIELDS:
        before = getattr(long.panel, name)[:600]
        assert np.array_equal(getattr(short.panel, name), before, equal_nan=True), name
    assert short.settlements == long.settlements[: len(short.settlements)]


def test_a_symbol_may_settle_at_its_own_interval() -> None:
    """Every hour where it is told to, every eight hours elsewhere, and the rules say so."""
    one = minute_tape(
        seed=3,
        venue=Venue.BYBIT,
        symbols=("BTC/USDT:USDT", "SOL/USDT:USDT"),
        start=START,
        bars=121,
        funding_minutes={"SOL/USDT:USDT": 60},
    )
    settled = [(row.symbol[:3], (row.nominal_time - START) // HOUR_MS) for row in one.settlements]
    assert sorted(settled) == [("BTC", 0), ("SOL", 0), ("SOL", 1), ("SOL", 2)]
    assert [rules.funding_interval_minutes for rules in one.instruments] == [480, 60]


def test_assets_move_together() -> None:
    """A common market moves them all: minute returns correlate well above a half."""
    returns = np.diff(np.log(tape(Venue.BINANCE, count=3).panel.close), axis=0)
    correlation = np.corrcoef(returns.T)
    assert (correlation > 0.5).all()


@pytest.mark.parametrize(
    ("start", "bars", "minutes"),
    [(START + 1, 10, None), (START, 0, None), (START, 10, {"BTC/USDT": 60})],
)
def test_what_cannot_be_made_is_refused(
    start: int, bars: int, minutes: dict[str, int] | None
) -> None:
    """A start within a minute, no bars, and funding of spot are errors."""
    with pytest.raises(ValueError, match=r"minutes|settles"):
        minute_tape(
            seed=1,
            venue=Venue.BINANCE,
            symbols=("BTC/USDT",),
            start=start,
            bars=bars,
            funding_minutes=minutes,
        )
