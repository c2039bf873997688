"""Bad input at a decision: a stated outcome (docs/account.md), and a ledger that holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from broker.account import open_account
from broker.orders import RejectReason
from broker.store import Store
from daemon.decision import DecisionEvent, DecisionState, Effects, FillMode
from daemon.loop import effects_commit
from daemon.recovery import restore_state
from daemon.targets import HoldTarget
from market.bar import HOUR_MS, MarkSource, Settlement
from tests.daemon.test_decide import FLAT, RULES, SYMBOLS, T0, Half, fresh_state, step
from tests.daemon.test_decide_books import Weights, recorded_book

BTC, ETH = SYMBOLS
BOOKS = replace(RULES, fills=FillMode.BOOK)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A ledger with the account of ``fresh_state``."""
    store = Store.open(f"sqlite:///{tmp_path / 'ledger.db'}")
    _, opening = open_account("main", deposit=Decimal(10_000), quote="USDT", time=T0 - HOUR_MS)
    store.create_account(opening)
    yield store
    store.close()


def kept(store: Store, state: DecisionState, effects: Effects) -> None:
    """Commit a decision: the ledger is sound, and a restart finds the very state."""
    store.commit_decisions([effects_commit(effects)])
    assert store.check("main") == []
    assert restore_state(store, "main", sigma_window_bars=24)[0] == state


def holding(store: Store) -> DecisionState:
    """50 BTC from 100, bought and stored."""
    state, first = step(fresh_state(), FLAT, hour=0, target=Half())
    kept(store, state, first)
    state, second = step(state, FLAT, hour=1, target=HoldTarget())
    kept(store, state, second)
    return state


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((np.nan, 0.1), "weights must be finite"),
        ((np.inf, 0.1), "weights must be finite"),
        ((-0.1, 0.1), "weights must not be negative"),
        ((0.6, 0.5), "above 1.0"),
    ],
)
def test_bad_weights_hold_and_are_told(
    store: Store, weights: tuple[float, float], words: str
) -> None:
    """The account keeps what it has, the reason stands on the record, an event says so."""
    before = holding(store)
    state, effects = step(before, FLAT, hour=2, target=Weights(*weights))
    assert effects.record.status == "held"
    assert words in effects.record.reason
    assert DecisionEvent.TARGET_UNUSABLE in {kind for kind, _ in effects.events}
    assert (effects.orders, state.account.pending) == ((), ())
    assert state.account.positions == before.account.positions
    kept(store, state, effects)


def test_a_weight_of_a_symbol_that_the_venue_does_not_list_holds(store: Store) -> None:
    """Also where the other weights are sound: nothing is traded on half of a target."""
    only = replace(RULES, instruments={BTC: RULES.instruments[BTC]})
    state, effects = step(holding(store), FLAT, hour=2, target=Weights(0.2, 0.1), rules=only)
    assert effects.record.status == "held"
    assert f"the venue does not list: ['{ETH}']" in effects.record.reason
    kept(store, state, effects)


def test_a_price_of_zero_trades_nothing_and_values_nothing(store: Store) -> None:
    """The position keeps its last mark, its order is refused, the other symbol trades."""
    state, effects = step(holding(store), [*FLAT, (0.0, 50.0)], hour=2, target=Weights(0.1, 0.4))
    assert effects.record.equity == pytest.approx(10_000, rel=1e-3)
    assert effects.record.marks[BTC] == 100.0
    assert [(one.symbol, one.reason) for one in effects.rejections] == [
        (BTC, RejectReason.NO_PRICE)
    ]
    assert [one.symbol for one in effects.orders] == [ETH]
    kept(store, state, effects)


def test_an_open_of_zero_fills_nothing(store: Store) -> None:
    """What was ordered is given up: there was no bar to fill it in."""
    state, first = step(fresh_state(), FLAT, hour=0, target=Half())
    kept(store, state, first)
    state, effects = step(state, [*FLAT, (0.0, 50.0)], hour=1, target=Weights(0.0, 0.0))
    assert [one.reason for one in effects.rejections] == [RejectReason.NO_BAR_TO_FILL]
    assert (effects.fills, effects.entries) == ((), ())
    kept(store, state, effects)


@pytest.mark.parametrize(
    ("sides", "reason"),
    [
        ({"asks": ()}, RejectReason.EMPTY_BOOK),
        ({"bids": ((102.0, 1.0),)}, RejectReason.CROSSED_BOOK),
        ({"asks": ((101.0, 0.0),)}, RejectReason.CROSSED_BOOK),
        ({"asks": ((np.nan, 1.0),)}, RejectReason.CROSSED_BOOK),
    ],
)
def test_a_flawed_book_fills_nothing_and_guesses_nothing(
    store: Store, sides: dict[str, tuple[tuple[float, float], ...]], reason: RejectReason
) -> None:
    """The rejection names the flaw, and nothing waits for the next bar."""
    book = replace(recorded_book(0), **sides)  # type: ignore[arg-type]  # bids and asks alone
    state, effects = step(
        fresh_state(), FLAT, hour=0, target=Half(), rules=BOOKS, books={BTC: book}
    )
    assert [one.reason for one in effects.rejections] == [reason]
    assert (effects.fills, state.account.pending) == ((), ())
    kept(store, state, effects)


def test_more_than_the_venues_largest_market_order_is_cut(store: Store) -> None:
    """50 are wanted, 7.5 is the most: the order says why, the rest is wanted again next time."""
    most = replace(RULES.instruments[BTC], max_quantity=Decimal("7.5"))
    rules = replace(RULES, instruments={**RULES.instruments, BTC: most})
    state, effects = step(fresh_state(), FLAT, hour=0, target=Half(), rules=rules)
    (order,) = effects.orders
    assert (order.quantity, order.limited_by) == (Decimal("7.5"), RejectReason.ABOVE_MAX_QUANTITY)
    kept(store, state, effects)
    state, effects = step(state, FLAT, hour=1, target=Half(), rules=rules)
    assert [one.quantity for one in effects.orders] == [Decimal("7.5")]
    kept(store, state, effects)


@pytest.mark.parametrize("mark", [50.0, None])
def test_a_settlement_of_a_symbol_never_held_posts_nothing(
    store: Store, mark: float | None
) -> None:
    """Whatever its rate, and whether or not its mark is known."""
    due = Settlement(
        symbol=ETH, funding_time=T0 + HOUR_MS + 9, rate=0.5, mark_price=mark,
        mark_source=MarkSource.VENUE if mark else MarkSource.UNKNOWN,
    )  # fmt: skip
    state, effects = step(holding(store), FLAT, hour=2, target=HoldTarget(), settlements=(due,))
    assert (effects.record.funding, effects.entries) == (0.0, ())
    assert DecisionEvent.FUNDING_DEFERRED not in {kind for kind, _ in effects.events}
    kept(store, state, effects)


def test_a_clock_that_went_back_fills_after_the_decision(store: Store) -> None:
    """Decided at a time before its own close: the fill is dated one millisecond after the close."""
    books = {BTC: replace(recorded_book(0), available_at=T0)}
    state, effects = step(
        fresh_state(), FLAT, hour=0, target=Half(), rules=BOOKS, books=books,
        decided_after_ms=-5_000,
    )  # fmt: skip
    assert [one.event_time for one in effects.fills] == [T0 + 1]
    kept(store, state, effects)


def test_a_decision_before_the_last_fill_stops_and_writes_nothing(store: Store) -> None:
    """A close that was decided already cannot trade again: a bug, and the ledger is as it was."""
    state, effects = step(
        fresh_state(), FLAT, hour=0, target=Half(), rules=BOOKS, books={BTC: recorded_book(0)}
    )
    kept(store, state, effects)
    with pytest.raises(ValueError, match="not after its last fill"):
        step(
            state, FLAT, hour=0, target=Weights(0.1, 0.0), rules=BOOKS,
            books={BTC: recorded_book(0)}, decided_after_ms=700,
        )  # fmt: skip
    assert store.commit_decisions([effects_commit(effects)]) == 0
    assert store.check("main") == []
    assert store.load_account("main") == state.account
