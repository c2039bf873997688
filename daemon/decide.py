"""The decision: one pure function from state and inputs to the next state and what must be stored.

Live trading, replay and tests call the same ``decide``. It never awaits, reads a clock or touches
a database; the loop performs the effects it returns. A bar flows through it from top to bottom:
settle the interval → mark to market → choose target weights → plan orders → record.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from broker.account import (
    AccountState,
    Execution,
    Plan,
    SettlementRefused,
    account_equity,
    account_weights,
    execute_pending,
    plan_orders,
    post_settlement,
)
from broker.costs import CostModel, TradingRules
from broker.execution import REQUIRED_BARS, liquidity
from broker.kernel import Liquidity
from broker.ledger import Entry, EntryKind
from broker.money import to_float
from broker.orders import Fill, Order, Rejection
from broker.records import DecisionRecord, DecisionStatus
from market.bar import Settlement
from market.instrument import Instrument
from market.panel import Float64Array, Panel
from training.observation import PortfolioState, portfolio_state, rolling_sigma
from training.simulation import unit_cost


class Source(enum.StrEnum):
    """What named the weights of a decision."""

    POLICY = "policy"
    CASH = "cash"
    EQUAL_WEIGHT = "equal_weight"
    WEIGHTS_FILE = "weights_file"
    NONE = "none"


class Target(Protocol):
    """Whatever names target weights: a policy, a fallback, a file."""

    @property
    def source(self) -> Source:
        """What kind of target this is, for the record."""
        ...

    @property
    def model_id(self) -> str | None:
        """The model behind it, if any."""
        ...

    def target_weights(self, panel: Panel, portfolio: PortfolioState) -> Float64Array | None:
        """Return (asset,) risky weights in the panel's order, or ``None`` to hold.

        Raises:
            ValueError: the observation or the weights are unusable; the decision holds.
        """
        ...


class DecisionEvent(enum.StrEnum):
    """What a decision saw that somebody may want to know."""

    FUNDING_POSTED = "funding_posted"
    FUNDING_POSTED_LATE = "funding_posted_late"
    FUNDING_DEFERRED = "funding_deferred"
    SYMBOL_MASKED = "symbol_masked"
    DRAWDOWN_LIMIT = "drawdown_limit"
    TARGET_UNUSABLE = "target_unusable"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRules:
    """What stays the same from decision to decision.

    Attributes:
        instruments: by symbol, in the panel's order.
        sigma_window_bars: returns kept for the rolling volatility.
        drawdown_limit: fraction below the peak at which the account is flattened and halted.
    """

    instruments: Mapping[str, Instrument]
    costs: CostModel
    trading: TradingRules
    quote: str
    sigma_window_bars: int
    drawdown_limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionState:
    """What one decision hands to the next; rebuilt from the ledger at every start.

    Attributes:
        equity: at the last decision, quote currency.
        peak_equity: highest equity at any decision so far.
        net_returns: the newest ``sigma_window_bars`` returns after all costs, oldest first.
        bars_since_trade: intervals since the last fill; 0 in the interval of a fill.
        halted: whether a protection has stopped trading until a person resumes it.
    """

    account: AccountState
    equity: float
    peak_equity: float
    net_returns: tuple[float, ...]
    bars_since_trade: int
    halted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionInputs:
    """What is known at the moment of deciding.

    Attributes:
        decision_time: close of the newest bar in ``panel``.
        decided_at: the clock's time at deciding.
        panel: the newest bars, the last one closing at ``decision_time``; rows of NaN where a
            symbol had none.
        settlements: funding with a nominal time before ``decision_time`` that may not have been
            posted yet; doing one twice is doing it once.
        target: what names the weights; ``None`` records the interval as missed, without a trade.
        reason: why this target (or why none), one clause for a person.
    """

    decision_time: int
    decided_at: int
    panel: Panel
    settlements: tuple[Settlement, ...]
    target: Target | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What the loop must store, in one transaction, and then tell."""

    record: DecisionRecord
    entries: tuple[Entry, ...]
    orders: tuple[Order, ...]
    fills: tuple[Fill, ...]
    rejections: tuple[Rejection, ...]
    events: tuple[tuple[DecisionEvent, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settled:
    account: AccountState
    execution: Execution
    entries: tuple[Entry, ...]
    events: tuple[tuple[DecisionEvent, str], ...]


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
    settled = settle_interval(state.account, inputs, rules)
    mark = last_known(inputs.panel.mark, inputs.panel.symbols)
    equity = account_equity(settled.account, mark)
    marked = _mark_to_market(state, settled, equity, rules)
    choice = choose_target(marked, inputs, rules, mark)
    plan = _plan(marked.account, choice, inputs, rules, mark)
    return _conclude(state, marked, settled, choice, plan, inputs, mark)


def settle_interval(
    account: AccountState, inputs: DecisionInputs, rules: DecisionRules
) -> _Settled:
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
    return _Settled(
        account=account,
        execution=execution,
        entries=(*early, *execution.entries, *late),
        events=(*early_events, *late_events),
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
            reason=f"halted by the drawdown limit of {rules.drawdown_limit:.0%}",
            weights=dict.fromkeys(symbols, 0.0),
            events=((DecisionEvent.DRAWDOWN_LIMIT, f"{drawdown(state):.1%} below the peak"),),
        )
    masked = _masked_events(inputs.panel)
    target = inputs.target
    try:
        weights = target.target_weights(
            inputs.panel, describe_portfolio(state, inputs, rules, mark)
        )
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
        weights=None if weights is None else dict(zip(symbols, map(float, weights), strict=True)),
        events=masked,
    )


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
        drawdown=drawdown(state),
        sigma=rolling_sigma(np.array(state.net_returns)),
        bars_since_trade=state.bars_since_trade,
        unit_cost=float(
            unit_cost(np.array(state.equity), _liquidity_at(inputs.panel, -1), rules.costs)
        ),
    )


def drawdown(state: DecisionState) -> float:
    """Fraction by which equity lies below its peak, 0 at the peak."""
    return max(0.0, 1.0 - state.equity / state.peak_equity) if state.peak_equity > 0 else 1.0


def last_known(values: Float64Array, symbols: tuple[str, ...]) -> dict[str, float]:
    """Return each symbol's newest value that is not NaN; a symbol without any is left out.

    Args:
        values: (bar, asset), oldest first.
        symbols: names of the asset axis.
    """
    newest: dict[str, float] = {}
    for column, symbol in enumerate(symbols):
        known = values[~np.isnan(values[:, column]), column]
        if len(known):
            newest[symbol] = float(known[-1])
    return newest


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
        liquidity=_depth(panel, -2 if len(panel) > 1 else -1),
        costs=rules.costs,
        rules=rules.trading,
    )


def _liquidity_at(panel: Panel, row: int) -> Liquidity:
    """Return (asset,) volume and volatility as known at the close of bar ``row`` (negative)."""
    stop = len(panel) + row + 1
    known = liquidity(panel.window(max(0, stop - REQUIRED_BARS), stop))
    return Liquidity(known.adv_quote[-1], known.sigma_daily[-1])


def _depth(panel: Panel, row: int) -> dict[str, tuple[float, float]]:
    known = _liquidity_at(panel, row)
    return {
        symbol: (float(known.adv_quote[i]), float(known.sigma_daily[i]))
        for i, symbol in enumerate(panel.symbols)
    }


def _mark_to_market(
    state: DecisionState, settled: _Settled, equity: float, rules: DecisionRules
) -> DecisionState:
    net_return = equity / state.equity - 1.0 if state.equity > 0 else 0.0
    marked = replace(
        state,
        account=settled.account,
        equity=equity,
        peak_equity=max(state.peak_equity, equity),
        net_returns=(*state.net_returns, net_return)[-rules.sigma_window_bars :],
        bars_since_trade=0 if settled.execution.fills else state.bars_since_trade + 1,
    )
    return replace(marked, halted=state.halted or drawdown(marked) >= rules.drawdown_limit)


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
        liquidity=_depth(inputs.panel, -1),
    )


def _conclude(
    before: DecisionState,
    marked: DecisionState,
    settled: _Settled,
    choice: _Choice,
    plan: Plan,
    inputs: DecisionInputs,
    mark: Mapping[str, float],
) -> tuple[DecisionState, Effects]:
    fills = settled.execution.fills
    funding = sum(
        (
            posting.amount
            for entry in settled.entries
            if entry.kind is EntryKind.FUNDING
            for posting in entry.postings
            if posting.ledger_account == "assets:wallet"
        ),
        start=type(marked.account.wallet)(0),
    )
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
        weights=account_weights(marked.account, mark),
        equity=marked.equity,
        wallet=to_float(marked.account.wallet),
        peak_equity=marked.peak_equity,
        net_return=marked.net_returns[-1] if marked.net_returns else 0.0,
        turnover=traded / before.equity if before.equity > 0 else 0.0,
        fees=sum(to_float(fill.fee) for fill in fills),
        slippage=sum(to_float(fill.slippage) for fill in fills),
        funding=to_float(funding),
        missing=tuple(
            s
            for s, yes in zip(inputs.panel.symbols, inputs.panel.observed[-1], strict=True)
            if not yes
        ),
    )
    following = replace(marked, account=replace(marked.account, pending=plan.orders))
    return following, Effects(
        record=record,
        entries=settled.entries,
        orders=plan.orders,
        fills=fills,
        rejections=(*settled.execution.rejections, *plan.rejections),
        events=(*settled.events, *choice.events),
    )
