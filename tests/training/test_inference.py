"""Inference without torch: the same actions, the same observations, and nothing else loaded."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from market.features import compute_features
from market.panel import Panel
from tests.training.learner_factory import COSTS, TINY, small_panel
from tests.training.learner_models import trained
from tests.training.market_factory import instruments_of
from training.config import PolicyKind, TrainingConfig
from training.inference import Policy
from training.observation import ObservationRejected, PortfolioState, portfolio_state
from training.simulation import Portfolios, prepare_market, unit_cost

LINEAR = TINY.replace(actor_sizes=(), actor_context=0.0, lookback_bars=1)
DEEP = TINY.replace(actor_sizes=(8, 8), actor_context=0.3)
MLP = TINY.replace(policy=PolicyKind.MLP, actor_sizes=(8, 6), initial_hold=0.4)


@pytest.mark.parametrize(
    "config", [TINY, LINEAR, DEEP, MLP], ids=["small", "linear", "deep", "mlp"]
)
def test_numpy_gives_sb3s_deterministic_action(config: TrainingConfig) -> None:
    """Within 1e-5, on observations far outside of what training saw, too."""
    model, _, _, artefact = trained(1, config)
    rng = np.random.default_rng(0)
    obs = rng.normal(0, 3, (200, artefact.schema.width)).astype(np.float32)
    expected, _ = model.predict(obs, deterministic=True)
    np.testing.assert_allclose(Policy(artefact).actions(obs)[0], expected, atol=1e-5)


@pytest.mark.parametrize("config", [TINY, MLP], ids=["shared", "mlp"])
def test_the_precomputed_path_agrees_with_the_full_one(config: TrainingConfig) -> None:
    """Weights from the prepared first layer equal those from the assembled observations."""
    panel, policy = small_panel(7), Policy(trained(1, config).artefact)
    prepared = policy.prepare(panel, compute_features(panel))
    accounts = Portfolios(
        prepare_market(panel, instruments_of(panel)),
        count=4,
        costs=COSTS,
        rules=trained().job.rules,
        deposit_quote=10_000.0,
        sigma_window_bars=policy.schema.sigma_window_bars,
    )
    bars = np.array([300, 310, 350, 400])
    accounts.open_accounts(np.arange(4), bars, np.full((4, 3), 0.2))
    quick = policy.weights_at(prepared, bars - policy.schema.lookback_bars + 1, accounts.state())
    for number, bar in enumerate(bars):
        one = state_of(accounts, number)
        full = policy.target_weights(panel.window(0, int(bar) + 1), one)
        np.testing.assert_allclose(quick[number], full, atol=1e-6)


def state_of(accounts: Portfolios, number: int) -> PortfolioState:
    """One account's state, as the live loop would build it from scalars."""
    state = accounts.state()
    cost = unit_cost(
        np.float64(accounts.equity[number]),  # type: ignore[arg-type]  # one account
        accounts.market.arrays.liquidity_at(int(accounts.bar[number])),
        COSTS,
    )
    return portfolio_state(
        weights=state.weights[number].tolist(),
        drawdown=float(state.drawdown[number]),
        sigma=float(state.sigma[number]),
        bars_since_trade=int(state.bars_since_trade[number]),
        unit_cost=float(cost),
    )


def test_a_policy_computes_the_features_it_was_trained_on() -> None:
    """Other features than the default: their own warm-up, and live = the prepared path."""
    names = ("return_336", "garman_klass_ratio", "hour_sin", "funding_countdown")
    artefact = trained(1, LINEAR.replace(features=names)).artefact
    policy, panel = Policy(artefact), small_panel(8)
    assert (policy.schema.features, policy.required_bars) == (names, 337)
    state = portfolio_state(
        weights=[0.1, 0.2, 0.3], drawdown=0.1, sigma=0.01, bars_since_trade=4, unit_cost=0.0006
    )
    row = len(panel) - policy.schema.lookback_bars
    batch = PortfolioState(
        weights=state.weights[None],
        drawdown=np.array([0.1]),
        sigma=np.array([0.01]),
        bars_since_trade=np.array([4.0]),
        unit_cost=np.array([0.0006]),
    )
    quick = policy.weights_at(policy.prepare(panel), np.array([row]), batch)[0]
    np.testing.assert_allclose(policy.target_weights(panel, state), quick, atol=1e-6)


def test_live_decides_as_training_observes() -> None:
    """The weights live come from the observation that the environment would have shown."""
    panel, policy = small_panel(7), Policy(trained().artefact)
    recent = panel.window(len(panel) - policy.required_bars, len(panel))
    state = portfolio_state(
        weights=[0.1, 0.2, 0.3], drawdown=0.1, sigma=0.01, bars_since_trade=3, unit_cost=0.0006
    )
    np.testing.assert_array_equal(
        policy.target_weights(recent, state), policy.target_weights(panel, state)
    )


def test_weights_are_a_feasible_portfolio() -> None:
    """Non-negative and within the leverage limit for any observation."""
    policy = Policy(trained().artefact)
    obs = np.random.default_rng(1).normal(0, 10, (500, policy.schema.width)).astype(np.float32)
    weights = policy.weights_from(obs)
    assert (weights >= 0).all()
    assert (weights.sum(axis=1) <= 1 + 1e-9).all()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda panel: dataclasses.replace(panel, symbols=panel.symbols[::-1]),
        lambda panel: dataclasses.replace(
            panel,
            interval_ms=2 * panel.interval_ms,
            open_time=panel.open_time[0] + 2 * (panel.open_time - panel.open_time[0]),
        ),
        lambda panel: panel.window(0, 1),
    ],
    ids=["symbols", "interval", "too_short"],
)
def test_a_panel_that_does_not_fit_is_rejected(spoil) -> None:  # type: ignore[no-untyped-def]  # lambdas
    """Another order of symbols, another interval, or too few bars is not guessed around."""
    panel: Panel = spoil(small_panel())
    state = portfolio_state(weights=[0, 0, 0], drawdown=0, sigma=0, bars_since_trade=0, unit_cost=0)
    with pytest.raises(ObservationRejected):
        Policy(trained().artefact).target_weights(panel, state)


def test_an_observation_with_a_nan_is_rejected() -> None:
    """A NaN observation gives no action at all."""
    policy = Policy(trained().artefact)
    obs = np.zeros(policy.schema.width, np.float32)
    obs[0] = np.nan
    with pytest.raises(ObservationRejected, match="not finite"):
        policy.weights_from(obs)
    with pytest.raises(ObservationRejected, match="width"):
        policy.weights_from(obs[:-1])


def test_no_torch_on_the_live_path() -> None:
    """Importing everything the daemon uses loads neither torch, SB3 nor Gymnasium."""
    code = (
        "import sys, training.inference, training.config, training.observation,"
        " training.normalizer, training.simulation, training.artefact;"
        "found = {'torch', 'stable_baselines3', 'gymnasium'} & set(sys.modules);"
        "sys.exit(f'loaded: {found}' if found else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
