"""The two environments: one timeline, one arithmetic, and what SB3 expects of them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from broker.costs import CostModel, TradingRules
from market.bar import HOUR_MS
from market.features import WARMUP_BARS, compute_features
from market.panel import Float64Array
from tests.training.learner_factory import (
    ASSETS,
    BARS,
    FREE,
    TINY,
    episodes_of,
    small_market,
    small_panel,
)
from tests.training.market_factory import instruments_of, panel_of, random_close
from training.allocation import action_for
from training.environment import (
    Episodes,
    PortfolioEnv,
    PortfolioVecEnv,
)
from training.normalizer import fit_normalizer
from training.simulation import Portfolios, prepare_market
from training.training_market import linear_forecast


def act(*weights: float) -> Float64Array:
    """The action that asks for these weights."""
    return action_for(np.asarray(weights, dtype=np.float64), long_only=True)


def test_gymnasium_accepts_the_single_environment() -> None:
    """``check_env`` finds spaces, dtypes, seeding and the step signature in order."""
    env = PortfolioEnv(episodes_of(small_market(small_panel()), 1))
    with warnings.catch_warnings():
        # The features are bounded, the observation space is not: Gymnasium only remarks on it.
        warnings.simplefilter("ignore", UserWarning)
        check_env(env, skip_render_check=True)


def test_both_environments_agree_step_for_step() -> None:
    """Three accounts stepped together give what each gives alone, bit for bit."""
    market = small_market(small_panel())
    starts, actions = (250, 300, 330), np.random.default_rng(3).normal(0, 0.5, (30, 3, ASSETS))
    weights = np.array([[0.0, 0.0, 0.0], [0.5, 0.2, 0.1], [0.0, 1.0, 0.0]])
    batch = episodes_of(market, 3)
    batch.restart(np.arange(3), bar=np.array(starts), weights=weights)
    alone = [PortfolioEnv(episodes_of(market, 1)) for _ in starts]
    for env, bar, held in zip(alone, starts, weights, strict=True):
        env.reset(options={"bar": bar, "weights": held})
    for step in range(19):
        outcome = batch.advance(actions[step])
        obs = batch.observe(np.empty((3, market.schema.width), np.float32))
        for number, env in enumerate(alone):
            single_obs, reward, terminated, truncated, info = env.step(
                actions[step, number].astype(np.float64)
            )
            np.testing.assert_array_equal(single_obs, obs[number])
            assert reward == outcome.reward[number]
            assert info["equity"] == outcome.record.equity[number]
            assert terminated == outcome.terminated[number]
            assert truncated == outcome.truncated[number]


def test_an_observation_survives_the_next_step() -> None:
    """SB3 keeps the last observation across a step: two buffers alternate."""
    env = PortfolioVecEnv(episodes_of(small_market(small_panel()), 4))
    before = env.reset()
    kept = before.copy()
    after = env.step(np.zeros((4, ASSETS)))[0]
    np.testing.assert_array_equal(before, kept)
    assert not np.array_equal(np.asarray(after), kept)


def test_timeline_from_timestamps() -> None:
    """Decide at a close, fill one latency later, end at the next close."""
    panel = small_panel()
    env = PortfolioEnv(episodes_of(small_market(panel), 1))
    env.reset(options={"bar": 300, "weights": [0.0, 0.0, 0.0]})
    info = env.step(act(0.5, 0.0, 0.0).astype(np.float32))[4]
    assert info["decision_time"] == panel.open_time[300] + HOUR_MS
    assert info["fill_time"] == panel.open_time[301] + TradingRules().latency_ms
    assert info["end_time"] == panel.open_time[302]


def test_a_purchase_by_hand() -> None:
    """Sized at the close (100), bought at the next open (110), valued at its close (121).

    Fee 1 %, no spread: 50 units cost 5500 plus 55; they end at 6050. Equity 10 000 − 55 + 550.
    """
    close = np.array([[100.0]] * 2 + [[121.0]])
    opening = np.array([[100.0], [100.0], [110.0]])
    panel = panel_of(close, opening=opening)
    accounts = Portfolios(
        prepare_market(panel, instruments_of(panel)),
        count=1,
        costs=CostModel(fee_rate=0.01, half_spread_bps=0.0, impact_coefficient=0.0),
        rules=TradingRules(),
        deposit_quote=10_000.0,
        sigma_window_bars=10,
    )
    accounts.open_accounts(np.arange(1), np.array([1]), np.zeros((1, 1)))
    record = accounts.step(np.array([[0.5]]))
    assert record.equity[0] == pytest.approx(10_495.0)
    assert record.net_return[0] == pytest.approx(0.0495)
    assert record.cost[0] == pytest.approx(0.0055)
    assert record.gross_return[0] == pytest.approx(0.055)
    assert record.turnover[0] == pytest.approx(0.55)
    assert record.weights[0, 0] == pytest.approx(6050 / 10_495)


def test_funding_falls_on_what_was_held_before_the_fill() -> None:
    """A settlement at the open charges the old position, not the one bought at that open."""
    paid = np.array([[0.0], [0.0], [1.0]])
    panel = panel_of(np.full((3, 1), 100.0), funding_at_open=paid)
    accounts = Portfolios(
        prepare_market(panel, instruments_of(panel)),
        count=2,
        costs=FREE,
        rules=TradingRules(),
        deposit_quote=10_000.0,
        sigma_window_bars=10,
    )
    accounts.open_accounts(np.arange(2), np.array([1, 1]), np.array([[0.0], [0.5]]))
    record = accounts.step(np.array([[0.5], [0.0]]))
    np.testing.assert_allclose(record.funding, [0.0, -50.0 / 10_000.0])


def test_holding_trades_nothing() -> None:
    """Asking for the drifted weights again has turnover 0, whatever the prices did."""
    episodes = episodes_of(small_market(small_panel()), 1)
    episodes.restart(np.arange(1), bar=np.array([300]), weights=np.array([[0.3, 0.2, 0.1]]))
    for _ in range(5):
        held = episodes.portfolios.weights()
        record = episodes.advance(action_for(held, long_only=True)).record
        assert record.turnover[0] == pytest.approx(0.0, abs=1e-6)
        assert record.cost[0] == pytest.approx(0.0, abs=1e-9)


def test_reward_is_return_less_cost_less_priced_sigma() -> None:
    """R = ρ − κτ − λσ with λ = S*/√8760 and σ zero until five returns."""
    episodes = episodes_of(small_market(small_panel()), 1)
    episodes.restart(np.arange(1), bar=np.array([300]), weights=np.array([[0.3, 0.2, 0.1]]))
    returns: list[float] = []
    for step in range(8):
        outcome = episodes.advance(act(0.2 + 0.05 * step, 0.1, 0.3)[None, :])
        returns.append(float(outcome.record.net_return[0]))
        sigma = float(np.std(returns)) if len(returns) >= 5 else 0.0
        expected = returns[-1] - 0.5 / np.sqrt(8760) * sigma
        assert outcome.reward[0] == pytest.approx(expected, abs=1e-12)


def test_truncation_bootstraps_and_restarts() -> None:
    """At the episode's end the info holds the last observation, marked as truncated."""
    market = small_market(small_panel())
    env = PortfolioVecEnv(episodes_of(market, 2))
    env.reset()
    env.episodes.restart(np.array([0]), bar=np.array([300]), weights=np.zeros((1, ASSETS)))
    env.episodes.restart(np.array([1]), bar=np.array([310]), weights=np.zeros((1, ASSETS)))
    env.episodes.age_bars[:] = [TINY.episode_bars - 1, 0]
    obs, _, dones, infos = env.step(np.zeros((2, ASSETS)))
    assert dones.tolist() == [True, False]
    assert infos[0]["TimeLimit.truncated"] is True
    assert infos[0]["terminal_observation"][0] == 301
    assert not np.array_equal(np.asarray(obs)[0], infos[0]["terminal_observation"])
    assert env.episodes.age_bars.tolist() == [0, 1]
    assert infos[1] == {}


def test_a_drawdown_terminates_without_truncation() -> None:
    """Losing more than the limit ends the episode for good: no bootstrap."""
    close = np.full((BARS, 1), 100.0)
    close[350:] = 40.0
    config = TINY.replace(drawdown_limit=0.5)
    env = PortfolioVecEnv(episodes_of(small_market(panel_of(close), config), 1, config=config))
    env.reset()
    env.episodes.restart(np.arange(1), bar=np.array([349]), weights=np.array([[1.0]]))
    env.episodes.age_bars[:] = TINY.episode_bars - 1
    dones, infos = env.step(act(1.0)[None, :])[2:]
    assert dones.tolist() == [True]
    assert infos[0]["TimeLimit.truncated"] is False


def test_a_liquidation_terminates() -> None:
    """A live account halts then: eight times levered, a fall of a quarter; unlevered it goes on."""
    close = random_close(0, BARS, ASSETS)
    close[301:] *= 0.75
    ended = []
    for leverage in (8.0, 1.0):
        episodes = Episodes(
            small_market(panel_of(close)),
            TINY.replace(drawdown_limit=1.0),
            costs=FREE,
            rules=TradingRules(leverage_limit=leverage),
            count=1,
            rng=np.random.default_rng(0),
        )
        episodes.restart(np.arange(1), bar=np.array([300]), weights=np.zeros((1, ASSETS)))
        everything = np.array([[leverage, 0.0, 0.0]])
        outcome = episodes.advance(action_for(everything, long_only=True))
        ended.append((bool(outcome.terminated[0]), bool(outcome.truncated[0])))
    assert ended == [(True, False), (False, False)]


def test_no_account_is_carried_past_the_last_bar() -> None:
    """An account started one bar before the end is truncated there."""
    market = small_market(small_panel())
    episodes = episodes_of(market, 1)
    episodes.restart(
        np.arange(1), bar=np.array([market.last_bar - 1]), weights=np.zeros((1, ASSETS))
    )
    outcome = episodes.advance(np.zeros((1, ASSETS)))
    assert outcome.truncated.tolist() == [True]
    assert outcome.record.end_time[0] == market.accounts.close_time[-1]


def test_a_step_does_not_read_beyond_its_end() -> None:
    """Change everything after the step's close: reward and observation stay bit-equal."""
    close = np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.01, (BARS, ASSETS)), axis=0))
    changed = close.copy()
    changed[302:] *= 3.0
    results = []
    features = compute_features(panel_of(close))
    normalizer = fit_normalizer(features.values, features.known)
    for prices in (close, changed):
        market = small_market(panel_of(prices), normalizer=normalizer)
        episodes = episodes_of(market, 1)
        episodes.restart(np.arange(1), bar=np.array([300]), weights=np.zeros((1, ASSETS)))
        reward = episodes.advance(act(0.3, 0.3, 0.3)[None, :]).reward
        results.append((reward, episodes.observe(np.empty((1, market.schema.width), np.float32))))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_random_starts_cover_cash_and_full_exposure() -> None:
    """Starts lie in the window; some hold cash, some nearly everything, none too much."""
    market = small_market(small_panel())
    episodes = episodes_of(market, 2_000)
    episodes.restart(np.arange(2_000))
    exposure = episodes.portfolios.weights().sum(axis=1)
    bars = episodes.portfolios.bar
    assert (exposure <= 1.0 + 1e-9).all()
    assert 0.2 < (exposure == 0).mean() < 0.3
    assert exposure.max() > 0.95
    assert bars.min() >= WARMUP_BARS
    assert bars.max() == market.last_bar - 1


def test_the_cost_multiplier_scales_what_is_charged_and_not_what_is_shown() -> None:
    """A ramp of the costs leaves the observed unit cost where it is."""
    episodes = episodes_of(small_market(small_panel()), 1)
    charged, shown = [], []
    for multiplier in (1.0, 0.5):
        episodes.set_cost_multiplier(multiplier)
        episodes.restart(np.arange(1), bar=np.array([300]), weights=np.zeros((1, ASSETS)))
        shown.append(episodes.portfolios.state().unit_cost[0])
        charged.append(episodes.advance(act(0.5, 0.0, 0.0)[None, :]).record.cost[0])
    assert charged[1] == pytest.approx(charged[0] / 2, rel=1e-3)
    assert shown[0] == shown[1]


def test_linear_forecast_finds_a_planted_coefficient() -> None:
    """Returns of 0.01 per unit of a feature's excess over its cross-section are found."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 4, 2)).astype(np.float32)
    relative = features[..., 0] - features[..., 0].mean(axis=1, keepdims=True)
    returns = np.zeros((500, 4))
    returns[1:] = 0.01 * relative[:-1]
    forecast = linear_forecast(features, returns, first=10, ridge=1e-9)
    np.testing.assert_allclose(forecast, 0.01 * relative, atol=1e-6)
    assert np.abs(linear_forecast(features, returns, first=10, ridge=1e12)).max() < 1e-9
