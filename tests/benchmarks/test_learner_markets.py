"""The optima of the learner's benchmark against brute force, theory and the accounts themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.learner_judge import EVALUATION_BARS, best_rule, judge, sign_rule
from benchmarks.learner_markets import BP, MARKETS, PERSISTENCE
from benchmarks.learner_optima import (
    QuadraticMarket,
    autoregression_chain,
    filtered,
    interior_optimum,
    leader_gain,
    leader_with_hysteresis,
    quadratic_optimum,
    regime_chain,
    sign_rule_gain,
    stationary,
    switching_optimum,
    tracker_gain,
    tuned_margin,
)
from benchmarks.learner_targets import checks
from market.panel import Float64Array


def best_of_all_rules(transition: Float64Array, mean: Float64Array, cost: float) -> float:
    """Highest net return per bar of every rule (state, holding) → holding, one by one."""
    size = len(mean)
    gains = []
    for rule in itertools.product((0, 1), repeat=2 * size):
        wanted = np.array(rule).reshape(size, 2)
        joint = np.zeros((2 * size, 2 * size))
        reward = np.zeros(2 * size)
        for state, held in itertools.product(range(size), (0, 1)):
            target = wanted[state, held]
            joint[2 * state + held, target::2] = transition[state]
            reward[2 * state + held] = target * mean[state] - cost * abs(target - held)
        # Mixed a little with a restart from nothing, so that every rule has one stationary law.
        restart = np.zeros(2 * size)
        restart[::2] = stationary(transition)
        law = stationary(0.999999 * joint + 0.000001 * restart)
        gains.append(law @ reward)
    return float(max(gains))


@pytest.mark.parametrize("cost", [0.0, 5 * BP, 20 * BP, 100 * BP])
def test_switching_is_as_good_as_the_best_of_all_rules(cost: float) -> None:
    """On a small chain no rule whatever earns more than the dynamic programme says."""
    states = np.array([-1.0, 0.2, 1.5])
    transition = np.array([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.05, 0.25, 0.7]])
    mean = 30 * BP * states
    found = switching_optimum(states, transition, mean, cost)
    assert found.gain == pytest.approx(best_of_all_rules(transition, mean, cost), abs=1e-8)


def test_the_autoregressive_market_has_the_known_optimum() -> None:
    """9.80 bp per step with hysteresis at about ±0.5; the sign rule gets 71 % of it."""
    market = MARKETS["ar1"]
    states, transition = autoregression_chain()
    best = switching_optimum(states, transition, market.slope * states, market.cost)
    assert best.gain / BP == pytest.approx(9.80, abs=0.01)
    assert best.enter == pytest.approx(0.47, abs=0.02)
    assert best.leave == pytest.approx(-best.enter, abs=1e-6)
    assert sign_rule_gain(market) / best.gain == pytest.approx(0.71, abs=0.01)


def test_the_two_state_market_has_the_known_optimum() -> None:
    """Half the time invested at 30 bp, 1 % of bars each way at 10 bp: 15 − 0.2."""
    market = MARKETS["regime"]
    states, transition = regime_chain()
    best = switching_optimum(states, transition, market.slope * states, market.cost)
    assert best.gain / BP == pytest.approx(14.8, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "weights", "gain"),
    [("interior20", (0.221, 0.143), 3.29), ("interior14", (0.316, 0.205), 4.70)],
)
def test_the_interior_optimum_is_the_best_point_of_a_grid(
    name: str, weights: tuple[float, float], gain: float
) -> None:
    """The closed form has the known figures, and a grid of step 0.005 finds nothing better."""
    market = MARKETS[name]
    best, value = interior_optimum(market)
    assert best == pytest.approx(weights, abs=6e-4)
    assert value / BP == pytest.approx(gain, abs=0.01)
    grid = np.stack(np.meshgrid(*[np.arange(0, 1, 0.005)] * 2), axis=-1)
    risk = np.einsum("ijn,nm,ijm->ij", grid, market.covariance, grid)
    objective = grid @ np.array(market.mean_return) - 0.5 * market.risk_aversion * risk
    assert value >= objective.max() > 0.9999 * value


def discounted(market: QuadraticMarket, keep: float, aim: float) -> float:
    """Discounted reward of ``w = keep·w₋ + aim·x`` from w = 0, by recursion of the moments."""
    square, product, total = 0.0, 0.0, 0.0
    for step in range(4_000):
        after = keep**2 * square + 2 * keep * aim * product + aim**2
        shown = keep * product + aim
        traded = after - 2 * (keep * square + aim * product) + square
        reward = market.slope * shown - 0.5 * market.risk * after - 0.5 * market.friction * traded
        total += market.discount**step * reward
        square, product = after, PERSISTENCE * shown
    return total


def test_the_quadratic_tracker_is_the_best_linear_rule() -> None:
    """``0.644·w₋ + 0.490·x`` and 19.0 bp; any other pair of coefficients earns less."""
    market = QuadraticMarket()
    best = quadratic_optimum(market)
    assert (best.keep, best.aim) == pytest.approx((0.644, 0.490), abs=6e-4)
    assert best.gain / BP == pytest.approx(19.0, abs=0.06)
    value = discounted(market, best.keep, best.aim)
    for keep, aim in itertools.product((-0.02, 0.0, 0.02), repeat=2):
        if (keep, aim) != (0.0, 0.0):
            assert discounted(market, best.keep + keep, best.aim + aim) < value


def test_the_trackers_reward_is_what_a_simulation_earns() -> None:
    """The closed form of the mean reward, within four standard errors of a long run."""
    market, rng = QuadraticMarket(), np.random.default_rng(1)
    x, w = rng.standard_normal(2_000), np.zeros(2_000)
    rewards = []
    for _ in range(600):
        after = 0.6 * w + 0.5 * x
        reward = market.slope * x * after - 0.5 * market.risk * after**2
        rewards.append(reward - 0.5 * market.friction * (after - w) ** 2)
        w = after
        x = PERSISTENCE * x + np.sqrt(1 - PERSISTENCE**2) * rng.standard_normal(2_000)
    per_account = np.mean(rewards[100:], axis=0)
    error = per_account.std() / np.sqrt(len(per_account))
    assert tracker_gain(market, 0.6, 0.5) == pytest.approx(per_account.mean(), abs=4 * error)


def test_the_filter_leaves_the_least_error() -> None:
    """Its mean squared error is the Riccati equation's 0.238; halving or doubling its gain errs."""
    tape = MARKETS["momentum8"].tape(5, 50_000)
    shown = tape.signals.values[:, :, 0]
    error = np.mean((filtered(shown) - tape.hidden) ** 2)
    assert error == pytest.approx(0.238, abs=0.004)
    for gain in (0.12, 0.48):
        mean = np.zeros(8)
        total = 0.0
        for row, truth in zip(shown, tape.hidden, strict=True):
            mean = PERSISTENCE * mean + gain * (row - PERSISTENCE * mean)
            total += float(np.mean((mean - truth) ** 2))
        assert total / len(shown) > error + 0.01


def test_the_leader_with_hysteresis_earns_what_is_known() -> None:
    """About 22.3 bp per step on a tape that the margin was not tuned on; without margin less."""
    market = MARKETS["momentum8"]
    tuning, fresh = market.tape(1, 60_000), market.tape(2, 60_000)
    margin, _ = tuned_margin(tuning.signals.values[:, :, 0], tuning.expected, market.cost)
    score = filtered(fresh.signals.values[:, :, 0])
    gain = leader_gain(leader_with_hysteresis(score, margin), fresh.expected, market.cost)
    assert gain / BP == pytest.approx(22.3, abs=0.4)
    nervous = leader_gain(leader_with_hysteresis(score, 0.0), fresh.expected, market.cost)
    assert nervous < gain - 1 * BP


def test_accounts_under_the_best_rule_earn_the_optimum() -> None:
    """The kernel's accounts and the dynamic programme agree; the sign rule earns less."""
    market = MARKETS["ar1"]
    tape = market.tape(3, EVALUATION_BARS)
    best, sign = (judge(market, tape, rule) for rule in (best_rule(market, tape), sign_rule(tape)))
    assert best.objective / BP == pytest.approx(9.80, abs=0.7)  # 2 % is one standard error
    assert sign.objective / best.objective == pytest.approx(0.71, abs=0.04)


def test_a_tape_holds_what_was_planted() -> None:
    """The next return falls on the state's expected one with slope 1, and bars join up."""
    tape = MARKETS["ar1"].tape(4, 100_000)
    close = tape.panel.close[:, 0]
    moves = close[1:] / close[:-1] - 1.0
    assert np.polyfit(tape.expected[:-1, 0], moves, 1)[0] == pytest.approx(1.0, abs=0.05)
    assert (tape.panel.open[1:] == tape.panel.close[:-1]).all()
    assert (tape.signals.values[:, 0, 0] == tape.hidden[:, 0]).all()


def test_a_row_below_its_target_is_a_check_that_does_not_hold() -> None:
    """Each figure that was asked for becomes one check, and holds or not by itself."""
    rows = {
        "regime": {"median_share": 0.99, "worst_share": 0.95},
        "noise": {"median_loss_bps": 0.04, "worst_loss_bps": 0.2, "largest_turnover": 0.003},
    }
    assert {check.name: check.holds for check in checks(rows)} == {
        "regime_median_share": True,
        "regime_worst_share": False,
        "noise_median_loss_bps": True,
        "noise_worst_loss_bps": False,
        "noise_largest_turnover": True,
    }
