"""What a decision takes a trade to cost: known at its own close, and quoted as in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from broker.book import Liquidity
from broker.costs import CostModel
from broker.execution import KnownLiquidity
from daemon.decide import decide
from daemon.decision import DecisionInputs, Source
from daemon.targets import Describe
from market.bar import HOUR_MS
from market.panel import Float64Array, Panel
from tests.daemon.test_decide import FLAT, RULES, T0, fresh_state, panel

DEEP = Liquidity(np.array([1e9, 1e9]), np.array([0.05, 0.05]))
THIN = Liquidity(np.array([1e3, 1e3]), np.array([0.05, 0.05]))
IMPACT = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=1.0)


class Everything:
    """All of equity in the first symbol; keeps the unit cost that it was told."""

    source = Source.WEIGHTS_FILE
    model_id = None
    unit_cost = 0.0

    def target_weights(self, _panel: Panel, describe: Describe) -> Float64Array | None:
        self.unit_cost = float(describe().unit_cost)
        return np.array([1.0, 0.0])


def inputs(known: KnownLiquidity, target: Everything) -> DecisionInputs:
    time = T0 + HOUR_MS
    return DecisionInputs(
        decision_time=time,
        decided_at=time,
        panel=panel([*FLAT], end=time),
        liquidity=known,
        settlements=(),
        target=target,
        reason="test",
    )


def test_an_order_is_scaled_by_the_liquidity_of_its_own_close() -> None:
    """A market that has just thinned makes the order dearer: less of it fits below the limit."""
    rules = replace(RULES, costs=IMPACT, quoted_costs=IMPACT)
    scales = [
        decide(fresh_state(), inputs(KnownLiquidity(before, now), Everything()), rules)[
            1
        ].record.buy_scale
        for before, now in ((DEEP, THIN), (THIN, DEEP))
    ]
    assert scales[0] is not None
    assert scales[1] is not None
    assert scales[0] < scales[1] - 0.01


def test_a_policy_is_told_the_quoted_costs_not_those_charged() -> None:
    """Fee and half spread of the quoted model, no impact in it."""
    quoted = CostModel(fee_rate=0.0004, half_spread_bps=3.0, impact_coefficient=0.0)
    target = Everything()
    rules = replace(RULES, costs=IMPACT, quoted_costs=quoted)
    decide(fresh_state(), inputs(KnownLiquidity(DEEP, DEEP), target), rules)
    assert target.unit_cost == pytest.approx(0.0007)
