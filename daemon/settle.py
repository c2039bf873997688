"""Settling an interval: funding and fills, in the order in which they happened. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from broker.account import (
    AccountState,
    Execution,
    SettlementRefused,
    execute_pending,
    post_settlement,
)
from broker.execution import REQUIRED_BARS, liquidity
from broker.kernel import Liquidity
from broker.ledger import Entry
from daemon.decision import DecisionEvent, DecisionInputs, DecisionRules
from market.bar import Settlement
from market.panel import Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The account after the interval, and what was posted to get there."""

    account: AccountState
    execution: Execution
    entries: tuple[Entry, ...]
    events: tuple[tuple[DecisionEvent, str], ...]


def settle_interval(account: AccountState, inputs: DecisionInputs, rules: DecisionRules) -> Settled:
    """Post funding and fill pending orders in the order in which they happened.

    Within ``[open_time, close_time)``: funding at the open on what was held, then the fills of
    the last decision, then funding inside the bar on what is held by then.
    """
    open_time = inputs.decision_time - inputs.panel.interval_ms
    before = [one for one in inputs.settlements if one.nominal_time <= open_time]
    inside = [one for one in inputs.settlements if one.nominal_time > open_time]
    account, early, early_events = _post_funding(account, before, inputs, rules)
    execution = _fill(account, open_time, inputs.panel, rules)
    account, late, late_events = _post_funding(execution.state, inside, inputs, rules)
    return Settled(
        account=account,
        execution=execution,
        entries=(*early, *execution.entries, *late),
        events=(*early_events, *late_events),
    )


def liquidity_at(panel: Panel, row: int) -> Liquidity:
    """Return (asset,) volume and volatility as known at the close of bar ``row`` (negative)."""
    stop = len(panel) + row + 1
    known = liquidity(panel.window(max(0, stop - REQUIRED_BARS), stop))
    return Liquidity(known.adv_quote[-1], known.sigma_daily[-1])


def depth(panel: Panel, row: int) -> dict[str, tuple[float, float]]:
    """Return (average daily volume in quote currency, daily σ) by symbol, as ``liquidity_at``."""
    known = liquidity_at(panel, row)
    return {
        symbol: (float(known.adv_quote[i]), float(known.sigma_daily[i]))
        for i, symbol in enumerate(panel.symbols)
    }


def _post_funding(
    account: AccountState,
    settlements: list[Settlement],
    inputs: DecisionInputs,
    rules: DecisionRules,
) -> tuple[AccountState, list[Entry], list[tuple[DecisionEvent, str]]]:
    """Post what is known; a settlement without any mark stays due and is reported."""
    open_time = inputs.decision_time - inputs.panel.interval_ms
    entries: list[Entry] = []
    events: list[tuple[DecisionEvent, str]] = []
    for settlement in sorted(settlements, key=lambda one: (one.nominal_time, one.symbol)):
        try:
            account, entry = post_settlement(
                account,
                settlement,
                posted_at=inputs.decided_at,
                multiplier=rules.costs.funding_multiplier,
            )
        except SettlementRefused as refusal:
            events.append((DecisionEvent.FUNDING_DEFERRED, str(refusal)))
            continue
        if entry is not None:
            late = settlement.nominal_time < open_time
            kind = DecisionEvent.FUNDING_POSTED_LATE if late else DecisionEvent.FUNDING_POSTED
            entries.append(entry)
            events.append((kind, entry.entry_id))
    return account, entries, events


def _fill(account: AccountState, open_time: int, panel: Panel, rules: DecisionRules) -> Execution:
    """Fill the pending orders at this bar's open, with the liquidity known when they were sent."""
    return execute_pending(
        account,
        open_time=open_time,
        open_price=dict(zip(panel.symbols, map(float, panel.open[-1]), strict=True)),
        liquidity=depth(panel, -2 if len(panel) > 1 else -1),
        costs=rules.costs,
        rules=rules.trading,
    )
