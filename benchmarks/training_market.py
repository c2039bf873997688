"""A made-up market for the benchmarks of training: random walks seen through sixteen features."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from broker.costs import CostModel
from market.bar import HOUR_MS
from market.instrument import Instrument
from market.panel import ARRAY_FIELDS, Panel
from training.config import TrainingConfig, TrainingJob

T0 = 1_640_995_200_000  # 2022-01-01
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.1)
FEATURES = (
    "return_1", "return_3", "return_6", "return_12", "return_24", "return_72", "return_168",
    "realised_volatility", "parkinson_volatility", "garman_klass_volatility", "volatility_ratio",
    "volatility_ratio_6", "parkinson_ratio", "garman_klass_ratio", "hour_sin", "hour_cos",
)  # fmt: skip


class Size(enum.StrEnum):
    """How much there is to see."""

    SMALL = "small"
    LARGE = "large"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Assets and bars of one observation."""

    assets: int
    lookback_bars: int


SHAPES = {
    Size.SMALL: Shape(assets=5, lookback_bars=32),
    Size.LARGE: Shape(assets=20, lookback_bars=64),
}


def made_up_panel(seed: int, *, bars: int, assets: int) -> Panel:
    """Return hourly random walks of 1 % per bar, with mark candles and without funding."""
    rng = np.random.default_rng(seed)
    shape = (bars, assets)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, shape), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    high, low = np.maximum(opened, close) * 1.002, np.minimum(opened, close) * 0.998
    arrays = dict.fromkeys(ARRAY_FIELDS, np.full(shape, np.nan))
    arrays |= {"open": opened, "high": high, "low": low, "close": close}
    arrays |= {"volume": np.exp(rng.normal(12.0, 0.5, shape)), "funding_at_open": np.zeros(shape)}
    arrays |= {"mark_open": opened, "mark_high": high, "mark_low": low, "mark_close": close}
    arrays |= {"funding_in_bar": np.zeros(shape)}
    return Panel(
        symbols=tuple(f"A{number:02d}/USDT:USDT" for number in range(assets)),
        interval_ms=HOUR_MS,
        open_time=T0 + np.arange(bars, dtype=np.int64) * HOUR_MS,
        **arrays,
    )


def instruments_of(panel: Panel) -> tuple[Instrument, ...]:
    """Trading rules with usual steps."""
    return tuple(
        Instrument(
            symbol=symbol,
            venue_symbol=symbol.split(":")[0].replace("/", ""),
            base=symbol.split("/")[0],
            quote="USDT",
            tick_size=Decimal("0.01"),
            lot_step=Decimal("0.001"),
            min_quantity=Decimal("0.001"),
            max_quantity=None,
            min_notional=Decimal(5),
            funding_interval_minutes=480,
        )
        for symbol in panel.symbols
    )


def job_on(panel: Panel, config: TrainingConfig, seed: int) -> TrainingJob:
    """One training on all bars of ``panel``, which is in no snapshot."""
    return TrainingJob(
        snapshot_dir=Path("made-up"),
        start=int(panel.open_time[0]),
        stop=int(panel.close_time[-1]),
        seed=seed,
        config=config,
        costs=COSTS,
    )
