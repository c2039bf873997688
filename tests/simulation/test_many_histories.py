"""Environment equity = account equity over a thousand random histories of 500 steps, unrounded."""

from __future__ import annotations

import numpy as np
import pytest

from broker.costs import CostModel, TradingRules
from tests.broker.worlds import make_targets, make_world, run_account, run_kernel

pytestmark = [pytest.mark.simulation, pytest.mark.timeout(1_800)]

ACCOUNTS, BARS, SYMBOLS, DEPOSIT = 50, 501, 4, 100_000.0
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.5, impact_coefficient=1.0)
RULES = {
    "long": TradingRules(),
    "band": TradingRules(no_trade_band=0.02),
    "levered": TradingRules(leverage_limit=3.0, allow_short=True),
    "capped": TradingRules(leverage_limit=2.0, participation_cap=0.01),
    "spot": TradingRules(),
}


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_every_history_agrees(seed: int, kind: str) -> None:
    """Bar by bar to 1e-9 of the equity, or to a quantum of money for each of its entries."""
    rules, is_spot = RULES[kind], kind == "spot"
    world = make_world(100 + seed, bars=BARS, symbols=SYMBOLS).unrounded()
    if is_spot:
        world = world.without_funding()
    targets = make_targets(seed, bars=BARS, accounts=ACCOUNTS, symbols=SYMBOLS)
    targets *= 0.999 * rules.leverage_limit
    if rules.allow_short:
        targets *= np.random.default_rng(seed).choice([-1.0, 1.0], size=targets.shape)
    curves, _ = run_kernel(
        world, targets, deposit=DEPOSIT, costs=COSTS, rules=rules, is_spot=is_spot
    )
    worst = 0.0
    for index in range(ACCOUNTS):
        curve, _, entries = run_account(
            world, targets[:, index], deposit=DEPOSIT, costs=COSTS, rules=rules, is_spot=is_spot
        )
        apart = np.abs(curve - curves[:, index])
        assert np.all(apart <= np.maximum(1e-9 * np.abs(curve), 1e-8 * len(entries)))
        worst = max(worst, float(np.max(apart / np.maximum(np.abs(curve), 1.0))))
    print(f"{kind}, seed {seed}: {ACCOUNTS} histories, most apart {worst:.1e} of the equity")
