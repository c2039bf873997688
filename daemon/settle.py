"""Settling an interval: funding and fills, in the order in which they happened. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.account import AccountState, SettlementRefused, post_settlement
from broker.execution import has_price
from broker.filling import Execution, FillBar, execute_pending
from broker.kernel import Liquidity
from broker.ledger import Entry, EntryKind
from broker.liquidation import MarkRange, check_margin
from broker.orders import Fill
from daemon.decision import DecisionEvent, DecisionInputs, DecisionRules
from market.bar import Settlement
from market.panel import Panel


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """The account after the interval, and what was posted to get there.

    ``booked`` are the fills that the decision before made in recorded books: they are posted, and
    their cost is this interval's.
    """

    account: AccountState
    booked: tuple[Fill, ...]
    execution: Execution
    entries: tuple[Entry, ...]
    events: tuple[tuple[DecisionEvent, str], ...]

    @property
    def fills(self) -> tuple[Fill, ...]:
        """Every fill of the interval."""
        return (*self.booked, *self.execution.fills)

    @property
    def is_liquidated(self) -> bool:
        """Whether the margin was gone within the interval."""
        return any(entry.kind is EntryKind.LIQUIDATION for entry in self.entries)


def settle_interval(
    account: AccountState,
    inputs: DecisionInputs,
    rules: DecisionRules,
    *,
    known: Mapping[str, float],
    booked: tuple[Fill, ...],
) -> Settled:
    """Post funding, fill pending orders and test the margin, in the order in which it happened.

    Within ``[open_time, close_time)``: funding at the open on what was held, then the fills of
    the last decision, then funding inside the bar on what is held by then, then the margin test.
    """
    open_time = inputs.decision_time - inputs.panel.interval_ms
    before = [one for one in inputs.settlements if one.nominal_time <= open_time]
    inside = [one for one in inputs.settlements if one.nominal_time > open_time]
    account, early, early_events = _post_funding(account, before, inputs, rules)
    execution = _fill(account, open_time, inputs, rules)
    account, late, late_events = _post_funding(execution.state, inside, inputs, rules)
    account, closed = check_margin(
        account,
        mark_ranges(inputs.panel, known, account.positions),
        close_time=inputs.decision_time,
        table=rules.margin,
    )
    return Settled(
        account=account,
        booked=booked,
        execution=execution,
        entries=(*early, *execution.entries, *late, *closed),
        events=(
            *early_events,
            *partial_fills(execution),
            *late_events,
            *_liquidation_events(closed),
        ),
    )


def partial_fills(execution: Execution) -> tuple[tuple[DecisionEvent, str], ...]:
    """Say which orders were filled in part, and why."""
    return tuple(
        (DecisionEvent.PARTIAL_FILL, f"{fill.symbol}: {fill.shortfall.value}")
        for fill in execution.fills
        if fill.shortfall is not None
    )


def mark_ranges(
    panel: Panel, known: Mapping[str, float], symbols: Iterable[str]
) -> dict[str, MarkRange]:
    """Return where the mark of each of ``symbols`` was within the newest bar.

    Args:
        panel: its last bar is the one that ended.
        known: the last known mark before it, for a symbol that has no bar.
        symbols: a symbol that is not in the panel has no bar.
    """
    place = {symbol: asset for asset, symbol in enumerate(panel.symbols)}
    ranges = {}
    for symbol in symbols:
        bar = None if symbol not in place else (-1, place[symbol])
        ranges[symbol] = _mark_range(panel, bar, known.get(symbol, 0.0))
    return ranges


def _mark_range(panel: Panel, bar: tuple[int, int] | None, before: float) -> MarkRange:
    """One cell of ``broker.execution.mark_range``: mark candle, else bar, else ``before``."""
    if bar is not None:
        candle = (panel.mark_open[bar], panel.mark_low[bar], panel.mark_high[bar])
        traded = (panel.open[bar], panel.low[bar], panel.high[bar])
        for opened, low, high in (candle, traded):
            if has_price(opened):
                return MarkRange(
                    opened=float(opened), low=float(min(low, opened)), high=float(max(high, opened))
                )
    return MarkRange(opened=before, low=before, high=before)


def _liquidation_events(entries: tuple[Entry, ...]) -> tuple[tuple[DecisionEvent, str], ...]:
    return tuple(
        (DecisionEvent.LIQUIDATED, entry.entry_id)
        for entry in entries
        if entry.kind is EntryKind.LIQUIDATION
    )


def by_symbol(symbols: tuple[str, ...], known: Liquidity) -> dict[str, tuple[float, float]]:
    """Return (average daily volume in quote currency, daily σ) of each of ``symbols`` (asset,)."""
    pairs = zip(known.adv_quote.tolist(), known.sigma_daily.tolist(), strict=True)
    return dict(zip(symbols, pairs, strict=True))


def _post_funding(
    account: AccountState,
    settlements: list[Settlement],
    inputs: DecisionInputs,
    rules: DecisionRules,
) -> tuple[AccountState, list[Entry], list[tuple[DecisionEvent, str]]]:
    """Post what is known; a settlement without any mark stays due and is reported."""
    open_time = inputs.decision_time - inputs.panel.interval_ms
    entries: list[Entry] = []
    events: list[tuple[DecisionEvent, str]] = []
    for settlement in sorted(settlements, key=lambda one: (one.nominal_time, one.symbol)):
        try:
            account, entry = post_settlement(
                account,
                settlement,
                posted_at=inputs.decided_at,
                multiplier=rules.costs.funding_multiplier,
            )
        except SettlementRefused as refusal:
            events.append((DecisionEvent.FUNDING_DEFERRED, str(refusal)))
            continue
        if entry is not None:
            late = settlement.nominal_time < open_time
            kind = DecisionEvent.FUNDING_POSTED_LATE if late else DecisionEvent.FUNDING_POSTED
            entries.append(entry)
            events.append((kind, entry.entry_id))
    return account, entries, events


def _fill(
    account: AccountState, open_time: int, inputs: DecisionInputs, rules: DecisionRules
) -> Execution:
    """Fill the pending orders at this bar's open, with the liquidity known when they were sent."""
    if not account.pending:
        return Execution(state=account, fills=(), entries=(), rejections=())
    panel = inputs.panel
    return execute_pending(
        account,
        FillBar(
            open_time=open_time,
            open_price=dict(zip(panel.symbols, panel.open[-1].tolist(), strict=True)),
            volume=dict(zip(panel.symbols, panel.volume[-1].tolist(), strict=True)),
            liquidity=by_symbol(panel.symbols, inputs.liquidity.before),
        ),
        instruments=rules.instruments,
        costs=rules.costs,
        rules=rules.trading,
    )
