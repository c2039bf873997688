"""A seeded synthetic market with a planted, documented, learnable edge. Never real data.

**The edge.** Each asset has a hidden factor x of zero mean and unit variance, independent of all
else: a smooth AR(2) whose autocorrelation falls to a half in 33 hours. It shows in public in the
volume of the same bar, ``ln turnover_t = usual level + daily season + VOLUME_LOADING·x_t + noise``,
and it moves the next bar: ``ln close_{t+1} - ln close_t = noise + β·x_t``. So unusually high volume
announces a rising price and a drought a falling one, for a day or two. β, the strength, is found
by bisection on the first two years, the default history before T0, so that the rule of
``oracle.py``, which knows x, earns a net annual Sharpe of 3 there; ``edge`` multiplies β. With
``edge=0`` the same noise remains, volume still surges, and it announces nothing.

What lies before T0 never depends on how much future is asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from market.bar import HOUR_MS
from market.instrument import Market, Venue
from market.panel import Float64Array
from market.sandbox.candles import Script, funding_due, funding_rates, publish
from market.sandbox.generator import Process, RegimeSpan, draw_noise, normals
from market.sandbox.oracle import annual_sharpe, net_returns, oracle_holdings, panel_sharpe
from market.sandbox.rules import list_instruments
from market.sandbox.tape import Tape

_DEFAULT_BASES = ("BTC", "ETH", "SOL", "XRP", "ADA")
DEFAULT_SYMBOLS: tuple[str, ...] = tuple(f"{base}/USDT:USDT" for base in _DEFAULT_BASES)

DEFAULT_START = 1_767_225_600_000
"""T0, 2026-01-01 00:00 UTC: what opens before it is history."""

HISTORY_BARS = 17_520
FUTURE_BARS = 26_280

ORACLE_SHARPE = 3.0
"""Net annual Sharpe of the oracle to which β is calibrated at ``edge=1``."""

_STRONGEST_DRIFT = 0.01
_BISECTIONS = 30


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticMarket:
    """A synthetic tape together with what nobody can see on the tape.

    Attributes:
        tape: what the sandbox plays.
        start: T0, UTC milliseconds; bars that open before it are history.
        history_bars: number of bars before T0.
        factor: (T, N) the hidden factor at the close of each bar.
        drift_per_factor: β, log return of the next bar per unit of the factor.
        regimes: spans of the common market, counted in bars from the tape's first.
    """

    tape: Tape
    start: int
    history_bars: int
    factor: Float64Array
    drift_per_factor: float
    regimes: tuple[RegimeSpan, ...]


def synthetic_tape(
    *,
    seed: int,
    venue: Venue = Venue.BINANCEUSDM,
    symbols: Sequence[str] = DEFAULT_SYMBOLS,
    history_bars: int = HISTORY_BARS,
    future_bars: int = FUTURE_BARS,
    edge: float = 1.0,
) -> Tape:
    """Return the tape of ``synthetic_market`` with the same arguments."""
    return synthetic_market(
        seed=seed,
        venue=venue,
        symbols=symbols,
        history_bars=history_bars,
        future_bars=future_bars,
        edge=edge,
    ).tape


def synthetic_market(
    *,
    seed: int,
    venue: Venue = Venue.BINANCEUSDM,
    symbols: Sequence[str] = DEFAULT_SYMBOLS,
    history_bars: int = HISTORY_BARS,
    future_bars: int = FUTURE_BARS,
    edge: float = 1.0,
) -> SyntheticMarket:
    """Generate hourly bars, mark candles and funding of ``symbols`` around ``DEFAULT_START``.

    Args:
        seed: everything random follows from it.
        venue: whose rules and fields; beyond rounding, prices do not depend on it.
        symbols: unified symbols out of ``rules.listed_symbols``.
        history_bars: bars before T0.
        future_bars: bars from T0 on.
        edge: multiple of the calibrated β; 0 plants nothing.

    Raises:
        ValueError: an unknown symbol, too little history, or a negative future or edge.
    """
    if history_bars < 2 or future_bars < 0:
        raise ValueError(f"cannot make {history_bars} bars of history and {future_bars} of future")
    if not 0 <= edge < float("inf"):
        raise ValueError(f"edge must be a number that is not negative, got {edge}")
    instruments = list_instruments(symbols, venue=venue)
    open_time = DEFAULT_START + HOUR_MS * np.arange(-history_bars, future_bars, dtype=np.int64)
    pays_funding = venue.market is Market.PERP
    drift = edge * _calibrated_drift(seed, tuple(symbols), int(open_time[0]), pays_funding)
    noise = draw_noise(seed=seed, symbols=symbols, bars=len(open_time))
    panel, settlements = publish(
        Script(
            seed=seed,
            venue=venue,
            instruments=instruments,
            open_time=open_time,
            returns=noise.returns + drift * _previous(noise.factor),
            sigma=noise.sigma,
            factor=noise.factor,
        )
    )
    earned = panel_sharpe(panel.window(0, history_bars), noise.factor[:history_bars])
    return SyntheticMarket(
        tape=Tape(
            venue=venue,
            panel=panel,
            settlements=settlements,
            instruments=instruments,
            synthetic=True,
            description=_describe(seed=seed, edge=edge, drift=drift, sharpe=earned),
        ),
        start=DEFAULT_START,
        history_bars=history_bars,
        factor=noise.factor,
        drift_per_factor=drift,
        regimes=noise.regimes,
    )


def default_symbols(venue: Venue) -> tuple[str, ...]:
    """Return the five symbols that a sandbox of ``venue`` lists unless told otherwise."""
    if venue.market is Market.PERP:
        return DEFAULT_SYMBOLS
    return tuple(f"{base}/USDT" for base in _DEFAULT_BASES)


def oracle_sharpe(market: SyntheticMarket) -> float:
    """Net annual Sharpe, on the history before T0, of the rule that knows the factor."""
    bars = market.history_bars
    return panel_sharpe(market.tape.panel.window(0, bars), market.factor[:bars])


@functools.lru_cache(maxsize=64)
def _calibrated_drift(
    seed: int, symbols: tuple[str, ...], first_open_time: int, pays_funding: bool
) -> float:
    """Bisect β until the oracle earns ``ORACLE_SHARPE`` over the first ``HISTORY_BARS``.

    What the oracle holds depends on the factor alone, so its Sharpe rises with β. The span does
    not depend on how much of the market is asked for, so neither does β.
    """
    open_time = first_open_time + HOUR_MS * np.arange(HISTORY_BARS, dtype=np.int64)
    noise = draw_noise(seed=seed, symbols=symbols, bars=HISTORY_BARS)
    due = funding_due(open_time) & pays_funding
    funding_noise = normals(seed, Process.FUNDING, symbols, HISTORY_BARS)
    held = oracle_holdings(noise.factor)[:-1]
    low, high = 0.0, _STRONGEST_DRIFT
    for _ in range(_BISECTIONS):
        drift = (low + high) / 2
        returns = noise.returns + drift * _previous(noise.factor)
        rates = funding_rates(returns, funding_noise, due=due)
        net = net_returns(held, np.expm1(returns[1:]), rates[1:])
        if annual_sharpe(net, interval_ms=HOUR_MS) < ORACLE_SHARPE:
            low = drift
        else:
            high = drift
    return high


def _previous(factor: Float64Array) -> Float64Array:
    """(T, N) the factor one bar earlier, 0 before the first."""
    return np.vstack((np.zeros_like(factor[:1]), factor[:-1]))


def _describe(*, seed: int, edge: float, drift: float, sharpe: float) -> str:
    return (
        f"synthetic market (seed {seed}, edge {edge:g}): not real data; an oracle that knows the "
        f"hidden factor ({drift * 10_000:.2f} bp per bar) earns a net annual Sharpe of "
        f"{sharpe:.2f} before T0"
    )
