"""Replays over a seeded market held in memory: the product's own loop, without a warehouse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import cast

import numpy as np

from broker.store import Store
from daemon.replay import ReplayJob, replay
from daemon.rules import decision_rules
from daemon.settings import Settings
from daemon.targets import FileTarget
from market.bar import HOUR_MS, Settlement
from market.panel import Panel
from market.warehouse import Warehouse
from tests.broker.worlds import World, make_targets, make_world

ACCOUNT = "replay-proof"
WARM_UP_BARS = 200


class FixedHistory:
    """What a replay asks of a warehouse, answered from one world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def load_panel(
        self, symbols: Sequence[str], *, venue: str, interval_ms: int, since: int, until: int
    ) -> Panel:
        """Bars with ``since <= open_time < until``."""
        panel = self._world.panel
        first, stop = panel.open_time.searchsorted([since, until])
        return panel.window(int(first), int(stop))

    def settlements(
        self, symbols: Sequence[str], *, venue: str, interval_ms: int, since: int, until: int
    ) -> tuple[Settlement, ...]:
        """Settlements with a nominal time in the span, ascending."""
        chosen = [one for one in self._world.settlements if since <= one.nominal_time < until]
        return tuple(sorted(chosen, key=lambda one: (one.nominal_time, one.symbol)))


def make_history(seed: int, *, decisions: int, symbols: int = 3) -> World:
    """A market with gaps, long enough for so many hourly decisions after the warm-up."""
    return make_world(seed, bars=WARM_UP_BARS + decisions, symbols=symbols, missing=0.02)


def make_job(
    world: World, schedule: Mapping[int, Mapping[str, float]], *, deposit: str = "10000"
) -> ReplayJob:
    """Decide at every close after the warm-up; a close that is not in ``schedule`` holds."""
    instruments = tuple(world.instruments[symbol] for symbol in world.panel.symbols)
    rules = decision_rules(Settings(), instruments)
    return ReplayJob(
        account_id=ACCOUNT,
        deposit=Decimal(deposit),
        venue="memory",
        symbols=world.panel.symbols,
        interval_ms=HOUR_MS,
        since=int(world.panel.close_time[WARM_UP_BARS]),
        until=int(world.panel.close_time[-1]),
        target=FileTarget(schedule=schedule, now=0),
        required_bars=1,
        rules=replace(
            rules,
            drawdown_limit=0.9,
            trading=replace(rules.trading, allow_short=True),
        ),
    )


def make_schedule(world: World, seed: int, *, every: int = 1) -> dict[int, dict[str, float]]:
    """Random weights, long and short, for every so many closes."""
    names, times = world.panel.symbols, world.panel.close_time
    rows = make_targets(seed, bars=len(times), accounts=1, symbols=len(names))[:, 0]
    signs = np.random.default_rng(seed).choice([1.0, 1.0, -1.0], size=rows.shape)
    return {
        int(times[bar]): dict(zip(names, map(float, rows[bar] * signs[bar]), strict=True))
        for bar in range(WARM_UP_BARS, len(times), every)
    }


def carry_on(job: ReplayJob, world: World, store: Store) -> None:
    """Replay from wherever the store has got to, to the end."""
    history = cast(Warehouse, FixedHistory(world))
    replay(job, warehouse=history, store=store, progress=lambda _done, _total: None)
