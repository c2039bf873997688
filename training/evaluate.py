"""Backtests: frozen policies and baselines carried once over bars they never saw.

All accounting is ``training.simulation``, the same code that the environment steps; nothing here
computes a cost, a fill or an equity. A window's account starts all in cash at the close before its
first test bar, so each window pays for building its own positions. This module must never import
torch, and it never chooses between models.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from broker import kernel
from broker.costs import Costs, TradingRules
from market.features import Features
from market.panel import Float64Array, Int64Array, Panel
from training.baselines import Plan
from training.folds import Window
from training.gates import Stress
from training.inference import Policy, PreparedMarket
from training.observation import PortfolioState
from training.simulation import Market, Portfolios, StepRecord

BASE = "base"
REPORT_EVERY_BARS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backtest:
    """What an account earned over T consecutive bars.

    Attributes:
        open_time: (T,) UTC ms of the bars over which the returns were earned; each decision was
            made at that moment, the close of the bar before.
        net_return, gross_return: (T,) after and before trading costs, both after funding.
        turnover: (T,) traded notional over equity; cost, funding: (T,) fractions of equity,
            funding positive when received.
        weights: (T, N) drifted risky weights at the end of each bar.
        equity: (T,) quote currency at the end of each bar.
    """

    open_time: Int64Array
    net_return: Float64Array
    gross_return: Float64Array
    turnover: Float64Array
    cost: Float64Array
    funding: Float64Array
    weights: Float64Array
    equity: Float64Array

    def __len__(self) -> int:
        return len(self.open_time)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountTerms:
    """What every account of an evaluation is opened under."""

    costs: Costs
    rules: TradingRules
    deposit_quote: float = 10_000.0
    sigma_window_bars: int = 168


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One way the market or venue treats the frozen policy.

    Attributes:
        name: ``base`` or a ``Stress``.
        costs: what is charged; the policy is told the unstressed costs.
        delay_bars: bars by which every target reaches the market late.
    """

    name: str
    costs: Costs
    delay_bars: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PolicyWindow:
    """A policy and the test window that it never saw.

    Attributes:
        prepared: the market from bar ``first_row_bar`` on, row 0 deciding at its close.
    """

    window: Window
    policy: Policy
    prepared: PreparedMarket
    first_row_bar: int


def scenarios(costs: Costs) -> tuple[Scenario, ...]:
    """The base case and every stress of it."""
    doubled_funding = replace(costs, funding_multiplier=costs.funding_multiplier * 2.0)
    return (
        Scenario(name=BASE, costs=costs),
        Scenario(name=Stress.COST_X2, costs=costs.scaled(2.0)),
        Scenario(name=Stress.COST_X3, costs=costs.scaled(3.0)),
        Scenario(name=Stress.LATENCY, costs=costs, delay_bars=1),
        Scenario(name=Stress.FUNDING_X2, costs=doubled_funding),
    )


def prepare_window(
    policy: Policy, window: Window, *, panel: Panel, features: Features
) -> PolicyWindow:
    """Cut what ``policy`` needs to decide from the close before the test to its last close."""
    first = window.test_start - policy.schema.lookback_bars
    if first < 0:
        raise ValueError(f"window {window.number} starts before the policy's lookback is filled")
    cut = Features(
        values=features.values[first : window.test_stop],
        known=features.known[first : window.test_stop],
        names=features.names,
    )
    return PolicyWindow(
        window=window,
        policy=policy,
        prepared=policy.prepare(panel.window(first, window.test_stop), cut),
        first_row_bar=window.test_start - 1,
    )


def run_policies(
    market: Market,
    judged: Sequence[PolicyWindow],
    cases: Sequence[Scenario],
    terms: AccountTerms,
    *,
    on_offset: Callable[[int, int], None] | None = None,
) -> Mapping[str, tuple[Backtest, ...]]:
    """Run every policy over its own window under every scenario, in one pass over the offsets.

    Accounts of all scenarios are shown to a policy as one batch, and accounts of all windows are
    stepped as one batch, because the overhead of a call exceeds its arithmetic.

    Args:
        market: arrays of the whole history.
        judged: windows of equal length.
        cases: as from ``scenarios``.
        terms: costs are those the policy is told; each scenario charges its own.
        on_offset: told now and then how many of the windows' bars are done.

    Returns:
        By scenario name, one backtest per window.
    """
    windows = [item.window for item in judged]

    steps = _length(windows)

    def decide(offset: int, states: PortfolioState) -> Float64Array:
        if on_offset is not None and offset % REPORT_EVERY_BARS == 0:
            on_offset(offset, steps)
        targets = [
            item.policy.weights_at(
                item.prepared, np.full(len(cases), offset), _account_slice(states, number)
            )
            for number, item in enumerate(judged)
        ]
        return np.stack(targets, axis=1)

    groups = [_open(market, windows, case.costs, terms) for case in cases]
    delays = [case.delay_bars for case in cases]
    tracks = _run(groups, decide, steps=steps, delays=delays)
    return {
        case.name: tuple(_backtest(track, number) for number in range(len(windows)))
        for case, track in zip(cases, tracks, strict=True)
    }


def run_baselines(
    market: Market,
    plans: Mapping[str, Plan],
    windows: Sequence[Window],
    terms: AccountTerms,
) -> Mapping[str, tuple[Backtest, ...]]:
    """Run every baseline over every window (of equal length), fresh from cash in each.

    Returns:
        By name, one backtest per window.
    """
    accounts = _open(market, [w for _ in plans for w in windows], terms.costs, terms)
    target = np.concatenate([[plan.target for _ in windows] for plan in plans.values()])
    trades = np.concatenate([[plan.trades for _ in windows] for plan in plans.values()])
    row = np.arange(accounts.count)

    def decide(offset: int, _states: PortfolioState) -> Float64Array:
        # Held at the decision's price: at the mark, standing still would ask for a trade.
        held = kernel.weights(
            accounts.book.quantity, market.arrays.price[accounts.bar], accounts.equity
        )
        moves = trades[row, accounts.bar] | (offset == 0)
        wanted: Float64Array = np.where(moves[:, None], target[row, accounts.bar], held)
        return wanted[None]

    (track,) = _run([accounts], decide, steps=_length(windows), delays=[0])
    numbered = itertools.product(plans, range(len(windows)))
    flat = [(name, _backtest(track, account)) for account, (name, _) in enumerate(numbered)]
    return {name: tuple(test for owner, test in flat if owner == name) for name in plans}


def join(backtests: Sequence[Backtest]) -> Backtest:
    """Join windows into one record; equity is compounded as if one account had gone on.

    Raises:
        ValueError: there is nothing to join, or the bars overlap or go back in time.
    """
    if not backtests:
        raise ValueError("no backtests to join")
    arrays = {
        item.name: np.concatenate([getattr(test, item.name) for test in backtests])
        for item in fields(Backtest)
    }
    if not (np.diff(arrays["open_time"]) > 0).all():
        raise ValueError("backtests to join overlap or are out of order")
    first = backtests[0]
    deposit = first.equity[0] / (1.0 + first.net_return[0])
    arrays["equity"] = deposit * np.cumprod(1.0 + arrays["net_return"])
    return Backtest(**arrays)


_Decide = Callable[[int, PortfolioState], Float64Array]
"""``decide(offset, states of (S, B) accounts) -> (S, B, N)`` targets."""


def _run(
    groups: Sequence[Portfolios], decide: _Decide, *, steps: int, delays: Sequence[int]
) -> list[list[StepRecord]]:
    """Step S groups of B accounts side by side; group s's targets arrive ``delays[s]`` late."""
    nothing = np.zeros_like(groups[0].book.quantity)
    waiting = [[nothing] * delay for delay in delays]
    tracks: list[list[StepRecord]] = [[] for _ in groups]
    for offset in range(steps):
        targets = decide(offset, _stacked([group.state() for group in groups]))
        for group, target, queue, track in zip(groups, targets, waiting, tracks, strict=True):
            queue.append(target)
            track.append(group.step(queue.pop(0)))
    return tracks


def _open(
    market: Market, windows: Sequence[Window], costs: Costs, terms: AccountTerms
) -> Portfolios:
    accounts = Portfolios(
        market,
        count=len(windows),
        costs=costs,
        quoted_costs=terms.costs,
        rules=terms.rules,
        deposit_quote=terms.deposit_quote,
        sigma_window_bars=terms.sigma_window_bars,
    )
    start = np.array([window.test_start - 1 for window in windows], dtype=np.int64)
    if start.min() < 0:
        raise ValueError("a test window needs a bar before it to decide on")
    accounts.open_accounts(np.arange(len(windows)), start, np.zeros_like(accounts.book.quantity))
    return accounts


def _length(windows: Sequence[Window]) -> int:
    lengths = {window.test_stop - window.test_start for window in windows}
    if len(lengths) != 1:
        raise ValueError(f"windows must have one length, got {sorted(lengths)}")
    return lengths.pop()


def _stacked(states: Sequence[PortfolioState]) -> PortfolioState:
    return PortfolioState(
        **{
            item.name: np.stack([getattr(state, item.name) for state in states])
            for item in fields(PortfolioState)
        }
    )


def _account_slice(states: PortfolioState, account: int) -> PortfolioState:
    """The (S,) states of account ``account`` of every group."""
    return PortfolioState(
        **{item.name: getattr(states, item.name)[:, account] for item in fields(PortfolioState)}
    )


def _backtest(track: Sequence[StepRecord], account: int) -> Backtest:
    def column(name: str) -> Float64Array:
        return np.stack([getattr(record, name)[account] for record in track])

    return Backtest(
        open_time=np.array([record.decision_time[account] for record in track], dtype=np.int64),
        net_return=column("net_return"),
        gross_return=column("gross_return"),
        turnover=column("turnover"),
        cost=column("cost"),
        funding=column("funding"),
        weights=column("weights"),
        equity=column("equity"),
    )
