"""A short life of one account, decision by decision, as commits for a store."""

from __future__ import annotations

from collections.abc import Iterator

from broker.account import (
    AccountState,
    open_account,
    place_orders,
    plan_orders,
    post_settlement,
)
from broker.ledger import Entry
from broker.money import to_money
from broker.records import AuditRecord, Commit
from market.bar import HOUR_MS
from market.instrument import Market
from tests.broker.factories import RULES, USUAL, fill, record
from tests.broker.worlds import World, make_targets, make_world

BARS = 30


def journey(
    *, bars: int = BARS, seed: int = 7, account_id: str = "main", market: Market = Market.PERP
) -> tuple[Entry, list[Commit], list[AccountState]]:
    """The opening entry, a commit for every decision, and the state after each."""
    world = make_world(seed, bars=bars, symbols=3, missing=0.05)
    if market is Market.SPOT:
        world = world.without_funding()
    start = int(world.panel.open_time[0])
    state, opening = open_account(
        account_id, deposit=to_money(10_000.0), quote="USDT", time=start, market=market
    )
    commits, states = [], []
    for commit, after in _decisions(world, state, seed):
        commits.append(commit)
        states.append(after)
    return opening, commits, states


def _decisions(
    world: World, state: AccountState, seed: int
) -> Iterator[tuple[Commit, AccountState]]:
    panel, arrays, names = world.panel, world.arrays, world.panel.symbols
    targets = make_targets(seed, bars=len(panel), accounts=1, symbols=len(names))[:, 0]
    for bar in range(len(panel)):
        open_time = int(panel.open_time[bar])
        done = fill(
            state,
            dict(zip(names, map(float, panel.open[bar]), strict=True)),
            open_time=open_time,
            instruments=world.instruments,
            costs=USUAL,
        )
        state, entries = done.state, list(done.entries)
        for due in world.settlements:
            if open_time < due.nominal_time < open_time + HOUR_MS:
                state, entry = post_settlement(state, due, posted_at=open_time + HOUR_MS)
                entries += [entry] if entry else []
        plan = plan_orders(
            state, target_weights=dict(zip(names, map(float, targets[bar]), strict=True)),
            price=dict(zip(names, map(float, panel.close[bar]), strict=True)),
            mark=dict(zip(names, map(float, arrays.mark[bar]), strict=True)),
            instruments=world.instruments, costs=USUAL, rules=RULES,
            decision_time=open_time + HOUR_MS, tradable=set(names), liquidity=None,
        )  # fmt: skip
        state = place_orders(state, plan.orders)
        yield (
            Commit(
                record=record(open_time + HOUR_MS, account_id=state.account_id),
                entries=tuple(entries),
                orders=plan.orders,
                fills=done.fills,
                rejections=(*done.rejections, *plan.rejections),
                audits=(AuditRecord(at=open_time + HOUR_MS, event="decided", facts={"bar": bar}),),
            ),
            state,
        )
