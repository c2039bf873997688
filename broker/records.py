"""What the store keeps besides the ledger's own values, and how each becomes a row and back.

Decimals are stored as plain text, weights and facts as JSON. It also owns the hash chain: each
entry's hash covers its content and the hash before it, so a changed or missing entry shows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt

from broker.ledger import Entry, EntryKind, Posting
from broker.orders import Fill, Order, Rejection, RejectReason

DecisionStatus = Literal["decided", "held", "missed", "halted"]
Row = Mapping[str, Any]
Leg = tuple[str, str, str]
"""Ledger account, currency, amount: a posting as it is stored."""

GENESIS_HASH = "0" * 64


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """One decision of an account, with what the interval before it brought.

    Attributes:
        decision_time: close of the bar, UTC milliseconds; with ``account_id`` the key.
        decided_at: when it was taken on the account's clock.
        status: ``decided`` (orders may follow), ``held``, ``missed`` (nobody was there: the
            interval is settled, nothing is ordered), ``halted``.
        source: what gave the weights: ``policy``, ``cash``, ``equal_weight``, ``weights_file``.
        reason: one phrase, empty when there is nothing to explain.
        target_weights: risky weights asked for, by symbol.
        weights: drifted weights before trading, by symbol.
        equity, wallet, peak_equity: quote currency at the decision.
        net_return: fraction of equity earned since the decision before, after all costs.
        turnover: traded notional over equity of the fills since the decision before.
        fees, slippage: quote currency since the decision before, never negative.
        funding: quote currency since the decision before, positive when received.
        missing: symbols without a final bar at the deadline.
        buy_scale: the factor in [0, 1] that the limit put on what adds exposure; ``None`` where
            nothing was planned.
        marks: valuation price of every symbol that has one, the last known carried forward.
        halted: whether a protection has stopped trading until a person resumes it.
    """

    account_id: str
    decision_time: int
    status: DecisionStatus
    source: str
    model_id: str | None = None
    reason: str = ""
    target_weights: Mapping[str, float]
    weights: Mapping[str, float]
    equity: float
    wallet: float
    peak_equity: float
    net_return: float
    turnover: float
    fees: float
    slippage: float
    funding: float
    missing: tuple[str, ...] = ()
    marks: Mapping[str, float] = field(default_factory=dict)
    halted: bool = False
    buy_scale: float | None = None
    decided_at: int

    def __post_init__(self) -> None:
        if self.status not in get_args(DecisionStatus):
            raise ValueError(f"decision status {self.status!r} is unknown")
        numbers = {name: getattr(self, name) for name in DECISION_NUMBERS}
        numbers |= {f"target_weights[{name}]": w for name, w in self.target_weights.items()}
        numbers |= {f"weights[{name}]": w for name, w in self.weights.items()}
        wrong = {name: value for name, value in numbers.items() if not math.isfinite(value)}
        if wrong:
            raise ValueError(f"decision {self.decision_time} holds numbers not finite: {wrong}")


DECISION_NUMBERS = (
    "equity",
    "wallet",
    "peak_equity",
    "net_return",
    "turnover",
    "fees",
    "slippage",
    "funding",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One line of the audit trail: what happened ``at`` (UTC milliseconds), with its facts."""

    at: int
    event: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """All that one decision writes, in one transaction."""

    record: DecisionRecord
    entries: Sequence[Entry] = ()
    orders: Sequence[Order] = ()
    fills: Sequence[Fill] = ()
    rejections: Sequence[Rejection] = ()
    audits: Sequence[AuditRecord] = ()


class EquityCurve(NamedTuple):
    """Figures per decision, each (T,), ascending: the net returns compound to the equity."""

    decision_time: npt.NDArray[np.int64]
    equity: npt.NDArray[np.float64]
    net_return: npt.NDArray[np.float64]
    turnover: npt.NDArray[np.float64]


class ChainedEntry(NamedTuple):
    """An entry as it is stored, with its place in the account's chain."""

    entry: Entry
    sequence: int
    content_hash: str
    previous_hash: str
    hash: str


def text(value: Decimal) -> str:
    """Write a decimal without an exponent."""
    return format(value, "f")


def content_hash(entry: Entry) -> str:
    """SHA-256 of the entry's canonical JSON: equal content, equal hash."""
    content = [
        entry.entry_id,
        entry.account_id,
        entry.kind.value,
        entry.symbol,
        entry.event_time,
        entry.posted_at,
        [[leg.ledger_account, leg.currency, text(leg.amount)] for leg in entry.postings],
        sorted(entry.facts.items()),
    ]
    written = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(written.encode()).hexdigest()


def chain_hash(previous_hash: str, content: str) -> str:
    """Hash of an entry in the chain: SHA-256 over the one before and its own content."""
    return hashlib.sha256(f"{previous_hash}{content}".encode()).hexdigest()


def decision_row(record: DecisionRecord) -> dict[str, Any]:
    """Return the columns of ``decisions``."""
    return {
        "account_id": record.account_id,
        "decision_time": record.decision_time,
        "decided_at": record.decided_at,
        "status": record.status,
        "source": record.source,
        "model_id": record.model_id,
        "reason": record.reason,
        "target_weights": dict(record.target_weights),
        "weights": dict(record.weights),
        "missing": list(record.missing),
        "marks": dict(record.marks),
        "halted": record.halted,
        "buy_scale": record.buy_scale,
        **{name: float(getattr(record, name)) for name in DECISION_NUMBERS},
    }


def decision_record(row: Row) -> DecisionRecord:
    """Read a row of ``decisions``."""
    return DecisionRecord(
        account_id=row["account_id"],
        decision_time=row["decision_time"],
        decided_at=row["decided_at"],
        status=cast(DecisionStatus, row["status"]),  # checked in __post_init__
        source=row["source"],
        model_id=row["model_id"],
        reason=row["reason"],
        target_weights=row["target_weights"],
        weights=row["weights"],
        missing=tuple(row["missing"]),
        marks=row["marks"],
        halted=row["halted"],
        buy_scale=row["buy_scale"],
        **{name: float(row[name]) for name in DECISION_NUMBERS},
    )


def order_row(order: Order, account_id: str, position: int) -> dict[str, Any]:
    """Return the columns of ``orders``; ``position`` keeps the order of the plan."""
    return {
        "order_id": order.order_id,
        "account_id": account_id,
        "decision_time": order.decision_time,
        "position": position,
        "symbol": order.symbol,
        "quantity": text(order.quantity),
        "decision_price": text(order.decision_price),
        "limited_by": _name(order.limited_by),
    }


def order_value(row: Row) -> Order:
    """Read a row of ``orders``."""
    return Order(
        order_id=row["order_id"],
        symbol=row["symbol"],
        decision_time=row["decision_time"],
        quantity=Decimal(row["quantity"]),
        decision_price=Decimal(row["decision_price"]),
        limited_by=_reason(row["limited_by"]),
    )


def rejection_row(rejection: Rejection, account_id: str) -> dict[str, Any]:
    """Return the columns of ``rejections``."""
    return {
        "account_id": account_id,
        "decision_time": rejection.decision_time,
        "symbol": rejection.symbol,
        "reason": rejection.reason.value,
        "wanted_quantity": text(rejection.wanted_quantity),
    }


def rejection_value(row: Row) -> Rejection:
    """Read a row of ``rejections``."""
    return Rejection(
        symbol=row["symbol"],
        decision_time=row["decision_time"],
        reason=RejectReason(row["reason"]),
        wanted_quantity=Decimal(row["wanted_quantity"]),
    )


def fill_row(fill: Fill, account_id: str) -> dict[str, Any]:
    """Return the columns of ``fills``."""
    return {
        "fill_id": fill.fill_id,
        "order_id": fill.order_id,
        "account_id": account_id,
        "symbol": fill.symbol,
        "event_time": fill.event_time,
        "quantity": text(fill.quantity),
        "reference_price": text(fill.reference_price),
        "fill_price": text(fill.fill_price),
        "fee": text(fill.fee),
        "slippage": text(fill.slippage),
        "shortfall": _name(fill.shortfall),
        "book_id": fill.book_id,
    }


def fill_value(row: Row) -> Fill:
    """Read a row of ``fills``."""
    return Fill(
        fill_id=row["fill_id"],
        order_id=row["order_id"],
        symbol=row["symbol"],
        event_time=row["event_time"],
        quantity=Decimal(row["quantity"]),
        reference_price=Decimal(row["reference_price"]),
        fill_price=Decimal(row["fill_price"]),
        fee=Decimal(row["fee"]),
        slippage=Decimal(row["slippage"]),
        shortfall=_reason(row["shortfall"]),
        book_id=row["book_id"],
    )


def _name(reason: RejectReason | None) -> str | None:
    return None if reason is None else reason.value


def _reason(name: str | None) -> RejectReason | None:
    return None if name is None else RejectReason(name)


def entry_row(entry: Entry, sequence: int, content: str, previous_hash: str) -> dict[str, Any]:
    """Return the columns of ``entries``."""
    return {
        "account_id": entry.account_id,
        "sequence": sequence,
        "entry_id": entry.entry_id,
        "kind": entry.kind.value,
        "symbol": entry.symbol,
        "event_time": entry.event_time,
        "posted_at": entry.posted_at,
        "facts": dict(entry.facts),
        "content_hash": content,
        "previous_hash": previous_hash,
        "hash": chain_hash(previous_hash, content),
    }


def posting_rows(entry: Entry, sequence: int) -> list[dict[str, Any]]:
    """Return the columns of ``postings``, one row for each leg."""
    return [
        {
            "account_id": entry.account_id,
            "sequence": sequence,
            "leg": leg,
            "ledger_account": posting.ledger_account,
            "currency": posting.currency,
            "amount": text(posting.amount),
        }
        for leg, posting in enumerate(entry.postings)
    ]


def chained_entry(row: Row, legs: Sequence[Leg]) -> ChainedEntry:
    """Read a row of ``entries`` with its postings in order.

    Raises:
        ValueError: the postings do not balance.
    """
    entry = Entry(
        entry_id=row["entry_id"],
        account_id=row["account_id"],
        kind=EntryKind(row["kind"]),
        symbol=row["symbol"],
        event_time=row["event_time"],
        posted_at=row["posted_at"],
        postings=tuple(
            Posting(ledger_account=name, currency=currency, amount=Decimal(amount))
            for name, currency, amount in legs
        ),
        facts=row["facts"],
    )
    return ChainedEntry(
        entry, row["sequence"], row["content_hash"], row["previous_hash"], row["hash"]
    )
