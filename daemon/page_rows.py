"""What the ledger and the registry hold, as the rows that the page shows. Pure."""

from __future__ import annotations

from broker.ledger import Entry
from broker.money import to_float
from broker.orders import Fill, Order
from broker.records import DecisionRecord
from broker.state import Position
from daemon.monitor.view import (
    CheckRow,
    DecisionRow,
    EntryRow,
    FillRow,
    ModelRow,
    OrderRow,
    PositionRow,
    ShadowRow,
    VerdictRow,
)
from daemon.shadows import Shadow
from training.gates import Verdict
from training.registry import ModelSummary


def position_row(symbol: str, position: Position, mark_price: float | None) -> PositionRow:
    """Return a position at its mark, or at its entry price where no mark is known."""
    quantity, entry_price = to_float(position.quantity), to_float(position.entry_price)
    price = entry_price if mark_price is None else mark_price
    return PositionRow(
        symbol=symbol,
        quantity=quantity,
        entry_price=entry_price,
        mark_price=mark_price,
        notional=quantity * price,
        unrealised=quantity * (price - entry_price),
    )


def shadow_row(shadow: Shadow) -> ShadowRow:
    """Return another account on the same feed."""
    made = shadow.totals.decisions
    return ShadowRow(
        account_id=shadow.account_id,
        target=shadow.target.model_id or shadow.target.source.value,
        equity=shadow.state.equity,
        total_return=shadow.state.equity / shadow.deposit_quote - 1.0,
        decisions=sum(made.values()) - made.get("missed", 0),
        halted=shadow.state.halted,
    )


def order_row(order: Order) -> OrderRow:
    """Return an order that waits for the next bar."""
    return OrderRow(
        symbol=order.symbol,
        quantity=to_float(order.quantity),
        decision_price=to_float(order.decision_price),
        decision_time=order.decision_time,
    )


def fill_row(fill: Fill) -> FillRow:
    """Return one fill."""
    return FillRow(
        event_time=fill.event_time,
        symbol=fill.symbol,
        quantity=to_float(fill.quantity),
        reference_price=to_float(fill.reference_price),
        fill_price=to_float(fill.fill_price),
        fee=to_float(fill.fee),
        slippage=to_float(fill.slippage),
    )


def decision_row(record: DecisionRecord) -> DecisionRow:
    """Return one decision."""
    return DecisionRow(
        decision_time=record.decision_time,
        status=record.status,
        source=record.source,
        model_id=record.model_id,
        reason=record.reason,
        equity=record.equity,
        turnover=record.turnover,
        fees=record.fees,
        slippage=record.slippage,
        funding=record.funding,
        target_weights=record.target_weights,
        missing=record.missing,
    )


def entry_row(entry: Entry) -> EntryRow:
    """Return one ledger entry, its amounts as exact text."""
    return EntryRow(
        entry_id=entry.entry_id,
        kind=entry.kind.value,
        symbol=entry.symbol,
        event_time=entry.event_time,
        posted_at=entry.posted_at,
        postings=tuple(
            (one.ledger_account, one.currency, str(one.amount)) for one in entry.postings
        ),
        facts=entry.facts,
    )


def model_row(model: ModelSummary, verdict: Verdict, *, promoted_at: int | None) -> ModelRow:
    """Return one model with its verdict; ``promoted_at`` is UTC milliseconds."""
    return ModelRow(
        model_id=model.model_id,
        state="champion" if model.leads else ("passed" if model.passed else "refused"),
        created_at=model.created_at,
        promoted_at=promoted_at,
        snapshot_id=model.snapshot_id,
        verdict=verdict_row(model, verdict),
    )


def verdict_row(model: ModelSummary, verdict: Verdict) -> VerdictRow:
    """Return a verdict in the page's words; what was not measured has no value."""
    return VerdictRow(
        model_id=model.model_id,
        passed=verdict.passed,
        reasons=verdict.reasons,
        at=model.judged_at,
        checks=tuple(
            CheckRow(
                name=check.name,
                value=check.value if check.measured else None,
                threshold=check.threshold,
                comparison=check.relation.value,
                hard=check.hard,
                passed=check.passed,
                explanation=check.explanation,
            )
            for check in verdict.checks
        ),
    )
