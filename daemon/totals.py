"""Running sums over the decisions of an account, so that the page never scans the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from broker.records import DecisionRecord
from daemon.decision import Effects


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums since the deposit: counts, and costs in quote currency.

    ``funding`` is what was received, negative where it was paid; ``decisions`` counts by status.
    """

    decisions: Mapping[str, int] = field(default_factory=dict)
    fills: int = 0
    fees: float = 0.0
    slippage: float = 0.0
    funding: float = 0.0
    missed_times: tuple[int, ...] = ()

    def plus(self, effects: Effects) -> Totals:
        """Add one committed decision."""
        return replace(_add(self, effects.record), fills=self.fills + len(effects.fills))


MISSED_TIMES_KEPT = 100


def totals_of(records: Iterable[DecisionRecord], *, fills: int) -> Totals:
    """Sum the decisions of an account, as at the start of the daemon."""
    totals = Totals(fills=fills)
    for record in records:
        totals = _add(totals, record)
    return totals


def _add(totals: Totals, record: DecisionRecord) -> Totals:
    status = record.status
    missed = totals.missed_times
    if status == "missed":
        missed = (*missed, record.decision_time)[-MISSED_TIMES_KEPT:]
    return replace(
        totals,
        decisions={**totals.decisions, status: totals.decisions.get(status, 0) + 1},
        fees=totals.fees + record.fees,
        slippage=totals.slippage + record.slippage,
        funding=totals.funding + record.funding,
        missed_times=missed,
    )
