"""What a run or a replay did, in one value: printed as a table or as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from daemon.decision import DecisionState
from daemon.totals import Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Totals of an account since its deposit, and how many decisions this run made.

    Amounts are quote currency; ``funding`` is what was received, negative where it was paid.
    """

    account_id: str
    market: str
    decisions_this_run: int
    decisions: int
    missed_intervals: int
    fills: int
    fees: float
    slippage_cost: float
    funding: float
    equity: float
    peak_equity: float
    model_id: str | None
    last_decision_time: int | None
    halted: bool

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def to_text(self) -> str:
        """Return aligned lines for a terminal."""
        rows = [(name.replace("_", " "), _figure(value)) for name, value in asdict(self).items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def summarise(
    *,
    account_id: str,
    market: str,
    decisions_this_run: int,
    totals: Totals,
    state: DecisionState,
    model_id: str | None,
    last_decision_time: int | None,
) -> RunSummary:
    """Put the end of a run into one value."""
    missed = totals.decisions.get("missed", 0)
    return RunSummary(
        account_id=account_id,
        market=market,
        decisions_this_run=decisions_this_run,
        decisions=sum(totals.decisions.values()) - missed,
        missed_intervals=missed,
        fills=totals.fills,
        fees=totals.fees,
        slippage_cost=totals.slippage,
        funding=totals.funding,
        equity=state.equity,
        peak_equity=state.peak_equity,
        model_id=model_id,
        last_decision_time=last_decision_time,
        halted=state.halted,
    )


def _figure(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:,.2f}"
        case _:
            return str(value)
