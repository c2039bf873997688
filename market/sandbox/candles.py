"""Turns returns, volatility and the hidden factor into what a venue would have published.

Bars, and for perpetuals mark candles and funding, rounded to the venue's ticks and lots. The
factor enters volume here and prices nowhere: its drift is already in the returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from market.bar import HOUR_MS, MINUTE_MS, MarkSource, Settlement
from market.instrument import Instrument, Market, Venue
from market.panel import BoolArray, Float64Array, Int64Array, Panel
from market.panels import MARK_ARRAYS, funding_arrays, unknown_arrays
from market.sandbox.generator import Process, autoregression, normals, traits_of, uniforms

VOLUME_LOADING = 0.8
"""Change of log volume per standard deviation of the factor."""

_VOLUME_NOISE = 0.05
_VOLUME_PER_LOG_SIGMA = 0.3
# Mean log volume by UTC hour against the day's: Binance BTCUSDT perpetual, 2022-07 to 2024-07.
_SEASON = (
    *(0.01, -0.10, -0.21, -0.38, -0.40, -0.36, -0.28, -0.15),
    *(-0.06, -0.11, -0.12, -0.07, 0.24, 0.45, 0.64, 0.56),
    *(0.45, 0.26, 0.17, 0.12, 0.01, -0.20, -0.23, -0.22),
)
FUNDING_INTERVAL_MS = 8 * HOUR_MS
_FUNDING_BASE_RATE = 0.0001
_FUNDING_PER_TREND = 0.0002
_FUNDING_NOISE = 0.00003
_TREND_MS = 168 * HOUR_MS
_TREND_SCALE = 0.1
_LATEST_JITTER_MS = 47
_GAP_CHANCE = 0.1
_BASIS_SPREAD = 0.0002
_BASIS_PERSISTENCE = 0.9
_MARK_DECIMALS = 8
_QUOTE_DECIMALS = 4
_AVERAGE_TRADE_QUOTE = 1_500.0
_TAKER_NOISE = 0.03
_TAKER_PER_MOVE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Script:
    """What happens in a market, before a venue rounds and publishes it.

    Attributes:
        seed: key of what is still random: wicks, volume noise, basis, funding noise.
        venue: decides which fields a bar has.
        instruments: N trading rules.
        open_time: (T,) UTC milliseconds, every ``interval_ms``.
        returns: (T, N) log returns close to close, the edge included.
        sigma: (T, N) standard deviation that each return was drawn with.
        factor: (T, N) the hidden factor.
        interval_ms: length of a bar.
    """

    seed: int
    venue: Venue
    instruments: tuple[Instrument, ...]
    open_time: Int64Array
    returns: Float64Array
    sigma: Float64Array
    factor: Float64Array
    interval_ms: int = HOUR_MS

    @property
    def symbols(self) -> tuple[str, ...]:
        """Unified symbols along the asset axis."""
        return tuple(one.symbol for one in self.instruments)

    def normals(self, process: Process) -> Float64Array:
        """(T, N) standard normals of one process."""
        return normals(self.seed, process, self.symbols, len(self.open_time))

    def uniforms(self, process: Process) -> Float64Array:
        """(T, N) uniform numbers in [0, 1) of one process."""
        return uniforms(self.seed, process, self.symbols, len(self.open_time))


def publish(script: Script) -> tuple[Panel, tuple[Settlement, ...]]:
    """Return the panel and the settlements that the venue would have published."""
    bars = _bars(script)
    if script.venue.market is Market.PERP:
        bars |= _mark_candles(script)
        settlements = _settlements(script, bars["mark_open"])
    else:
        bars |= unknown_arrays(MARK_ARRAYS, script.returns.shape)
        settlements = ()
    funding = funding_arrays(
        settlements, script.symbols, open_time=script.open_time, interval_ms=script.interval_ms
    )
    panel = Panel(
        symbols=script.symbols,
        interval_ms=script.interval_ms,
        open_time=script.open_time,
        **bars,
        **funding,
    )
    return panel, settlements


def funding_due(open_time: Int64Array, interval_ms: int = FUNDING_INTERVAL_MS) -> BoolArray:
    """(T,) whether a settlement falls on the bar's open."""
    return np.equal(open_time % interval_ms, 0)


def funding_rates(
    returns: Float64Array, noise: Float64Array, *, due: BoolArray, interval_ms: int = HOUR_MS
) -> Float64Array:
    """(T, N) rate that settles at each bar's open, 0 where none is due.

    A base of 1 bp plus up to 2 bp with the trend of the week before, as longs pay for a rise.
    """
    trend_bars = _TREND_MS // interval_ms
    level = np.cumsum(returns, axis=0)
    # At the open of bar t the newest return is that of bar t-1.
    newest, oldest = np.zeros_like(level), np.zeros_like(level)
    newest[1:] = level[:-1]
    oldest[trend_bars + 1 :] = level[: -trend_bars - 1]
    trend = np.tanh((newest[due] - oldest[due]) / _TREND_SCALE)
    rates = np.zeros_like(returns)
    rates[due] = np.round(
        _FUNDING_BASE_RATE + _FUNDING_PER_TREND * trend + _FUNDING_NOISE * noise[due], 8
    )
    return rates


def _bars(script: Script) -> dict[str, Float64Array]:
    """Prices and volumes of every bar, by the panel's field names."""
    first = np.array([traits_of(symbol).price for symbol in script.symbols])
    exact = first * np.exp(np.cumsum(script.returns, axis=0))
    start = np.vstack((first, exact[:-1]))
    ticks = [one.tick_size for one in script.instruments]
    close = _positive_steps(exact, ticks)
    open_ = _positive_steps(np.vstack((first, close[:-1])) + _gaps(script, ticks), ticks)
    highest = start * np.exp(_excursion(script, Process.HIGH, script.returns))
    lowest = start * np.exp(-_excursion(script, Process.LOW, -script.returns))
    return {
        "open": open_,
        "high": np.maximum(_positive_steps(highest, ticks), np.maximum(open_, close)),
        "low": np.minimum(_positive_steps(lowest, ticks), np.minimum(open_, close)),
        "close": close,
    } | _volumes(script, (open_ + close) / 2)


def _gaps(script: Script, ticks: Sequence[Decimal]) -> Float64Array:
    """(T, N) an open differs from the close before it by one tick now and then."""
    draw = script.uniforms(Process.GAP)
    tick = np.array([float(step) for step in ticks])
    return np.where(draw < _GAP_CHANCE, tick, np.where(draw > 1 - _GAP_CHANCE, -tick, 0.0))


def _excursion(script: Script, process: Process, change: Float64Array) -> Float64Array:
    """(T, N) how far a Brownian path that ends at ``change`` rose above its start.

    The maximum of a Brownian bridge from 0 to r with variance σ² is
    ``(r + sqrt(r² - 2σ² ln U)) / 2``, U uniform (Karatzas and Shreve 1991, eq. 4.3.40).
    """
    spread = script.sigma**2 * np.log1p(-script.uniforms(process))
    peak: Float64Array = (change + np.sqrt(change**2 - 2.0 * spread)) / 2.0
    return peak


def _volumes(script: Script, price: Float64Array) -> dict[str, Float64Array]:
    """Base and quote volume; trade count and taker volume where the venue's bars have them."""
    steps = [one.lot_step for one in script.instruments]
    volume = _positive_steps(np.exp(_log_quote_volume(script)) / price, steps)
    quote_volume = np.round(volume * price, _QUOTE_DECIMALS)
    unknown = np.full_like(price, np.nan)
    if script.venue in (Venue.BYBIT, Venue.BYBITSPOT):
        trades, taker = unknown, unknown
    else:
        noise = np.exp(0.1 * script.normals(Process.TRADES))
        trades = np.maximum(1.0, np.rint(quote_volume / _AVERAGE_TRADE_QUOTE * noise))
        taker = np.minimum(_round_steps(volume * _taker_share(script), steps), volume)
    return {
        "volume": volume,
        "quote_volume": quote_volume,
        "trades": trades,
        "taker_buy_volume": taker,
    }


def _log_quote_volume(script: Script) -> Float64Array:
    """(T, N) log of a bar's turnover: level, season, volatility, the factor and noise."""
    traits = [traits_of(symbol) for symbol in script.symbols]
    hours = script.interval_ms / HOUR_MS
    level = np.log([one.quote_volume for one in traits]) + np.log(hours)
    usual_sigma = np.array([one.hourly_sigma for one in traits]) * np.sqrt(hours)
    season = np.array(_SEASON)[script.open_time // HOUR_MS % 24]
    turnover: Float64Array = (
        level
        + season[:, None]
        + VOLUME_LOADING * script.factor
        + _VOLUME_PER_LOG_SIGMA * np.log(script.sigma / usual_sigma)
        + _VOLUME_NOISE * script.normals(Process.VOLUME)
    )
    return turnover


def _taker_share(script: Script) -> Float64Array:
    """(T, N) share of the volume that buyers took, higher in rising bars; within 0.2 to 0.8."""
    move = np.tanh(script.returns / script.sigma)
    share = 0.5 + _TAKER_PER_MOVE * move + _TAKER_NOISE * script.normals(Process.TAKER)
    return np.clip(share, 0.2, 0.8)


def _mark_candles(script: Script) -> dict[str, Float64Array]:
    """Mark candles: the bars seen through a small, mean-reverting premium."""
    first = np.array([traits_of(symbol).price for symbol in script.symbols])
    exact = first * np.exp(np.cumsum(script.returns, axis=0))
    start = np.vstack((first, exact[:-1]))
    basis = 1.0 + _BASIS_SPREAD * autoregression(script.normals(Process.BASIS), _BASIS_PERSISTENCE)
    close = np.round(exact * basis, _MARK_DECIMALS)
    open_ = np.vstack((np.round(first * basis[0], _MARK_DECIMALS), close[:-1]))
    highest = start * np.exp(_excursion(script, Process.HIGH, script.returns)) * basis
    lowest = start * np.exp(-_excursion(script, Process.LOW, -script.returns)) * basis
    return {
        "mark_open": open_,
        "mark_high": np.maximum(np.round(highest, _MARK_DECIMALS), np.maximum(open_, close)),
        "mark_low": np.minimum(np.round(lowest, _MARK_DECIMALS), np.minimum(open_, close)),
        "mark_close": close,
    }


def _settlements(script: Script, mark_open: Float64Array) -> tuple[Settlement, ...]:
    """Settlements with the few milliseconds by which venues stamp them late."""
    given = script.venue is Venue.BINANCEUSDM
    draw = script.uniforms(Process.JITTER)
    jitter = np.floor(np.maximum(0.0, 2.0 * draw - 1.0) * (_LATEST_JITTER_MS + 1)).astype(np.int64)
    due = _due(script)
    any_due: BoolArray = np.any(due, axis=1, keepdims=False)
    rates = funding_rates(
        script.returns,
        script.normals(Process.FUNDING),
        due=any_due,
        interval_ms=script.interval_ms,
    )
    found = [
        Settlement(
            symbol=script.symbols[asset],
            funding_time=int(script.open_time[row] + jitter[row, asset]),
            rate=float(rates[row, asset]),
            mark_price=float(mark_open[row, asset]),
            mark_source=MarkSource.VENUE if given else MarkSource.MARK_CANDLE,
        )
        for row, asset in np.argwhere(due).tolist()
    ]
    return tuple(sorted(found, key=lambda one: (one.funding_time, one.symbol)))


def _due(script: Script) -> BoolArray:
    """(T, N) whether a settlement of the symbol falls on the bar's open."""
    steps = [(one.funding_interval_minutes or 0) * MINUTE_MS for one in script.instruments]
    return np.stack([funding_due(script.open_time, step) for step in steps], axis=1)


def _positive_steps(values: Float64Array, steps: Sequence[Decimal]) -> Float64Array:
    """(T, N) rounded to the steps, at least one step."""
    return np.maximum(_round_steps(values, steps), [float(step) for step in steps])


def _round_steps(values: Float64Array, steps: Sequence[Decimal]) -> Float64Array:
    """(T, N) rounded to each column's step, a power of ten, to the nearest double."""
    columns = []
    for column, step in enumerate(steps):
        if step.normalize().as_tuple().digits != (1,):
            raise ValueError(f"a synthetic market needs steps that are powers of ten, not {step}")
        columns.append(np.round(values[:, column], -step.adjusted()))
    return np.stack(columns, axis=1)
