"""The account against accounts computed by an independent engine (NautilusTrader)."""

from __future__ import annotations

import json
import os
from bisect import bisect_right
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from broker.account import open_account, place_orders, post_settlement
from broker.costs import CostModel, TradingRules
from broker.orders import Order, order_id
from market.bar import MINUTE_MS, MarkSource, Settlement
from tests.broker.factories import fill, instrument

GOLDEN = Path(os.environ.get("BALLAST_GOLDEN_DIR", Path(__file__).parents[3] / "shared" / "golden"))
SCENARIOS: list[Path | None] = [*sorted(GOLDEN.glob("*.json"))] or [None]
AT_ROW = Decimal("1e-6")
AT_END = Decimal("2e-8")


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem if path else "absent")
def test_wallet_equals_the_independent_engine(path: Path | None) -> None:
    """Every wallet row agrees to 1e-6 USDT, and the last one to 2e-8."""
    if path is None:
        pytest.skip(f"no golden scenarios in {GOLDEN}; set BALLAST_GOLDEN_DIR")
    document = json.loads(path.read_text())
    times, wallets = wallet_history(document["scenario"])
    expected = document["expected"]
    for stamp, total in expected.get("account", []):
        second = int(datetime.fromisoformat(stamp).timestamp())
        ours = wallets[bisect_right(times, second) - 1]
        assert abs(ours - Decimal(total)) <= AT_ROW, stamp
    assert abs(wallets[-1] - Decimal(expected["final_cash"])) <= AT_END


def wallet_history(scenario: dict[str, Any]) -> tuple[list[int], list[Decimal]]:
    """Wallet after each event of a scenario.

    One second of the scenario becomes one minute of ours: settlements are floored to minutes.
    A buy fills at the ask and a sell at the bid, so the half spread and impact are 0 here.
    """
    (item,) = scenario["instruments"]
    costs = CostModel(fee_rate=float(item["taker"]), half_spread_bps=0, impact_coefficient=0)
    rules = TradingRules(latency_ms=0)
    step = format(Decimal(1).scaleb(-int(item["qp"])), "f")
    instruments = {"X": instrument("X", lot_step=step)}
    quotes = {second: (bid, ask) for second, _, bid, ask in scenario["quotes"]}
    events = [(one["ts"], "order", one) for one in scenario["orders"]]
    events += [(one[3], "funding", one) for one in scenario["funding"]]
    state, _ = open_account("g", deposit=Decimal(str(scenario["cash"])), quote="USDT", time=0)
    times, wallets = [0], [state.wallet]
    for second, kind, one in sorted(events, key=lambda event: event[0]):
        now = second * MINUTE_MS
        if kind == "order":
            buys = one["side"] == "BUY"
            quantity = Decimal(one["qty"]) * (1 if buys else -1)
            placed = Order(
                order_id=order_id("g", now, "X"), symbol="X", decision_time=now,
                quantity=quantity, decision_price=Decimal(1),
            )  # fmt: skip
            state = fill(
                place_orders(state, (placed,)), {"X": quotes[second][1 if buys else 0]},
                open_time=now, instruments=instruments, costs=costs, rules=rules,
            ).state  # fmt: skip
        else:
            mark = [price for at, _, price in scenario["marks"] if at <= second][-1]
            due = Settlement(
                symbol="X", funding_time=now, rate=float(one[2]), mark_price=mark,
                mark_source=MarkSource.VENUE,
            )  # fmt: skip
            state, _ = post_settlement(state, due, posted_at=now)
        times.append(second)
        wallets.append(state.wallet)
    return times, wallets
