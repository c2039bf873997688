"""What a training run is told: hyperparameters, presets, and the job that names its data.

This module must never import torch, stable-baselines3 or gymnasium: the daemon reads it too.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from broker.costs import Costs, TradingRules
from broker.tiers import MarginTable, shipped_tiers
from market.features import DEFAULT_FEATURES, UnknownFeature, selected
from market.signals import SignalColumn


class RewardKind(enum.StrEnum):
    """Which formula of ``training.reward`` a run maximises."""

    SHARPE_HURDLE = "sharpe_hurdle"
    VARIANCE = "variance"
    LOG = "log"
    DIFFERENTIAL_SHARPE = "differential_sharpe"


class PolicyKind(enum.StrEnum):
    """Which network decides."""

    SHARED = "shared"  # one encoder for all assets
    MLP = "mlp"  # the textbook's, over the whole observation


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Hyperparameters of one training run; every field is stored in the artefact.

    Attributes:
        preset: the name this configuration started from, for reports.
        features: names of ``market.features.FEATURES`` that the policy sees of each asset.
        lookback_bars: L, bars of features in one observation.
        policy: the network; actor_sizes, critic_sizes: its hidden units, actor and critic apart.
        env_count: accounts stepped together; rollout_steps: steps of each per update.
        batch_size, epochs: minibatch (transitions) and passes over a rollout.
        total_steps: transitions of the whole run.
        learning_rate_start, learning_rate_end: linear schedule of Adam's step.
        weight_decay: decoupled (AdamW), per unit of learning rate.
        gamma, gae_lambda, clip_range, value_coefficient, max_grad_norm: PPO.
        log_std_start, log_std_end: the exploration noise is scheduled, not learned;
            log_std_fraction: share of the run after which it stands at its end.
        cost_ramp_start: share of the trading costs charged at the first step.
        cost_ramp_fraction: share of the run after which costs are charged in full.
        actor_context: weight of what an asset's score takes from the other assets and from the
            portfolio and calendar; 0 scores each asset on its own window and weight alone.
        market_share: c, share of the cross-section's mean return kept in the training reward.
        prediction_ridge: penalty of the linear forecast inside the control variate.
        control_variate: subtract the part of the reward that the action cannot change.
        counterfactual: judge a sampled action against the mean action in the same bar instead
            (``training.counterfactual``); ``control_variate`` and ``market_share`` then count for
            nothing, and λ for the value targets alone.
        pair_coefficient: weight of the loss of value differences between pairs of holdings.
        probe_log_std_start, probe_log_std_end: of the deviation from the mean action that is
            carried out and judged; along the same direction the sampled action of the clipped
            surrogate lies further out, at ``log_std``, and its advantage is taken to be in
            proportion. A short probe meets the kink of the trading costs, a wide surrogate lets
            an update move the policy.
        average_fraction: share of the run, at its end, over whose updates the weights are
            averaged for the policy that is kept (Polyak & Juditsky 1992); 0 keeps the last.
        reward: formula; hurdle_sharpe: annual S* of ``lambda = S*/sqrt(bars per year)``.
        risk_aversion: γ of the variance reward.
        reward_scale: factor between the reward and what the critic sees.
        sigma_window_bars: bars of net returns in the rolling standard deviation.
        episode_bars: bars after which an episode is truncated.
        drawdown_limit: fall from the peak at which an episode terminates.
        initial_exposure: sum of the risky weights of the untrained policy's mean.
        initial_hold: share of its present weight that the untrained policy keeps; what is learned
            from there is the hysteresis.
        long_only: ``False`` lets weights be negative within the leverage limit.
        deposit_quote: starting equity of a training account, quote currency.
        seeds: seeds of the members of an ensemble.
        signals: columns of the observation besides the features.
    """

    preset: str = "default"
    features: tuple[str, ...] = DEFAULT_FEATURES
    lookback_bars: int = 8
    policy: PolicyKind = PolicyKind.SHARED
    actor_sizes: tuple[int, ...] = (32, 32)
    critic_sizes: tuple[int, ...] = (32, 32)
    env_count: int = 128
    rollout_steps: int = 16
    batch_size: int = 512
    epochs: int = 4
    total_steps: int = 1_000_000
    learning_rate_start: float = 1e-3
    learning_rate_end: float = 1e-4
    weight_decay: float = 0.0
    gamma: float = 0.99
    gae_lambda: float = 0.85
    clip_range: float = 0.2
    value_coefficient: float = 0.5
    max_grad_norm: float = 0.5
    log_std_start: float = -1.3
    log_std_end: float = -3.2
    log_std_fraction: float = 1.0
    cost_ramp_start: float = 0.1
    cost_ramp_fraction: float = 0.35
    control_variate: bool = True
    actor_context: float = 1.0
    market_share: float = 1.0
    prediction_ridge: float = 1.0
    counterfactual: bool = False
    pair_coefficient: float = 1.0
    probe_log_std_start: float = -3.0
    probe_log_std_end: float = -5.0
    average_fraction: float = 0.0
    reward: RewardKind = RewardKind.SHARPE_HURDLE
    hurdle_sharpe: float = 0.5
    risk_aversion: float = 5.0
    reward_scale: float = 100.0
    sigma_window_bars: int = 168
    episode_bars: int = 336
    drawdown_limit: float = 0.5
    initial_exposure: float = 0.5
    initial_hold: float = 0.0
    long_only: bool = True
    deposit_quote: float = 10_000.0
    seeds: tuple[int, ...] = (1, 2)
    signals: tuple[SignalColumn, ...] = ()

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            _require(getattr(self, name) > 0, self, name, "positive")
        for name in _UNIT:
            _require(0 <= getattr(self, name) <= 1, self, name, "in [0, 1]")
        for name in _NOT_NEGATIVE:
            _require(getattr(self, name) >= 0, self, name, "zero or more")
        try:
            selected(self.features)
        except UnknownFeature as error:
            raise ValueError(f"training.features: {error}") from error
        for name in ("actor_sizes", "critic_sizes"):
            _require(all(size > 0 for size in getattr(self, name)), self, name, "positive sizes")
        _require(self.sigma_window_bars >= 5, self, "sigma_window_bars", "at least 5")
        _require(bool(self.seeds), self, "seeds", "at least one seed")
        _require(len(set(self.seeds)) == len(self.seeds), self, "seeds", "distinct")
        _require(len(set(self.signals)) == len(self.signals), self, "signals", "distinct")
        rollout = self.env_count * self.rollout_steps
        _require(self.batch_size <= rollout, self, "batch_size", f"at most {rollout} (one rollout)")

    def lambda_per_bar(self, bars_per_year: float) -> float:
        """Price of one unit of per-bar σ: ``λ = S*/sqrt(bars per year)``."""
        return self.hurdle_sharpe / math.sqrt(bars_per_year)

    def replace(self, **changes: Any) -> TrainingConfig:
        """Return a copy with some fields changed, validated again."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``config_from_json`` is the inverse."""
        return dataclasses.asdict(self)


_POSITIVE = (
    "lookback_bars", "env_count", "rollout_steps", "batch_size", "epochs", "total_steps",
    "learning_rate_start", "log_std_fraction", "clip_range", "max_grad_norm", "reward_scale",
    "episode_bars", "deposit_quote", "drawdown_limit",
)  # fmt: skip
_UNIT = (
    "gamma", "gae_lambda", "cost_ramp_start", "cost_ramp_fraction", "initial_exposure",
    "initial_hold", "log_std_fraction", "drawdown_limit", "market_share", "average_fraction",
)  # fmt: skip
_NOT_NEGATIVE = (
    "learning_rate_end", "weight_decay", "value_coefficient",
    "hurdle_sharpe", "risk_aversion", "actor_context", "prediction_ridge", "pair_coefficient",
)  # fmt: skip


def _require(holds: bool, config: TrainingConfig, name: str, expectation: str) -> None:
    if not holds:
        raise ValueError(f"training.{name} must be {expectation}, got {getattr(config, name)!r}")


def config_from_json(values: Mapping[str, Any]) -> TrainingConfig:
    """Build a configuration from JSON values.

    Raises:
        ValueError: an unknown key or a value out of range, named.
    """
    known = {item.name: item for item in dataclasses.fields(TrainingConfig)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown training key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    plain: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    if "reward" in plain:
        plain["reward"] = RewardKind(plain["reward"])
    if "policy" in plain:
        plain["policy"] = PolicyKind(plain["policy"])
    if "signals" in plain:
        plain["signals"] = tuple(_column(value) for value in plain["signals"])
    return TrainingConfig(**plain)


def _column(value: SignalColumn | Mapping[str, Any]) -> SignalColumn:
    return value if isinstance(value, SignalColumn) else SignalColumn(**value)


_SMALL = TrainingConfig(
    lookback_bars=1,
    actor_sizes=(),
    critic_sizes=(),
    actor_context=0.0,
    market_share=0.0,
    initial_hold=0.6,
    env_count=512,
    batch_size=2048,
)
"""Linear in the current bar, shared by the assets: what months of bars can support."""

PRESETS: Mapping[str, TrainingConfig] = {
    "bootstrap": _SMALL.replace(preset="bootstrap", total_steps=200_000, seeds=(1, 2)),
    "default": _SMALL.replace(preset="default", total_steps=300_000, seeds=(1, 2, 3, 4)),
    "fast": TrainingConfig(  # tuned on the markets of docs/learning-log.md
        preset="fast",
        lookback_bars=4,
        actor_context=0.0,
        weight_decay=0.2,
        counterfactual=True,
        cost_ramp_start=1.0,
        log_std_end=-2.5,
        average_fraction=0.4,
    ),
    "textbook": TrainingConfig(
        preset="textbook",
        lookback_bars=32,
        policy=PolicyKind.MLP,
        actor_sizes=(256, 256),
        critic_sizes=(256, 256),
        env_count=8,
        rollout_steps=2048,
        batch_size=256,
        epochs=10,
        learning_rate_start=3e-4,
        learning_rate_end=3e-4,
        gae_lambda=0.95,
        control_variate=False,
        cost_ramp_start=1.0,
        log_std_start=-1.0,
        log_std_end=-1.0,
    ),
}


def preset(name: str) -> TrainingConfig:
    """Return the named configuration.

    Raises:
        ValueError: no such preset; the message lists those there are.
    """
    if name not in PRESETS:
        raise ValueError(
            f"unknown training preset {name!r}; there are {', '.join(sorted(PRESETS))}"
        )
    return PRESETS[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One training of one seed on one window of one snapshot.

    Attributes:
        snapshot_dir: a directory that ``market.snapshot.load_snapshot`` accepts.
        start, stop: UTC milliseconds; only bars with ``start <= open_time`` and
            ``close_time <= stop`` are used (features of the first bars may look further back
            within the snapshot; nothing at or after ``stop`` is ever read).
        seed: of the network, the exploration and the episode starts.
        margin: maintenance margin and liquidation fee by symbol and date.
    """

    snapshot_dir: Path
    start: int
    stop: int
    seed: int
    config: TrainingConfig
    costs: Costs
    rules: TradingRules = field(default_factory=TradingRules)
    margin: MarginTable = field(default_factory=shipped_tiers)

    def __post_init__(self) -> None:
        if not self.start < self.stop:
            raise ValueError(f"training window is empty: start {self.start}, stop {self.stop}")

    @property
    def job_id(self) -> str:
        """A function of what is trained on what, so that a repeated job has the same name."""
        facts = {
            "snapshot": self.snapshot_dir.name,
            "start": self.start,
            "stop": self.stop,
            "seed": self.seed,
            "config": self.config.to_json(),
            "costs": dataclasses.asdict(self.costs),
            "rules": dataclasses.asdict(self.rules),
            "margin": self.margin.content_hash,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
