"""Filling the orders of one account, and closing what its margin no longer carries.

The kernel says what a fill costs; this module turns it into fills, quantised double entries and the
next state. Three ways end in the same postings: the modelled fill at a bar's open, a walk of the
recorded order book (``book_walk``), and a liquidation. Pure: no clock, no storage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial

import numpy as np

from broker import kernel
from broker.costs import CostModel, TradingRules
from broker.execution import UNKNOWN_SIGMA_DAILY, has_price
from broker.ledger import WALLET, Entry, EntryKind, Leg, postings
from broker.money import notional, to_float, to_money, to_price, to_quantity
from broker.orders import Fill, Order, Rejection, RejectReason, fill_id
from broker.state import AccountState, Holding, Position, trim_holdings, trim_posted
from broker.valuation import account_book
from market.instrument import Instrument, Market


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What became of the pending orders: ``state`` has none left."""

    state: AccountState
    fills: tuple[Fill, ...]
    entries: tuple[Entry, ...]
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FillBar:
    """The bar in which orders are filled, by symbol.

    Attributes:
        open_time: UTC milliseconds; a fill's ``event_time`` is this plus the latency.
        open_price: quote currency; a symbol that is missing, NaN or not positive has no bar.
        volume: base units traded in the bar; a symbol that is missing or NaN traded nothing.
        liquidity: (ADV in quote currency, daily σ) as known at the decision.
    """

    open_time: int
    open_price: Mapping[str, float]
    volume: Mapping[str, float]
    liquidity: Mapping[str, tuple[float, float]]


def execute_pending(
    state: AccountState,
    bar: FillBar,
    *,
    instruments: Mapping[str, Instrument],
    costs: CostModel,
    rules: TradingRules,
) -> Execution:
    """Fill every pending order at the modelled price of ``bar``; what it cannot take is given up.

    Settlements with a nominal time ≤ ``open_time`` are posted before, those inside the bar after.

    Args:
        state: the account with its pending orders.
        bar: where they are filled.
        instruments: by symbol, of every pending order.
        costs: of this account.
        rules: of this account.
    """
    filled_at = bar.open_time + rules.latency_ms
    if state.pending and filled_at <= state.last_fill_time:
        raise ValueError(
            f"account {state.account_id}: a fill at {filled_at} is not after its last fill at "
            f"{state.last_fill_time}; fill each bar once, in their order"
        )
    orders = [order for order in state.pending if has_price(bar.open_price.get(order.symbol))]
    refused = [
        rejection(order, RejectReason.NO_BAR_TO_FILL)
        for order in state.pending
        if not has_price(bar.open_price.get(order.symbol))
    ]
    state = replace(state, pending=())
    if not orders:
        return Execution(state=state, fills=(), entries=(), rejections=tuple(refused))
    sheet = _Sheet.of(state, orders, bar, instruments, rules)
    quantities, done = _executed(sheet, orders, instruments, costs)
    fills: list[Fill] = []
    entries: list[Entry] = []
    for index, (order, quantity) in enumerate(zip(orders, quantities, strict=True)):
        if quantity == 0:
            refused.append(rejection(order, sheet.bound(index)))
            continue
        fill = _modelled_fill(order, quantity, filled_at, done, sheet, index)
        price = to_price(float(done.book.entry_price[index]))
        facts = _cost_facts(costs, sheet.liquidity, index)
        state, entry = post_fill(
            state, fill, realised=float(done.realised[index]), entry_price=price, facts=facts
        )
        fills.append(fill)
        entries.append(entry)
    return Execution(
        state=with_holding(state, filled_at) if fills else state,
        fills=tuple(fills),
        entries=tuple(entries),
        rejections=tuple(refused),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sheet:
    """The orders of one bar lined up as arrays (order,)."""

    book: kernel.Book
    ordered: kernel.Float64Array
    reference: kernel.Float64Array
    liquidity: kernel.Liquidity
    limits: kernel.FillLimits

    def bound(self, index: int) -> RejectReason:
        """What order ``index`` was bounded by."""
        capped = abs(self.ordered[index]) > self.limits.capacity[index]
        return RejectReason.PARTICIPATION_CAP if capped else RejectReason.INSUFFICIENT_CASH

    @classmethod
    def of(
        cls,
        state: AccountState,
        orders: list[Order],
        bar: FillBar,
        instruments: Mapping[str, Instrument],
        rules: TradingRules,
    ) -> _Sheet:
        symbols = tuple(order.symbol for order in orders)
        depth = np.array([bar.liquidity.get(s, (0.0, UNKNOWN_SIGMA_DAILY)) for s in symbols])
        volume = np.nan_to_num([bar.volume.get(symbol, 0.0) for symbol in symbols], nan=0.0)
        return cls(
            book=account_book(state, symbols),
            ordered=np.array([to_float(order.quantity) for order in orders]),
            reference=np.array([bar.open_price[symbol] for symbol in symbols]),
            liquidity=kernel.Liquidity(depth[:, 0], depth[:, 1]),
            limits=kernel.FillLimits(
                capacity=kernel.capacity(volume, rules.participation_cap),
                lot_step=np.array([to_float(instruments[s].lot_step) for s in symbols]),
                cash_only=state.market is Market.SPOT,
            ),
        )


def _executed(
    sheet: _Sheet,
    orders: list[Order],
    instruments: Mapping[str, Instrument],
    costs: CostModel,
) -> tuple[list[Decimal], kernel.Executed]:
    """Fill the orders of one bar: what each gets, exactly, and what that costs."""
    run = partial(
        kernel.execute,
        sheet.book,
        open_price=sheet.reference,
        fillable=np.ones(len(orders), dtype=np.bool_),
        liquidity=sheet.liquidity,
        costs=costs,
    )
    done = run(sheet.ordered, limits=sheet.limits)
    if np.array_equal(done.traded, sheet.ordered):
        return [order.quantity for order in orders], done
    noise = kernel.LOT_TOLERANCE * sheet.limits.lot_step
    whole = np.abs(done.traded - sheet.ordered) <= noise
    quantities = [
        order.quantity
        if whole[index]
        else to_quantity(float(done.traded[index]), instruments[order.symbol].lot_step)
        for index, order in enumerate(orders)
    ]
    # Lots in float64 do not add up to the decimal that the ledger states, from which a fill is
    # computed again: figures are those of the decimal.
    unbounded = sheet.limits._replace(
        capacity=np.full_like(sheet.limits.capacity, np.inf), cash_only=False
    )
    return quantities, run(np.array([to_float(one) for one in quantities]), limits=unbounded)


def _modelled_fill(
    order: Order,
    quantity: Decimal,
    filled_at: int,
    done: kernel.Executed,
    sheet: _Sheet,
    index: int,
) -> Fill:
    """Read fill ``index`` of a bar."""
    return Fill(
        fill_id=fill_id(order),
        order_id=order.order_id,
        symbol=order.symbol,
        event_time=filled_at,
        quantity=quantity,
        reference_price=to_price(float(sheet.reference[index])),
        fill_price=to_price(float(done.fill_price[index])),
        fee=to_money(float(done.fee[index])),
        slippage=to_money(float(done.slippage[index])),
        shortfall=None if quantity == order.quantity else sheet.bound(index),
    )


def _cost_facts(costs: CostModel, liquidity: kernel.Liquidity, index: int) -> dict[str, str]:
    """What is needed to compute a modelled fill again."""
    return {
        "fee_rate": repr(costs.fee_rate),
        "half_spread_bps": repr(costs.half_spread_bps),
        "impact_coefficient": repr(costs.impact_coefficient),
        "adv_quote": repr(float(liquidity.adv_quote[index])),
        "sigma_daily": repr(float(liquidity.sigma_daily[index])),
    }


def post_fill(
    state: AccountState,
    fill: Fill,
    *,
    realised: float,
    entry_price: Decimal,
    facts: Mapping[str, str],
    kind: EntryKind = EntryKind.FILL,
) -> tuple[AccountState, Entry]:
    """Book one fill; quantities add up exactly, the average price is the kernel's.

    Args:
        state: before the fill.
        fill: what happened.
        realised: profit before fees, quote currency.
        entry_price: average price after the fill; of no account where nothing is left.
        facts: more to keep with the entry.
        kind: ``FILL``, or ``LIQUIDATION`` whose fee goes to an account of its own.
    """
    symbol = fill.symbol
    before = state.positions.get(symbol)
    quantity = fill.quantity + (before.quantity if before else Decimal(0))
    kept_price = entry_price if quantity else Decimal(0)
    profit = to_money(realised)
    positions = {name: held for name, held in state.positions.items() if name != symbol}
    if quantity:
        positions[symbol] = Position(quantity=quantity, entry_price=kept_price)
    fee_account = "liquidation" if kind is EntryKind.LIQUIDATION else "fees"
    moved, more = _money_legs(state, fill, profit)
    entry = Entry(
        entry_id=fill.fill_id,
        account_id=state.account_id,
        kind=kind,
        symbol=symbol,
        event_time=fill.event_time,
        posted_at=fill.event_time,
        postings=postings(
            (f"assets:position:{symbol}", symbol, fill.quantity),
            (f"equity:counterparty:{symbol}", symbol, -fill.quantity),
            (WALLET, state.quote, moved),
            *more,
            (f"income:realised:{symbol}", state.quote, -profit),
            (f"expenses:{fee_account}:{symbol}", state.quote, fill.fee),
        ),
        facts={
            "quantity": format(fill.quantity, "f"),
            "reference_price": format(fill.reference_price, "f"),
            "fill_price": format(fill.fill_price, "f"),
            "fee": format(fill.fee, "f"),
            "slippage": format(fill.slippage, "f"),
            "realised": format(profit, "f"),
            "position": format(quantity, "f"),
            "entry_price": format(kept_price, "f"),
            **facts,
        },
    )
    return replace(state, wallet=state.wallet + moved, positions=positions), entry


def _money_legs(
    state: AccountState, fill: Fill, profit: Decimal
) -> tuple[Decimal, tuple[Leg, ...]]:
    """What the wallet gets, and for spot the change of what was paid for the holding."""
    if state.market is Market.PERP:
        return profit - fill.fee, ()
    value = notional(fill.quantity, fill.fill_price)
    cost = (f"assets:cost:{fill.symbol}", state.quote, value + profit)
    return -value - fill.fee, (cost,)


def with_holding(state: AccountState, since: int) -> AccountState:
    """Return the account remembering that what it holds now is held since ``since``."""
    quantities = {symbol: held.quantity for symbol, held in state.positions.items()}
    before = tuple(one for one in state.holdings if one.since != since)
    holdings = trim_holdings((*before, Holding(since=since, quantities=quantities)))
    return replace(state, holdings=holdings, posted=trim_posted(state.posted, since))


def rejection(order: Order, reason: RejectReason) -> Rejection:
    """Return the note that nothing of ``order`` was filled."""
    return Rejection(
        symbol=order.symbol,
        decision_time=order.decision_time,
        reason=reason,
        wanted_quantity=order.quantity,
    )
