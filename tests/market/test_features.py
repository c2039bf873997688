"""Features: causal, from finite windows, never a guess, and equal to their written formulas."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.features import DEFAULT_FEATURES, FEATURES, WARMUP_BARS, Features, compute_features
from market.panel import ARRAY_FIELDS, Float64Array, Panel

BARS, ASSETS = 420, 4
PRICE_FEATURES = [name for name in DEFAULT_FEATURES if name not in ("funding_last", "funding_mean")]


def random_panel(
    seed: int, *, bars: int = BARS, assets: int = ASSETS, missing: float = 0.0
) -> Panel:
    """Return a market of random walks in which each bar is missing with probability ``missing``."""
    rng = np.random.default_rng(seed)
    shape = (bars, assets)
    close = 100.0 * np.exp(np.cumsum(rng.standard_t(4, shape) * 0.006, axis=0))
    opened = close * np.exp(rng.normal(0, 0.002, shape))
    arrays = {name: np.full(shape, np.nan) for name in ARRAY_FIELDS}
    arrays |= {
        "open": opened,
        "close": close,
        "high": np.maximum(opened, close) * (1 + rng.random(shape) * 0.004),
        "low": np.minimum(opened, close) * (1 - rng.random(shape) * 0.004),
        "volume": np.exp(rng.normal(5, 1, shape)),
        "mark_close": close * (1 + rng.normal(0, 0.0003, shape)),
        "funding_rate": np.where(rng.random(shape) < 0.125, rng.normal(0, 0.0002, shape), np.nan),
    }
    gone = rng.random(shape) < missing
    for name in ("open", "high", "low", "close", "volume", "mark_close"):
        arrays[name] = np.where(gone, np.nan, arrays[name])
    return Panel(
        symbols=tuple(f"A{idx}/USDT:USDT" for idx in range(assets)),
        interval_ms=HOUR_MS,
        open_time=HOUR_MS * np.arange(480_000, 480_000 + bars, dtype=np.int64),
        **arrays,
    )


def with_arrays(panel: Panel, **changed: Any) -> Panel:
    """Return ``panel`` with some arrays replaced."""
    return replace(panel, **changed)


def value(features: Features, name: str, *, bar: int = -1, asset: int = 0) -> float:
    """Return one feature's value."""
    return float(features.values[bar, asset, DEFAULT_FEATURES.index(name)])


def is_known(features: Features, name: str, *, bar: int = -1, asset: int = 0) -> bool:
    """Return one feature's mask."""
    return bool(features.known[bar, asset, DEFAULT_FEATURES.index(name)])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    missing=st.sampled_from([0.0, 0.02, 0.3]),
    cut=st.integers(1, BARS),
    lookback=st.integers(1, 40),
)
def test_a_row_from_the_last_warmup_bars_is_bit_equal_to_one_from_all_history(
    seed: int, missing: float, cut: int, lookback: int
) -> None:
    """Live and training agree to the last bit, and no row changes when later bars arrive."""
    panel = random_panel(seed, missing=missing)
    whole = compute_features(panel)
    start = max(0, cut - WARMUP_BARS - lookback + 1)
    live = compute_features(panel.window(start, cut))
    rows = min(lookback, cut)
    assert live.values[-rows:].tobytes() == whole.values[cut - rows : cut].tobytes()
    assert live.known[-rows:].tobytes() == whole.known[cut - rows : cut].tobytes()


def test_one_bar_less_than_the_warmup_is_not_enough() -> None:
    """``WARMUP_BARS`` is exact: with one bar less the longest window loses its first value."""
    panel = random_panel(1)
    whole = compute_features(panel).values[-1]
    enough = compute_features(panel.window(BARS - WARMUP_BARS, BARS)).values[-1]
    short = compute_features(panel.window(BARS - WARMUP_BARS + 1, BARS)).values[-1]
    assert np.array_equal(enough, whole)
    assert not np.array_equal(short, whole)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.1, 0.9]))
def test_values_are_finite_bounded_and_zero_where_unknown(seed: int, missing: float) -> None:
    """Nothing that is not a number, nothing beyond its bounds, and no value without knowledge."""
    features = compute_features(random_panel(seed, missing=missing))
    bounds = np.array([FEATURES[name].bound for name in DEFAULT_FEATURES], dtype=np.float32)
    assert np.isfinite(features.values).all()
    assert (np.abs(features.values) <= bounds).all()
    assert not features.values[~features.known].any()


def test_extreme_prices_and_volumes_stay_within_bounds() -> None:
    """A flat market, zero volume, a price of 1e-9 and a thousandfold jump give no NaN."""
    panel = random_panel(3)
    close = panel.close.copy()
    close[:, 0], close[200:, 1], close[:, 2] = 5.0, 1e5, 1e-9
    volume = panel.volume.copy()
    volume[:, 3], volume[-1, 1] = 0.0, 1e300
    features = compute_features(
        with_arrays(panel, close=close, high=close, low=close, volume=volume)
    )
    assert np.isfinite(features.values).all()
    assert not is_known(features, "return_24", asset=0)
    assert not is_known(features, "volume_surprise", asset=3)
    assert value(features, "volume_surprise", asset=1) == 4.0


def test_returns_match_their_formula_worked_out_bar_by_bar() -> None:
    """Returns are divided by 168-bar zero-mean volatility times the root of their length."""
    panel = random_panel(4)
    features = compute_features(panel)
    close = panel.close[:, 0].tolist()
    steps = [math.log(close[t] / close[t - 1]) for t in range(BARS - 168, BARS)]
    sigma = math.sqrt(math.fsum(step**2 for step in steps) / 168)
    for bars in (1, 6, 24, 72):
        expected = math.log(close[-1] / close[-1 - bars]) / (sigma * math.sqrt(bars))
        assert value(features, f"return_{bars}") == pytest.approx(expected, rel=1e-6)


def test_volatility_and_range_ratios_match_their_formulas() -> None:
    """Short over long volatility, and Parkinson's range volatility over that of closes."""
    panel = random_panel(5)
    features = compute_features(panel)
    close, high, low = (getattr(panel, name)[:, 0].tolist() for name in ("close", "high", "low"))
    squares = [math.log(close[t] / close[t - 1]) ** 2 for t in range(BARS - 168, BARS)]
    ranges = [math.log(high[t] / low[t]) ** 2 for t in range(BARS - 24, BARS)]
    short, long = math.fsum(squares[-24:]) / 24, math.fsum(squares) / 168
    parkinson = math.fsum(ranges) / 24 / (4 * math.log(2))
    assert value(features, "volatility_ratio") == pytest.approx(0.5 * math.log(short / long), 1e-5)
    assert value(features, "range_ratio") == pytest.approx(0.5 * math.log(parkinson / short), 1e-5)


def surprise(volume: list[float], bar: int, lags: range) -> float:
    """Return log volume less its mean at ``lags`` bars before."""
    usual = math.fsum(math.log(volume[bar - lag]) for lag in lags) / len(lags)
    return math.log(volume[bar]) - usual


def test_volume_is_compared_with_the_same_hour_of_ten_days() -> None:
    """Hourly bars: lags 24 to 240 by 24, averaged over six bars."""
    panel = random_panel(6)
    features = compute_features(panel)
    mean = {}
    for asset in range(ASSETS):
        volume = panel.volume[:, asset].tolist()
        recent = [surprise(volume, bar, range(24, 241, 24)) for bar in range(BARS - 6, BARS)]
        mean[asset] = math.fsum(recent) / 6
        shock = recent[-1] - mean[asset]
        assert value(features, "volume_surprise", asset=asset) == pytest.approx(mean[asset], 1e-5)
        assert value(features, "volume_shock", asset=asset) == pytest.approx(shock, 1e-4)
    middle = math.fsum(mean.values()) / ASSETS
    assert value(features, "volume_relative", asset=1) == pytest.approx(mean[1] - middle, 1e-4)


@pytest.mark.parametrize(
    ("interval", "lags"),
    [(5 * MINUTE_MS, range(1, 241)), (4 * HOUR_MS, range(6, 241, 6)), (DAY_MS, range(1, 241))],
)
def test_volume_lags_follow_the_interval(interval: int, lags: range) -> None:
    """Where seven days fit into 240 bars the time of day counts, else every bar before."""
    panel = random_panel(7)
    features = compute_features(
        replace(panel, interval_ms=interval, open_time=interval * np.arange(BARS, dtype=np.int64))
    )
    volume = panel.volume[:, 0].tolist()
    expected = math.fsum(surprise(volume, bar, lags) for bar in range(BARS - 6, BARS)) / 6
    assert value(features, "volume_surprise") == pytest.approx(expected, rel=1e-5)


def test_a_settlement_at_the_open_is_seen_at_that_bars_close_and_not_before() -> None:
    """The newest settled rate in basis points; what settles in the next bar is not known yet."""
    panel = random_panel(8)
    rate = np.full((BARS, ASSETS), np.nan)
    rate[300, 0], rate[308, 0] = 0.0001, -0.0003
    features = compute_features(with_arrays(panel, funding_rate=rate))
    assert not is_known(features, "funding_last", bar=299)
    assert value(features, "funding_last", bar=300) == pytest.approx(1.0)
    assert value(features, "funding_last", bar=307) == pytest.approx(1.0)
    assert value(features, "funding_last", bar=308) == pytest.approx(-3.0)
    assert value(features, "funding_mean", bar=308) == pytest.approx(-1.0)
    assert value(features, "funding_last", bar=308 + 110) == pytest.approx(-3.0)


def test_a_settlement_older_than_168_bars_is_forgotten() -> None:
    """A rate that stopped being published is unknown, not assumed to hold."""
    panel = random_panel(9)
    rate = np.full((BARS, ASSETS), np.nan)
    rate[100, 0] = 0.0001
    features = compute_features(with_arrays(panel, funding_rate=rate))
    for name in ("funding_last", "funding_mean"):
        assert is_known(features, name, bar=267)
        assert not is_known(features, name, bar=268)


def test_basis_is_the_marks_premium_in_basis_points() -> None:
    """Mark 100.02 over a close of 100 is 2 bp; no mark candle means unknown."""
    panel = random_panel(10)
    close, mark = panel.close.copy(), panel.mark_close.copy()
    close[-1, 0], mark[-1, 0], mark[-1, 1] = 100.0, 100.02, np.nan
    features = compute_features(with_arrays(panel, close=close, mark_close=mark))
    assert value(features, "basis") == pytest.approx(2.0, rel=1e-4)
    assert not is_known(features, "basis", asset=1)


def test_ranks_run_from_minus_to_plus_a_half_and_ties_share() -> None:
    """Day returns of 1, 3, 3 and 2 percent rank -1/2, 1/3, 1/3 and -1/6."""
    panel = random_panel(11)
    close = panel.close.copy()
    close[-25] = 100.0
    close[-1] = (101.0, 103.0, 103.0, 102.0)
    ranks = compute_features(with_arrays(panel, close=close)).values[
        -1, :, DEFAULT_FEATURES.index("return_rank")
    ]
    assert ranks.tolist() == pytest.approx([-1 / 2, 1 / 3, 1 / 3, -1 / 6])


def test_an_asset_alone_has_no_rank() -> None:
    """A rank among fewer than two known assets says nothing, so it is unknown."""
    features = compute_features(random_panel(12, assets=1))
    assert not is_known(features, "return_rank")
    assert is_known(features, "return_24")


def test_a_missing_bar_hides_its_price_features_and_keeps_its_funding() -> None:
    """The bar that is missing is masked; the bars after it recover as soon as windows allow."""
    panel = random_panel(13)
    gone: dict[str, Float64Array] = {}
    for name in ("open", "high", "low", "close", "volume", "mark_close"):
        gone[name] = getattr(panel, name).copy()
        gone[name][-3, 0] = np.nan
    features = compute_features(with_arrays(panel, **gone))
    assert not any(is_known(features, name, bar=-3) for name in PRICE_FEATURES)
    assert is_known(features, "funding_last", bar=-3)
    assert not is_known(features, "return_1", bar=-2)
    assert all(is_known(features, name, bar=-1) for name in DEFAULT_FEATURES)
    assert all(is_known(features, name, bar=-3, asset=1) for name in DEFAULT_FEATURES)


@pytest.mark.parametrize("bars", [0, 1, 2, 30])
def test_a_history_shorter_than_the_warmup_is_all_mask_and_no_error(bars: int) -> None:
    """Short panels give rows of the right shape with long windows unknown."""
    features = compute_features(random_panel(14, bars=bars))
    assert features.values.shape == features.known.shape == (bars, ASSETS, len(DEFAULT_FEATURES))
    assert not features.known[..., DEFAULT_FEATURES.index("volume_surprise")].any()


def test_two_years_of_hourly_bars_take_less_than_a_second() -> None:
    """17,520 bars of five assets within a second of processor time; it is a tenth in practice."""
    panel = random_panel(15, bars=17_520, assets=5)
    started = time.process_time()
    compute_features(panel)
    assert time.process_time() - started < 1.0
