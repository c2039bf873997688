"""Liquidity and prices prepared from a panel."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from broker.execution import (
    LIQUIDITY_BARS,
    REQUIRED_BARS,
    UNKNOWN_SIGMA_DAILY,
    KnownLiquidity,
    has_price,
    latest_liquidity,
    liquidity,
    market_arrays,
)
from tests.broker.worlds import make_world

PANEL = make_world(5, bars=400, symbols=3, missing=0.03).panel


def test_liquidity_by_hand() -> None:
    """Mean quote volume of the last 168 hours times 24, and √24 times the deviation of returns."""
    known = liquidity(PANEL)
    rows = slice(300 - LIQUIDITY_BARS + 1, 301)
    close = PANEL.close[:, 1]
    returns = [math.log(close[t] / close[t - 1]) for t in range(rows.start, rows.stop)]
    returns = [value for value in returns if not math.isnan(value)]
    assert known.adv_quote[300, 1] == pytest.approx(24 * np.nanmean(PANEL.quote_volume[rows, 1]))
    assert known.sigma_daily[300, 1] == pytest.approx(math.sqrt(24) * np.std(returns, ddof=1))


def test_liquidity_is_causal() -> None:
    """Cut the data at t: rows up to t are bit-equal."""
    whole, cut = liquidity(PANEL), liquidity(PANEL.window(0, 250))
    for name in ("adv_quote", "sigma_daily"):
        np.testing.assert_array_equal(getattr(whole, name)[:250], getattr(cut, name))


def test_liquidity_does_not_depend_on_where_the_panel_starts() -> None:
    """The last REQUIRED_BARS bars give the last row bit for bit: live equals replay."""
    whole, tail = liquidity(PANEL), liquidity(PANEL.window(400 - REQUIRED_BARS, 400))
    for name in ("adv_quote", "sigma_daily"):
        np.testing.assert_array_equal(getattr(whole, name)[-1], getattr(tail, name)[-1])


@pytest.mark.parametrize("stop", [1, 2, 3, 50, 167, 168, 169, 170, 333, 400])
def test_latest_liquidity_is_the_last_two_rows(stop: int) -> None:
    """What a decision computes alone is what a whole panel has, bit for bit."""
    panel = PANEL.window(0, stop)
    latest, whole = latest_liquidity(panel), liquidity(panel)
    same = KnownLiquidity.at(whole, stop - 1)
    for one, two, row in zip(latest, same, (max(stop - 2, 0), stop - 1), strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one.adv_quote, whole.adv_quote[row])
        np.testing.assert_array_equal(one.sigma_daily, whole.sigma_daily[row])


def test_unknown_quote_volume_is_volume_times_close() -> None:
    """A venue that gives no quote volume still has a daily volume."""
    without = replace(PANEL, quote_volume=np.full_like(PANEL.close, np.nan))
    estimated = liquidity(without).adv_quote[300]
    np.testing.assert_allclose(estimated, liquidity(PANEL).adv_quote[300], rtol=1e-9)


def test_nothing_known_is_finite() -> None:
    """The first bars, and a symbol without any volume, have volume 0 and the assumed σ."""
    empty = np.full_like(PANEL.close, np.nan)
    known = liquidity(replace(PANEL, close=empty, volume=empty, quote_volume=empty))
    assert np.all(known.adv_quote == 0)
    assert np.all(known.sigma_daily == UNKNOWN_SIGMA_DAILY)
    assert liquidity(PANEL).sigma_daily[0, 0] == UNKNOWN_SIGMA_DAILY
    assert liquidity(PANEL.window(0, 0)).adv_quote.shape == (0, 3)


def test_market_arrays_are_finite_and_masked() -> None:
    """Every number is finite; a missing bar is not tradable and keeps the last mark."""
    arrays = market_arrays(PANEL)
    for name in ("price", "mark", "open_price", "funding_at_open", "funding_in_bar"):
        assert np.isfinite(getattr(arrays, name)).all()
    row, column = np.argwhere(np.isnan(PANEL.close[1:]))[0] + [1, 0]
    assert not arrays.tradable[row, column]
    assert not arrays.fillable[row, column]
    assert arrays.mark[row, column] == arrays.mark[row - 1, column]
    assert arrays.price[row, column] == arrays.mark[row, column]


def test_before_the_first_bar_nothing_is_known() -> None:
    """A symbol listed later has mark 0, a positive price and no permission to trade."""
    late = PANEL.close.copy()
    late[:10, 0] = np.nan
    marks = PANEL.mark_close.copy()
    marks[:10, 0] = np.nan
    arrays = market_arrays(replace(PANEL, close=late, mark_close=marks))
    assert np.all(arrays.mark[:10, 0] == 0)
    assert np.all(arrays.price[:10, 0] > 0)
    assert not arrays.tradable[:10, 0].any()


@pytest.mark.parametrize(
    ("value", "usable"),
    [(1.0, True), (0.0, False), (-1.0, False), (math.nan, False), (math.inf, False), (None, False)],
)
def test_usable_price(value: float | None, usable: bool) -> None:
    """A price is present, finite and positive."""
    assert has_price(value) is usable
