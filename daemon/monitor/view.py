"""What the monitor shows: frozen values, and the protocol of whoever fills them.

This is the whole interface between the daemon and its page. It owns no data and does no IO; the
server only reads it. Every amount is in the account's quote currency, every weight a fraction of
equity, every time UTC milliseconds on the daemon's clock, every age seconds on that clock.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from typing import Protocol, TypeAlias

from daemon.alerts import Alert

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"


class Phase(enum.StrEnum):
    """Where the daemon stands in its life."""

    STARTING = "starting"
    BACKFILLING = "backfilling"
    RUNNING = "running"
    STOPPING = "stopping"


class RetrainState(enum.StrEnum):
    """Where retraining stands."""

    DISABLED = "disabled"
    IDLE = "idle"
    RUNNING = "running"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionRow:
    """One held asset; ``quantity`` is signed base units, ``mark_price`` None where unknown."""

    symbol: str
    quantity: float
    entry_price: float
    mark_price: float | None
    notional: float
    unrealised: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowRow:
    """Another account on the same feed, as its last decision left it.

    Attributes:
        target: the model that names its weights, else what does: ``cash``, ``equal_weight``.
        total_return: since its deposit, a fraction.
        decisions: committed ones that were not missed.
    """

    account_id: str
    target: str
    equity: float
    total_return: float
    decisions: int
    halted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRow:
    """One order that waits for the next bar; ``quantity`` is signed base units."""

    symbol: str
    quantity: float
    decision_price: float
    decision_time: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FillRow:
    """One executed order; ``fee`` and ``slippage`` are costs, never negative."""

    event_time: int
    symbol: str
    quantity: float
    reference_price: float
    fill_price: float
    fee: float
    slippage: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRow:
    """One decision as it was committed; ``status`` and ``source`` as in ``DecisionRecord``."""

    decision_time: int
    status: str
    source: str
    model_id: str | None
    reason: str
    equity: float
    turnover: float
    fees: float = 0.0
    slippage: float = 0.0
    funding: float = 0.0
    target_weights: Mapping[str, float] = field(default_factory=dict)
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRow:
    """One ledger entry; ``postings`` are (ledger account, currency, decimal string)."""

    entry_id: str
    kind: str
    symbol: str | None
    event_time: int
    posted_at: int
    postings: tuple[tuple[str, str, str], ...]
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EquityPoint:
    """Equity at one decision; ``drawdown`` is the fraction below the peak, 0 at the peak."""

    time: int
    equity: float
    drawdown: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRow:
    """One check of a verdict.

    Attributes:
        value, threshold: what was measured and what was demanded; None where there is none.
        comparison: how they are compared, such as ``>=``; empty where there is no threshold.
        hard: a failed hard check refuses the model, a failed soft one only warns.
        explanation: one sentence for a person.
    """

    name: str
    value: float | None
    threshold: float | None
    comparison: str
    hard: bool
    passed: bool
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictRow:
    """What the gates said about one candidate; ``reasons`` name why it was refused."""

    model_id: str
    passed: bool
    reasons: tuple[str, ...]
    checks: tuple[CheckRow, ...]
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model of the registry; ``state`` is the registry's word (champion, refused, ...)."""

    model_id: str
    state: str
    created_at: int
    promoted_at: int | None = None
    parent_id: str | None = None
    snapshot_id: str | None = None
    verdict: VerdictRow | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """The model that decides now."""

    model_id: str
    promoted_at: int
    summary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedAge:
    """The last final bar of one symbol; None where none was ever seen."""

    last_close_time: int | None
    age_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``done`` of ``total`` units of work; ``total`` 0 means not known yet."""

    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retraining:
    """The retraining supervisor: what runs, when the next run is due, how the last one ended.

    ``outcomes`` counts finished runs since the start by outcome: promoted, refused, failed, ...
    ``last_error`` is why the last run failed, None where it did not fail.
    """

    state: RetrainState = RetrainState.IDLE
    run_id: str | None = None
    trigger: str | None = None
    stage: str | None = None
    done: int = 0
    total: int = 0
    started_at: int | None = None
    next_run_at: int | None = None
    last_verdict: VerdictRow | None = None
    last_error: str | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything the page needs at a glance, from memory alone.

    Attributes:
        sandbox: the venue is a simulated one; synthetic: its market is not real data either.
        funding: net funding received since the deposit (negative: paid).
        fees, slippage: costs since the deposit, never negative.
        decisions: committed decisions by status since the account was opened.
        missed: decisions that were recorded as missed.
        fallback: what decides without a champion: ``cash``, ``equal_weight``, ...
        feed_counters: feed events by kind since the start.
        gaps: bars that are missing now, by kind.
        request_budget_used: weight in the present window as a share of the venue's limit.
        bar_age_seconds, decision_age_seconds, commit_age_seconds: real seconds since the newest
            final bar, the newest decision and the newest commit; None before the first.
        speed: venue seconds per real second; 1 on a live venue.
    """

    version: str
    phase: Phase
    now: int
    started_at: int
    venue: str
    venue_description: str
    sandbox: bool
    synthetic: bool
    symbols: tuple[str, ...]
    interval: str
    account_id: str
    quote: str = "USDT"
    speed: float = 1.0
    equity: float = 0.0
    wallet: float = 0.0
    peak_equity: float = 0.0
    drawdown: float = 0.0
    initial_deposit: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)
    cash_weight: float = 1.0
    positions: tuple[PositionRow, ...] = ()
    pending_orders: tuple[OrderRow, ...] = ()
    shadows: tuple[ShadowRow, ...] = ()
    decision_time: int | None = None
    last_decision: DecisionRow | None = None
    decisions: Mapping[str, int] = field(default_factory=dict)
    fills: int = 0
    missed: int = 0
    fees: float = 0.0
    slippage: float = 0.0
    funding: float = 0.0
    champion: Champion | None = None
    fallback: str = "cash"
    feed: Mapping[str, FeedAge] = field(default_factory=dict)
    feed_counters: Mapping[str, int] = field(default_factory=dict)
    gaps: Mapping[str, int] = field(default_factory=dict)
    request_budget_used: float = 0.0
    signal_counters: Mapping[str, int] = field(default_factory=dict)
    bar_age_seconds: float | None = None
    decision_age_seconds: float | None = None
    commit_age_seconds: float | None = None
    retraining: Retraining = field(default_factory=Retraining)
    alerts: tuple[Alert, ...] = ()
    backfill: Progress | None = None


class View(Protocol):
    """What the daemon offers the monitor.

    ``status``, ``healthy`` and ``ready`` answer from memory and never block; the others may read
    the ledger, through a worker thread. Lists are newest last for the curve, newest first else.
    """

    def status(self) -> Status:
        """Return the present state."""
        ...

    def healthy(self) -> tuple[bool, str]:
        """Tell whether the daemon makes progress, and why not (or how)."""
        ...

    def ready(self) -> tuple[bool, str]:
        """Tell whether start-up is over, and what it waits for."""
        ...

    async def equity_curve(self, limit: int) -> tuple[EquityPoint, ...]:
        """Return at most ``limit`` points over the whole life of the account, oldest first."""
        ...

    async def recent_fills(self, limit: int) -> tuple[FillRow, ...]:
        """Return the newest fills, newest first."""
        ...

    async def recent_decisions(self, limit: int) -> tuple[DecisionRow, ...]:
        """Return the newest decisions, newest first."""
        ...

    async def models(self) -> tuple[ModelRow, ...]:
        """Return every model of the registry, newest first; verdicts may be left out."""
        ...

    async def model(self, model_id: str) -> ModelRow | None:
        """Return one model with its verdict; None where there is no such model."""
        ...

    async def entries(self, limit: int) -> tuple[EntryRow, ...]:
        """Return the newest ledger entries, newest first."""
        ...


def thin_curve(points: Sequence[EquityPoint], limit: int) -> tuple[EquityPoint, ...]:
    """Return at most ``limit`` points that keep both ends and the extremes between them.

    Each stretch of the curve gives its lowest and its highest equity, so that thinning never
    hides a drawdown.
    """
    if limit < 4:
        raise ValueError(f"limit must be at least 4, got {limit}")
    if len(points) <= limit:
        return tuple(points)
    buckets = (limit - 2) // 2
    inner = points[1:-1]
    kept = [points[0]]
    for index in range(buckets):
        stretch = inner[index * len(inner) // buckets : (index + 1) * len(inner) // buckets]
        lowest = min(stretch, key=lambda point: point.equity)
        highest = max(stretch, key=lambda point: point.equity)
        kept += sorted({lowest.time: lowest, highest.time: highest}.values(), key=_time)
    return (*kept, points[-1])


def to_json(value: object) -> JsonValue:
    """Turn a view value into plain JSON; a float that is not finite becomes null.

    Raises:
        TypeError: the value holds something that has no JSON form.
    """
    match value:
        case enum.Enum():
            return to_json(value.value)
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return str(value)
        case Mapping():
            return {str(key): to_json(item) for key, item in value.items()}
        case tuple() | list():
            return [to_json(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _time(point: EquityPoint) -> int:
    return point.time
