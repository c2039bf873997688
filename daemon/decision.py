"""A decision in values: what it knows, what it goes by, what it leaves behind. No logic."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from broker.account import AccountState
from broker.costs import CostModel, Costs, TradingRules
from broker.execution import KnownLiquidity
from broker.ledger import Entry
from broker.orders import Fill, Order, Rejection
from broker.records import DecisionRecord
from broker.tiers import MarginTable
from market.bar import Settlement
from market.instrument import Instrument, Market
from market.panel import Float64Array, Panel
from market.quote import OrderBook
from training.observation import PortfolioState


class Source(enum.StrEnum):
    """What named the weights of a decision."""

    POLICY = "policy"
    CASH = "cash"
    EQUAL_WEIGHT = "equal_weight"
    WEIGHTS_FILE = "weights_file"
    NONE = "none"


class Target(Protocol):
    """Whatever names target weights: a policy, a fallback, a file."""

    @property
    def source(self) -> Source:
        """What kind of target this is, for the record."""
        ...

    @property
    def model_id(self) -> str | None:
        """The model behind it, if any."""
        ...

    def target_weights(
        self, panel: Panel, describe: Callable[[], PortfolioState]
    ) -> Float64Array | None:
        """Return (asset,) risky weights in the panel's order, or ``None`` to hold.

        ``describe`` tells what the account holds; describing it costs more than most targets.

        Raises:
            ValueError: the observation or the weights are unusable; the decision holds.
        """
        ...


class DecisionEvent(enum.StrEnum):
    """What a decision saw that somebody may want to know."""

    FUNDING_POSTED = "funding_posted"
    FUNDING_POSTED_LATE = "funding_posted_late"
    FUNDING_DEFERRED = "funding_deferred"
    SYMBOL_MASKED = "symbol_masked"
    DRAWDOWN_LIMIT = "drawdown_limit"
    TARGET_UNUSABLE = "target_unusable"
    PARTIAL_FILL = "partial_fill"
    LIQUIDATED = "liquidated"


class FillMode(enum.StrEnum):
    """Where orders are filled.

    ``BOOK``: at the decision, in the order book recorded with it. ``MODELLED``: at the next bar's
    open, by half a spread and square-root impact, as in replay and training.
    """

    BOOK = "book"
    MODELLED = "modelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRules:
    """What stays the same from decision to decision.

    Attributes:
        instruments: by symbol, in the panel's order.
        costs: what a modelled fill is charged; quoted_costs: what the policy is told a trade
            costs, the calibrated where it was trained with them.
        market: perpetuals or spot.
        fills: where orders are filled.
        margin: maintenance margin and liquidation fee by symbol and date.
        sigma_window_bars: returns kept for the rolling volatility.
        drawdown_limit: fraction below the peak at which the account is flattened and halted.
    """

    instruments: Mapping[str, Instrument]
    costs: CostModel
    quoted_costs: Costs
    trading: TradingRules
    margin: MarginTable
    market: Market
    fills: FillMode
    quote: str
    sigma_window_bars: int
    drawdown_limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionState:
    """What one decision hands to the next; rebuilt from the ledger at every start.

    Attributes:
        equity: at the last decision, quote currency.
        peak_equity: highest equity at any decision so far.
        net_returns: the newest ``sigma_window_bars`` returns after all costs, oldest first.
        bars_since_trade: intervals since the last fill; 0 in the interval of a fill.
        halted: whether a protection has stopped trading until a person resumes it.
        marks: last known valuation prices; a symbol that left the venue keeps its last one.
        booked: fills of the last decision itself, in recorded books, by id; they count in the
            next decision's figures, because they cost its interval.
    """

    account: AccountState
    equity: float
    peak_equity: float
    net_returns: tuple[float, ...]
    bars_since_trade: int
    halted: bool
    marks: Mapping[str, float]
    booked: tuple[Fill, ...] = ()

    @property
    def drawdown(self) -> float:
        """Fraction by which equity lies below its peak, 0 at the peak."""
        if self.peak_equity <= 0:
            return 1.0
        return max(0.0, 1.0 - self.equity / self.peak_equity)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionInputs:
    """What is known at the moment of deciding.

    Attributes:
        decision_time: close of the newest bar in ``panel``.
        decided_at: the clock's time at deciding.
        panel: the newest bars, the last one closing at ``decision_time``; rows of NaN where a
            symbol had none.
        liquidity: of the panel's symbols, at the close of its last two bars.
        settlements: funding with a nominal time before ``decision_time`` that may not have been
            posted yet; doing one twice is doing it once.
        books: the order books recorded at this decision, by symbol.
        target: what names the weights; ``None`` records the interval as missed, without a trade.
        reason: why this target (or why none), one clause for a person.
    """

    decision_time: int
    decided_at: int
    panel: Panel
    liquidity: KnownLiquidity
    settlements: tuple[Settlement, ...]
    books: Mapping[str, OrderBook] = field(default_factory=dict)
    target: Target | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """What the loop must store, in one transaction, and then tell."""

    record: DecisionRecord
    entries: tuple[Entry, ...]
    orders: tuple[Order, ...]
    fills: tuple[Fill, ...]
    rejections: tuple[Rejection, ...]
    events: tuple[tuple[DecisionEvent, str], ...]
