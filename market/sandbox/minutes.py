"""A seeded market of one-minute bars, quick to make, for rehearsing ingest. Never real data.

Prices are correlated random walks of constant volatility with the usual wicks, volumes and, for
perpetuals, mark candles and funding. Nothing is planted: it has no edge. A longer tape begins with
the shorter one, bit for bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from market.bar import HOUR_MS, MINUTE_MS
from market.instrument import Instrument, Market, Venue
from market.panel import Float64Array
from market.sandbox.candles import Script, publish
from market.sandbox.generator import Process, normals, stream, traits_of
from market.sandbox.rules import list_instruments
from market.sandbox.tape import Tape

_BARS_PER_HOUR = HOUR_MS // MINUTE_MS


def minute_tape(
    *,
    seed: int,
    venue: Venue,
    symbols: Sequence[str],
    start: int,
    bars: int,
    funding_minutes: Mapping[str, int] | None = None,
) -> Tape:
    """Generate ``bars`` one-minute bars of ``symbols`` from ``start`` on.

    Args:
        seed: everything random follows from it.
        venue: whose rules and fields; spot has neither marks nor settlements.
        symbols: unified symbols out of ``rules.listed_symbols``.
        start: open_time of the first bar, UTC milliseconds, a whole minute.
        bars: how many; at least one.
        funding_minutes: intervals of the symbols that do not settle every eight hours.

    Raises:
        ValueError: an unknown symbol, a start within a minute, no bar, or funding of spot.
    """
    if start % MINUTE_MS or bars < 1:
        raise ValueError(f"cannot make {bars} minutes from {start} on")
    instruments = _instruments(symbols, venue, funding_minutes or {})
    returns, sigma = _returns(seed, symbols, bars)
    panel, settlements = publish(
        Script(
            seed=seed,
            venue=venue,
            instruments=instruments,
            open_time=start + MINUTE_MS * np.arange(bars, dtype=np.int64),
            returns=returns,
            sigma=sigma,
            factor=np.zeros_like(returns),
            interval_ms=MINUTE_MS,
        )
    )
    return Tape(
        venue=venue,
        panel=panel,
        settlements=settlements,
        instruments=instruments,
        synthetic=True,
        description=f"synthetic minutes (seed {seed}): not real data, and no edge in them",
    )


def _instruments(
    symbols: Sequence[str], venue: Venue, funding_minutes: Mapping[str, int]
) -> tuple[Instrument, ...]:
    instruments = list_instruments(symbols, venue=venue)
    if funding_minutes and venue.market is Market.SPOT:
        raise ValueError(f"{venue} is spot: nothing settles")
    if unknown := set(funding_minutes) - set(symbols):
        raise ValueError(f"funding of symbols that are not listed: {', '.join(sorted(unknown))}")
    return tuple(
        dataclasses.replace(one, funding_interval_minutes=funding_minutes[one.symbol])
        if one.symbol in funding_minutes
        else one
        for one in instruments
    )


def _returns(seed: int, symbols: Sequence[str], bars: int) -> tuple[Float64Array, Float64Array]:
    """(T, N) log returns and the standard deviation they were drawn with."""
    traits = [traits_of(symbol) for symbol in symbols]
    per_minute = 1.0 / math.sqrt(_BARS_PER_HOUR)
    common = np.array([one.common_sigma for one in traits]) * per_minute
    own = np.array([one.own_sigma for one in traits]) * per_minute
    market = stream(seed, Process.MARKET_SHOCK).standard_normal(bars)
    returns = common * market[:, None] + own * normals(seed, Process.ASSET_SHOCK, symbols, bars)
    return returns, np.broadcast_to(np.hypot(common, own), returns.shape)
