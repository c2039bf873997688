"""One account as pure functions: state and event in, new state and double entries out.

The arithmetic is the kernel's; this module turns its float64 results into quantised ``Decimal``
postings. It never reads a clock, a database or a price by itself, and never invents one: what
cannot be valued raises.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import numpy as np

from broker import kernel
from broker.filling import Execution, execute_pending
from broker.ledger import WALLET, Entry, EntryKind, postings
from broker.money import money, to_float, to_money
from broker.orders import Order
from broker.rebalance import Plan, WeightsRejected, plan_orders
from broker.state import AccountState, Holding, Position, holdings_cutoff, quantity_at
from broker.valuation import MarkMissing, account_equity, account_weights
from market.bar import Settlement
from market.instrument import Market

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
    "execute_pending",
    "open_account",
    "place_orders",
    "plan_orders",
    "post_settlement",
]


class SettlementRefused(ValueError):
    """A settlement that cannot be posted: its mark is unknown, or it is older than the log."""


def open_account(
    account_id: str,
    *,
    deposit: Decimal,
    quote: str,
    time: int,
    market: Market = Market.PERP,
) -> tuple[AccountState, Entry]:
    """Return a new account and its first entry.

    Args:
        account_id: any name without ``:``; ids of entries start with it.
        deposit: quote currency, positive.
        quote: currency of the wallet, such as ``USDT``.
        time: UTC milliseconds.
        market: perpetuals under cross margin, or spot.

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
        market=market,
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
        postings=postings((WALLET, quote, amount), ("equity:deposits", quote, -amount)),
        facts={"amount": format(amount, "f"), "market": market.value},
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
        postings=postings(
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


def place_orders(state: AccountState, orders: tuple[Order, ...]) -> AccountState:
    """Return the account with the orders of a plan under way."""
    if state.pending:
        raise ValueError(f"account {state.account_id} has pending orders")
    return replace(state, pending=orders)


def _array(value: float) -> kernel.Float64Array:
    return np.array([value])
