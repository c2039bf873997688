"""The market as a game for PPO: many accounts in one VecEnv, or one account as a Gymnasium Env.

Both shells drive the same ``Episodes``, which drives ``training.simulation`` and with it the
broker's kernel; neither owns any arithmetic of money. Termination (drawdown limit: discount 0)
and truncation (episode or window over: bootstrap) are kept apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from broker import kernel
from broker.costs import Costs, TradingRules
from market.bar import bars_per_year
from market.panel import BoolArray, Float64Array, Int64Array
from training.allocation import ACTION_BOUND, allocate
from training.config import RewardKind, TrainingConfig
from training.normalizer import Float32Array
from training.observation import ObservationSchema, assemble, write_account
from training.reward import (
    SharpeMoments,
    differential_sharpe,
    hurdle_reward,
    log_reward,
    variance_reward,
)
from training.simulation import Portfolios, StepRecord, unit_cost
from training.training_market import TrainingMarket

_Space = spaces.Space[Float32Array]

_CASH_START_SHARE = 0.25
_MOMENT_RATE = 0.01
_LEAST_GROWTH = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What one step gave: (B,) each but ``record``."""

    reward: Float64Array
    terminated: BoolArray
    truncated: BoolArray
    record: StepRecord


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LastStep:
    """What ``instead`` must know of the step just taken: the accounts before it, and its record."""

    quantity: Float64Array
    bar: Int64Array
    equity: Float64Array
    record: StepRecord
    moments: SharpeMoments


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
        self._last: _LastStep | None = None

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
            weights = self.random_weights(len(which))
        self.portfolios.open_accounts(which, bar, weights)
        self.age_bars[which] = 0
        self._moments.first[which] = 0.0
        self._moments.second[which] = 0.0

    def advance(self, action: npt.NDArray[np.floating[Any]]) -> Outcome:
        """Trade every account on its action (B, N) and carry it to the next close."""
        target = allocate(
            action.astype(np.float64), budget=self.budget, long_only=self.config.long_only
        )
        accounts, moments = self.portfolios, self._moments
        quantity, bar, equity = accounts.book.quantity, accounts.bar, accounts.equity
        record = accounts.step(target)
        self._last = _LastStep(
            quantity=quantity, bar=bar, equity=equity, record=record, moments=moments
        )
        self.age_bars += 1
        terminated = self.portfolios.drawdown() >= self.config.drawdown_limit
        terminated |= record.liquidated  # a liquidated account halts
        over = self.age_bars >= self.config.episode_bars
        over |= self.portfolios.bar >= self.market.last_bar
        reward, self._moments = self._reward(record, moments)
        return Outcome(
            reward=reward,
            terminated=terminated,
            truncated=over & ~terminated,
            record=record,
        )

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Where every account stands, by name, copied; ``load_arrays`` is the inverse."""
        moments = {"first": self._moments.first, "second": self._moments.second}
        return self.portfolios.arrays() | {
            name: array.copy() for name, array in {"age_bars": self.age_bars, **moments}.items()
        }

    def load_arrays(self, facts: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what ``arrays`` gave."""
        self.portfolios.load_arrays(facts)
        self.age_bars = facts["age_bars"]
        self._moments = SharpeMoments(first=facts["first"], second=facts["second"])

    def instead(
        self, action: npt.NDArray[np.floating[Any]], held: Float64Array | None = None
    ) -> tuple[Float64Array, Float64Array]:
        """What other actions, or other holdings, would have given in the step just taken.

        Everything wanted is filled and the costs are the trade's size times the unit cost: lots,
        minimums and the change of impact with size are left out, and a price that moves between
        the decision and the open moves all holdings as it moved those that were held.

        Args:
            action: (B, N).
            held: (B, N) weights before the trade, by default those that were held.

        Returns:
            rewards (B,) and the drifted weights (B, N) at the end.
        """
        last, accounts = self._last, self.portfolios
        assert last is not None, "no step has been taken"
        arrays = accounts.market.arrays
        if held is None:
            held = kernel.weights(last.quantity, arrays.price[last.bar], last.equity)
        target = allocate(
            action.astype(np.float64), budget=self.budget, long_only=self.config.long_only
        )
        moved = self.market.bar_return[last.bar + 1]
        price = unit_cost(last.equity, arrays.liquidity_at(last.bar), accounts.costs)
        cost = price * np.abs(target - held).sum(axis=-1)
        gross = last.record.gross_return + np.vecdot(target - last.record.target, moved)
        record = dataclasses.replace(
            last.record, gross_return=gross, cost=cost, net_return=gross - cost
        )
        grown = np.maximum(1.0 + gross - cost, _LEAST_GROWTH)[:, None]
        return self._reward(record, last.moments)[0], target * (1.0 + moved) / grown

    def observe(self, out: Float32Array) -> Float32Array:
        """Write the flat observations (B, width) at the accounts' present bars into ``out``."""
        bar = self.portfolios.bar
        time = self.market.accounts.close_time[bar]
        windows = self.market.windows.at(bar)
        return assemble(windows, self.portfolios.state(), time, self.market.schema, out=out)

    def observe_index(self, out: Float32Array) -> Float32Array:
        """Write the index observations (B, 1 + N + G) at the present bars into ``out``."""
        bar = self.portfolios.bar
        time = self.market.accounts.close_time[bar]
        out[:, 0] = bar
        write_account(out[:, 1:], self.portfolios.state(), time, self.market.schema)
        return out

    def _reward(
        self, record: StepRecord, moments: SharpeMoments
    ) -> tuple[Float64Array, SharpeMoments]:
        """Return the rewards (B,) and the moments after them."""
        match self.config.reward:
            case RewardKind.SHARPE_HURDLE:
                reward = hurdle_reward(
                    record.gross_return,
                    record.cost,
                    self.portfolios.sigma(),
                    lambda_per_bar=self._lambda,
                )
            case RewardKind.VARIANCE:
                reward = variance_reward(record.net_return, risk_aversion=self.config.risk_aversion)
            case RewardKind.LOG:
                reward = log_reward(record.net_return)
            case RewardKind.DIFFERENTIAL_SHARPE:
                return differential_sharpe(record.net_return, moments, rate=_MOMENT_RATE)
        return reward, moments

    def random_weights(self, count: int) -> Float64Array:
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


def index_space(schema: ObservationSchema) -> spaces.Box:
    """Return the space of index observations: the bar, then the account's N + G values."""
    return spaces.Box(-np.inf, np.inf, shape=(1 + schema.account_width,), dtype=np.float32)


def action_space(schema: ObservationSchema) -> spaces.Box:
    """Return one unconstrained number per asset; ``allocation.allocate`` makes it a portfolio."""
    return spaces.Box(-ACTION_BOUND, ACTION_BOUND, shape=(schema.asset_count,), dtype=np.float32)


class PortfolioVecEnv(VecEnv):
    """B accounts in one process for stable-baselines3; done accounts restart by themselves.

    It hands out index observations (``index_space``), for policies that hold the market's windows
    themselves; ``FlatObservations`` turns them into what any policy understands. Observations
    alternate between two buffers: stable-baselines3 keeps the last one across a step, and writing
    into it would corrupt the rollout in silence.
    """

    render_mode: str | None = None

    def __init__(self, episodes: Episodes) -> None:
        schema = episodes.market.schema
        self.episodes = episodes
        count = episodes.portfolios.count
        space = index_space(schema)
        self._buffers = _TwoBuffers(count, space)
        self._actions = np.zeros((count, schema.asset_count))
        self.last_outcome: Outcome | None = None
        self._ended = np.zeros((count, *space.shape), np.float32)
        super().__init__(count, space, action_space(schema))

    def reset(self) -> Float32Array:
        """Restart every account and return the observations (B, 1 + N + G)."""
        if self._seeds[0] is not None:
            self.episodes.rng = np.random.default_rng(self._seeds[0])
        self._reset_seeds()
        self._reset_options()
        self.episodes.restart(np.arange(self.num_envs))
        return self.episodes.observe_index(self._buffers.next())

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        """Keep the actions (B, N) for ``step_wait``."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[Float32Array, Float32Array, BoolArray, list[dict[str, Any]]]:
        """Return observations, rewards (B,), dones (B,) and one info per account.

        The info of a done account holds ``terminal_observation`` and ``TimeLimit.truncated``.
        ``last_outcome`` holds the records of all accounts as arrays.
        """
        outcome = self.episodes.advance(self._actions)
        self.last_outcome = outcome
        obs = self.episodes.observe_index(self._buffers.next())
        self._ended = obs.copy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        done = outcome.terminated | outcome.truncated
        if done.any():
            self._restart(np.flatnonzero(done), obs, infos, outcome)
        return obs, outcome.reward.astype(np.float32), done, infos

    def instead(
        self, actions: npt.NDArray[Any], held: Float64Array | None = None
    ) -> tuple[Float64Array, Float32Array]:
        """Rewards (B,) and index observations that other actions or holdings would have given.

        Drawdown, σ and the time since a trade stay those of the accounts as they are.
        """
        rewards, weights = self.episodes.instead(actions, held)
        count, obs = weights.shape[1], self._ended.copy()
        obs[:, 1 : 1 + count] = weights
        obs[:, 1 + count] = 1.0 - weights.sum(axis=1)
        return rewards, obs

    def random_weights(self, count: int) -> Float64Array:
        """Return (count, N) weights as episodes begin with."""
        return self.episodes.random_weights(count)

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
        self.episodes.observe_index(obs)

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


class _TwoBuffers:
    """Two arrays of observations in turn, so that the last one outlives the next."""

    def __init__(self, count: int, space: spaces.Box) -> None:
        self._arrays = tuple(np.empty((count, *space.shape), np.float32) for _ in range(2))
        self._turn = 0

    def next(self) -> Float32Array:
        self._turn = 1 - self._turn
        return self._arrays[self._turn]


class FlatObservations(VecEnvWrapper):
    """``PortfolioVecEnv`` with flat observations (B, width), for plain stable-baselines3."""

    def __init__(self, venv: PortfolioVecEnv) -> None:
        self._market = venv.episodes.market
        space = observation_space(self._market.schema)
        self._buffers = _TwoBuffers(venv.num_envs, space)
        super().__init__(venv, observation_space=space)

    def reset(self) -> Float32Array:
        """Restart every account and return the observations (B, width)."""
        return self._flat(cast(Float32Array, self.venv.reset()), self._buffers.next())

    def step_wait(
        self,
    ) -> tuple[Float32Array, Float32Array, BoolArray, list[dict[str, Any]]]:
        """Return what ``PortfolioVecEnv.step_wait`` does, with flat observations."""
        indexed, rewards, dones, infos = self.venv.step_wait()
        for number in np.flatnonzero(dones):
            ended = infos[number]["terminal_observation"][None]
            flat = np.empty((1, self._market.schema.width), np.float32)
            infos[number]["terminal_observation"] = self._flat(ended, flat)[0]
        obs = self._flat(cast(Float32Array, indexed), self._buffers.next())
        return obs, cast(Float32Array, rewards), dones, infos

    def _flat(self, indexed: Float32Array, out: Float32Array) -> Float32Array:
        width = self._market.schema.market_width
        bar = indexed[:, 0].astype(np.int64)
        out[:, :width] = self._market.windows.at(bar).reshape(len(bar), width)
        out[:, width:] = indexed[:, 1:]
        return out


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
