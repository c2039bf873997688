"""A small training window and jobs for the tests of the learner."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from broker.costs import CostModel, TradingRules
from market.features import WARMUP_BARS, Features, compute_features
from market.panel import Panel
from tests.training.market_factory import START, instruments_of, panel_of, random_close
from training.config import TrainingConfig, TrainingJob
from training.environment import Episodes
from training.normalizer import Normalizer, fit_normalizer
from training.observation import ObservationSchema
from training.simulation import prepare_market
from training.training_market import TrainingMarket, training_market

BARS = 420
ASSETS = 3
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.5)
FREE = CostModel(fee_rate=0.0, half_spread_bps=0.0, impact_coefficient=0.0)

TINY = TrainingConfig(
    preset="tiny",
    lookback_bars=2,
    actor_sizes=(4,),
    critic_sizes=(4,),
    env_count=8,
    rollout_steps=8,
    batch_size=32,
    epochs=2,
    total_steps=128,
    episode_bars=20,
    seeds=(1,),
)


def small_panel(seed: int = 0, *, bars: int = BARS, assets: int = ASSETS) -> Panel:
    """A random walk with the volume that features need."""
    return panel_of(random_close(seed, bars, assets))


def small_schema(config: TrainingConfig = TINY, *, assets: int = ASSETS) -> ObservationSchema:
    """The schema of ``small_panel`` under ``config``."""
    return ObservationSchema(
        symbols=small_panel(assets=assets, bars=2).symbols,
        interval_ms=3_600_000,
        lookback_bars=config.lookback_bars,
        sigma_window_bars=config.sigma_window_bars,
    )


def small_market(
    panel: Panel, config: TrainingConfig = TINY, *, normalizer: Normalizer | None = None
) -> TrainingMarket:
    """The training market of ``panel``, decisions from the end of the warm-up on."""
    features: Features = compute_features(panel)
    if normalizer is None:
        normalizer = fit_normalizer(features.values, features.known)
    schema = small_schema(config, assets=len(panel.symbols))
    accounts = prepare_market(panel, instruments_of(panel))
    return training_market(accounts, features, normalizer, schema, first_bar=WARMUP_BARS)


def episodes_of(
    market: TrainingMarket,
    count: int,
    *,
    config: TrainingConfig = TINY,
    costs: CostModel = COSTS,
    seed: int = 0,
) -> Episodes:
    """``count`` accounts under the default rules."""
    return Episodes(
        market,
        config,
        costs=costs,
        rules=TradingRules(),
        count=count,
        rng=np.random.default_rng(seed),
    )


def job_on(panel: Panel, *, config: TrainingConfig = TINY, seed: int = 1) -> TrainingJob:
    """A job on all of ``panel``; the snapshot directory is only a name."""
    return TrainingJob(
        snapshot_dir=Path("snapshot"),
        start=START,
        stop=int(panel.close_time[-1]),
        seed=seed,
        config=config,
        costs=COSTS,
    )
