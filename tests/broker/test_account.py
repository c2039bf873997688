"""Rules of one account: entries, funding, fills, and what it refuses."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.account import (
    AccountState,
    SettlementRefused,
    account_equity,
    account_weights,
    open_account,
    place_orders,
    post_settlement,
)
from broker.ledger import Entry, EntryKind
from broker.orders import RejectReason
from broker.state import HOLDINGS_KEPT_MS, Position
from broker.valuation import MarkMissing
from market.bar import HOUR_MS
from tests.broker.factories import (
    BTC,
    ETH,
    RULES,
    USUAL,
    account,
    fill,
    filled,
    order,
    settlement,
)
from tests.broker.worlds import make_targets, make_world, run_account


def balances(entries: list[Entry]) -> dict[str, Decimal]:
    """Sum of postings by ledger account."""
    sums: dict[str, Decimal] = defaultdict(Decimal)
    for entry in entries:
        for leg in entry.postings:
            sums[leg.ledger_account] += leg.amount
    return sums


def test_opening_posts_the_deposit() -> None:
    """A deposit goes from equity to the wallet, and the two sum to zero."""
    state, entry = open_account("a", deposit=Decimal(100), quote="USDT", time=5)
    assert state.wallet == Decimal(100)
    assert [(leg.ledger_account, leg.amount) for leg in entry.postings] == [
        ("assets:wallet", Decimal(100)),
        ("equity:deposits", Decimal(-100)),
    ]


@pytest.mark.parametrize(("name", "deposit"), [("a:b", 1), ("", 1), ("a", 0), ("a", -1)])
def test_opening_refuses_bad_names_and_deposits(name: str, deposit: int) -> None:
    """An account id takes part in other ids, and an account starts with money."""
    with pytest.raises(ValueError, match=r"account id|deposit"):
        open_account(name, deposit=Decimal(deposit), quote="USDT", time=0)


def test_fill_by_hand() -> None:
    """2 BTC at an open of 100 with 1 bp and 0.05 %: price 100.01, fee 0.10001, slippage 0.02."""
    state = place_orders(account(), (order("2"),))
    done = fill(state, {BTC: 100.0}, liquidity={BTC: (1e30, 0.0)}, costs=USUAL)
    (one,), (entry,) = done.fills, done.entries
    assert one.event_time == HOUR_MS + 1_000
    assert (one.fee, one.slippage) == (Decimal("0.10001"), Decimal("0.02"))
    assert float(one.fill_price) == pytest.approx(100.01)
    assert done.state.wallet == Decimal("9999.89999")
    assert done.state.pending == ()
    assert {leg.ledger_account: leg.amount for leg in entry.postings} == {
        f"assets:position:{BTC}": Decimal(2),
        f"equity:counterparty:{BTC}": Decimal(-2),
        "assets:wallet": Decimal("-0.10001"),
        f"expenses:fees:{BTC}": Decimal("0.10001"),
    }


def test_flip_by_hand() -> None:
    """Long 2 at 100, sell 5 at 110: the wallet gains 20, and 3 are short at 110."""
    state = filled(filled(account(), "2", 100.0), "-5", 110.0, open_time=2 * HOUR_MS)
    assert state.wallet == Decimal("10020")
    assert state.positions[BTC].quantity == Decimal(-3)
    assert state.positions[BTC].entry_price == Decimal(110)


def test_closing_removes_the_position() -> None:
    """0.1 three times, sold at once, leaves nothing behind."""
    state = account()
    for hour in (1, 2, 3):
        state = filled(state, "0.1", 100.0, open_time=hour * HOUR_MS)
    assert filled(state, "-0.3", 100.0, open_time=4 * HOUR_MS).positions == {}


@pytest.mark.parametrize("price", [None, math.nan, 0.0, -1.0, math.inf])
def test_order_without_a_bar_is_rejected(price: float | None) -> None:
    """No open, no fill: the order ends as ``NO_BAR_TO_FILL`` and the position stays."""
    state = place_orders(account(), (order("2"), order("1", symbol=ETH)))
    prices = {ETH: 50.0} if price is None else {ETH: 50.0, BTC: price}
    done = fill(state, prices)
    assert [(one.symbol, one.reason) for one in done.rejections] == [
        (BTC, RejectReason.NO_BAR_TO_FILL)
    ]
    assert set(done.state.positions) == {ETH}


def test_unknown_liquidity_costs_a_whole_day() -> None:
    """A symbol without known volume pays the impact of a day's volume at 5 %, not none."""
    state = place_orders(account(), (order("1"),))
    done = fill(state, {BTC: 100.0}, costs=USUAL)
    assert float(done.fills[0].fill_price) == pytest.approx(100 * (1 + 0.0001 + 0.05))


def test_fills_never_go_back_in_time() -> None:
    """A fill at or before the last one is a bug of the caller."""
    state = place_orders(filled(account(), "1", 100.0), (order("1", decision_time=2 * HOUR_MS),))
    with pytest.raises(ValueError, match="not after its last fill"):
        fill(state, {BTC: 1.0})


def test_orders_are_placed_once() -> None:
    """An account with pending orders takes no others."""
    with pytest.raises(ValueError, match="pending"):
        place_orders(place_orders(account(), (order("2"),)), (order("2"),))


def test_funding_by_hand() -> None:
    """Long 2 at a mark of 110 and a rate of 0.01 %: pays 0.022; short receives it."""
    for quantity, payment in (("2", "-0.022"), ("-2", "0.022")):
        state, entry = post_settlement(
            filled(account(), quantity, 100.0),
            settlement(8 * HOUR_MS, mark=110.0), posted_at=9 * HOUR_MS,
        )  # fmt: skip
        assert entry is not None
        assert state.wallet == 10_000 + Decimal(payment)
        assert (entry.event_time, entry.posted_at) == (8 * HOUR_MS, 9 * HOUR_MS)


def test_funding_multiplier_scales_the_payment() -> None:
    """Cost stress at ×2 pays twice."""
    state, _ = post_settlement(
        filled(account(), "2", 100.0), settlement(8 * HOUR_MS), posted_at=0, multiplier=2.0
    )
    assert state.wallet == Decimal("9999.96")


def test_funding_is_posted_once() -> None:
    """The same (symbol, nominal time) again, even with other jitter or rate, changes nothing."""
    once, _ = post_settlement(filled(account(), "2", 100.0), settlement(8 * HOUR_MS), posted_at=0)
    twice, entry = post_settlement(once, settlement(8 * HOUR_MS, rate=0.5), posted_at=0)
    assert entry is None
    assert twice == once


def test_fill_at_the_nominal_time_does_not_count() -> None:
    """Held just before the nominal time is what pays; bought at it or after it is not."""
    bought_after = filled(account(), "2", 100.0, open_time=8 * HOUR_MS)
    at_it = 8 * HOUR_MS + RULES.latency_ms
    for nominal in (8 * HOUR_MS, at_it - at_it % 60_000):
        _, entry = post_settlement(bought_after, settlement(nominal), posted_at=0)
        assert entry is None
    sold_after = filled(filled(account(), "2", 100.0), "-2", 100.0, open_time=8 * HOUR_MS)
    _, entry = post_settlement(sold_after, settlement(8 * HOUR_MS), posted_at=0)
    assert entry is not None
    assert entry.facts["quantity"] == "2"


def test_fill_exactly_at_the_nominal_time_does_not_count() -> None:
    """Without latency the fill happens at the settlement's own moment, and is too late for it."""
    done = fill(
        place_orders(account(), (order("2"),)),
        {BTC: 100.0},
        open_time=8 * HOUR_MS,
        rules=replace(RULES, latency_ms=0),
    )
    assert done.fills[0].event_time == 8 * HOUR_MS
    assert post_settlement(done.state, settlement(8 * HOUR_MS), posted_at=0)[1] is None


def test_late_settlement_uses_what_was_held_then() -> None:
    """Three fills later, a settlement is a dated correction on the quantity of its own time."""
    state = account()
    for hour, quantity in ((1, "2"), (9, "3"), (10, "-1"), (20, "-4")):
        state = filled(state, quantity, 100.0, open_time=hour * HOUR_MS)
    _, entry = post_settlement(state, settlement(16 * HOUR_MS), posted_at=30 * HOUR_MS)
    assert entry is not None
    assert entry.facts["quantity"] == "4"
    assert entry.event_time == 16 * HOUR_MS


def test_settlement_after_a_long_silence_is_posted() -> None:
    """Thirty days without a fill: what was held is still known."""
    state = filled(account(), "2", 100.0)
    _, entry = post_settlement(state, settlement(720 * HOUR_MS), posted_at=721 * HOUR_MS)
    assert entry is not None


def test_settlement_older_than_the_log_is_refused() -> None:
    """More than eight days before the last fill nobody remembers what was held."""
    later = 2 * HOUR_MS + HOLDINGS_KEPT_MS
    state = filled(filled(account(), "2", 100.0), "1", 100.0, open_time=later)
    with pytest.raises(SettlementRefused, match="eight days"):
        post_settlement(state, settlement(HOUR_MS), posted_at=later)


def test_settlement_of_the_cutoff_itself_is_posted() -> None:
    """Exactly eight days before the last fill is still remembered."""
    state, cutoff = filled(account(), "2", 100.0), 2 * HOUR_MS
    last = cutoff + HOLDINGS_KEPT_MS - RULES.latency_ms
    state = filled(state, "1", 100.0, open_time=last)
    assert state.last_fill_time - HOLDINGS_KEPT_MS == cutoff
    _, entry = post_settlement(state, settlement(cutoff), posted_at=last)
    assert entry is not None
    assert entry.facts["quantity"] == "2"


def test_settlement_without_a_mark_is_refused() -> None:
    """An unknown mark is never counted as zero."""
    with pytest.raises(SettlementRefused, match="no mark"):
        post_settlement(
            filled(account(), "2", 100.0), settlement(8 * HOUR_MS, mark=None), posted_at=0
        )


def test_settlement_before_the_opening_pays_nothing() -> None:
    """An account that did not exist held nothing."""
    state, _ = open_account("a", deposit=Decimal(1), quote="USDT", time=10 * HOUR_MS)
    assert post_settlement(state, settlement(8 * HOUR_MS), posted_at=0) == (state, None)


def test_holdings_are_kept_for_eight_days() -> None:
    """Old holdings go, except the one in force at the cutoff."""
    state = account()
    for day in range(1, 20):
        state = filled(state, "1", 100.0, open_time=day * 24 * HOUR_MS)
    ages = [(state.last_fill_time - one.since) / (24 * HOUR_MS) for one in state.holdings]
    # What was held just before the cutoff is what the fill of the ninth day left.
    assert ages == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert HOLDINGS_KEPT_MS == 8 * 24 * HOUR_MS


def test_weights_are_measured_at_the_price() -> None:
    """Equity 10 100 at the mark of 105; 20 held at a price of 101 weigh 2020/10100."""
    state = filled(account(), "20", 100.0)
    assert account_equity(state, {BTC: 105.0}) == 10_100.0
    assert account_weights(state, {BTC: 105.0}, {BTC: 101.0}) == {BTC: 0.2}
    assert account_weights(state, {BTC: 105.0}) == {BTC: 2100 / 10_100}


@pytest.mark.parametrize("mark", [{}, {BTC: math.nan}, {BTC: 0.0}])
def test_equity_is_never_guessed(mark: dict[str, float]) -> None:
    """A held symbol without a mark is an error that names it."""
    with pytest.raises(MarkMissing, match="BTC"):
        account_equity(filled(account(), "2", 100.0), mark)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_ledger_invariants_on_random_paths(seed: int) -> None:
    """Entries balance; the wallet and positions are their sums; Δequity is what was booked."""
    world = make_world(seed, bars=40, symbols=3)
    targets = make_targets(seed, bars=40, accounts=1, symbols=3)[:, 0]
    curve, state, entries = run_account(world, targets, deposit=10_000.0, costs=USUAL, rules=RULES)
    sums = balances(entries)
    assert sum(sums.values(), Decimal(0)) == 0
    assert sums["assets:wallet"] == state.wallet
    for symbol in world.panel.symbols:
        held = state.positions.get(symbol)
        assert sums[f"assets:position:{symbol}"] == (held.quantity if held else 0)
    realised = -sum(v for k, v in sums.items() if k.startswith("income:realised"))
    funding = -sum(v for k, v in sums.items() if k.startswith("income:funding"))
    fees = sum(v for k, v in sums.items() if k.startswith("expenses:fees"))
    assert state.wallet == Decimal(10_000) + realised + funding - fees
    marks = dict(zip(world.panel.symbols, world.arrays.mark[-1], strict=True))
    unrealised = sum(
        float(held.quantity) * (marks[symbol] - float(held.entry_price))
        for symbol, held in state.positions.items()
    )
    assert curve[-1] == pytest.approx(float(state.wallet) + unrealised, rel=1e-12)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_same_path_gives_the_same_ledger(seed: int) -> None:
    """Every id and amount is a function of what happened: replay is identical, entry by entry."""
    world = make_world(seed, bars=20, symbols=2)
    targets = make_targets(seed, bars=20, accounts=1, symbols=2)[:, 0]
    first = run_account(world, targets, deposit=10_000.0, costs=USUAL, rules=RULES)
    second = run_account(world, targets, deposit=10_000.0, costs=USUAL, rules=RULES)
    assert first[1:] == second[1:]
    ids = [entry.entry_id for entry in first[2]]
    assert len(set(ids)) == len(ids)


def test_entry_must_balance() -> None:
    """An entry whose postings do not sum to zero cannot be made."""
    _, entry = open_account("a", deposit=Decimal(100), quote="USDT", time=5)
    with pytest.raises(ValueError, match="does not balance"):
        Entry(
            entry_id="x", account_id="a", kind=EntryKind.DEPOSIT, symbol=None, event_time=0,
            posted_at=0, postings=entry.postings[:1], facts={},
        )  # fmt: skip


def test_state_needs_an_opening() -> None:
    """An account without a holding log could not be charged funding."""
    with pytest.raises(ValueError, match="no holding"):
        AccountState(account_id="a", quote="USDT", wallet=Decimal(1), holdings=())


def test_a_position_holds_something() -> None:
    """Zero units, or a price that is not positive, is no position."""
    for quantity, price in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="not a position"):
            Position(quantity=Decimal(quantity), entry_price=Decimal(price))
