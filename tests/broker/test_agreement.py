"""Environment equity = account equity: the float64 batch and the Decimal account on one path."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from broker import kernel
from broker.costs import CostModel, TradingRules
from broker.ledger import WALLET, EntryKind
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


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_shells_agree_on_shorts_liquidations_and_caps(seed: int) -> None:
    """Long and short at 25 times the equity, 5 % of the volume: 1e-9, or a quantum an entry."""
    world = make_world(seed, bars=150, missing=0.02)
    rules = TradingRules(leverage_limit=25.0, allow_short=True, participation_cap=0.05)
    targets = make_targets(seed, bars=150, accounts=2, symbols=4) * 24.9
    targets *= np.random.default_rng(seed).choice([-1.0, 1.0], size=targets.shape)
    curves, book = run_kernel(world, targets, deposit=50_000.0, costs=COSTS, rules=rules)
    liquidations = 0
    for index in range(2):
        curve, _, entries = run_account(
            world, targets[:, index], deposit=50_000.0, costs=COSTS, rules=rules
        )
        np.testing.assert_allclose(curve, curves[:, index], rtol=1e-9, atol=1e-5)
        liquidations += sum(one.kind is EntryKind.LIQUIDATION for one in entries)
    assert liquidations
    assert np.all(np.isfinite(book.wallet))


@pytest.mark.parametrize("seed", [1, 2])
def test_shells_agree_on_spot(seed: int) -> None:
    """Without leverage, funding or credit: the same equity, and cash that is never owed."""
    world = make_world(seed, bars=300).without_funding()
    targets = make_targets(seed, bars=300, accounts=2, symbols=4)
    targets /= np.maximum(targets.sum(axis=-1, keepdims=True), 1e-9)  # all of it invested
    rules = TradingRules()
    curves, book = run_kernel(
        world, targets, deposit=9_000.0, costs=COSTS, rules=rules, is_spot=True
    )
    for index in range(2):
        curve, state, entries = run_account(
            world, targets[:, index], deposit=9_000.0, costs=COSTS, rules=rules, is_spot=True
        )
        np.testing.assert_allclose(curve, curves[:, index], rtol=1e-9)
        held = sum((leg.amount for one in entries for leg in one.postings
                    if leg.ledger_account == WALLET), start=Decimal(0))  # fmt: skip
        assert held == state.wallet >= 0
    assert np.all(kernel.cash(book) >= -1e-6)


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
