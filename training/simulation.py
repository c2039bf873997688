"""A batch of paper accounts carried over a market's bars by the broker's kernel.

The environment, the walk-forward evaluation and the baselines all run accounts here; the kernel
is the only arithmetic of money. State is wallet and quantities; weights are derived and drift.
This module must never import torch, stable-baselines3 or gymnasium.

Timeline of a step: decide at the close of bar t, fill at the open of bar t+1, end at the close of
bar t+1. An index called ``bar`` names the bar whose close is the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from broker import kernel
from broker.book import BoolArray, Interval, MarginSchedule, Step
from broker.carry import step
from broker.costs import Costs, TradingRules
from broker.execution import MarketArrays, market_arrays
from broker.margin import ladder_at, no_margin
from broker.rebalance import lot_rules
from broker.tiers import MarginTable, shipped_tiers
from market.instrument import Instrument
from market.panel import Float64Array, Int64Array, Panel
from training.inference import Policy, PreparedMarket
from training.observation import MIN_SIGMA_RETURNS, PortfolioState

Decide = Callable[[int, PortfolioState], Float64Array]
"""``decide(bar, state) -> (B, N)`` risky target weights at the close of ``bar``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Market:
    """A panel as accounts meet it: T bars of N assets.

    Attributes:
        arrays: the broker's view of every bar.
        close_time: (T,) UTC ms, the moment of the decision at each bar.
        lots: (N,) each, the venue's order rules.
        schedule: maintenance margin by date; ladder: (T,) which of its ladders counts in a bar.
        is_spot: whether accounts hold coins for cash, without leverage.
    """

    arrays: MarketArrays
    close_time: Int64Array
    lots: kernel.LotRules
    schedule: MarginSchedule
    ladder: Int64Array
    is_spot: bool

    def __len__(self) -> int:
        return len(self.close_time)

    @property
    def asset_count(self) -> int:
        """N."""
        return int(self.arrays.price.shape[1])


def prepare_market(
    panel: Panel, instruments: Sequence[Instrument], *, margin: MarginTable | None = None
) -> Market:
    """Prepare every bar of ``panel``; ``instruments`` in the order of its symbols.

    Without ``margin`` the shipped tiers count. A market whose instruments have no funding is spot.

    Raises:
        ValueError: the instruments are not those of the panel.
    """
    listed = tuple(instrument.symbol for instrument in instruments)
    if listed != panel.symbols:
        raise ValueError(f"instruments {listed} are not the panel's {panel.symbols}")
    is_spot = all(one.funding_interval_minutes is None for one in instruments)
    table = shipped_tiers() if margin is None else margin
    schedule = no_margin(len(listed)) if is_spot else table.schedule(listed)
    return Market(
        arrays=market_arrays(panel),
        close_time=panel.close_time,
        lots=lot_rules(instruments),
        schedule=schedule,
        ladder=ladder_at(schedule, panel.close_time),
        is_spot=is_spot,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepRecord:
    """What one bar did to B accounts; fractions are of the equity at the decision.

    Attributes:
        decision_time: (B,) UTC ms, close of bar t; fill_time: (B,) open of t+1 plus latency;
            end_time: (B,) close of t+1.
        net_return: (B,) change of equity; gross_return: (B,) the same before trading costs
            and after funding; cost: (B,) fee and slippage; funding: (B,) positive when received.
        turnover: (B,) Σ|traded notional|, both sides, cash not counted.
        buy_scale: (B,) factor that the leverage limit put on additions.
        liquidated: (B,) whether the margin was gone inside the bar.
        target: (B, N) as asked; weights: (B, N) drifted, at the end.
        equity: (B,) quote currency, at the end.
    """

    decision_time: Int64Array
    fill_time: Int64Array
    end_time: Int64Array
    net_return: Float64Array
    gross_return: Float64Array
    cost: Float64Array
    funding: Float64Array
    turnover: Float64Array
    buy_scale: Float64Array
    liquidated: BoolArray
    target: Float64Array
    weights: Float64Array
    equity: Float64Array


class Portfolios:
    """B accounts, each at its own bar of one market."""

    def __init__(
        self,
        market: Market,
        *,
        count: int,
        costs: Costs,
        rules: TradingRules,
        deposit_quote: float,
        sigma_window_bars: int,
        quoted_costs: Costs | None = None,
    ) -> None:
        """Open nothing yet; call ``open_accounts``.

        Args:
            market: the whole history.
            count: B.
            costs: what is charged; may be changed between steps (``costs`` attribute).
            rules: band, leverage limit, latency.
            deposit_quote: equity of a fresh account.
            sigma_window_bars: window of the rolling σ.
            quoted_costs: what the observation's ``unit_cost`` is computed from, by default
                ``costs``; cost stress charges more than the policy was told.
        """
        self.market = market
        self.costs = costs
        self.quoted_costs = costs if quoted_costs is None else quoted_costs
        self.rules = rules
        self.deposit_quote = deposit_quote
        assets = market.asset_count
        self.bar: Int64Array = np.zeros(count, dtype=np.int64)
        self.book = kernel.Book(
            np.zeros(count), np.zeros((count, assets)), np.zeros((count, assets))
        )
        self.equity = np.full(count, deposit_quote)
        self.peak = self.equity.copy()
        self.idle_bars = np.zeros(count)
        self._returns = np.zeros((count, sigma_window_bars))
        self._return_count = np.zeros(count, dtype=np.int64)

    @property
    def count(self) -> int:
        """B."""
        return len(self.bar)

    def open_accounts(self, which: Int64Array, bar: Int64Array, weights: Float64Array) -> None:
        """Start accounts ``which`` (k,) afresh at ``bar`` (k,) holding ``weights`` (k, N).

        The positions are taken at the decision's price without cost; the deposit is the equity.
        """
        arrays = self.market.arrays
        price, mark = arrays.price[bar], arrays.mark[bar]
        held = weights * self.deposit_quote / price * arrays.tradable[bar]
        quantity = kernel.round_to_lot(held, self.market.lots.lot_step)
        self.bar[which] = bar
        self.book.wallet[which] = self.deposit_quote
        self.book.quantity[which] = quantity
        self.book.entry_price[which] = np.where(quantity == 0, 0.0, mark)
        self.equity[which] = self.deposit_quote
        self.peak[which] = self.deposit_quote
        self.idle_bars[which] = 0.0
        self._returns[which] = 0.0
        self._return_count[which] = 0

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything that the accounts are, by name, copied; ``load_arrays`` is the inverse."""
        facts = {"bar": self.bar, "equity": self.equity, "peak": self.peak}
        facts |= {"idle_bars": self.idle_bars, "returns": self._returns}
        facts |= {"return_count": self._return_count, **self.book._asdict()}
        return {name: array.copy() for name, array in facts.items()}

    def load_arrays(self, facts: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take over what ``arrays`` gave."""
        self.bar, self.equity, self.peak = facts["bar"], facts["equity"], facts["peak"]
        self.idle_bars, self._returns = facts["idle_bars"], facts["returns"]
        self._return_count = facts["return_count"]
        self.book = kernel.Book(*(facts[name] for name in kernel.Book._fields))

    def weights(self) -> Float64Array:
        """(B, N) drifted risky weights at the mark."""
        return kernel.weights(self.book.quantity, self.market.arrays.mark[self.bar], self.equity)

    def sigma(self) -> Float64Array:
        """(B,) rolling σ of net returns per bar, 0 until 5 returns (``rolling_sigma``)."""
        window = self._returns.shape[1]
        known = np.minimum(self._return_count, window)
        count = np.maximum(known, 1)
        mean = self._returns.sum(axis=1) / count
        square = np.einsum("ij,ij->i", self._returns, self._returns) / count
        variance = np.maximum(square - mean**2, 0.0)
        return np.where(known >= MIN_SIGMA_RETURNS, np.sqrt(variance), 0.0)

    def state(self) -> PortfolioState:
        """Return the accounts as the policy sees them."""
        return PortfolioState(
            weights=self.weights(),
            drawdown=self.drawdown(),
            sigma=self.sigma(),
            bars_since_trade=self.idle_bars,
            unit_cost=unit_cost(
                self.equity, self.market.arrays.liquidity_at(self.bar), self.quoted_costs
            ),
        )

    def drawdown(self) -> Float64Array:
        """(B,) fall of the equity from its peak, a fraction."""
        fall: Float64Array = 1.0 - self.equity / self.peak
        return fall

    def step(self, target: Float64Array) -> StepRecord:
        """Trade every account toward ``target`` (B, N) and carry it to the next close.

        Raises:
            ValueError: the shape is wrong, a weight is not finite, or the market has ended.
        """
        arrays, now, after = self.market.arrays, self.bar, self.bar + 1
        if target.shape != self.book.quantity.shape or not np.isfinite(target).all():
            raise ValueError(f"targets must be finite, {self.book.quantity.shape}: {target.shape}")
        if after.max() >= len(self.market):
            raise ValueError("no bar follows the last one: nothing can be filled")
        liquidity = arrays.liquidity_at(now)
        plan = kernel.plan_rebalance(
            target, self.book, arrays.price[now], arrays.mark[now],
            tradable=arrays.tradable[now], liquidity=liquidity, lots=self.market.lots,
            costs=self.costs, rules=self.rules,
        )  # fmt: skip
        interval = arrays.interval(after, self.market.ladder)
        done = step(
            self.book, plan.traded, interval, liquidity=liquidity, costs=self.costs,
            limits=self._limits(interval), schedule=self.market.schedule,
        )  # fmt: skip
        return self._finish(target, plan, done)

    def _limits(self, interval: Interval) -> kernel.FillLimits:
        return kernel.FillLimits(
            capacity=kernel.capacity(interval.volume, self.rules.participation_cap),
            lot_step=self.market.lots.lot_step,
            cash_only=self.market.is_spot,
        )

    def _finish(self, target: Float64Array, plan: kernel.PlannedTrade, done: Step) -> StepRecord:
        market = self.market
        before = np.where(plan.equity > 0, plan.equity, np.inf)  # nothing is earned on nothing
        net_return = np.where(plan.equity > 0, done.equity / before - 1.0, 0.0)
        cost = done.cost / before
        decision_time = market.close_time[self.bar]
        self._remember(net_return)
        self.book, self.equity = done.book, done.equity
        self.bar = self.bar + 1
        self.peak = np.maximum(self.peak, self.equity)
        self.idle_bars = np.where(done.traded_notional > 0, 0.0, self.idle_bars + 1.0)
        return StepRecord(
            decision_time=decision_time,
            fill_time=decision_time + self.rules.latency_ms,
            end_time=market.close_time[self.bar],
            net_return=net_return,
            gross_return=net_return + cost,
            cost=cost,
            funding=done.funding / before,
            turnover=done.traded_notional / before,
            buy_scale=plan.buy_scale,
            liquidated=done.liquidated,
            target=target,
            weights=self.weights(),
            equity=self.equity,
        )

    def _remember(self, net_return: Float64Array) -> None:
        slot = self._return_count % self._returns.shape[1]
        self._returns[np.arange(self.count), slot] = net_return
        self._return_count += 1


def unit_cost(equity: Float64Array, liquidity: kernel.Liquidity, costs: Costs) -> Float64Array:
    """(...) expected cost of one unit of traded notional, a fraction.

    Fee, half spread, and the impact of an order of ``equity/N``, averaged over the N assets.

    Args:
        equity: (...) quote currency.
        liquidity: (..., N) as known at the decision.
        costs: the account's cost model.
    """
    assets = liquidity.adv_quote.shape[-1]
    notional = np.maximum(equity, 0.0)[..., None] / assets + np.zeros(assets)
    adverse = kernel.adverse_fraction(notional, liquidity, costs)
    total: Float64Array = costs.fee_rate + adverse.mean(axis=-1)
    return total


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """The record of B accounts over T steps; the arrays of ``StepRecord`` stacked, (T, B, ...)."""

    decision_time: Int64Array
    net_return: Float64Array
    gross_return: Float64Array
    cost: Float64Array
    funding: Float64Array
    turnover: Float64Array
    target: Float64Array
    weights: Float64Array
    equity: Float64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRules:
    """How a track is run.

    Attributes:
        start_bar, stop_bar: the first decision is at the close of ``start_bar``, the last
            interval ends at the close of ``stop_bar − 1``.
        delay_bars: bars by which every target reaches the market late (cost stress uses 1);
            until the first arrives the account keeps its cash.
    """

    start_bar: int
    stop_bar: int
    costs: Costs
    rules: TradingRules
    quoted_costs: Costs | None = None
    deposit_quote: float = 10_000.0
    sigma_window_bars: int = 168
    delay_bars: int = 0
    accounts: int = 1


def run_track(market: Market, decide: Decide, how: TrackRules) -> Track:
    """Run fresh all-cash accounts from one bar to another under ``decide``."""
    accounts = Portfolios(
        market,
        count=how.accounts,
        costs=how.costs,
        rules=how.rules,
        deposit_quote=how.deposit_quote,
        sigma_window_bars=how.sigma_window_bars,
        quoted_costs=how.quoted_costs,
    )
    every = np.arange(how.accounts)
    nothing = np.zeros((how.accounts, market.asset_count))
    accounts.open_accounts(every, np.full(how.accounts, how.start_bar), nothing)
    waiting = [nothing] * how.delay_bars
    records = []
    for bar in range(how.start_bar, how.stop_bar - 1):
        waiting.append(decide(bar, accounts.state()))
        records.append(accounts.step(waiting.pop(0)))
    return _stack(records)


def policy_rule(policy: Policy, prepared: PreparedMarket) -> Decide:
    """Return the ``decide`` of a policy over the panel that ``prepared`` was made from."""
    offset = policy.schema.lookback_bars - 1

    def decide(bar: int, state: PortfolioState) -> Float64Array:
        row = np.full(len(state.weights), bar - offset)
        return policy.weights_at(prepared, row, state)

    return decide


def _stack(records: Sequence[StepRecord]) -> Track:
    if not records:
        raise ValueError("a track needs at least two bars")
    return Track(
        decision_time=np.stack([record.decision_time for record in records]),
        net_return=np.stack([record.net_return for record in records]),
        gross_return=np.stack([record.gross_return for record in records]),
        cost=np.stack([record.cost for record in records]),
        funding=np.stack([record.funding for record in records]),
        turnover=np.stack([record.turnover for record in records]),
        target=np.stack([record.target for record in records]),
        weights=np.stack([record.weights for record in records]),
        equity=np.stack([record.equity for record in records]),
    )
