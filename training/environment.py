"""The market as a game for PPO: many accounts in one VecEnv, or one account as a Gymnasium Env.

Both shells drive the same ``Episodes``, which drives ``training.simulation`` and with it the
broker's kernel; neither owns any arithmetic of money. Termination (drawdown limit: discount 0)
and truncation (episode or window over: bootstrap) are kept apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from broker.costs import Costs, TradingRules
from market.bar import bars_per_year
from market.features import Features
from market.panel import BoolArray, Float64Array, Int64Array
from training.allocation import ACTION_BOUND, allocate
from training.config import RewardKind, TrainingConfig
from training.normalizer import Float32Array, Normalizer
from training.observation import ObservationSchema, assemble, market_rows
from training.reward import (
    SharpeMoments,
    differential_sharpe,
    hurdle_reward,
    log_reward,
    variance_reward,
)
from training.simulation import Market, Portfolios, StepRecord

_Space = spaces.Space[Float32Array]

_CASH_START_SHARE = 0.25
_MOMENT_RATE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingMarket:
    """One training window, ready to be stepped through.

    Attributes:
        accounts: what the accounts meet, all bars of the panel.
        rows: (T', N, L·(F + 1)) market part of the observation; row k belongs to bar
            ``k + first_row_bar``.
        first_bar, last_bar: an episode's first decision is at or after ``first_bar``; no account
            is ever carried beyond the close of ``last_bar``.
        bar_return: (T, N) close over open less one; 0 where nothing can be filled.
        expected_return: (T, N) linear forecast, made at each bar, of the next bar's return less
            the cross-section's mean; for the control variate of training only.
    """

    accounts: Market
    rows: Float32Array
    schema: ObservationSchema
    first_row_bar: int
    first_bar: int
    last_bar: int
    bar_return: Float64Array
    expected_return: Float64Array

    def __post_init__(self) -> None:
        if not self.first_row_bar <= self.first_bar < self.last_bar:
            raise ValueError(f"no decision fits between {self.first_bar} and {self.last_bar}")


def training_market(
    accounts: Market,
    features: Features,
    normalizer: Normalizer,
    schema: ObservationSchema,
    *,
    first_bar: int = 0,
    prediction_ridge: float = 1.0,
) -> TrainingMarket:
    """Join a market with its observations; the market must end where training ends."""
    arrays = accounts.arrays
    first_row_bar = schema.lookback_bars - 1
    begin = max(first_bar, first_row_bar)
    rows = market_rows(features, normalizer, schema)
    bar_return = np.where(
        arrays.fillable, arrays.mark / np.where(arrays.fillable, arrays.open_price, 1.0) - 1.0, 0.0
    )
    normal = normalizer.apply(features.values, features.known)
    return TrainingMarket(
        accounts=accounts,
        rows=rows,
        schema=schema,
        first_row_bar=first_row_bar,
        first_bar=begin,
        last_bar=len(accounts) - 1,
        bar_return=bar_return,
        expected_return=linear_forecast(normal, bar_return, first=begin, ridge=prediction_ridge),
    )


def linear_forecast(
    features: Float32Array, bar_return: Float64Array, *, first: int, ridge: float
) -> Float64Array:
    """(T, N) ridge forecast of the next bar's return, both less their cross-section's mean.

    One coefficient per feature for all assets (Hoerl & Kennard 1970), fitted on decisions from
    bar ``first`` on; ``ridge`` is in units of the features' mean square over all rows.

    Args:
        features: (T, N, F) normalised.
        bar_return: (T, N) simple returns.
        first: earlier bars are predicted too, but not fitted on.
        ridge: penalty; infinite gives forecasts of zero.
    """
    relative = features.astype(np.float64) - features.mean(axis=1, keepdims=True)
    moved = bar_return - bar_return.mean(axis=1, keepdims=True)
    width = relative.shape[-1]
    inputs, target = relative[first:-1].reshape(-1, width), moved[first + 1 :].reshape(-1)
    gram = inputs.T @ inputs
    penalty = ridge * max(1.0, float(np.trace(gram)) / width) * np.eye(width)
    forecast: Float64Array = relative @ np.linalg.solve(gram + penalty, inputs.T @ target)
    return forecast


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What one step gave: (B,) each but ``record``."""

    reward: Float64Array
    terminated: BoolArray
    truncated: BoolArray
    record: StepRecord


class Episodes:
    """B accounts that start at random bars with random weights, and start again when done."""

    def __init__(
        self,
        market: TrainingMarket,
        config: TrainingConfig,
        *,
        costs: Costs,
        rules: TradingRules,
        count: int,
        rng: np.random.Generator,
    ) -> None:
        """Open nothing yet; call ``restart``."""
        self.market, self.config, self.rng = market, config, rng
        self._full_costs = costs
        self.portfolios = Portfolios(
            market.accounts,
            count=count,
            costs=costs,
            rules=rules,
            deposit_quote=config.deposit_quote,
            sigma_window_bars=config.sigma_window_bars,
        )
        self.budget = rules.leverage_limit
        self.age_bars = np.zeros(count, dtype=np.int64)
        self._lambda = config.lambda_per_bar(bars_per_year(market.schema.interval_ms))
        self._moments = SharpeMoments(first=np.zeros(count), second=np.zeros(count))

    def set_cost_multiplier(self, multiplier: float) -> None:
        """Charge ``multiplier`` times the trading costs; the quoted unit cost stays."""
        self.portfolios.costs = self._full_costs.scaled(multiplier)

    def restart(
        self,
        which: Int64Array,
        *,
        bar: Int64Array | None = None,
        weights: Float64Array | None = None,
    ) -> None:
        """Start accounts ``which`` (k,) at given or random bars with given or random weights."""
        market = self.market
        if bar is None:
            bar = self.rng.integers(market.first_bar, market.last_bar, size=len(which))
        if weights is None:
            weights = self._random_weights(len(which))
        self.portfolios.open_accounts(which, bar, weights)
        self.age_bars[which] = 0
        self._moments.first[which] = 0.0
        self._moments.second[which] = 0.0

    def advance(self, action: npt.NDArray[np.floating[Any]]) -> Outcome:
        """Trade every account on its action (B, N) and carry it to the next close."""
        target = allocate(
            action.astype(np.float64), budget=self.budget, long_only=self.config.long_only
        )
        record = self.portfolios.step(target)
        self.age_bars += 1
        terminated = self.portfolios.drawdown() >= self.config.drawdown_limit
        over = self.age_bars >= self.config.episode_bars
        over |= self.portfolios.bar >= self.market.last_bar
        return Outcome(
            reward=self._reward(record),
            terminated=terminated,
            truncated=over & ~terminated,
            record=record,
        )

    def observe(self, out: Float32Array) -> Float32Array:
        """Write the observations (B, width) at the accounts' present bars into ``out``."""
        bar = self.portfolios.bar
        rows = self.market.rows[bar - self.market.first_row_bar]
        time = self.market.accounts.close_time[bar]
        return assemble(rows, self.portfolios.state(), time, self.market.schema, out=out)

    def _reward(self, record: StepRecord) -> Float64Array:
        match self.config.reward:
            case RewardKind.SHARPE_HURDLE:
                return hurdle_reward(
                    record.gross_return,
                    record.cost,
                    self.portfolios.sigma(),
                    lambda_per_bar=self._lambda,
                )
            case RewardKind.VARIANCE:
                return variance_reward(record.net_return, risk_aversion=self.config.risk_aversion)
            case RewardKind.LOG:
                return log_reward(record.net_return)
            case RewardKind.DIFFERENTIAL_SHARPE:
                reward, self._moments = differential_sharpe(
                    record.net_return, self._moments, rate=_MOMENT_RATE
                )
                return reward

    def _random_weights(self, count: int) -> Float64Array:
        """(count, N): some all cash, the others uniform over exposure and over the simplex."""
        assets = self.market.schema.asset_count
        shares = self.rng.dirichlet(np.ones(assets), size=count)
        exposure = self.rng.uniform(0.0, self.budget, size=(count, 1))
        exposure *= self.rng.random((count, 1)) >= _CASH_START_SHARE
        weights = shares * exposure
        if not self.config.long_only:
            weights *= self.rng.choice((-1.0, 1.0), size=weights.shape)
        return weights


def observation_space(schema: ObservationSchema) -> spaces.Box:
    """Return the flat float32 space of ``schema``."""
    return spaces.Box(-np.inf, np.inf, shape=(schema.width,), dtype=np.float32)


def action_space(schema: ObservationSchema) -> spaces.Box:
    """Return one unconstrained number per asset; ``allocation.allocate`` makes it a portfolio."""
    return spaces.Box(-ACTION_BOUND, ACTION_BOUND, shape=(schema.asset_count,), dtype=np.float32)


class PortfolioVecEnv(VecEnv):
    """B accounts in one process for stable-baselines3; done accounts restart by themselves.

    Observations alternate between two buffers: stable-baselines3 keeps the last one across a
    step, and writing into it would corrupt the rollout in silence.
    """

    render_mode: str | None = None

    def __init__(self, episodes: Episodes) -> None:
        schema = episodes.market.schema
        self.episodes = episodes
        count = episodes.portfolios.count
        self._buffers = tuple(np.empty((count, schema.width), np.float32) for _ in range(2))
        self._turn = 0
        self._actions = np.zeros((count, schema.asset_count))
        self.last_outcome: Outcome | None = None
        super().__init__(count, observation_space(schema), action_space(schema))

    def reset(self) -> Float32Array:
        """Restart every account and return the observations (B, width)."""
        if self._seeds[0] is not None:
            self.episodes.rng = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self.episodes.restart(np.arange(self.num_envs))
        return self.episodes.observe(self._next_buffer())

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions (B, N) for ``step_wait``."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[Float32Array, Float32Array, BoolArray, list[dict[str, Any]]]:
        """Return observations (B, width), rewards (B,), dones (B,) and one info per account.

        The info of a done account holds ``terminal_observation`` and ``TimeLimit.truncated``.
        ``last_outcome`` holds the records of all accounts as arrays.
        """
        outcome = self.episodes.advance(self._actions)
        self.last_outcome = outcome
        obs = self.episodes.observe(self._next_buffer())
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = outcome.terminated | outcome.truncated
        if done.any():
            self._restart(np.flatnonzero(done), obs, infos, outcome)
        return obs, outcome.reward.astype(np.float32), done, infos

    def _restart(
        self,
        which: Int64Array,
        obs: Float32Array,
        infos: list[dict[str, Any]],
        outcome: Outcome,
    ) -> None:
        ended = obs[which]
        for row, number in enumerate(which):
            infos[number]["terminal_observation"] = ended[row]
            infos[number]["TimeLimit.truncated"] = bool(outcome.truncated[number])
        self.episodes.restart(which)
        self.episodes.observe(obs)

    def _next_buffer(self) -> Float32Array:
        self._turn = 1 - self._turn
        return self._buffers[self._turn]

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return the attribute once per account asked for."""
        return [getattr(self, attr_name)] * len(self._numbers(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: ARG002 # one object serves all accounts
        """Set the attribute for all accounts."""
        setattr(self, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: Any = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of the episodes once."""
        result = getattr(self.episodes, method_name)(*method_args, **method_kwargs)
        return [result] * len(self._numbers(indices))

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002 # never wrapped
        """No account has a wrapper of its own."""
        return [False] * len(self._numbers(indices))

    def _numbers(self, indices: Any) -> Sequence[int]:
        return list(self._get_indices(indices))


class PortfolioEnv(gymnasium.Env[Float32Array, Float32Array]):
    """One account as a Gymnasium environment; step for step the same as ``PortfolioVecEnv``."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 # Gymnasium's declaration

    def __init__(self, episodes: Episodes) -> None:
        if episodes.portfolios.count != 1:
            raise ValueError(f"PortfolioEnv takes one account, got {episodes.portfolios.count}")
        self.episodes = episodes
        self.observation_space = cast(_Space, observation_space(episodes.market.schema))
        self.action_space = cast(_Space, action_space(episodes.market.schema))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Float32Array, dict[str, Any]]:
        """Start an episode; ``options`` may fix ``bar`` (int) and ``weights`` (N,)."""
        super().reset(seed=seed)
        if seed is not None:
            self.episodes.rng = np.random.default_rng(seed)
        fixed = options or {}
        bar = np.array([fixed["bar"]]) if "bar" in fixed else None
        weights = np.asarray([fixed["weights"]], dtype=np.float64) if "weights" in fixed else None
        self.episodes.restart(np.arange(1), bar=bar, weights=weights)
        return self._observation(), {}

    def step(self, action: Float32Array) -> tuple[Float32Array, float, bool, bool, dict[str, Any]]:
        """Trade and carry the account to the next close; the info holds the bar's record."""
        outcome = self.episodes.advance(np.asarray(action)[None, :])
        record = outcome.record
        info = {
            "decision_time": int(record.decision_time[0]),
            "fill_time": int(record.fill_time[0]),
            "end_time": int(record.end_time[0]),
            "net_return": float(record.net_return[0]),
            "gross_return": float(record.gross_return[0]),
            "cost": float(record.cost[0]),
            "funding": float(record.funding[0]),
            "turnover": float(record.turnover[0]),
            "target": record.target[0],
            "weights": record.weights[0],
            "equity": float(record.equity[0]),
        }
        return (
            self._observation(),
            float(outcome.reward[0]),
            bool(outcome.terminated[0]),
            bool(outcome.truncated[0]),
            info,
        )

    def _observation(self) -> Float32Array:
        schema = self.episodes.market.schema
        obs: Float32Array = self.episodes.observe(np.empty((1, schema.width), np.float32))[0]
        return obs
