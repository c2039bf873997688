"""The randomness of the synthetic market: regimes, volatility, noise returns and the hidden factor.

Every process of every asset draws from its own stream, keyed by seed, process and symbol, in the
order of time. So a longer market begins with the shorter one, bit for bit, and an asset's noise
does not depend on which others are listed. Nothing here knows of prices or of the edge's strength.
"""

from __future__ import annotations

import enum
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market.panel import Float64Array

BLOCK_BARS = 17_520
"""Regimes are laid out in blocks of two years of hourly bars, each with every regime thrice."""

FACTOR_PERSISTENCE = 0.95
"""Double root φ of the factor's AR(2) per bar: autocorrelation ½ after 33 hours."""

MARKET_VOLATILITY = 0.50
"""Annual volatility of the return that all assets share."""

_BARS_PER_YEAR = 8_760
_FACTOR_BURN_IN_BARS = 500
_TAIL_DEGREES = 5.0
_LARGEST_SHOCK = 10.0
_VOLATILITY_PERSISTENCE = 0.99
_COMMON_VOLATILITY_SPREAD = 0.35
_OWN_VOLATILITY_SPREAD = 0.2


class Process(enum.IntEnum):
    """What a stream of random numbers is for; the number is part of the stream's key."""

    REGIME = 1
    MARKET_SHOCK = 2
    MARKET_VOLATILITY = 3
    ASSET_SHOCK = 4
    ASSET_VOLATILITY = 5
    FACTOR = 6
    VOLUME = 7
    HIGH = 8
    LOW = 9
    GAP = 10
    TRADES = 11
    TAKER = 12
    BASIS = 13
    FUNDING = 14
    JITTER = 15


class Regime(enum.StrEnum):
    """State of the common market over some ten weeks."""

    BULL = "bull"
    BEAR = "bear"
    SIDEWAYS = "sideways"


# Log return of the common market over a regime, and its volatility relative to the usual one.
# A random walk of this volatility moves by ±0.25 in ten weeks anyway, so pinning the outcome
# gives every market its three regimes without making the next bar predictable.
_REGIME_RETURN = {Regime.BULL: 0.30, Regime.BEAR: -0.30, Regime.SIDEWAYS: 0.0}
_REGIME_VOLATILITY = {Regime.BULL: 1.0, Regime.BEAR: 1.15, Regime.SIDEWAYS: 0.8}


@dataclass(frozen=True, slots=True, kw_only=True)
class RegimeSpan:
    """One regime over bars ``start`` to ``stop`` (exclusive), counted from the first bar."""

    regime: Regime
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetTraits:
    """What makes one asset differ from another.

    Attributes:
        price: quote currency at the first bar.
        beta: exposure to the common market's return.
        volatility: annual volatility of the asset's own return.
        quote_volume: usual volume of an hour, quote currency.
    """

    price: float
    beta: float
    volatility: float
    quote_volume: float

    @property
    def common_sigma(self) -> float:
        """Usual standard deviation of an hour's return that comes from the common market."""
        return self.beta * MARKET_VOLATILITY / math.sqrt(_BARS_PER_YEAR)

    @property
    def own_sigma(self) -> float:
        """Usual standard deviation of an hour's return that is the asset's own."""
        return self.volatility / math.sqrt(_BARS_PER_YEAR)

    @property
    def hourly_sigma(self) -> float:
        """Usual standard deviation of an hour's return."""
        return math.hypot(self.common_sigma, self.own_sigma)


TRAITS: dict[str, AssetTraits] = {
    "BTC": AssetTraits(price=90_000.0, beta=0.90, volatility=0.20, quote_volume=4.0e8),
    "ETH": AssetTraits(price=3_200.0, beta=1.00, volatility=0.24, quote_volume=2.5e8),
    "SOL": AssetTraits(price=180.0, beta=1.05, volatility=0.32, quote_volume=8.0e7),
    "XRP": AssetTraits(price=2.2, beta=0.95, volatility=0.30, quote_volume=5.0e7),
    "ADA": AssetTraits(price=0.8, beta=1.05, volatility=0.28, quote_volume=2.0e7),
    "BNB": AssetTraits(price=700.0, beta=0.90, volatility=0.24, quote_volume=2.5e7),
    "DOGE": AssetTraits(price=0.35, beta=1.10, volatility=0.34, quote_volume=4.0e7),
    "LTC": AssetTraits(price=110.0, beta=0.95, volatility=0.30, quote_volume=1.5e7),
    "LINK": AssetTraits(price=18.0, beta=1.00, volatility=0.30, quote_volume=1.5e7),
    "AVAX": AssetTraits(price=36.0, beta=1.10, volatility=0.34, quote_volume=1.2e7),
    "DOT": AssetTraits(price=7.0, beta=1.05, volatility=0.30, quote_volume=1.0e7),
    "TRX": AssetTraits(price=0.25, beta=0.60, volatility=0.24, quote_volume=1.0e7),
    "BCH": AssetTraits(price=480.0, beta=0.95, volatility=0.30, quote_volume=1.2e7),
    "UNI": AssetTraits(price=11.0, beta=1.10, volatility=0.36, quote_volume=9.0e6),
    "ATOM": AssetTraits(price=7.5, beta=1.05, volatility=0.30, quote_volume=6.0e6),
    "ETC": AssetTraits(price=26.0, beta=1.00, volatility=0.32, quote_volume=8.0e6),
    "XLM": AssetTraits(price=0.4, beta=0.95, volatility=0.34, quote_volume=8.0e6),
    "FIL": AssetTraits(price=5.2, beta=1.10, volatility=0.34, quote_volume=8.0e6),
    "NEAR": AssetTraits(price=5.5, beta=1.15, volatility=0.36, quote_volume=9.0e6),
    "AAVE": AssetTraits(price=310.0, beta=1.10, volatility=0.36, quote_volume=9.0e6),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Noise:
    """Everything random about T bars of N assets that comes before any edge.

    Attributes:
        returns: (T, N) log returns close to close, without the factor's drift.
        sigma: (T, N) standard deviation that each return was drawn with.
        factor: (T, N) the hidden factor at each bar's close, zero mean, unit variance.
        regimes: the spans that cover the T bars.
    """

    returns: Float64Array
    sigma: Float64Array
    factor: Float64Array
    regimes: tuple[RegimeSpan, ...]


def stream(seed: int, process: Process, symbol: str = "") -> np.random.Generator:
    """Return the random numbers of one process of one asset."""
    return np.random.default_rng([seed, int(process), zlib.crc32(symbol.encode())])


def normals(seed: int, process: Process, symbols: Sequence[str], bars: int) -> Float64Array:
    """(T, N) independent standard normals, one stream per asset."""
    return np.stack(
        [stream(seed, process, symbol).standard_normal(bars) for symbol in symbols], axis=1
    )


def uniforms(seed: int, process: Process, symbols: Sequence[str], bars: int) -> Float64Array:
    """(T, N) independent uniform numbers in [0, 1), one stream per asset."""
    return np.stack([stream(seed, process, symbol).random(bars) for symbol in symbols], axis=1)


def autoregression(shocks: Float64Array, persistence: float) -> Float64Array:
    """(T, K) ``x_t = φ·x_{t-1} + sqrt(1-φ²)·e_t`` with ``x_0 = e_0``: unit variance throughout."""
    inputs = math.sqrt(1.0 - persistence**2) * shocks
    inputs[0] = shocks[0]
    return _recursion(inputs, persistence)


def _recursion(inputs: Float64Array, persistence: float) -> Float64Array:
    """(T, K) ``x_t = φ·x_{t-1} + u_t`` with ``x_0 = u_0``, by doubling instead of by bars.

    After n rounds x_t sums the last 2^n inputs; a further round adds nothing to the rows that
    already reach back to the first, so a longer path begins with the shorter one bit for bit.
    """
    path, length = inputs.copy(), 1
    while length < len(path):
        path[length:] = path[length:] + persistence**length * path[:-length]
        length *= 2
    return path


def draw_noise(*, seed: int, symbols: Sequence[str], bars: int) -> Noise:
    """Draw ``bars`` hourly bars of regimes, volatility, returns and factor."""
    regimes = draw_regimes(seed=seed, bars=bars)
    market, market_level = _market_returns(seed, regimes, regimes[-1].stop)
    returns, sigma = _asset_returns(seed, symbols, market, market_level)
    return Noise(
        returns=returns[:bars],
        sigma=sigma[:bars],
        factor=_factor(seed, symbols, bars),
        regimes=tuple(span for span in regimes if span.start < bars),
    )


def draw_regimes(*, seed: int, bars: int) -> tuple[RegimeSpan, ...]:
    """Return the regimes of the whole blocks that cover ``bars``."""
    blocks = range(-(-bars // BLOCK_BARS))
    return tuple(span for block in blocks for span in _block_regimes(seed, block))


def _factor(seed: int, symbols: Sequence[str], bars: int) -> Float64Array:
    """(T, N) ``x_t = φ·x_{t-1} + k·y_t``, y an AR(1) of the same φ; unit variance.

    Two roots instead of one make x smooth from bar to bar, so that following it costs little:
    its autocorrelation is ``φ^n·(1 + n·(1-φ²)/(1+φ²))``.
    """
    shocks = normals(seed, Process.FACTOR, symbols, bars + _FACTOR_BURN_IN_BARS)
    smooth = autoregression(shocks, FACTOR_PERSISTENCE)
    gain = (1.0 - FACTOR_PERSISTENCE**2) / math.sqrt(1.0 + FACTOR_PERSISTENCE**2)
    return _recursion(gain * smooth, FACTOR_PERSISTENCE)[_FACTOR_BURN_IN_BARS:]


def _block_regimes(seed: int, block: int) -> list[RegimeSpan]:
    """Nine regimes of 65 to 100 days, each kind thrice, no two alike in a row."""
    rng = np.random.default_rng([seed, int(Process.REGIME), block])
    kinds = list(Regime)
    order = [kinds[idx] for _ in range(3) for idx in rng.permutation(3)]
    for place in (3, 6):
        if order[place] == order[place - 1]:
            order[place], order[place + 1] = order[place + 1], order[place]
    ends = np.cumsum(rng.uniform(0.8, 1.2, len(order)))
    edges = np.rint(np.concatenate(([0.0], ends / ends[-1])) * BLOCK_BARS).astype(int)
    edges += block * BLOCK_BARS
    return [
        RegimeSpan(regime=regime, start=int(start), stop=int(stop))
        for regime, start, stop in zip(order, edges[:-1], edges[1:], strict=True)
    ]


def _market_returns(
    seed: int, regimes: Sequence[RegimeSpan], bars: int
) -> tuple[Float64Array, Float64Array]:
    """(T,) the common return, each regime's sum pinned, and (T,) its relative volatility."""
    shocks = stream(seed, Process.MARKET_VOLATILITY).standard_normal(bars)[:, None]
    level = _volatility_level(shocks, _COMMON_VOLATILITY_SPREAD)[:, 0]
    shock = _fat_tailed(stream(seed, Process.MARKET_SHOCK), bars)
    for span in regimes:
        level[span.start : span.stop] *= _REGIME_VOLATILITY[span.regime]
    returns = MARKET_VOLATILITY / np.sqrt(_BARS_PER_YEAR) * level * shock
    for span in regimes:
        part = returns[span.start : span.stop]
        part += (_REGIME_RETURN[span.regime] - part.sum()) / len(part)
    return returns, level


def _asset_returns(
    seed: int, symbols: Sequence[str], market: Float64Array, market_level: Float64Array
) -> tuple[Float64Array, Float64Array]:
    """(T, N) log returns and the standard deviation they were drawn with."""
    bars = len(market)
    traits = [traits_of(symbol) for symbol in symbols]
    shocks = normals(seed, Process.ASSET_VOLATILITY, symbols, bars)
    level = _volatility_level(shocks, _OWN_VOLATILITY_SPREAD) * market_level[:, None]
    shock = np.stack(
        [_fat_tailed(stream(seed, Process.ASSET_SHOCK, symbol), bars) for symbol in symbols], axis=1
    )
    own = np.array([one.own_sigma for one in traits]) * level
    common = np.array([one.common_sigma for one in traits]) * market_level[:, None]
    beta = np.array([one.beta for one in traits])
    return beta * market[:, None] + own * shock, np.sqrt(own**2 + common**2)


def traits_of(symbol: str) -> AssetTraits:
    """Return the traits of a unified symbol's base asset."""
    return TRAITS[symbol.split("/", maxsplit=1)[0]]


def _volatility_level(shocks: Float64Array, spread: float) -> Float64Array:
    """(T, K) volatility relative to its usual value, root mean square 1, in clusters."""
    log_level = spread * autoregression(shocks, _VOLATILITY_PERSISTENCE)
    level: Float64Array = np.exp(log_level - spread**2)
    return level


def _fat_tailed(rng: np.random.Generator, bars: int) -> Float64Array:
    """(T,) Student's t shocks of unit variance, cut at ten standard deviations."""
    shock = math.sqrt((_TAIL_DEGREES - 2.0) / _TAIL_DEGREES) * rng.standard_t(_TAIL_DEGREES, bars)
    return np.clip(shock, -_LARGEST_SHOCK, _LARGEST_SHOCK)
