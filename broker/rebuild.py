"""Reading an account back: its state, and its chain of entries, from rows alone.

It reads inside a given transaction and writes nothing. Balances are sums of postings; the average
entry price is the one noted with the last fill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.database import ENTRIES, FILLS, ORDERS, POSTINGS, REJECTIONS
from broker.ledger import WALLET, EntryKind
from broker.orders import Order
from broker.records import ChainedEntry, Leg, Row, chained_entry, order_value
from broker.state import AccountState, Holding, Position, Settled, holdings_cutoff
from market.instrument import Market

TRADES = (EntryKind.FILL.value, EntryKind.LIQUIDATION.value)
"""Kinds of entries that change what is held."""
POSITION_PREFIX = "assets:position:"


def account_state(connection: Connection, account_id: str, account: Row) -> AccountState:
    """Rebuild the state that the entries and unfinished orders of an account add up to."""
    balances = _balances(connection, account_id)
    quantities = {
        name.removeprefix(POSITION_PREFIX): amount
        for name, amount in balances.items()
        if name.startswith(POSITION_PREFIX) and amount != 0
    }
    opened_at = int(account["opened_at"])
    last_fill = _time_of_trade(connection, account_id, None) or opened_at
    cutoff = holdings_cutoff(last_fill)
    return AccountState(
        account_id=account_id,
        quote=account["quote"],
        market=Market(account["market"]),
        wallet=balances.get(WALLET, Decimal(0)),
        positions=_positions(connection, account_id, quantities),
        pending=_pending(connection, account_id),
        holdings=_holdings(connection, account_id, quantities, cutoff, opened_at),
        posted=_posted(connection, account_id, cutoff),
    )


def chain(
    connection: Connection, account_id: str, *, since: int | None = None, limit: int | None = None
) -> list[ChainedEntry]:
    """Entries in the order of posting with ``event_time ≥ since``; the last ``limit`` of them."""
    query = sa.select(ENTRIES).where(ENTRIES.c.account_id == account_id)
    if since is not None:
        query = query.where(ENTRIES.c.event_time >= since)
    query = query.order_by(ENTRIES.c.sequence.desc()).limit(limit)
    rows = connection.execute(query).mappings().all()[::-1]
    if not rows:
        return []
    legs = legs_by_sequence(connection, account_id, rows[0]["sequence"], rows[-1]["sequence"])
    return [chained_entry(dict(row), legs.get(row["sequence"], [])) for row in rows]


def legs_by_sequence(
    connection: Connection, account_id: str, first: int, last: int
) -> dict[int, list[Leg]]:
    """Postings of entries ``first`` to ``last``, in order."""
    column = POSTINGS.c
    query = (
        sa.select(column.sequence, column.ledger_account, column.currency, column.amount)
        .where(column.account_id == account_id, column.sequence.between(first, last))
        .order_by(column.sequence, column.leg)
    )
    legs: dict[int, list[Leg]] = {}
    for sequence, name, currency, amount in connection.execute(query):
        legs.setdefault(sequence, []).append((name, currency, amount))
    return legs


def _balances(connection: Connection, account_id: str) -> dict[str, Decimal]:
    """Sum of the postings of the wallet and of every position."""
    name = POSTINGS.c.ledger_account
    query = sa.select(name, POSTINGS.c.amount).where(
        POSTINGS.c.account_id == account_id,
        sa.or_(name == WALLET, name.startswith(POSITION_PREFIX, autoescape=True)),
    )
    balances: dict[str, Decimal] = {}
    for ledger_account, amount in connection.execute(query):
        balances[ledger_account] = balances.get(ledger_account, Decimal(0)) + Decimal(amount)
    return balances


def _positions(
    connection: Connection, account_id: str, quantities: Mapping[str, Decimal]
) -> dict[str, Position]:
    latest = (
        sa.select(sa.func.max(ENTRIES.c.sequence))
        .where(ENTRIES.c.account_id == account_id, ENTRIES.c.kind.in_(TRADES))
        .group_by(ENTRIES.c.symbol)
    )
    query = sa.select(ENTRIES.c.symbol, ENTRIES.c.facts).where(
        ENTRIES.c.account_id == account_id, ENTRIES.c.sequence.in_(latest)
    )
    return {
        symbol: Position(quantity=quantities[symbol], entry_price=Decimal(facts["entry_price"]))
        for symbol, facts in connection.execute(query)
        if symbol in quantities
    }


def _pending(connection: Connection, account_id: str) -> tuple[Order, ...]:
    """Orders of the last decision that ordered, neither filled nor rejected."""
    own = ORDERS.c.account_id == account_id
    last = sa.select(sa.func.max(ORDERS.c.decision_time)).where(own).scalar_subquery()
    rejected = sa.and_(
        REJECTIONS.c.account_id == ORDERS.c.account_id,
        REJECTIONS.c.decision_time == ORDERS.c.decision_time,
        REJECTIONS.c.symbol == ORDERS.c.symbol,
    )
    query = (
        sa.select(ORDERS)
        .where(own, ORDERS.c.decision_time == last)
        .where(~sa.exists().where(FILLS.c.order_id == ORDERS.c.order_id))
        .where(~sa.exists().where(rejected))
        .order_by(ORDERS.c.position)
    )
    return tuple(order_value(dict(row)) for row in connection.execute(query).mappings())


def _holdings(
    connection: Connection,
    account_id: str,
    quantities: Mapping[str, Decimal],
    cutoff: int,
    opened_at: int,
) -> tuple[Holding, ...]:
    """Walk back from what is held now over the fills and liquidations since the cutoff."""
    query = (
        sa.select(ENTRIES.c.event_time, ENTRIES.c.symbol, ENTRIES.c.facts)
        .where(
            ENTRIES.c.account_id == account_id,
            ENTRIES.c.kind.in_(TRADES),
            ENTRIES.c.event_time >= cutoff,
        )
        .order_by(ENTRIES.c.event_time.desc())
    )
    held = dict(quantities)
    holdings: list[Holding] = []
    rows: Sequence[Any] = connection.execute(query).all()
    for time, group in groupby(rows, key=itemgetter(0)):
        holdings.append(Holding(since=time, quantities=_not_flat(held)))
        for _, symbol, facts in group:
            held[symbol] = held.get(symbol, Decimal(0)) - Decimal(facts["quantity"])
    before = _time_of_trade(connection, account_id, cutoff)
    first = opened_at if before is None else before
    holdings.append(Holding(since=first, quantities=_not_flat(held)))
    return tuple(reversed(holdings))


def _not_flat(held: Mapping[str, Decimal]) -> dict[str, Decimal]:
    return {symbol: quantity for symbol, quantity in held.items() if quantity != 0}


def _time_of_trade(connection: Connection, account_id: str, before: int | None) -> int | None:
    """Time of the last fill or liquidation, or of the last one earlier than ``before``."""
    query = sa.select(sa.func.max(ENTRIES.c.event_time)).where(
        ENTRIES.c.account_id == account_id, ENTRIES.c.kind.in_(TRADES)
    )
    if before is not None:
        query = query.where(ENTRIES.c.event_time < before)
    found = connection.execute(query).scalar()
    return None if found is None else int(found)


def _posted(connection: Connection, account_id: str, cutoff: int) -> frozenset[Settled]:
    query = sa.select(ENTRIES.c.symbol, ENTRIES.c.event_time).where(
        ENTRIES.c.account_id == account_id,
        ENTRIES.c.kind == EntryKind.FUNDING.value,
        ENTRIES.c.event_time >= cutoff,
    )
    return frozenset((symbol, int(time)) for symbol, time in connection.execute(query))
