"""Environment equity = account equity: the float64 batch and the Decimal account on one path."""

from __future__ import annotations

import numpy as np
import pytest

from broker.costs import CostModel, TradingRules
from tests.broker.independent import Ledger, equity_curve
from tests.broker.worlds import make_targets, make_world, run_account, run_kernel

COSTS = CostModel(
    fee_rate=0.0005, half_spread_bps=1.5, impact_coefficient=1.0, funding_multiplier=2.0
)


@pytest.mark.parametrize(
    ("seed", "band", "leverage"), [(1, 0.0, 1.0), (2, 0.02, 1.0), (3, 0.0, 2.5)]
)
def test_batch_and_account_agree(seed: int, band: float, leverage: float) -> None:
    """A long random path with gaps gives the same equity to 1e-9 relative, bar by bar."""
    world = make_world(seed, bars=500)
    rules = TradingRules(leverage_limit=leverage, no_trade_band=band)
    targets = make_targets(seed, bars=500, accounts=2, symbols=4) * leverage
    curves, book = run_kernel(world, targets, deposit=100_000.0, costs=COSTS, rules=rules)
    for index in range(2):
        curve, state, _ = run_account(
            world, targets[:, index], deposit=100_000.0, costs=COSTS, rules=rules
        )
        np.testing.assert_allclose(curve, curves[:, index], rtol=1e-9)
        held = [float(state.positions[s].quantity) if s in state.positions else 0.0
                for s in world.panel.symbols]  # fmt: skip
        np.testing.assert_allclose(book.quantity[index], held, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("seed", "band"), [(11, 0.0), (12, 0.03)])
def test_account_equals_independent_recomputation(seed: int, band: float) -> None:
    """The account's equity equals the rules written down a second time, in decimals alone."""
    world = make_world(seed, bars=300, symbols=3)
    rules = TradingRules(no_trade_band=band)
    targets = make_targets(seed, bars=300, accounts=1, symbols=3)[:, 0]
    curve, _, _ = run_account(world, targets, deposit=50_000.0, costs=COSTS, rules=rules)
    panel, arrays = world.panel, world.arrays
    theirs = equity_curve(
        Ledger(50_000, fee_rate=0.0005, half_spread_bps=1.5, impact=1.0, band=band, leverage=1),
        targets=targets,
        close=panel.close,
        open_=panel.open,
        mark=arrays.mark,
        adv=arrays.liquidity.adv_quote,
        sigma=arrays.liquidity.sigma_daily,
        funding_at_open=2 * panel.funding_at_open,
        funding_in_bar=2 * panel.funding_in_bar,
        lots=[(str(i.lot_step), str(i.min_notional)) for i in world.instruments.values()],
    )
    np.testing.assert_allclose(curve, theirs, rtol=1e-9)
