"""The decision: one pure function from state and inputs to the next state and what must be stored.

Live trading, replay and tests call the same ``decide``. It never awaits, reads a clock or touches
a database; the loop performs the effects it returns. A bar flows through it from top to bottom:
settle the interval → mark to market → choose target weights → plan orders → fill or wait → record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from operator import attrgetter

import numpy as np

from broker.account import AccountState, Plan, account_equity, account_weights, plan_orders
from broker.book_filling import Venue, execute_on_books
from broker.execution import has_price
from broker.filling import Execution
from broker.ledger import WALLET, EntryKind
from broker.money import to_float
from broker.rebalance import validate_weights
from broker.records import DecisionRecord, DecisionStatus
from daemon.decision import (
    DecisionEvent,
    DecisionInputs,
    DecisionRules,
    DecisionState,
    Effects,
    FillMode,
    Source,
)
from daemon.settle import Settled, by_symbol, partial_fills, settle_interval
from market.panel import Float64Array, Panel
from training.observation import PortfolioState, portfolio_state, rolling_sigma
from training.simulation import unit_cost


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    status: DecisionStatus
    source: Source
    model_id: str | None
    reason: str
    weights: Mapping[str, float] | None
    events: tuple[tuple[DecisionEvent, str], ...] = ()


def decide(
    state: DecisionState, inputs: DecisionInputs, rules: DecisionRules
) -> tuple[DecisionState, Effects]:
    """Settle the interval that has ended and decide the next one.

    Args:
        state: as the previous decision left it.
        inputs: everything known at ``inputs.decision_time``, and nothing later.
        rules: costs, limits and instruments.

    Returns:
        The next state, and the effects to commit under ``(account, decision_time)``.
    """
    settled = settle_interval(state.account, inputs, rules, known=state.marks, booked=state.booked)
    newest = last_known(inputs.panel.mark, inputs.panel.symbols)
    mark = {**state.marks, **{symbol: one for symbol, one in newest.items() if has_price(one)}}
    equity = account_equity(settled.account, mark)
    marked = _mark_to_market(state, settled, equity, mark, rules)
    choice = choose_target(marked, inputs, rules, mark)
    plan = _plan(marked.account, choice, inputs, rules, mark)
    placed = _place(marked.account, plan, inputs, rules)
    return _conclude(
        state, replace(marked, account=placed.state), settled, choice, plan, placed, inputs
    )


def choose_target(
    state: DecisionState,
    inputs: DecisionInputs,
    rules: DecisionRules,
    mark: Mapping[str, float],
) -> _Choice:
    """Name the target weights, or hold, and say why.

    Protections come before the target: a halted account is flattened and stays flat.
    """
    symbols = inputs.panel.symbols
    if inputs.target is None:
        return _Choice(
            status="missed",
            source=Source.NONE,
            model_id=None,
            reason=inputs.reason,
            weights=None,
        )
    if state.halted:
        return _Choice(
            status="halted",
            source=Source.CASH,
            model_id=None,
            reason=_why_halted(state, rules),
            weights=dict.fromkeys(symbols, 0.0),
            events=_limit_events(state, rules),
        )
    masked = _masked_events(inputs.panel)
    target = inputs.target
    try:
        describe = partial(describe_portfolio, state, inputs, rules, mark)
        weights = target.target_weights(inputs.panel, describe)
        wanted = None if weights is None else _named(weights, symbols)
        if wanted is not None:
            validate_weights(wanted, rules.instruments, rules.trading)
    except ValueError as error:
        return _Choice(
            status="held",
            source=target.source,
            model_id=target.model_id,
            reason=f"held: {error}",
            weights=None,
            events=(*masked, (DecisionEvent.TARGET_UNUSABLE, str(error))),
        )
    return _Choice(
        status="held" if weights is None else "decided",
        source=target.source,
        model_id=target.model_id,
        reason=inputs.reason,
        weights=wanted,
        events=masked,
    )


def _is_beyond(state: DecisionState, rules: DecisionRules) -> bool:
    return state.drawdown >= rules.drawdown_limit


def _limit_events(
    state: DecisionState, rules: DecisionRules
) -> tuple[tuple[DecisionEvent, str], ...]:
    if not _is_beyond(state, rules):
        return ()  # a liquidation halted it, and has an event of its own
    return ((DecisionEvent.DRAWDOWN_LIMIT, f"{state.drawdown:.1%} below the peak"),)


def _why_halted(state: DecisionState, rules: DecisionRules) -> str:
    if _is_beyond(state, rules):
        return f"halted by the drawdown limit of {rules.drawdown_limit:.0%}"
    return "halted by a liquidation"


def describe_portfolio(
    state: DecisionState,
    inputs: DecisionInputs,
    rules: DecisionRules,
    mark: Mapping[str, float],
) -> PortfolioState:
    """Describe the account to the policy: drifted weights and recent experience."""
    weights = account_weights(state.account, mark)
    return portfolio_state(
        weights=[weights.get(symbol, 0.0) for symbol in inputs.panel.symbols],
        drawdown=state.drawdown,
        sigma=rolling_sigma(np.array(state.net_returns)),
        bars_since_trade=state.bars_since_trade,
        unit_cost=float(
            unit_cost(np.array(state.equity), inputs.liquidity.now, rules.quoted_costs)
        ),
    )


def last_known(values: Float64Array, symbols: tuple[str, ...]) -> dict[str, float]:
    """Return each symbol's newest value that is not NaN; a symbol without any is left out.

    Args:
        values: (bar, asset), oldest first.
        symbols: names of the asset axis.
    """
    if len(values) and not np.isnan(values[-1]).any():
        return dict(zip(symbols, values[-1].tolist(), strict=True))
    newest: dict[str, float] = {}
    for column, symbol in enumerate(symbols):
        known = values[~np.isnan(values[:, column]), column]
        if len(known):
            newest[symbol] = float(known[-1])
    return newest


def _mark_to_market(
    state: DecisionState,
    settled: Settled,
    equity: float,
    mark: Mapping[str, float],
    rules: DecisionRules,
) -> DecisionState:
    net_return = equity / state.equity - 1.0 if state.equity > 0 else 0.0
    marked = replace(
        state,
        account=settled.account,
        equity=equity,
        peak_equity=max(state.peak_equity, equity),
        marks=mark,
        net_returns=(*state.net_returns, net_return)[-rules.sigma_window_bars :],
        bars_since_trade=0 if settled.fills else state.bars_since_trade + 1,
    )
    halted = state.halted or _is_beyond(marked, rules) or settled.is_liquidated
    return replace(marked, halted=halted)


def _named(weights: Float64Array, symbols: tuple[str, ...]) -> dict[str, float]:
    return dict(zip(symbols, map(float, weights), strict=True))


def _masked_events(panel: Panel) -> tuple[tuple[DecisionEvent, str], ...]:
    seen = panel.observed[-1]
    return tuple(
        (DecisionEvent.SYMBOL_MASKED, symbol)
        for symbol, observed in zip(panel.symbols, seen, strict=True)
        if not observed
    )


def _plan(
    account: AccountState,
    choice: _Choice,
    inputs: DecisionInputs,
    rules: DecisionRules,
    mark: Mapping[str, float],
) -> Plan:
    if choice.weights is None:
        return Plan(orders=(), rejections=(), buy_scale=1.0)
    seen = inputs.panel.observed[-1]
    trading = rules.trading
    if choice.status == "halted":
        trading = replace(trading, no_trade_band=0.0)  # the band must not keep a rest
    return plan_orders(
        account,
        target_weights=choice.weights,
        price=last_known(inputs.panel.close, inputs.panel.symbols),
        mark=mark,
        instruments=rules.instruments,
        costs=rules.costs,
        rules=trading,
        decision_time=inputs.decision_time,
        tradable={symbol for symbol, yes in zip(inputs.panel.symbols, seen, strict=True) if yes},
        liquidity=by_symbol(inputs.panel.symbols, inputs.liquidity.now),
    )


def _place(
    account: AccountState, plan: Plan, inputs: DecisionInputs, rules: DecisionRules
) -> Execution:
    """Fill the orders in the recorded books, or leave them for the next bar's open."""
    if rules.fills is FillMode.MODELLED:
        placed = replace(account, pending=plan.orders)
        return Execution(state=placed, fills=(), entries=(), rejections=())
    return execute_on_books(
        account,
        plan.orders,
        Venue(
            books=inputs.books,
            instruments=rules.instruments,
            filled_at=max(inputs.decided_at, inputs.decision_time + 1),
        ),
        costs=rules.costs,
        rules=rules.trading,
    )


def _conclude(
    before: DecisionState,
    marked: DecisionState,
    settled: Settled,
    choice: _Choice,
    plan: Plan,
    placed: Execution,
    inputs: DecisionInputs,
) -> tuple[DecisionState, Effects]:
    fills = settled.fills
    paid = [one.paid_to(WALLET) for one in settled.entries if one.kind is EntryKind.FUNDING]
    traded = sum(abs(to_float(fill.quantity * fill.reference_price)) for fill in fills)
    record = DecisionRecord(
        account_id=marked.account.account_id,
        decision_time=inputs.decision_time,
        decided_at=inputs.decided_at,
        status=choice.status,
        source=choice.source.value,
        model_id=choice.model_id,
        reason=choice.reason,
        target_weights=choice.weights or {},
        weights=account_weights(settled.account, marked.marks),
        equity=marked.equity,
        wallet=to_float(settled.account.wallet),
        peak_equity=marked.peak_equity,
        net_return=marked.net_returns[-1] if marked.net_returns else 0.0,
        turnover=traded / before.equity if before.equity > 0 else 0.0,
        fees=sum(to_float(fill.fee) for fill in fills),
        slippage=sum(to_float(fill.slippage) for fill in fills),
        funding=to_float(sum(paid, start=Decimal(0))),
        marks=marked.marks,
        halted=marked.halted,
        buy_scale=plan.buy_scale if choice.weights is not None else None,
        missing=tuple(
            s
            for s, yes in zip(inputs.panel.symbols, inputs.panel.observed[-1], strict=True)
            if not yes
        ),
    )
    booked = tuple(sorted(placed.fills, key=attrgetter("fill_id")))  # as a restart finds them
    following = replace(marked, account=placed.state, booked=booked)
    return following, Effects(
        record=record,
        entries=(*settled.entries, *placed.entries),
        orders=plan.orders,
        fills=(*settled.execution.fills, *placed.fills),
        rejections=(*settled.execution.rejections, *plan.rejections, *placed.rejections),
        events=(*settled.events, *choice.events, *partial_fills(placed)),
    )
