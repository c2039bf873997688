"""Each formula against a plain, slow one that shares no code with it, and cases worked by hand."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence

import bidask  # type: ignore[import-untyped]  # ships no types
import numpy as np
import pytest

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.features import FEATURES, compute_features
from market.panel import Panel
from tests.market.feature_market import ALL, changed, column, full_panel, unknown

Series = list[float]
NAN = math.nan


def ln(x: float) -> float:
    return math.log(x) if x > 0 else NAN


def mean(values: Sequence[float], bars: int) -> float:
    """Return the mean of what is known of the last ``bars`` values, if that is four fifths."""
    known = [x for x in values[-bars:] if math.isfinite(x)]
    return math.fsum(known) / len(known) if len(known) >= 0.8 * bars else NAN


def over(x: float, y: float) -> float:
    return x / y if y > 0 else NAN


class Slow:
    """One asset of a panel, computed with floats and loops for its last bar."""

    def __init__(self, panel: Panel, asset: int) -> None:
        self.panel, self.asset = panel, asset
        self.day = DAY_MS // panel.interval_ms
        self.close = self.field("close")
        self.returns = [NAN, *(ln(b / a) for a, b in zip(self.close, self.close[1:], strict=False))]

    def field(self, name: str) -> Series:
        values: Series = getattr(self.panel, name)[:, self.asset].tolist()
        return values

    def move(self, bars: int) -> float:
        return ln(self.close[-1] / self.close[-1 - bars])

    def volatility(self, bars: int) -> float:
        return math.sqrt(mean([r * r for r in self.returns], bars))

    def scaled(self, bars: int) -> float:
        return self.move(bars) / (self.volatility(168) * math.sqrt(bars))

    def parkinson(self, bars: int) -> float:
        squares = [
            ln(h / low) ** 2 for h, low in zip(self.field("high"), self.field("low"), strict=True)
        ]
        return math.sqrt(mean(squares, bars) / (4 * math.log(2)))

    def garman_klass(self, bars: int) -> float:
        columns = (self.field(name) for name in ("open", "high", "low", "close"))
        terms = [
            0.5 * ln(h / low) ** 2 - (2 * math.log(2) - 1) * ln(c / o) ** 2
            for o, h, low, c in zip(*columns, strict=True)
        ]
        return math.sqrt(mean(terms, bars))

    def annual(self, volatility: float) -> float:
        return ln(volatility * math.sqrt(365 * self.day))

    def against(self, values: Series, lags: Sequence[int], back: int) -> float:
        """Return ln of a value ``back`` bars ago less the mean of its logs at ``lags`` before."""
        usual = [ln(values[-1 - back - lag]) for lag in lags]
        return ln(values[-1 - back]) - mean(usual, len(lags))

    def surprise(self, values: Series) -> float:
        lags = range(self.day, 241, self.day) if self.day * 7 <= 240 else range(1, 241)
        return mean([self.against(values, lags, back) for back in range(6)], 6)

    def shock(self, values: Series) -> float:
        lags = range(self.day, 241, self.day) if self.day * 7 <= 240 else range(1, 241)
        return self.against(values, lags, 0) - self.surprise(values)

    def seasonal(self, values: Series) -> float:
        lags = [self.day * number for number in range(1, 8)]
        return mean([self.against(values, lags, back) for back in range(6)], 6)

    def trade_size(self) -> Series:
        return [
            q / n for q, n in zip(self.field("quote_volume"), self.field("trades"), strict=True)
        ]

    def imbalance(self, bars: int) -> float:
        bought, volume = self.field("taker_buy_volume"), self.field("volume")
        both = [
            (b, v) for b, v in zip(bought[-bars:], volume[-bars:], strict=True) if b + v == b + v
        ]
        total = math.fsum(v for _, v in both)
        return 2 * math.fsum(b for b, _ in both) / total - 1

    def amihud(self, bars: int) -> float:
        impact = [
            abs(r) / q * 1e10 for r, q in zip(self.returns, self.field("quote_volume"), strict=True)
        ]
        return ln(mean(impact, bars))

    def edge(self) -> float:
        columns = (getattr(self.panel, name)[-168:, self.asset] for name in _OHLC)
        return 10_000 * float(bidask.edge(*columns))

    def rates(self, bars: int) -> Series:
        return [x * 10_000 for x in self.field("funding_rate")[-bars:] if math.isfinite(x)]

    def premium(self) -> Series:
        marks = self.field("mark_close")
        return [10_000 * (m / c - 1) for m, c in zip(marks, self.close, strict=True)]

    def slope(self) -> tuple[float, float]:
        """Return β by numpy's least squares, and the cosine between the two return series."""
        bitcoin, own = np.array(Slow(self.panel, 0).returns[-168:]), np.array(self.returns[-168:])
        both = np.isfinite(bitcoin) & np.isfinite(own)
        if both.sum() < 0.8 * 168:
            return NAN, NAN
        x, y = bitcoin[both], own[both]
        beta = float(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0])
        return beta, float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))

    def residual(self) -> float:
        return (self.move(24) - self.slope()[0] * Slow(self.panel, 0).move(24)) / (
            self.volatility(168) * math.sqrt(24)
        )

    def among(self, measure: Callable[[Slow], float]) -> Series:
        """Return what the assets of the panel know of ``measure``."""
        each = (measure(Slow(self.panel, asset)) for asset in range(len(self.panel.symbols)))
        return [value for value in each if math.isfinite(value)]

    def relative(self, measure: Callable[[Slow], float]) -> float:
        return measure(self) - float(np.mean(self.among(measure)))

    def rank(self, measure: Callable[[Slow], float]) -> float:
        values, own = sorted(self.among(measure)), measure(self)
        return values.index(own) / (len(values) - 1) - 0.5 if math.isfinite(own) else NAN

    def moment(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(int(self.panel.close_time[-1]) / 1000, dt.UTC)

    def hour(self) -> float:
        moment = self.moment()
        return 2 * math.pi * (moment.hour + moment.minute / 60) / 24

    def weekday(self) -> float:
        return 2 * math.pi * self.moment().weekday() / 7


_OHLC = ("open", "high", "low", "close")

REFERENCE: dict[str, Callable[[Slow], float]] = {
    "return_1": lambda a: a.scaled(1),
    "return_3": lambda a: a.scaled(3),
    "return_6": lambda a: a.scaled(6),
    "return_12": lambda a: a.scaled(12),
    "return_24": lambda a: a.scaled(24),
    "return_72": lambda a: a.scaled(72),
    "return_168": lambda a: a.scaled(168),
    "return_336": lambda a: a.scaled(336),
    "realised_volatility": lambda a: a.annual(a.volatility(24)),
    "parkinson_volatility": lambda a: a.annual(a.parkinson(24)),
    "garman_klass_volatility": lambda a: a.annual(a.garman_klass(24)),
    "volatility_ratio": lambda a: ln(a.volatility(24) / a.volatility(168)),
    "volatility_ratio_6": lambda a: ln(a.volatility(6) / a.volatility(24)),
    "parkinson_ratio": lambda a: ln(a.parkinson(24) / a.parkinson(168)),
    "garman_klass_ratio": lambda a: ln(a.garman_klass(24) / a.garman_klass(168)),
    "range_ratio": lambda a: ln(a.parkinson(24) / a.volatility(24)),
    "garman_klass_excess": lambda a: ln(a.garman_klass(24) / a.volatility(24)),
    "volume_surprise": lambda a: a.surprise(a.field("volume")),
    "volume_relative": lambda a: a.relative(lambda each: each.surprise(each.field("volume"))),
    "volume_shock": lambda a: a.shock(a.field("volume")),
    "trades_surprise": lambda a: a.surprise(a.field("trades")),
    "trades_relative": lambda a: a.relative(lambda each: each.surprise(each.field("trades"))),
    "volume_seasonal": lambda a: a.seasonal(a.field("volume")),
    "trades_seasonal": lambda a: a.seasonal(a.field("trades")),
    "trade_size_seasonal": lambda a: a.seasonal(a.trade_size()),
    "taker_imbalance": lambda a: a.imbalance(1),
    "taker_imbalance_24": lambda a: a.imbalance(24),
    "taker_relative": lambda a: a.relative(lambda each: each.imbalance(24)),
    "amihud": lambda a: a.amihud(24),
    "amihud_ratio": lambda a: a.amihud(24) - a.amihud(168),
    "amihud_relative": lambda a: a.relative(lambda each: each.amihud(168)),
    "edge_spread": lambda a: a.edge(),
    "funding_last": lambda a: a.rates(168)[-1],
    "funding_mean": lambda a: math.fsum(a.rates(168)) / len(a.rates(168)),
    "basis": lambda a: a.premium()[-1],
    "basis_mean": lambda a: mean(a.premium(), 24),
    "basis_change": lambda a: a.premium()[-1] - mean(a.premium(), 24),
    "return_rank": lambda a: a.rank(lambda each: each.move(24)),
    "return_rank_6": lambda a: a.rank(lambda each: each.move(6)),
    "return_rank_168": lambda a: a.rank(lambda each: each.move(168)),
    "volatility_rank": lambda a: a.rank(lambda each: each.volatility(168)),
    "market_return": lambda a: float(np.mean(a.among(lambda each: each.scaled(24)))),
    "dispersion": lambda a: float(np.std(a.among(lambda each: each.scaled(24)))),
    "beta": lambda a: a.slope()[0],
    "btc_correlation": lambda a: a.slope()[1],
    "residual_return": lambda a: a.residual(),
    "hour_sin": lambda a: math.sin(a.hour()),
    "hour_cos": lambda a: math.cos(a.hour()),
    "weekday_sin": lambda a: math.sin(a.weekday()),
    "weekday_cos": lambda a: math.cos(a.weekday()),
}
BY_HAND = {"funding_countdown", "funding_carry"}


def test_every_feature_is_checked_here() -> None:
    """No formula without an independent figure."""
    assert set(REFERENCE) | BY_HAND == set(ALL)
    assert not set(REFERENCE) & BY_HAND


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("missing", [0.0, 0.03])
@pytest.mark.parametrize("interval_ms", [5 * MINUTE_MS, HOUR_MS])
def test_a_feature_equals_its_formula_worked_out_bar_by_bar(
    name: str, missing: float, interval_ms: int
) -> None:
    """Whole data and data with holes, hourly bars and bars of which a day has too many."""
    bars = FEATURES[name].warmup_bars(interval_ms) + 300
    panel = full_panel(20, bars=bars, interval_ms=interval_ms, missing=missing)
    computed = column(compute_features(panel, [name]), name)
    compared = 0
    for stop in (bars, bars - 1, bars - 7):
        for asset in range(len(panel.symbols)):
            if math.isnan(panel.close[stop - 1, asset]):
                continue
            expected = REFERENCE[name](Slow(panel.window(0, stop), asset))
            limited = min(max(expected, -FEATURES[name].bound), FEATURES[name].bound)
            got = computed[stop - 1, asset]
            assert got == pytest.approx(limited, rel=2e-5, abs=2e-6, nan_ok=True)
            compared += math.isfinite(expected)
    assert compared >= 6


@pytest.mark.parametrize("spread", [0.0005, 0.002, 0.01])
def test_edge_finds_the_spread_that_was_put_in(spread: float) -> None:
    """Trades bounce between bid and ask around a random walk; EDGE reads their distance."""
    rng = np.random.default_rng(1)
    bars, ticks = 3_000, 60
    middle = np.cumsum(rng.normal(0, 0.0003, (bars, ticks)).ravel()).reshape(bars, ticks)
    price = 100 * np.exp(middle + rng.choice([-0.5, 0.5], (bars, ticks)) * spread)
    prices = {
        "open": price[:, :1], "high": price.max(1, keepdims=True),
        "low": price.min(1, keepdims=True), "close": price[:, -1:],
    }  # fmt: skip
    panel = changed(full_panel(0, bars=bars, assets=1), **prices)
    estimates = column(compute_features(panel, ["edge_spread"]), "edge_spread")[200:, 0]
    assert np.median(estimates) == pytest.approx(10_000 * spread, rel=0.15)


def settled(*bars: int, interval_ms: int = HOUR_MS, rate: float = 0.0001) -> Panel:
    """Return a panel in which one asset settled in the given bars."""
    panel = full_panel(21, bars=200, assets=1, interval_ms=interval_ms)
    rates = np.full((200, 1), np.nan)
    rates[list(bars)] = rate
    return changed(panel, funding_rate=rates)


def test_the_next_settlement_is_expected_one_interval_after_the_last() -> None:
    """Every 8 hours at the open: 7 hours are left at that bar's close, none before the next."""
    features = compute_features(settled(100, 108, 116), ["funding_countdown", "funding_carry"])
    assert column(features, "funding_countdown")[116:124, 0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    assert column(features, "funding_carry")[116, 0] == pytest.approx(3.0)


def test_the_countdown_is_in_hours_whatever_the_interval() -> None:
    """Four bars of a quarter of an hour apart: three of them are left, 45 minutes."""
    panel = settled(100, 104, 108, interval_ms=15 * MINUTE_MS)
    features = compute_features(panel, ["funding_countdown", "funding_carry"])
    assert column(features, "funding_countdown")[108, 0] == 0.75
    assert column(features, "funding_carry")[108, 0] == pytest.approx(24.0)


def test_daily_bars_settle_in_every_bar() -> None:
    """The sum of a day's rates is the carry per day, and the next bar settles at its open."""
    panel = settled(100, 101, 102, interval_ms=DAY_MS, rate=0.0004)
    features = compute_features(panel, ["funding_countdown", "funding_carry"])
    assert column(features, "funding_countdown")[102, 0] == 0.0
    assert column(features, "funding_carry")[102, 0] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("bars", "bar"),
    [((108, 116), 117), ((100, 104, 112), 113), ((100, 108, 116), 124), ((), 150)],
    ids=["only two settlements", "interval changed", "overdue", "none"],
)
def test_a_rhythm_that_cannot_be_read_is_not_assumed(bars: tuple[int, ...], bar: int) -> None:
    """Fewer than three settlements, unequal distances or a late one: unknown."""
    names = ["funding_countdown", "funding_carry"]
    features = compute_features(settled(*bars), names)
    assert unknown(features, bar=bar) == set(names)


def test_a_changed_interval_is_known_again_after_two_of_its_own() -> None:
    """8 hours become 4: unknown at the first of them, right from the second on."""
    features = compute_features(settled(92, 100, 108, 112, 116), ["funding_countdown"])
    countdown = column(features, "funding_countdown")[:, 0]
    assert countdown[108] == 7
    assert math.isnan(countdown[112])
    assert countdown[116:120].tolist() == [3, 2, 1, 0]


def test_settlements_older_than_the_window_say_nothing() -> None:
    """The three must lie within two days and three bars, 51 of one hour."""
    for oldest, known in ((100, True), (99, False)):
        panel = settled(oldest, oldest + 25, oldest + 50)
        features = compute_features(panel.window(0, 151), ["funding_countdown"])
        assert bool(features.known[150, 0, 0]) == known


def test_taker_imbalance_by_hand() -> None:
    """30 of 40 units bought by takers is a half; over a day it is weighted by volume."""
    panel = full_panel(22, bars=30)
    volume, bought = np.full((30, 4), 10.0), np.full((30, 4), 5.0)
    volume[-1], bought[-1] = 40.0, 30.0
    names = ["taker_imbalance", "taker_imbalance_24"]
    features = compute_features(changed(panel, volume=volume, taker_buy_volume=bought), names)
    assert column(features, "taker_imbalance")[-1, 0] == 0.5
    assert column(features, "taker_imbalance_24")[-1, 0] == pytest.approx(20 / 270)


def test_amihud_by_hand() -> None:
    """A step of 10 basis points on two million of turnover: 5 bp per million, every bar."""
    panel = full_panel(23, bars=40)
    close = 100 * np.exp(0.001 * np.arange(40.0))[:, None] * np.ones(4)
    turnover = np.full((40, 4), 2e6)
    features = compute_features(changed(panel, close=close, quote_volume=turnover), ["amihud"])
    assert column(features, "amihud")[-1, 0] == pytest.approx(math.log(5.0), rel=1e-5)


def test_the_calendar_turns_at_monday_midnight() -> None:
    """The bar that closes on Monday 2024-01-01 at 00:00 UTC is the origin of both circles."""
    panel = full_panel(24, bars=7)
    midnight = 1_704_067_200_000
    times = np.array([midnight + HOUR_MS * step for step in range(-1, 6)], dtype=np.int64)
    names = ["hour_sin", "hour_cos", "weekday_sin", "weekday_cos"]
    features = compute_features(changed(panel, open_time=times), names)
    assert features.values[0, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    np.testing.assert_allclose(features.values[6, 0], [1.0, 0.0, 0.0, 1.0], atol=1e-7)
