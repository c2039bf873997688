"""The synthetic market: sound, repeatable, with the stated edge and no other."""

from __future__ import annotations

import functools
import itertools
import math
from decimal import Decimal

import numpy as np
import pytest

from market.bar import HOUR_MS, BarDefect, MarkSource
from market.features import DEFAULT_FEATURES, compute_features
from market.instrument import Market, Venue
from market.panel import ARRAY_FIELDS, BoolArray, Float64Array
from market.sandbox.generator import Regime, draw_regimes
from market.sandbox.oracle import CASH, oracle_holdings
from market.sandbox.synthetic import (
    DEFAULT_START,
    DEFAULT_SYMBOLS,
    HISTORY_BARS,
    SyntheticMarket,
    default_symbols,
    oracle_sharpe,
    synthetic_market,
    synthetic_tape,
)

SEED = 5
SEEDS = (SEED, 11)
EIGHT_MONTHS = 5_840
BARS_PER_YEAR = 8_760


@functools.cache
def market(
    seed: int = SEED, edge: float = 1.0, venue: Venue = Venue.BINANCEUSDM
) -> SyntheticMarket:
    """Return two years of history without any future."""
    symbols = default_symbols(venue)
    return synthetic_market(seed=seed, edge=edge, venue=venue, symbols=symbols, future_bars=0)


def log_returns(one: SyntheticMarket) -> Float64Array:
    """(T-1, N) log returns close to close."""
    return np.diff(np.log(one.tape.panel.close), axis=0)


def on_grid(values: Float64Array, step: Decimal) -> BoolArray:
    """Whether each value is the double nearest to a multiple of a power-of-ten step."""
    return np.equal(values, np.round(values, -step.adjusted()))


def cross_sectional_t(signal: Float64Array, returns: Float64Array) -> float:
    """Return the t statistic of next returns on a signal, both less their cross-section's mean.

    The standard error is clustered by bar, since assets move together within one.
    """
    own_signal = signal - signal.mean(axis=1, keepdims=True)
    own_return = returns - returns.mean(axis=1, keepdims=True)
    score = (own_signal * own_return).sum(axis=1)
    return float(score.sum() / math.sqrt((score**2).sum()))


def test_the_past_does_not_depend_on_how_much_future_is_asked_for() -> None:
    """Every array and settlement before T0 is bit-equal with no, some and much future."""
    short = market()
    for future_bars in (100, 26_280):
        long = synthetic_market(seed=SEED, future_bars=future_bars)
        past = long.tape.panel.window(0, HISTORY_BARS)
        for name in ARRAY_FIELDS:
            kept = getattr(short.tape.panel, name)
            assert getattr(past, name).tobytes() == kept.tobytes(), name
        count = len(short.tape.settlements)
        assert long.tape.settlements[:count] == short.tape.settlements
        assert long.tape.description == short.tape.description


def test_one_seed_is_one_market_and_another_seed_another() -> None:
    """Everything random follows from the seed."""
    again = synthetic_market(seed=SEED, future_bars=0).tape.panel.close
    other = market(seed=11).tape.panel.close
    assert np.array_equal(again, market().tape.panel.close)
    assert abs(np.corrcoef(np.diff(np.log(again[:, 0])), np.diff(np.log(other[:, 0])))[0, 1]) < 0.05


def test_history_ends_at_t0_and_bars_are_hourly() -> None:
    """T0 is the open of the first future bar."""
    tape = synthetic_tape(seed=SEED, history_bars=48, future_bars=3)
    assert tape.panel.open_time[48] == DEFAULT_START
    assert len(tape.panel) == 51
    assert tape.panel.interval_ms == HOUR_MS


@pytest.mark.parametrize("venue", list(Venue))
def test_every_bar_is_sound_and_on_the_venues_grid(venue: Venue) -> None:
    """A low <= open, close <= high; positive; prices on ticks; volumes on lots (``BarDefect``)."""
    tape = market(venue=venue).tape
    panel = tape.panel
    assert (panel.low > 0).all(), BarDefect.NOT_POSITIVE
    candles = [(panel.open, panel.high, panel.low, panel.close)]
    if venue.market is Market.PERP:
        candles += [(panel.mark_open, panel.mark_high, panel.mark_low, panel.mark_close)]
    for open_, high, low, close in candles:
        assert (low <= np.minimum(open_, close)).all(), BarDefect.RANGE_INVERTED
        assert (high >= np.maximum(open_, close)).all(), BarDefect.RANGE_INVERTED
    for asset, instrument in enumerate(tape.instruments):
        for name in ("open", "high", "low", "close"):
            assert on_grid(getattr(panel, name)[:, asset], instrument.tick_size).all()
        assert (panel.volume[:, asset] > 0).all()
        assert on_grid(panel.volume[:, asset], instrument.lot_step).all()


def test_bars_have_the_fields_that_their_venue_gives() -> None:
    """Bybit gives turnover but neither trade count nor taker volume; Binance gives all."""
    binance, bybit = market().tape.panel, market(venue=Venue.BYBIT).tape.panel
    assert np.isnan(bybit.trades).all()
    assert np.isnan(bybit.taker_buy_volume).all()
    assert (bybit.quote_volume > 0).all()
    assert (binance.trades >= 1).all()
    assert (binance.taker_buy_volume <= binance.volume).all()


@pytest.mark.parametrize("venue", [Venue.BINANCE, Venue.BYBITSPOT])
def test_spot_has_neither_marks_nor_funding_and_the_same_edge(venue: Venue) -> None:
    """Nothing settles on spot, and the oracle earns its Sharpe of 3 without paying funding."""
    one = market(venue=venue)
    panel = one.tape.panel
    assert np.isnan(panel.mark_close).all()
    assert np.isnan(panel.funding_rate).all()
    assert one.tape.settlements == ()
    assert oracle_sharpe(one) == pytest.approx(3.0, abs=0.3)


def test_marks_stay_close_to_prices() -> None:
    """The mark's premium is small, mean zero, and mark candles join without gaps."""
    panel = market().tape.panel
    basis = panel.mark_close / panel.close - 1.0
    assert np.abs(basis).max() < 0.002
    assert abs(basis.mean()) < 0.0001
    assert np.array_equal(panel.mark_open[1:], panel.mark_close[:-1])


def test_funding_settles_every_eight_hours_with_jitter_and_a_mark() -> None:
    """Nominal times 00, 08, 16 UTC; at most 47 ms late, about half of them exact."""
    tape = market().tape
    settlements = tape.settlements
    late = np.array([one.funding_time - one.nominal_time for one in settlements])
    assert len(settlements) == HISTORY_BARS // 8 * len(DEFAULT_SYMBOLS)
    assert all(one.nominal_time % (8 * HOUR_MS) == 0 for one in settlements)
    assert late.min() == 0
    assert late.max() == 47
    assert 0.4 < (late > 0).mean() < 0.6
    assert all(one.mark_source is MarkSource.VENUE for one in settlements)
    times = [one.funding_time for one in settlements]
    assert times == sorted(times)


def test_the_panels_charge_is_rate_times_mark_at_the_open() -> None:
    """``funding_at_open`` holds what one unit pays, and nothing settles inside a bar."""
    tape = market().tape
    panel = tape.panel
    for one in tape.settlements[:: len(tape.settlements) // 50]:
        row = (one.nominal_time - int(panel.open_time[0])) // HOUR_MS
        cell = (row, panel.symbols.index(one.symbol))
        assert one.mark_price == panel.mark_open[cell]
        assert panel.funding_rate[cell] == one.rate
        assert panel.funding_at_open[cell] == pytest.approx(one.rate * panel.mark_open[cell])
    assert not panel.funding_in_bar.any()


def test_funding_follows_the_trend() -> None:
    """Longs pay more after a rise: rates correlate with the return of the week before."""
    panel = market().tape.panel
    log_close = np.log(panel.close[:, 0])
    rows = np.flatnonzero(~np.isnan(panel.funding_rate[:, 0]))
    rows = rows[rows > 168]
    week = log_close[rows - 1] - log_close[rows - 169]
    assert np.corrcoef(week, panel.funding_rate[rows, 0])[0, 1] > 0.6


@pytest.mark.parametrize("seed", range(20))
def test_each_regime_comes_at_least_twice_in_two_years(seed: int) -> None:
    """Bull, bear and sideways spans cover the history, no two alike in a row."""
    regimes = draw_regimes(seed=seed, bars=HISTORY_BARS)
    kinds = [span.regime for span in regimes]
    assert all(kinds.count(kind) >= 2 for kind in Regime)
    assert all(one is not next_ for one, next_ in itertools.pairwise(kinds))
    assert [span.stop for span in regimes[:-1]] == [span.start for span in regimes[1:]]
    assert (regimes[0].start, regimes[-1].stop) == (0, HISTORY_BARS)


def test_the_average_asset_moves_with_its_regime() -> None:
    """Bull spans end higher, bear spans lower, by about the 30 % that they are made of."""
    log_close = np.log(market(edge=0.0).tape.panel.close)
    for span in market(edge=0.0).regimes:
        move = float((log_close[span.stop - 1] - log_close[span.start]).mean())
        middle = {Regime.BULL: 0.3, Regime.BEAR: -0.3, Regime.SIDEWAYS: 0.0}[span.regime]
        assert move == pytest.approx(middle, abs=0.2)


def test_returns_are_correlated_fat_tailed_and_clustered() -> None:
    """What markets of perpetuals are known for, each within a wide band."""
    returns = log_returns(market())
    pairs = np.asarray(np.corrcoef(returns.T))[np.triu_indices(5, 1)]
    spread = np.asarray(returns.std(axis=0))
    scaled = returns / spread
    sizes = np.abs(scaled[:, 0])
    assert 0.5 < pairs.min() < pairs.max() < 0.95
    assert (scaled**4).mean() > 5.0
    assert np.corrcoef(sizes[24:], sizes[:-24])[0, 1] > 0.05
    annual = spread * math.sqrt(BARS_PER_YEAR)
    assert (annual > 0.3).all()
    assert (annual < 1.0).all()


def test_volume_has_the_daily_season_of_real_perpetuals() -> None:
    """The hour from 14:00 UTC trades more than twice the hour from 04:00."""
    panel = market().tape.panel
    hour = panel.open_time // HOUR_MS % 24
    log_volume = np.log(panel.quote_volume)
    assert log_volume[hour == 14].mean() - log_volume[hour == 4].mean() > math.log(2)


def naive_oracle(one: SyntheticMarket) -> float:
    """Walk the oracle's trades through a wallet, fill by fill, and return its annual Sharpe."""
    panel, held = one.tape.panel, oracle_holdings(one.factor).tolist()
    equity, before, curve = 1.0, CASH, [1.0]
    for bar in range(1, len(panel) - 1):
        if before != CASH and not math.isnan(rate := panel.funding_rate[bar, before]):
            equity *= 1 - rate
        now = held[bar - 1]
        if now != before:
            equity *= (1 - 0.0006) ** ((before != CASH) + (now != CASH))
        if now != CASH:
            equity *= panel.open[bar + 1, now] / panel.open[bar, now]
        before = now
        curve.append(equity)
    steps = [after / earlier - 1 for earlier, after in itertools.pairwise(curve)]
    mean = math.fsum(steps) / len(steps)
    variance = math.fsum((step - mean) ** 2 for step in steps) / len(steps)
    return mean / math.sqrt(variance) * math.sqrt(BARS_PER_YEAR)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_oracle_earns_a_net_sharpe_of_three(seed: int) -> None:
    """3 ± 0.3 on the default history, confirmed by a wallet that is charged fill by fill."""
    one = market(seed=seed)
    assert oracle_sharpe(one) == pytest.approx(3.0, abs=0.3)
    assert naive_oracle(one) == pytest.approx(oracle_sharpe(one), abs=0.02)


def test_the_oracle_earns_about_as_much_on_the_future() -> None:
    """The edge goes on after T0: three further years, within their sampling error."""
    whole = synthetic_market(seed=SEED)
    panel = whole.tape.panel
    future = SyntheticMarket(
        tape=whole.tape,
        start=whole.start,
        history_bars=len(panel),
        factor=whole.factor,
        drift_per_factor=whole.drift_per_factor,
        regimes=whole.regimes,
    )
    assert oracle_sharpe(future) == pytest.approx(3.0, abs=1.0)


def test_edge_zero_keeps_the_noise_and_takes_the_drift_away() -> None:
    """Returns with and without edge differ by β times the factor one bar earlier, and no more."""
    with_edge, without = market(), market(edge=0.0)
    drift = with_edge.drift_per_factor
    difference = log_returns(with_edge)[:, :2] - log_returns(without)[:, :2]
    assert without.drift_per_factor == 0.0
    assert np.array_equal(with_edge.factor, without.factor)
    assert np.abs(difference - drift * with_edge.factor[:-1, :2]).max() < 2e-5  # a tick or two


def test_edge_zero_predicts_nothing() -> None:
    """Without the edge the factor's t statistic is noise and the oracle pays its costs."""
    statistics = [
        cross_sectional_t(market(seed, 0.0).factor[:-1], log_returns(market(seed, 0.0)))
        for seed in SEEDS
    ]
    assert max(abs(one) for one in statistics) < 3.0
    assert np.mean([oracle_sharpe(market(seed, 0.0)) for seed in SEEDS]) < 0.8


def test_edge_scales_the_strength() -> None:
    """β is proportional to ``edge``; a stronger edge earns more."""
    double = market(edge=2.0)
    assert double.drift_per_factor == pytest.approx(2 * market().drift_per_factor)
    assert oracle_sharpe(double) > 4.5


@pytest.mark.parametrize("seed", SEEDS)
def test_eight_months_are_enough_to_see_the_edge(seed: int) -> None:
    """The public volume feature shows the factor, and predicts with t >= 6 on 8 months."""
    one = market(seed=seed)
    features = compute_features(one.tape.panel)
    seen = features.values[300:, :, DEFAULT_FEATURES.index("volume_surprise")].astype(np.float64)
    assert np.corrcoef(seen.ravel(), one.factor[300:].ravel())[0, 1] > 0.8
    returns = log_returns(one)[300:EIGHT_MONTHS]
    assert cross_sectional_t(seen[: len(returns)], returns) >= 6.0


def test_always_long_does_not_pay_much() -> None:
    """Equal weight, held for two years, earns a Sharpe far below the oracle's."""
    for edge in (0.0, 1.0):
        panel = market(edge=edge).tape.panel
        returns = (panel.close[1:] / panel.close[:-1] - 1).mean(axis=1)
        assert returns.mean() / returns.std() * math.sqrt(BARS_PER_YEAR) < 1.0


def test_the_description_says_that_it_is_not_real_and_what_the_oracle_earns() -> None:
    """Whoever sees the tape is told; edge 0 states its figure too."""
    for one in (market(), market(edge=0.0)):
        assert one.tape.synthetic
        assert "not real data" in one.tape.description
        assert f"net annual Sharpe of {oracle_sharpe(one):.2f}" in one.tape.description


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symbols": ("PEPE/USDT:USDT",)}, r"PEPE/USDT:USDT.*known: BTC/USDT:USDT"),
        ({"symbols": ()}, "at least one symbol"),
        ({"symbols": ("BTC/USDT:USDT", "BTC/USDT:USDT")}, "twice"),
        ({"edge": -1.0}, "edge"),
        ({"edge": math.nan}, "edge"),
        ({"history_bars": 0}, "0 bars of history"),
        ({"future_bars": -1}, "-1 of future"),
    ],
)
def test_senseless_requests_are_refused_by_name(arguments: dict[str, object], message: str) -> None:
    """The error says what was wrong and what would be right."""
    with pytest.raises(ValueError, match=message):
        synthetic_market(seed=1, **arguments)  # type: ignore[arg-type]  # that is the point
