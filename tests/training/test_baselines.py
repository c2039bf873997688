"""The baselines' targets by hand, and their causality."""

from __future__ import annotations

import math

import numpy as np
import pytest

from market.bar import DAY_MS
from tests.training.market_factory import panel_of, random_close
from training.baselines import (
    BASELINES,
    MOMENTUM_BARS,
    VOLATILITY_BARS,
    buy_and_hold,
    cash,
    equal_weight,
    inverse_volatility,
    momentum,
)


def test_cash_never_holds_or_trades() -> None:
    """Cash is zero weights and no trade."""
    plan = cash(panel_of(random_close(1, 30, 3)))
    assert not plan.target.any()
    assert not plan.trades.any()


def test_equal_weight_rebalances_at_midnight() -> None:
    """Two days of hourly bars from midnight: the bars that close at 24:00 trade."""
    plan = equal_weight(panel_of(random_close(1, 48, 4)))
    assert np.flatnonzero(plan.trades).tolist() == [23, 47]
    np.testing.assert_array_equal(plan.target, np.full((48, 4), 0.25))


def test_missing_assets_get_no_slot() -> None:
    """With one of four bars missing the others get a third each."""
    close = random_close(1, 3, 4)
    close[1, 2] = math.nan
    target = equal_weight(panel_of(close)).target
    np.testing.assert_allclose(target[1], [1 / 3, 1 / 3, 0, 1 / 3])


def test_buy_and_hold_never_rebalances() -> None:
    """It states equal weights and no further trade."""
    plan = buy_and_hold(panel_of(random_close(1, 48, 2)))
    assert not plan.trades.any()
    np.testing.assert_array_equal(plan.target[0], [0.5, 0.5])


def test_inverse_volatility_by_hand() -> None:
    """Assets that swing by 1 % and 3 % in log price get three quarters and one quarter."""
    swing = np.where(np.arange(VOLATILITY_BARS + 2) % 2 == 0, 0.0, 1.0)
    close = 100.0 * np.exp(np.outer(swing, [0.01, 0.03]))
    target = inverse_volatility(panel_of(close)).target
    np.testing.assert_allclose(target[-1], [0.75, 0.25])
    np.testing.assert_array_equal(target[VOLATILITY_BARS - 1], [0.5, 0.5])


def test_momentum_holds_what_rose() -> None:
    """The riser gets its slot, the faller's slot stays cash; before the lookback all is cash."""
    steps = np.outer(np.arange(MOMENTUM_BARS + 1), [0.001, -0.001])
    target = momentum(panel_of(100.0 * np.exp(steps))).target
    np.testing.assert_array_equal(target[-1], [0.5, 0.0])
    assert not target[:-1].any()


@pytest.mark.parametrize("name", list(BASELINES))
def test_no_baseline_looks_ahead(name: str) -> None:
    """Cut the data at t: the plan up to t is bit-equal."""
    panel = panel_of(random_close(7, 900, 3))
    whole = BASELINES[name](panel)
    for stop in (200, 680, 899):
        cut = BASELINES[name](panel.window(0, stop))
        np.testing.assert_array_equal(cut.target, whole.target[:stop])
        np.testing.assert_array_equal(cut.trades, whole.trades[:stop])


@pytest.mark.parametrize("name", list(BASELINES))
def test_no_baseline_is_leveraged(name: str) -> None:
    """Weights are never negative and never sum to more than one, gaps included."""
    close = random_close(8, 900, 3)
    close[300:320, 0] = math.nan
    close[850, :] = math.nan
    target = BASELINES[name](panel_of(close)).target
    assert (target >= 0).all()
    assert (target.sum(axis=1) <= 1 + 1e-12).all()


def test_trading_bars_follow_the_calendar_not_the_index() -> None:
    """A history that starts at 05:00 still trades at midnight."""
    panel = panel_of(random_close(1, 48, 2)).window(5, 48)
    plan = equal_weight(panel)
    assert all(panel.close_time[plan.trades] % DAY_MS == 0)
    assert np.flatnonzero(plan.trades).tolist() == [18, 42]
