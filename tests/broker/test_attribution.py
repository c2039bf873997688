"""Every cent of a result has one cause: by hand, and over random histories of an own making."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.attribution import PART_NAMES, Attribution, AttributionRefused, Parts, attribute
from broker.costs import TradingRules
from broker.ledger import Entry, EntryKind
from broker.records import DecisionRecord
from broker.valuation import MarkMissing
from market.bar import HOUR_MS
from tests.broker.diary import LATENCY_MS, QUANTUM, Diary, life
from tests.broker.factories import BTC, ETH, RULES, SOL, USUAL, record
from tests.broker.worlds import World, make_targets, make_world, run_account


def parts(**amounts: str) -> Parts:
    return Parts(**{name: Decimal(amount) for name, amount in amounts.items()})


def assert_sums(found: Attribution) -> None:
    """The parts of all symbols are the change of equity, to the last quantum."""
    every = [*found.by_symbol.values(), found.account]
    result = sum((getattr(one, name) for one in every for name in PART_NAMES), Decimal(0))
    assert result == found.closing_equity - found.opening_equity - found.deposits
    assert result == result.quantize(QUANTUM)


def test_a_long_position_by_hand() -> None:
    """Bought 2 at 101 where the price was 100, marked at 110, sold 1 at 119 where it was 120.

    Price: 2·(110 − 100) + 1·(120 − 110) + 1·(115 − 110) = 35; slippage 2·1 + 1·1; 0.4 of fees;
    0.05 of funding paid. In all 31.55.
    """
    diary = Diary()
    diary.deposit("1000")
    diary.trade(BTC, "2", "100", "101", "0.2", time=HOUR_MS + LATENCY_MS)
    diary.quote(
        EntryKind.FUNDING, f"income:funding:{BTC}", Decimal("-0.05"), symbol=BTC,
        time=HOUR_MS + 1800_000, posted_at=2 * HOUR_MS,
    )  # fmt: skip
    middle = diary.decide(2 * HOUR_MS, {BTC: "110"})
    diary.trade(BTC, "-1", "120", "119", "0.2", time=2 * HOUR_MS + LATENCY_MS)
    closing = diary.decide(3 * HOUR_MS, {BTC: "115"})
    whole = attribute(diary.entries, opening=None, closing=closing)
    assert whole.by_symbol == {BTC: parts(price="35", slippage="-3", fee="-0.4", funding="-0.05")}
    assert whole.opening_equity == 0
    assert whole.deposits == 1000
    assert whole.closing_equity == Decimal("1031.55")
    second = attribute(diary.entries, opening=middle, closing=closing)
    assert second.by_symbol == {BTC: parts(price="15", slippage="-1", fee="-0.2")}
    assert second.opening_equity == Decimal("1017.75")
    assert second.deposits == 0


def test_a_liquidation_and_its_insurance_by_hand() -> None:
    """Long 10 from 100 and short 1 from 50, on 150; at the marks of 90 and 80 it is over.

    The market took 100 and 30. Selling at 88 instead of 90 and the fees of 7 and 1 are 28 of
    liquidation. The 8 that are missing are put in.
    """
    diary = Diary()
    diary.deposit("150")
    diary.trade(BTC, "10", "100", "100", "0", time=1)
    diary.trade(ETH, "-1", "50", "50", "0", time=1)
    liquidation = EntryKind.LIQUIDATION
    diary.trade(BTC, "-10", "90", "88", "7", time=HOUR_MS - 1, kind=liquidation)
    diary.trade(ETH, "1", "80", "80", "1", time=HOUR_MS - 1, kind=liquidation)
    diary.quote(EntryKind.INSURANCE, "income:insurance", Decimal(8), time=HOUR_MS - 1)
    found = attribute(diary.entries, opening=None, closing=diary.decide(HOUR_MS, {}))
    assert found.by_symbol == {
        BTC: parts(price="-100", liquidation="-27"),
        ETH: parts(price="-30", liquidation="-1"),
    }
    assert found.account == parts(insurance="8")
    assert found.closing_equity == 0
    assert found.total == parts(price="-130", liquidation="-28", insurance="8")


def test_a_fill_better_than_its_reference_is_a_gain() -> None:
    """Sold 2 at 101 where the mid was 100: slippage is +2, and price is none of it."""
    diary = Diary()
    diary.deposit("1000")
    diary.trade(BTC, "-2", "100", "101", "0", time=1)
    found = attribute(diary.entries, opening=None, closing=diary.decide(HOUR_MS, {BTC: "100"}))
    assert found.by_symbol == {BTC: parts(slippage="2")}


def test_spot_is_cash_and_what_the_coins_are_worth() -> None:
    """Bought 2 at 101 (100), sold 1 at 119 (120), marked at 115: as with a perpetual."""
    diary = Diary(is_spot=True)
    diary.deposit("1000")
    diary.trade(BTC, "2", "100", "101", "0.2", time=1)
    diary.trade(BTC, "-1", "120", "119", "0.2", time=HOUR_MS + 1)
    found = attribute(diary.entries, opening=None, closing=diary.decide(2 * HOUR_MS, {BTC: "115"}))
    assert found.by_symbol == {BTC: parts(price="35", slippage="-3", fee="-0.4")}
    assert found.closing_equity == Decimal("1031.60")


def test_late_funding_counts_where_it_was_posted() -> None:
    """Due in the first hour, known in the second: the first decision's equity is without it."""
    diary = Diary()
    diary.deposit("1000")
    diary.trade(BTC, "1", "100", "100", "0", time=1)
    first = diary.decide(HOUR_MS, {BTC: "100"})
    diary.quote(
        EntryKind.FUNDING, f"income:funding:{BTC}", Decimal(-3), symbol=BTC,
        time=1800_000, posted_at=2 * HOUR_MS,
    )  # fmt: skip
    second = diary.decide(2 * HOUR_MS, {BTC: "100"})
    assert attribute(diary.entries, opening=None, closing=first).by_symbol == {}
    assert attribute(diary.entries, opening=first, closing=second).total == parts(funding="-3")


def test_a_fill_at_the_decision_belongs_to_the_next_one() -> None:
    """A decision is valued before its own orders are filled."""
    diary = Diary()
    diary.deposit("1000")
    first = diary.decide(HOUR_MS, {BTC: "100"})
    diary.trade(BTC, "1", "100", "101", "0.1", time=HOUR_MS)
    second = diary.decide(2 * HOUR_MS, {BTC: "100"})
    assert attribute(diary.entries, opening=None, closing=first).total == Parts()
    found = attribute(diary.entries, opening=first, closing=second)
    assert found.total == parts(slippage="-1", fee="-0.1")


def test_what_the_decision_recorded_must_be_what_the_entries_make() -> None:
    """A recorded equity that is a cent off is refused, by name."""
    diary = Diary()
    diary.deposit("1000")
    closing = diary.decide(HOUR_MS, {})
    wrong = replace(closing, equity=closing.equity + 0.01)
    with pytest.raises(AttributionRefused, match=r"1000\.01.*make 1000;.*account check"):
        attribute(diary.entries, opening=None, closing=wrong)


def test_a_held_symbol_needs_a_mark() -> None:
    """Nothing is valued at a guess."""
    diary = Diary()
    diary.deposit("1000")
    diary.trade(BTC, "1", "100", "100", "0", time=1)
    closing = replace(diary.decide(HOUR_MS, {BTC: "100"}), marks={})
    with pytest.raises(MarkMissing, match=BTC):
        attribute(diary.entries, opening=None, closing=closing)


def test_an_unknown_ledger_account_is_not_passed_over() -> None:
    """An amount without a part would be missing from the sum."""
    diary = Diary()
    diary.quote(EntryKind.DEPOSIT, "income:airdrop:BTC", Decimal(1), time=0)
    with pytest.raises(AttributionRefused, match="income:airdrop:BTC"):
        attribute(diary.entries, opening=None, closing=diary.decide(HOUR_MS, {}))


def test_a_span_goes_forward() -> None:
    """A decision is not before itself."""
    one = record(HOUR_MS)
    with pytest.raises(ValueError, match="not before"):
        attribute([], opening=one, closing=one)


def expected_price(entries: Iterable[Entry], decisions: list[DecisionRecord], symbol: str) -> float:
    """Σ held·Δprice from quantities, reference prices and marks alone."""
    held, last, total = Fraction(0), Fraction(0), Fraction(0)
    trades = [one for one in entries if one.symbol == symbol and "quantity" in one.facts]
    events = [
        (one.event_time, Fraction(one.facts["reference_price"]), Fraction(one.facts["quantity"]))
        for one in trades
    ]
    events += [(d.decision_time, Fraction(repr(d.marks[symbol])), Fraction(0)) for d in decisions]
    for _, price, quantity in sorted(events, key=lambda event: event[0]):
        total += held * (price - last)
        held, last = held + quantity, price
    return float(total)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), is_spot=st.booleans())
def test_parts_sum_to_the_change_of_equity_exactly(seed: int, is_spot: bool) -> None:
    """Over any span of any history; and the whole is the sum of its spans, part by part."""
    assert_spans_sum(seed, is_spot=is_spot)


@pytest.mark.simulation
@pytest.mark.timeout(900)
@settings(max_examples=2_000, deadline=None)
@given(seed=st.integers(0, 10**9), is_spot=st.booleans())
def test_parts_sum_exactly_in_thousands_of_histories(seed: int, is_spot: bool) -> None:
    """The same, many times."""
    assert_spans_sum(seed, is_spot=is_spot)


def assert_spans_sum(seed: int, *, is_spot: bool) -> None:
    """Cut a history anywhere: each span sums, and the spans sum to the whole."""
    random = Random(seed)
    lived = life(random, is_spot=is_spot)
    whole = attribute(lived.entries, opening=None, closing=lived.decisions[-1])
    assert_sums(whole)
    cut = random.randrange(len(lived.decisions) - 1)
    first = attribute(lived.entries, opening=None, closing=lived.decisions[cut])
    second = attribute(lived.entries, opening=lived.decisions[cut], closing=lived.decisions[-1])
    assert_sums(first)
    assert_sums(second)
    assert second.opening_equity == first.closing_equity
    for name in PART_NAMES:
        joined = getattr(first.total, name) + getattr(second.total, name)
        assert getattr(whole.total, name) == joined


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), is_spot=st.booleans())
def test_price_is_what_was_held_times_how_the_market_moved(seed: int, is_spot: bool) -> None:
    """Computed without entry prices or realised profit, to the rounding of 1e-8 an entry."""
    lived = life(Random(seed), is_spot=is_spot)
    found = attribute(lived.entries, opening=None, closing=lived.decisions[-1])
    for symbol in (BTC, ETH, SOL):
        expected = expected_price(lived.entries, lived.decisions, symbol)
        got = float(found.by_symbol.get(symbol, Parts()).price)
        assert got == pytest.approx(expected, rel=1e-9, abs=1e-5)


LEVERED = replace(RULES, leverage_limit=40.0, allow_short=True)


@pytest.mark.parametrize(
    ("is_spot", "rules", "leverage"),
    [(False, RULES, 1.0), (True, RULES, 1.0), (False, LEVERED, 40.0)],
    ids=["perpetuals", "spot", "liquidated"],
)
def test_the_brokers_own_entries_are_attributed(
    is_spot: bool, rules: TradingRules, leverage: float
) -> None:
    """At every bar of a random market the equity that the account reports is the parts' sum."""
    bars, names = 40, 3
    world = make_world(3, bars=bars, symbols=names)
    sign = np.where(np.arange(bars) % 3 > 0, 1.0, -1.0 if rules.allow_short else 1.0)
    targets = make_targets(3, bars=bars, accounts=1, symbols=names)[:, 0] * sign[:, None] * leverage
    curve, _, entries = run_account(
        world, targets, deposit=10_000.0, costs=USUAL, rules=rules, is_spot=is_spot
    )
    decisions = [decided(world, bar, float(curve[bar])) for bar in range(bars)]
    for opening, closing in pairwise(decisions):
        assert_sums(attribute(entries, opening=opening, closing=closing))
    total = attribute(entries, opening=None, closing=decisions[-1]).total
    booked = {kind: [one for one in entries if one.kind is kind] for kind in EntryKind}
    assert total.fee == -stated(booked[EntryKind.FILL], "fee") < 0
    assert total.slippage == -stated(booked[EntryKind.FILL], "slippage") < 0
    assert total.funding == stated(booked[EntryKind.FUNDING], "payment")
    assert total.liquidation == -stated(booked[EntryKind.LIQUIDATION], "fee")
    assert total.insurance == stated(booked[EntryKind.INSURANCE], "amount")
    assert (total.liquidation < 0) == (leverage > 1)


def decided(world: World, bar: int, equity: float) -> DecisionRecord:
    """The decision at the close of a bar."""
    names, time = world.panel.symbols, int(world.panel.close_time[bar])
    marks = dict(zip(names, map(float, world.arrays.mark[bar]), strict=True))
    return replace(record(time, equity=equity), decided_at=time, marks=marks)


def stated(entries: list[Entry], fact: str) -> Decimal:
    """Sum of what entries state."""
    return sum((Decimal(one.facts[fact]) for one in entries), Decimal(0))
