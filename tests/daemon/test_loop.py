"""The loop's own rules: no trade in the past, no decision lost, every event with its account."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daemon.decision import FillMode
from daemon.loop import DecisionLoop, effects_commit, too_late
from daemon.settings import Settings
from daemon.shadows import Shadow, Shadows
from daemon.signal_desk import SignalDesk
from daemon.targets import CashTarget, HoldTarget, PolicyTarget
from daemon.totals import Totals
from market.bar import HOUR_MS
from market.ingest import IntervalClose
from market.warehouse import WarehouseError
from tests.daemon.test_decide import FLAT, RULES, fresh_state, panel, step

CLOSE = 1_767_225_600_000


@pytest.mark.parametrize(
    ("after_ms", "speed", "trades"),
    [
        (1_500, 1.0, True),
        (59_000, 1.0, True),
        (61_000, 1.0, False),
        (HOUR_MS - 1, 3_600.0, True),
        (HOUR_MS, 3_600.0, False),
        (6 * HOUR_MS, 3_600.0, False),
    ],
)
def test_a_decision_may_trade_only_until_its_moment_has_passed(
    after_ms: int, speed: float, trades: bool
) -> None:
    """Sixty real seconds on a live venue; never once the filling bar has closed, at any speed."""
    why = too_late(CLOSE, CLOSE + after_ms, interval_ms=HOUR_MS, speed=speed, limit_seconds=60.0)
    assert (why is None) == trades


class Watch:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.time = CLOSE + 1_500

    def now(self) -> int:
        """The time that was set."""
        return self.time


class Mood:
    """A policy's target that reads signals; ``_gather`` never asks it for weights."""

    schema = SimpleNamespace(signals=("mood",), symbols=("A",))
    required_bars = 3


def loop_with(clock: Watch, target: PolicyTarget, **given: Any) -> DecisionLoop:
    """A loop that can only gather: three bars, no settlement, ``target`` as the champion."""
    bars = panel(FLAT, end=CLOSE)
    unused = dict.fromkeys(("feed", "store", "journal", "retrainer", "pacer"))
    parts: dict[str, Any] = unused | {
        "settings": Settings(),
        "rules": SimpleNamespace(sigma_window_bars=1, fills=FillMode.MODELLED),
        "clock": clock,
        "speed": 1.0,
        "warehouse": SimpleNamespace(
            load_panel=lambda *_, **__: bars,
            settlements=lambda *_, **__: (),
            books=lambda *_, **__: (),
        ),
        "deployment": SimpleNamespace(required_bars=3, target=lambda now: (target, "champion")),
        "signals": None,
    }
    return DecisionLoop(**(parts | given))


TARGET = PolicyTarget(policy=cast(Any, Mood()))
AT_CLOSE = IntervalClose(decision_time=CLOSE, missing=())


@pytest.mark.parametrize(("waited_ms", "trades"), [(1_000, True), (HOUR_MS, False)])
def test_a_join_that_waited_too_long_trades_nothing(waited_ms: int, trades: bool) -> None:
    """The moment that counts is the one after the signals were read."""
    clock = Watch()

    def join(*_: object) -> None:
        clock.time += waited_ms

    loop = loop_with(clock, TARGET, signals=SimpleNamespace(join=join))
    inputs, _ = loop._gather(AT_CLOSE)
    assert inputs.decided_at == CLOSE + 1_500 + waited_ms
    assert (inputs.target is not None) == trades
    assert inputs.reason.startswith("champion" if trades else "missed: the bar that would")


class Flaky:
    """Fails once, and then answers nothing."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *_: object, **__: object) -> tuple[()]:
        self.calls += 1
        if self.calls == 1:
            raise WarehouseError("away for a moment")
        return ()


def test_a_hold_outlives_a_store_that_cannot_be_read() -> None:
    """After three crashes one decision is held, by every account; an attempt at it is none."""
    told: list[str] = []
    loop = loop_with(
        Watch(),
        TARGET,
        rules=SimpleNamespace(sigma_window_bars=1, fills=FillMode.BOOK),
        warehouse=SimpleNamespace(
            load_panel=lambda *_, **__: panel(FLAT, end=CLOSE),
            settlements=lambda *_, **__: (),
            books=Flaky(),
        ),
        journal=SimpleNamespace(write=lambda event, **_: told.append(event.value)),
    )
    desk = cast(SignalDesk, None)
    shadow = Shadow(account_id="other", target=TARGET, state=fresh_state(), deposit_quote=10_000.0)
    shadows = Shadows([shadow], signals=desk)
    loop.take_up(fresh_state(), None, Totals(), hold=True, shadows=shadows)
    with pytest.raises(WarehouseError):
        loop._gather(AT_CLOSE)
    inputs, targets = loop._gather(AT_CLOSE)
    assert [type(one) for one in (inputs.target, *targets)] == [HoldTarget] * 2
    ((_, effects),) = shadows.decide(inputs, targets, RULES)
    assert (effects.record.status, effects.record.reason) == ("held", inputs.reason)
    assert told == ["protection_triggered"]


def test_a_shadows_signals_are_asked_for_again_like_the_champions() -> None:
    """A store that is away for a moment delays the decision, and does not end the process."""
    join = Flaky()
    desk = cast(SignalDesk, SimpleNamespace(join=join))
    shadow = Shadow(account_id="other", target=TARGET, state=fresh_state(), deposit_quote=10_000.0)
    loop = loop_with(Watch(), cast(Any, CashTarget()), signals=desk)
    loop.take_up(fresh_state(), None, Totals(), hold=False, shadows=Shadows([shadow], signals=desk))
    inputs, targets = asyncio.run(loop._gather_patiently(AT_CLOSE))
    assert inputs.reason == "champion"
    assert (len(targets), join.calls) == (1, 2)


def test_events_say_whose_they_are() -> None:
    """The audit trail and the log hold every account of a feed: each event names its own."""
    rules = replace(RULES, drawdown_limit=0.1)
    state = replace(fresh_state(), peak_equity=20_000.0)
    _, effects = step(state, FLAT, hour=0, target=HoldTarget(), rules=rules)
    assert effects.record.halted
    assert {one.facts["account_id"] for one in effects_commit(effects).audits} == {"main"}
