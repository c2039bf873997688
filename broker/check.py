"""Whether a stored account agrees with itself: chain, balance, sums, and one of everything.

It reads inside a given transaction, repairs nothing, and reports each contradiction in words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.database import ACCOUNTS, DECISIONS, ENTRIES, FILLS, ORDERS
from broker.ledger import WALLET, Entry, EntryKind
from broker.money import notional
from broker.rebuild import POSITION_PREFIX, legs_by_sequence
from broker.records import GENESIS_HASH, Leg, Row, chain_hash, chained_entry, content_hash
from market.instrument import Market

_ENTRIES_AT_ONCE = 5_000
_STATED_TWICE = ("quantity", "reference_price", "fill_price", "fee", "slippage")


def ledger_problems(connection: Connection, account_id: str) -> list[str]:
    """Return every contradiction found in ``account_id``, in words; empty when it is sound."""
    totals = _Totals(market=_market(connection, account_id))
    problems = list(_chain_problems(connection, account_id, totals))
    problems += _sum_problems(totals)
    problems += _fill_problems(connection, account_id, totals)
    problems += _repeated(
        "decision",
        _column(connection, DECISIONS.c.decision_time, DECISIONS.c.account_id, account_id),
    )
    problems += _repeated("settlement", totals.settled)
    return problems


def _market(connection: Connection, account_id: str) -> Market:
    query = sa.select(ACCOUNTS.c.market).where(ACCOUNTS.c.account_id == account_id)
    return Market(connection.execute(query).scalar_one())


@dataclass(slots=True)
class _Totals:
    """What the entries add up to: by posting, and by the facts they state."""

    market: Market
    posted: dict[str, Decimal] = field(default_factory=dict)
    wallet: Decimal = Decimal(0)
    quantities: dict[str, Decimal] = field(default_factory=dict)
    stated: dict[str, Decimal] = field(default_factory=dict)
    fills: dict[str, Entry] = field(default_factory=dict)
    settled: list[tuple[str | None, int]] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        """Take one entry into both sums."""
        for leg in entry.postings:
            before = self.posted.get(leg.ledger_account, Decimal(0))
            self.posted[leg.ledger_account] = before + leg.amount
        facts = entry.facts
        if entry.kind in (EntryKind.DEPOSIT, EntryKind.INSURANCE):
            self.wallet += Decimal(facts["amount"])
        elif entry.kind is EntryKind.FUNDING:
            self.wallet += Decimal(facts["payment"])
            self.settled.append((entry.symbol, entry.event_time))
        else:
            symbol = str(entry.symbol)
            self.wallet += _wallet_change(facts, self.market)
            held = self.quantities.get(symbol, Decimal(0)) + Decimal(facts["quantity"])
            self.quantities[symbol] = held
            self.stated[symbol] = Decimal(facts["position"])
            if entry.kind is EntryKind.FILL:
                self.fills[entry.entry_id] = entry


def _wallet_change(facts: Mapping[str, str], market: Market) -> Decimal:
    """What a trade does to the wallet by the figures it states."""
    if market is Market.SPOT:
        return -notional(Decimal(facts["quantity"]), Decimal(facts["fill_price"])) - Decimal(
            facts["fee"]
        )
    return Decimal(facts["realised"]) - Decimal(facts["fee"])


def _chain_problems(connection: Connection, account_id: str, totals: _Totals) -> Iterator[str]:
    """Follow the chain from its first entry, and add each entry up."""
    sequence, previous = 0, GENESIS_HASH
    for row, legs in _stored_entries(connection, account_id):
        sequence += 1
        name = f"entry {row['entry_id']}"
        if row["sequence"] != sequence:
            yield f"{name}: sequence {row['sequence']}, expected {sequence}"
            sequence = row["sequence"]
        try:
            entry = chained_entry(row, legs).entry
        except ValueError as error:
            yield str(error)
            previous = row["hash"]
            continue
        if content_hash(entry) != row["content_hash"]:
            yield f"{name}: its content was changed after posting"
        if row["previous_hash"] != previous:
            yield f"{name}: does not follow the entry before it"
        if chain_hash(row["previous_hash"], row["content_hash"]) != row["hash"]:
            yield f"{name}: its hash does not fit"
        previous = row["hash"]
        totals.add(entry)


def _stored_entries(connection: Connection, account_id: str) -> Iterator[tuple[Row, list[Leg]]]:
    """Rows of every entry with their postings, in order, a few thousand in memory at a time."""
    last = 0
    while True:
        query = (
            sa.select(ENTRIES)
            .where(ENTRIES.c.account_id == account_id, ENTRIES.c.sequence > last)
            .order_by(ENTRIES.c.sequence)
            .limit(_ENTRIES_AT_ONCE)
        )
        rows = [dict(row) for row in connection.execute(query).mappings()]
        if not rows:
            return
        first, last = rows[0]["sequence"], rows[-1]["sequence"]
        legs = legs_by_sequence(connection, account_id, first, last)
        for row in rows:
            yield row, legs.get(row["sequence"], [])


def _sum_problems(totals: _Totals) -> Iterator[str]:
    """Compare sums of postings with what the entries' facts add up to."""
    wallet = totals.posted.get(WALLET, Decimal(0))
    if wallet != totals.wallet:
        yield f"wallet: postings sum to {wallet}, facts to {totals.wallet}"
    for symbol in sorted(totals.quantities):
        posted = totals.posted.get(f"{POSITION_PREFIX}{symbol}", Decimal(0))
        sums = (posted, totals.quantities[symbol], totals.stated[symbol])
        if len(set(sums)) != 1:
            yield (
                f"{symbol}: postings sum to {sums[0]}, fills to {sums[1]}, "
                f"the last fill states {sums[2]}"
            )


def _fill_problems(connection: Connection, account_id: str, totals: _Totals) -> Iterator[str]:
    """Match fills with their orders and their entries, one of each."""
    query = (
        sa.select(FILLS, ORDERS.c.quantity.label("ordered"), ORDERS.c.symbol.label("order_symbol"))
        .outerjoin(ORDERS, FILLS.c.order_id == ORDERS.c.order_id)
        .where(FILLS.c.account_id == account_id)
    )
    entries = dict(totals.fills)
    for row in connection.execute(query).mappings():
        name = f"fill {row['fill_id']}"
        if row["ordered"] is None:
            yield f"{name}: there is no order {row['order_id']}"
        elif not _fits_order(dict(row)):
            yield f"{name}: {row['quantity']} of {row['symbol']} is not what was ordered"
        entry = entries.pop(row["fill_id"], None)
        if entry is None:
            yield f"{name}: there is no entry"
        elif row["event_time"] != entry.event_time or any(
            row[key] != entry.facts[key] for key in _STATED_TWICE
        ):
            yield f"{name}: its entry states other figures"
    for entry_id in sorted(entries):
        yield f"entry {entry_id}: there is no fill"


def _fits_order(row: Mapping[str, Any]) -> bool:
    """Whether a fill is its order, or a smaller part of it that says why."""
    ordered, filled = Decimal(row["ordered"]), Decimal(row["quantity"])
    part = row["shortfall"] is not None and 0 < filled / ordered < 1
    return row["order_symbol"] == row["symbol"] and (filled == ordered or part)


def _repeated(kind: str, keys: Iterable[Any]) -> Iterator[str]:
    for key, count in Counter(keys).items():
        if count > 1:
            yield f"{kind} {key} is there {count} times"


def _column(
    connection: Connection, column: sa.Column[Any], owner: sa.Column[Any], account_id: str
) -> list[Any]:
    return list(connection.execute(sa.select(column).where(owner == account_id)).scalars())
