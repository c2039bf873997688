"""One account as pure functions: state and event in, new state and double entries out.

The arithmetic is the kernel's; this module turns its float64 results into quantised ``Decimal``
postings. It never reads a clock, a database or a price by itself, and never invents one: what
cannot be valued raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from broker import kernel
from broker.costs import CostModel, TradingRules
from broker.execution import UNKNOWN_SIGMA_DAILY, has_price
from broker.ledger import Entry, EntryKind, Posting
from broker.money import money, to_float, to_money, to_price
from broker.orders import Fill, Order, Rejection, RejectReason, fill_id
from broker.rebalance import Plan, WeightsRejected, plan_orders
from broker.state import (
    AccountState,
    Holding,
    Position,
    holdings_cutoff,
    quantity_at,
    trim_holdings,
    trim_posted,
)
from broker.valuation import MarkMissing, account_book, account_equity, account_weights
from market.bar import Settlement

__all__ = [
    "AccountState",
    "Execution",
    "Holding",
    "MarkMissing",
    "Plan",
    "Position",
    "SettlementRefused",
    "WeightsRejected",
    "account_equity",
    "account_weights",
    "cancel_pending",
    "execute_pending",
    "open_account",
    "place_orders",
    "plan_orders",
    "post_settlement",
]

WALLET = "assets:wallet"


class SettlementRefused(ValueError):
    """A settlement that cannot be posted: its mark is unknown, or it is older than the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """What became of the pending orders: ``state`` has none left."""

    state: AccountState
    fills: tuple[Fill, ...]
    entries: tuple[Entry, ...]
    rejections: tuple[Rejection, ...]


def open_account(
    account_id: str, *, deposit: Decimal, quote: str, time: int
) -> tuple[AccountState, Entry]:
    """Return a new account and its first entry.

    Args:
        account_id: any name without ``:``; ids of entries start with it.
        deposit: quote currency, positive.
        quote: currency of the wallet, such as ``USDT``.
        time: UTC milliseconds.

    Raises:
        ValueError: the deposit is not positive or the name is not usable.
    """
    amount = money(deposit)
    if amount <= 0:
        raise ValueError(f"deposit must be positive, got {deposit}")
    if not account_id or ":" in account_id:
        raise ValueError(f"account id {account_id!r} must not be empty or contain a colon")
    state = AccountState(
        account_id=account_id,
        quote=quote,
        wallet=amount,
        holdings=(Holding(since=time, quantities={}),),
    )
    entry = Entry(
        entry_id=f"{account_id}:deposit:{time}",
        account_id=account_id,
        kind=EntryKind.DEPOSIT,
        symbol=None,
        event_time=time,
        posted_at=time,
        postings=_postings((WALLET, quote, amount), ("equity:deposits", quote, -amount)),
        facts={"amount": format(amount, "f")},
    )
    return state, entry


def post_settlement(
    state: AccountState, settlement: Settlement, *, posted_at: int, multiplier: float = 1.0
) -> tuple[AccountState, Entry | None]:
    """Charge or pay one funding settlement on the quantity held at its nominal time.

    A fill at or after the nominal time does not count. A settlement that becomes known after
    later fills is a dated correction: ``event_time`` is the nominal time, ``posted_at`` is now.

    Args:
        state: the account, with everything up to ``posted_at`` applied.
        settlement: as published, with its mark resolved.
        posted_at: UTC milliseconds.
        multiplier: ``CostModel.funding_multiplier``.

    Returns:
        The unchanged state and ``None`` when it is posted already or nothing was held.

    Raises:
        SettlementRefused: the mark is unknown, or the time is before what the account remembers.
    """
    nominal = settlement.nominal_time
    settled = (settlement.symbol, nominal)
    if settled in state.posted:
        return state, None
    if nominal < holdings_cutoff(state.last_fill_time):
        raise SettlementRefused(f"{settled}: more than eight days before the last fill")
    held = quantity_at(state.holdings, settlement.symbol, nominal) or Decimal(0)
    if held == 0:
        return state, None
    if settlement.mark_price is None:
        raise SettlementRefused(f"{settled}: no mark price")
    per_unit = settlement.mark_price * settlement.rate * multiplier
    payment = kernel.funding_payment(_array(to_float(held)), _array(per_unit))
    amount = to_money(float(payment[0]))
    entry = Entry(
        entry_id=f"{state.account_id}:funding:{settlement.symbol}:{nominal}",
        account_id=state.account_id,
        kind=EntryKind.FUNDING,
        symbol=settlement.symbol,
        event_time=nominal,
        posted_at=posted_at,
        postings=_postings(
            (WALLET, state.quote, amount),
            (f"income:funding:{settlement.symbol}", state.quote, -amount),
        ),
        facts={
            "quantity": format(held, "f"),
            "rate": repr(settlement.rate),
            "mark_price": repr(settlement.mark_price),
            "mark_source": settlement.mark_source.value,
            "multiplier": repr(multiplier),
            "funding_time": str(settlement.funding_time),
            "payment": format(amount, "f"),
        },
    )
    return replace(state, wallet=state.wallet + amount, posted=state.posted | {settled}), entry


def execute_pending(
    state: AccountState,
    *,
    open_time: int,
    open_price: Mapping[str, float],
    liquidity: Mapping[str, tuple[float, float]],
    costs: CostModel,
    rules: TradingRules,
) -> Execution:
    """Fill every pending order at the modelled price of the bar that opens at ``open_time``.

    Settlements with a nominal time ≤ ``open_time`` are posted before, those inside the bar after.

    Args:
        state: the account with its pending orders.
        open_time: UTC milliseconds; a fill's ``event_time`` is this plus the latency.
        open_price: by symbol; a symbol that is missing, NaN or not positive has no bar.
        liquidity: (ADV in quote currency, daily σ) by symbol, as known at the decision.
        costs: of this account.
        rules: of this account.
    """
    filled_at = open_time + rules.latency_ms
    if state.pending and filled_at <= state.last_fill_time:
        raise ValueError(f"fills at {filled_at} after fills at {state.last_fill_time}")
    orders = [order for order in state.pending if has_price(open_price.get(order.symbol))]
    unfilled = [order for order in state.pending if not has_price(open_price.get(order.symbol))]
    rejections = tuple(_rejection(order, RejectReason.NO_BAR_TO_FILL) for order in unfilled)
    if not orders:
        return Execution(
            state=replace(state, pending=()), fills=(), entries=(), rejections=rejections
        )
    symbols = tuple(order.symbol for order in orders)
    reference = np.array([open_price[symbol] for symbol in symbols])
    depth = np.array([liquidity.get(symbol, (0.0, UNKNOWN_SIGMA_DAILY)) for symbol in symbols])
    done = kernel.execute(
        account_book(state, symbols),
        np.array([to_float(order.quantity) for order in orders]),
        reference,
        fillable=np.ones(len(orders), dtype=np.bool_),
        liquidity=kernel.Liquidity(depth[:, 0], depth[:, 1]),
        costs=costs,
    )
    fills: list[Fill] = []
    entries: list[Entry] = []
    for index, order in enumerate(orders):
        fill = _fill(order, filled_at, done, index, reference)
        state, entry = _post_fill(state, fill, done, index)
        fills.append(fill)
        entries.append(entry)
    return Execution(
        state=_with_holding(replace(state, pending=()), filled_at),
        fills=tuple(fills),
        entries=tuple(entries),
        rejections=rejections,
    )


def place_orders(state: AccountState, orders: tuple[Order, ...]) -> AccountState:
    """Return the account with the orders of a plan under way."""
    if state.pending:
        raise ValueError(f"account {state.account_id} has pending orders")
    return replace(state, pending=orders)


def cancel_pending(state: AccountState) -> tuple[AccountState, tuple[Rejection, ...]]:
    """Withdraw every pending order: its bar has passed, and nothing is traded in the past."""
    rejections = tuple(_rejection(order, RejectReason.CANCELLED) for order in state.pending)
    return replace(state, pending=()), rejections


def _fill(
    order: Order, filled_at: int, done: kernel.Executed, index: int, reference: kernel.Float64Array
) -> Fill:
    return Fill(
        fill_id=fill_id(order),
        order_id=order.order_id,
        symbol=order.symbol,
        event_time=filled_at,
        quantity=order.quantity,
        reference_price=to_price(float(reference[index])),
        fill_price=to_price(float(done.fill_price[index])),
        fee=to_money(float(done.fee[index])),
        slippage=to_money(float(done.slippage[index])),
    )


def _post_fill(
    state: AccountState, fill: Fill, done: kernel.Executed, index: int
) -> tuple[AccountState, Entry]:
    """Book one fill; quantities add up exactly, the average price is the kernel's."""
    symbol = fill.symbol
    before = state.positions.get(symbol)
    quantity = fill.quantity + (before.quantity if before else Decimal(0))
    entry_price = to_price(float(done.book.entry_price[index])) if quantity else Decimal(0)
    realised = to_money(float(done.realised[index]))
    positions = {name: held for name, held in state.positions.items() if name != symbol}
    if quantity:
        positions[symbol] = Position(quantity=quantity, entry_price=entry_price)
    entry = Entry(
        entry_id=fill.fill_id,
        account_id=state.account_id,
        kind=EntryKind.FILL,
        symbol=symbol,
        event_time=fill.event_time,
        posted_at=fill.event_time,
        postings=_postings(
            (f"assets:position:{symbol}", symbol, fill.quantity),
            (f"equity:counterparty:{symbol}", symbol, -fill.quantity),
            (WALLET, state.quote, realised - fill.fee),
            (f"income:realised:{symbol}", state.quote, -realised),
            (f"expenses:fees:{symbol}", state.quote, fill.fee),
        ),
        facts={
            "quantity": format(fill.quantity, "f"),
            "reference_price": format(fill.reference_price, "f"),
            "fill_price": format(fill.fill_price, "f"),
            "fee": format(fill.fee, "f"),
            "slippage": format(fill.slippage, "f"),
            "realised": format(realised, "f"),
            "position": format(quantity, "f"),
            "entry_price": format(entry_price, "f"),
        },
    )
    wallet = state.wallet + realised - fill.fee
    return replace(state, wallet=wallet, positions=positions), entry


def _with_holding(state: AccountState, since: int) -> AccountState:
    quantities = {symbol: held.quantity for symbol, held in state.positions.items()}
    holdings = trim_holdings((*state.holdings, Holding(since=since, quantities=quantities)))
    return replace(state, holdings=holdings, posted=trim_posted(state.posted, since))


def _rejection(order: Order, reason: RejectReason) -> Rejection:
    return Rejection(
        symbol=order.symbol,
        decision_time=order.decision_time,
        reason=reason,
        wanted_quantity=order.quantity,
    )


def _postings(*legs: tuple[str, str, Decimal]) -> tuple[Posting, ...]:
    """Make postings, leaving out the legs that move nothing."""
    return tuple(
        Posting(ledger_account=name, currency=currency, amount=amount)
        for name, currency, amount in legs
        if amount != 0
    )


def _array(value: float) -> kernel.Float64Array:
    return np.array([value])
