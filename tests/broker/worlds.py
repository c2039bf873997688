"""A seeded market and the two shells that trade it: the Decimal account and the kernel's batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property

import numpy as np

from broker import kernel
from broker.account import (
    AccountState,
    account_equity,
    open_account,
    place_orders,
    plan_orders,
    post_settlement,
)
from broker.carry import step
from broker.costs import CostModel, TradingRules
from broker.execution import MarketArrays, market_arrays
from broker.kernel import Float64Array
from broker.ledger import Entry
from broker.liquidation import MarkRange, check_margin
from broker.margin import ladder_at, no_margin
from broker.money import to_money
from broker.rebalance import lot_rules
from broker.tiers import MarginTable, shipped_tiers
from market.bar import HOUR_MS, MarkSource, Settlement
from market.instrument import Instrument, Market
from market.panel import Panel
from tests.broker.factories import fill, instrument


@dataclass(frozen=True, kw_only=True)
class World:
    """Hourly bars of N symbols with gaps, and settlements at the open and inside bars."""

    panel: Panel
    settlements: tuple[Settlement, ...]
    instruments: dict[str, Instrument]
    margin: MarginTable = field(default_factory=shipped_tiers)

    @cached_property
    def arrays(self) -> MarketArrays:
        """The kernel's view."""
        return market_arrays(self.panel)

    def without_funding(self) -> World:
        """The same prices on a market that settles nothing, as spot."""
        nothing = np.zeros(self.panel.open.shape)
        panel = replace(self.panel, funding_at_open=nothing, funding_in_bar=nothing)
        return replace(self, panel=panel, settlements=())

    def unrounded(self) -> World:
        """The same market without order rules: lots worth about 1e-8, no least notional.

        A lot is where float noise becomes money: of three million lots, a relative noise of 1e-11
        moves a wanted quantity across the edge of a lot once in 30,000 orders.
        """
        fine = {
            symbol: replace(
                self.instruments[symbol],
                lot_step=(step := Decimal(10) ** -round(8 + math.log10(price))),
                min_quantity=step,
                min_notional=Decimal(0),
            )
            for symbol, price in zip(self.panel.symbols, self.panel.close[0], strict=True)
        }
        return replace(self, instruments=fine)

    @property
    def lots(self) -> kernel.LotRules:
        """Venue rules in the order of the symbols."""
        return lot_rules([self.instruments[symbol] for symbol in self.panel.symbols])


def make_world(seed: int, *, bars: int, symbols: int = 4, missing: float = 0.01) -> World:
    """A random market: prices from 1e-4 to 1e4, funding every 8 h and, once a day, at half past."""
    rng = np.random.default_rng(seed)
    names = tuple(f"S{index}/USDT:USDT" for index in range(symbols))
    shape = (bars, symbols)
    level = 10.0 ** np.linspace(-4, 4, symbols)
    close = level * np.exp(np.cumsum(rng.normal(0, 0.01, shape), axis=0))
    open_ = close * np.exp(rng.normal(0, 0.002, shape))
    mark = close * np.exp(rng.normal(0, 0.0003, shape))
    quote_volume = rng.lognormal(14, 1, shape)
    gone = rng.random(shape) < missing
    gone[0] = False
    nan = np.full(shape, np.nan)
    times = (np.arange(bars) + 1000 * 24) * HOUR_MS
    at_open, in_bar = np.zeros(shape), np.zeros(shape)
    settlements = []
    for row in range(bars):
        for column, name in enumerate(names):
            offset = {0: 0, 8: 0, 16: 0, 4: HOUR_MS // 2}.get(row % 24)
            if offset is None:
                continue
            rate, price = float(rng.normal(1e-4, 1e-4)), float(mark[row, column])
            (in_bar if offset else at_open)[row, column] = rate * price
            settlements.append(
                Settlement(
                    symbol=name, funding_time=int(times[row]) + offset + int(rng.integers(48)),
                    rate=rate, mark_price=price, mark_source=MarkSource.VENUE,
                )
            )  # fmt: skip
    masked = {
        name: np.where(gone, np.nan, values)
        for name, values in {"open": open_, "close": close, "mark_close": mark}.items()
    }
    panel = Panel(
        symbols=names, interval_ms=HOUR_MS, open_time=times,
        open=masked["open"], high=np.fmax(masked["open"], masked["close"]),
        low=np.fmin(masked["open"], masked["close"]), close=masked["close"],
        volume=np.where(gone, np.nan, quote_volume / close),
        quote_volume=np.where(gone, np.nan, quote_volume), trades=nan, taker_buy_volume=nan,
        mark_open=nan, mark_high=nan, mark_low=nan, mark_close=masked["mark_close"],
        funding_rate=nan, funding_at_open=at_open, funding_in_bar=in_bar,
    )  # fmt: skip
    steps = ("1", "0.1", "0.01", "0.001")
    instruments = {
        name: instrument(name, lot_step=steps[index % len(steps)])
        for index, name in enumerate(names)
    }
    return World(panel=panel, settlements=tuple(settlements), instruments=instruments)


def make_targets(seed: int, *, bars: int, accounts: int, symbols: int) -> Float64Array:
    """(bars, accounts, symbols) weights: mostly random, some corners, all cash, or unchanged."""
    rng = np.random.default_rng(seed)
    targets = rng.dirichlet(np.full(symbols + 1, 0.7), (bars, accounts))[..., :symbols]
    kind = rng.random((bars, accounts))
    targets[kind < 0.05] = 0.0
    corner = np.eye(symbols)[rng.integers(symbols, size=(bars, accounts))]
    targets = np.where(((kind > 0.05) & (kind < 0.1))[..., None], corner, targets)
    for row in range(1, bars):
        targets[row] = np.where((kind[row] > 0.7)[:, None], targets[row - 1], targets[row])
    return targets


def run_kernel(
    world: World,
    targets: Float64Array,
    *,
    deposit: float,
    costs: CostModel,
    rules: TradingRules,
    is_spot: bool = False,
) -> tuple[Float64Array, kernel.Book]:
    """Equity (bars, accounts) of a batch that decides at every close but the last."""
    arrays, lots = world.arrays, world.lots
    bars, accounts, symbols = targets.shape
    schedule = no_margin(symbols) if is_spot else world.margin.schedule(world.panel.symbols)
    ladder = ladder_at(schedule, world.panel.close_time)
    book = kernel.Book(
        np.full(accounts, deposit), np.zeros((accounts, symbols)), np.zeros((accounts, symbols))
    )
    curve = np.full((bars, accounts), deposit)
    for bar in range(bars - 1):
        plan = kernel.plan_rebalance(
            targets[bar], book, arrays.price[bar], arrays.mark[bar],
            tradable=arrays.tradable[bar], liquidity=arrays.liquidity_at(bar), lots=lots,
            costs=costs, rules=rules,
        )  # fmt: skip
        interval = arrays.interval(bar + 1, ladder)
        done = step(
            book, plan.traded, interval, liquidity=arrays.liquidity_at(bar), costs=costs,
            limits=kernel.FillLimits(
                kernel.capacity(interval.volume, rules.participation_cap), lots.lot_step, is_spot
            ),
            schedule=schedule,
        )  # fmt: skip
        book = done.book
        curve[bar + 1] = done.equity
    return curve, book


def run_account(
    world: World,
    targets: Float64Array,
    *,
    deposit: float,
    costs: CostModel,
    rules: TradingRules,
    is_spot: bool = False,
) -> tuple[Float64Array, AccountState, list[Entry]]:
    """Equity (bars,), state and entries of one Decimal account under ``targets`` (bars, N)."""
    panel, arrays, names = world.panel, world.arrays, world.panel.symbols
    state, opening = open_account(
        "main", deposit=to_money(deposit), quote="USDT", time=int(panel.open_time[0]),
        market=Market.SPOT if is_spot else Market.PERP,
    )  # fmt: skip
    entries = [opening]
    curve = np.full(len(panel), deposit)
    for bar in range(len(panel) - 1):
        depth = {
            name: (float(adv), float(sigma))
            for name, adv, sigma in zip(names, *arrays.liquidity_at(bar), strict=True)
        }
        known_marks = dict(zip(names, map(float, arrays.mark[bar]), strict=True))
        plan = plan_orders(
            state,
            target_weights=dict(zip(names, map(float, targets[bar]), strict=True)),
            price=dict(zip(names, map(float, panel.close[bar]), strict=True)),
            mark=known_marks, instruments=world.instruments, costs=costs, rules=rules,
            decision_time=int(panel.close_time[bar]), tradable=set(names), liquidity=depth,
        )  # fmt: skip
        state, posted = _next_interval(
            world, place_orders(state, plan.orders), bar + 1, depth, costs, rules
        )
        entries += posted
        after = dict(zip(names, map(float, arrays.mark[bar + 1]), strict=True))
        curve[bar + 1] = account_equity(state, after)
    return curve, state, entries


def _next_interval(
    world: World,
    state: AccountState,
    bar: int,
    depth: dict[str, tuple[float, float]],
    costs: CostModel,
    rules: TradingRules,
) -> tuple[AccountState, list[Entry]]:
    """Settlements at the open, fills, settlements inside the bar."""
    open_time, names = int(world.panel.open_time[bar]), world.panel.symbols
    due = [one for one in world.settlements if open_time <= one.nominal_time < open_time + HOUR_MS]
    entries: list[Entry] = []

    def settle(state: AccountState, chosen: list[Settlement]) -> AccountState:
        for one in chosen:
            state, entry = post_settlement(
                state, one, posted_at=open_time + HOUR_MS, multiplier=costs.funding_multiplier
            )
            entries.extend([entry] if entry else [])
        return state

    state = settle(state, [one for one in due if one.nominal_time == open_time])
    done = fill(
        state,
        dict(zip(names, map(float, world.panel.open[bar]), strict=True)),
        open_time=open_time,
        liquidity=depth,
        volume=dict(zip(names, map(float, world.panel.volume[bar]), strict=True)),
        instruments=world.instruments,
        costs=costs,
        rules=rules,
    )
    entries += done.entries
    state = settle(done.state, [one for one in due if one.nominal_time > open_time])
    arrays = world.arrays
    marks = {
        name: MarkRange(
            opened=float(arrays.mark_open[bar, asset]),
            low=float(arrays.mark_low[bar, asset]),
            high=float(arrays.mark_high[bar, asset]),
        )
        for asset, name in enumerate(names)
    }
    state, closed = check_margin(state, marks, close_time=open_time + HOUR_MS, table=world.margin)
    return state, [*entries, *closed]
