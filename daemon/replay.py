"""The live decision path over warehouse history, at full speed, on an account of its own.

Reads a panel once and calls the same ``decide`` for every bar. Decisions are committed in
batches; a replay that was interrupted goes on from its last commit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal

from broker.account import open_account
from broker.execution import REQUIRED_BARS, KnownLiquidity, liquidity
from broker.store import Store
from daemon.decide import decide
from daemon.decision import (
    DecisionInputs,
    DecisionRules,
    DecisionState,
    Effects,
    FillMode,
    Target,
)
from daemon.loop import effects_commit
from daemon.recovery import restore_state
from daemon.signal_desk import SignalDesk
from daemon.summary import RunSummary, summarise
from daemon.targets import FileTarget, informed
from daemon.totals import totals_of
from market.bar import Settlement
from market.clock import WallClock
from market.panel import Panel
from market.warehouse import Warehouse

COMMIT_EVERY = 256


class ReplayRejected(Exception):
    """The history or the account does not allow this replay; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayJob:
    """What is replayed.

    Attributes:
        since, until: decisions with ``since <= decision_time <= until``, UTC milliseconds.
        target: what names the weights.
        required_bars: bars of history that the target reads.
    """

    account_id: str
    deposit: Decimal
    venue: str
    symbols: tuple[str, ...]
    interval_ms: int
    since: int
    until: int
    target: Target
    required_bars: int
    rules: DecisionRules


def replay(
    job: ReplayJob,
    *,
    warehouse: Warehouse,
    store: Store,
    progress: Callable[[int, int], None],
) -> RunSummary:
    """Decide at every bar close of the range and return the totals of the account.

    Fills are modelled whatever the rules say: few bars have a recorded book.

    Raises:
        ReplayRejected: the warehouse has no bar of a symbol within the range.
    """
    panel = load_history(job, warehouse)
    settlements = warehouse.settlements(
        job.symbols,
        venue=job.venue,
        interval_ms=job.interval_ms,
        since=job.since - job.interval_ms,
        until=job.until,
    )
    desk = SignalDesk(store=warehouse, clock=WallClock())
    job = replace(
        job,
        target=informed(job.target, panel.close_time, desk.join),
        rules=replace(job.rules, fills=FillMode.MODELLED),
    )
    state, done_until = _open_or_resume(job, store)
    decided = 0
    batch: list[Effects] = []
    times = [int(t) for t in panel.close_time if max(job.since, done_until + 1) <= t <= job.until]
    for reached, effects in _decisions(job, panel, settlements, state, times):
        state = reached
        batch.append(effects)
        decided += 1
        if len(batch) == COMMIT_EVERY or decided == len(times):
            store.commit_decisions([effects_commit(one) for one in batch])
            batch = []
            progress(decided, len(times))
    records = store.decisions(job.account_id)
    totals = totals_of(records, fills=store.count_fills(job.account_id))
    return summarise(
        account_id=job.account_id,
        market=f"replay of {job.venue}",
        decisions_this_run=decided,
        totals=totals,
        state=state,
        model_id=job.target.model_id,
        last_decision_time=records[-1].decision_time if records else None,
    )


def load_history(job: ReplayJob, warehouse: Warehouse) -> Panel:
    """Read the bars of the range and the warm-up before it.

    Raises:
        ReplayRejected: a symbol has no bar within the range.
    """
    warm_up = max(job.required_bars, REQUIRED_BARS + 1)
    panel = warehouse.load_panel(
        job.symbols,
        venue=job.venue,
        interval_ms=job.interval_ms,
        since=job.since - (warm_up + 1) * job.interval_ms,
        until=job.until,
    )
    inside = panel.close_time >= job.since
    empty = [
        symbol
        for column, symbol in enumerate(panel.symbols)
        if not panel.observed[inside, column].any()
    ]
    if empty:
        raise ReplayRejected(
            f"the warehouse has no bars of {', '.join(empty)} for {job.venue} between --since and "
            "--until; import or backfill them, or leave the symbols out of exchange.symbols"
        )
    return panel


def _decisions(
    job: ReplayJob,
    panel: Panel,
    settlements: tuple[Settlement, ...],
    state: DecisionState,
    times: list[int],
) -> Iterator[tuple[DecisionState, Effects]]:
    warm_up = max(job.required_bars, REQUIRED_BARS + 1)
    measured = liquidity(panel)
    nominal = [one.nominal_time for one in settlements]
    for time in times:
        stop = int((time - panel.open_time[0]) // job.interval_ms)
        first = bisect_left(nominal, time - job.interval_ms)
        inputs = DecisionInputs(
            decision_time=time,
            decided_at=time,
            panel=panel.window(max(0, stop - warm_up), stop),
            liquidity=KnownLiquidity.at(measured, stop - 1),
            settlements=settlements[first : bisect_left(nominal, time)],
            target=_at(job.target, time),
            reason="replay",
        )
        state, effects = decide(state, inputs, job.rules)
        yield state, effects


def _at(target: Target, time: int) -> Target:
    return replace(target, now=time) if isinstance(target, FileTarget) else target


def _open_or_resume(job: ReplayJob, store: Store) -> tuple[DecisionState, int]:
    if store.load_account(job.account_id) is None:
        opened_at = job.since - job.interval_ms
        _, entry = open_account(
            job.account_id,
            deposit=job.deposit,
            quote=job.rules.quote,
            time=opened_at,
            market=job.rules.market,
        )
        store.create_account(entry)
    state, last = restore_state(
        store, job.account_id, sigma_window_bars=job.rules.sigma_window_bars
    )
    return state, -1 if last is None else last.decision_time
