"""What a frozen rule earns on a fresh tape, noise of the returns taken out.

A rule and the best rule known are carried over the same bars by the same accounts. What each earns
in a bar is what its holdings were expected to return given the planted state, less the costs that
the kernel charged, less the risk penalty where the market has one; realised returns would drown
the figures. This module must never import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.learner_markets import LearnerMarket, Tape, instruments
from benchmarks.learner_optima import (
    autoregression_chain,
    filtered,
    interior_optimum,
    leader_with_hysteresis,
    regime_chain,
    switching_optimum,
    tuned_margin,
)
from broker.costs import TradingRules
from market.panel import Float64Array, Int64Array
from training.observation import PortfolioState
from training.simulation import Portfolios, prepare_market

Rule = Callable[[Int64Array, PortfolioState], Float64Array]
"""``rule(bar (B,), state) -> (B, N)`` target weights at the close of each account's bar."""

ACCOUNTS = 100
SETTLE_BARS = 64
JUDGED_BARS = 1_000
LEAD_BARS = 200
EVALUATION_BARS = LEAD_BARS + ACCOUNTS * (SETTLE_BARS + JUDGED_BARS) + 1
TUNING_BARS = 200_000
TUNING_SEED = 2_000_003


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Earned:
    """What a rule earned per bar, over all accounts and bars after each account has settled.

    Attributes:
        objective: expected return less costs less risk penalty, a fraction.
        realised: net return as it came, a fraction.
        turnover: traded notional over equity; exposure: Σ of the weights held.
        weights: (N,) mean weights held.
    """

    objective: float
    realised: float
    turnover: float
    exposure: float
    weights: Float64Array


def judge(market: LearnerMarket, tape: Tape, rule: Rule) -> Earned:
    """Carry 100 accounts, each over its own piece of the tape, from cash.

    The first 64 bars of each are not counted: what is asked is the rate of an account that goes on.
    """
    accounts = _open(market, tape)
    objective, realised, turnover, held = [], [], [], []
    for step in range(SETTLE_BARS + JUDGED_BARS):
        bar, equity = accounts.bar, accounts.equity
        record = accounts.step(rule(bar, accounts.state()))
        if step < SETTLE_BARS:
            continue
        # What is held over the bar, at the open, which is the decision's price.
        weights = accounts.book.quantity * accounts.market.arrays.price[bar] / equity[:, None]
        gross = np.einsum("bn,bn->b", weights, tape.expected[bar])
        spread = np.einsum("bn,nm,bm->b", weights, market.covariance, weights) + gross**2
        objective.append(gross - record.cost - 0.5 * market.risk_aversion * spread)
        realised.append(record.net_return)
        turnover.append(record.turnover)
        held.append(weights)
    mean_weights: Float64Array = np.mean(held, axis=(0, 1))
    return Earned(
        objective=float(np.mean(objective)),
        realised=float(np.mean(realised)),
        turnover=float(np.mean(turnover)),
        exposure=float(mean_weights.sum()),
        weights=mean_weights,
    )


def best_rule(market: LearnerMarket, tape: Tape) -> Rule:
    """Return the optimum of the market (or the best rule known) as a rule on ``tape``."""
    if market.name == "momentum8":
        return _leader(market, tape)
    if market.risk_aversion:
        return constant(interior_optimum(market)[0])
    if market.slope:
        chain = regime_chain() if market.name == "regime" else autoregression_chain()
        states, transition = chain
        best = switching_optimum(states, transition, market.slope * states, market.cost)
        return hysteresis(tape, enter=best.enter, leave=best.leave)
    return constant(np.full(market.assets, float(market.mean_return[0] > 0)))


def constant(weights: Float64Array) -> Rule:
    """The same target (N,) at every close."""
    return lambda _bar, state: np.broadcast_to(weights, state.weights.shape)


def hysteresis(tape: Tape, *, enter: float, leave: float) -> Rule:
    """All above ``enter``, nothing below ``leave``, unchanged between, of one asset."""

    def rule(bar: Int64Array, state: PortfolioState) -> Float64Array:
        x = tape.hidden[bar]
        return np.where(x > enter, 1.0, np.where(x < leave, 0.0, np.round(state.weights)))

    return rule


def sign_rule(tape: Tape) -> Rule:
    """All while the state is positive, else nothing: hysteresis without a width."""
    return hysteresis(tape, enter=0.0, leave=0.0)


def equal_weight(market: LearnerMarket) -> Rule:
    """The same share of everything, fully invested."""
    return constant(np.full(market.assets, 1.0 / market.assets))


def _leader(market: LearnerMarket, tape: Tape) -> Rule:
    """Winner takes all with hysteresis on the filtered signal; the margin from another tape."""
    other = market.tape(TUNING_SEED, TUNING_BARS)
    margin, _ = tuned_margin(other.signals.values[:, :, 0], other.expected, market.cost)
    held = leader_with_hysteresis(filtered(tape.signals.values[:, :, 0]), margin)
    target = np.eye(market.assets)[held]
    return lambda bar, _state: target[bar]


def _open(market: LearnerMarket, tape: Tape) -> Portfolios:
    accounts = Portfolios(
        prepare_market(tape.panel, instruments(tape.panel)),
        count=ACCOUNTS,
        costs=market.costs,
        rules=TradingRules(),
        deposit_quote=10_000.0,
        sigma_window_bars=168,
    )
    start = LEAD_BARS + np.arange(ACCOUNTS) * (SETTLE_BARS + JUDGED_BARS)
    accounts.open_accounts(np.arange(ACCOUNTS), start, np.zeros((ACCOUNTS, market.assets)))
    return accounts
