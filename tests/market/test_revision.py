"""Which version of a fact is kept: the pure rules behind the warehouse."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from market.bar import Bar, MarkSource, Settlement
from market.revision import (
    Version,
    plan_revisions,
    resolve_mark,
    revise_bar,
    revise_settlement,
)

PLAIN = Bar(symbol="A", open_time=0, open=10, high=12, low=9, close=11, volume=5)
FULL = replace(PLAIN, quote_volume=55.0, trades=7)
PAID = Settlement(
    symbol="A", funding_time=0, rate=1e-4, mark_price=100.0, mark_source=MarkSource.VENUE
)
UNPRICED = replace(PAID, mark_price=None, mark_source=MarkSource.UNKNOWN)


def test_equal_bar_is_no_news() -> None:
    """A bar equal to the stored one changes nothing."""
    assert revise_bar(FULL, FULL) is None


def test_bar_that_lacks_fields_erases_none() -> None:
    """The same prices without quote volume leave the richer bar as it is."""
    assert revise_bar(FULL, PLAIN) is None


def test_bar_that_adds_fields_is_united_with_the_stored_one() -> None:
    """The same prices with a new field give the union of both."""
    taker = replace(PLAIN, taker_buy_volume=2.0)
    assert revise_bar(FULL, taker) == replace(FULL, taker_buy_volume=2.0)


def test_bar_with_other_prices_stands_alone() -> None:
    """Volumes of the old prices are not carried over to new ones."""
    corrected = replace(PLAIN, close=11.5)
    assert revise_bar(FULL, corrected) == corrected


def test_worse_mark_never_replaces_a_better_one() -> None:
    """A settlement without a mark says nothing new about one that has it."""
    assert revise_settlement(PAID, UNPRICED) is None


def test_better_mark_replaces_a_worse_one() -> None:
    """The venue's mark replaces an unknown one."""
    assert revise_settlement(UNPRICED, PAID) == PAID


def test_new_rate_keeps_the_known_mark() -> None:
    """A corrected rate without a mark is stored with the mark that is known."""
    corrected = replace(UNPRICED, rate=2e-4)
    assert revise_settlement(PAID, corrected) == replace(PAID, rate=2e-4)


def test_jitter_of_the_funding_time_is_no_news() -> None:
    """Milliseconds within the nominal minute make no revision."""
    assert revise_settlement(PAID, replace(PAID, funding_time=31)) is None


def test_marks_are_taken_in_order_of_trust() -> None:
    """Venue, then the mark candle's open, then the bar's open, then unknown."""
    assert resolve_mark(PAID, candle_open=99.0, bar_open=98.0) == PAID
    candle = resolve_mark(UNPRICED, candle_open=99.0, bar_open=98.0)
    assert (candle.mark_price, candle.mark_source) == (99.0, MarkSource.MARK_CANDLE)
    bar = resolve_mark(UNPRICED, candle_open=None, bar_open=98.0)
    assert (bar.mark_price, bar.mark_source) == (98.0, MarkSource.BAR_OPEN)
    assert resolve_mark(UNPRICED, candle_open=None, bar_open=None) == UNPRICED


def test_candle_replaces_a_stored_bar_open() -> None:
    """A mark that was only a bar's open gives way to the mark candle."""
    stored = replace(PAID, mark_source=MarkSource.BAR_OPEN)
    better = resolve_mark(stored, candle_open=99.0, bar_open=98.0)
    assert (better.mark_price, better.mark_source) == (99.0, MarkSource.MARK_CANDLE)


def _plan(stored: list[Version[Bar]], bars: list[Bar], at: int) -> list[Version[Bar]]:
    incoming = [Version(value=bar, ingested_at=at) for bar in bars]
    plan = plan_revisions(
        stored, incoming, key=lambda bar: (bar.symbol, bar.open_time), revise=revise_bar
    )
    return plan.written


def test_revision_is_later_than_what_it_replaces_although_the_clock_went_back() -> None:
    """The newest ``ingested_at`` is what is read, so a revision always has it."""
    stored = [Version(value=PLAIN, ingested_at=1000)]
    (written,) = _plan(stored, [replace(PLAIN, close=10.0)], at=3)
    assert written.ingested_at == 1001


bars = st.lists(
    st.builds(
        lambda time, close, trades: replace(PLAIN, open_time=time, close=close, trades=trades),
        st.integers(0, 3),
        st.sampled_from([9.5, 10.5]),
        st.sampled_from([None, 1, 2]),
    )
)


@given(first=bars, second=bars)
def test_repeating_an_insert_writes_nothing(first: list[Bar], second: list[Bar]) -> None:
    """Whatever was stored before, rows that won are not written a second time."""
    stored = _plan([], first, at=1)
    written = _plan(stored, second, at=2)
    newest = {version.value.open_time: version for version in [*stored, *written]}
    winners = [version.value for version in newest.values()]
    assert _plan(list(newest.values()), winners, at=3) == []


@given(incoming=bars)
def test_last_version_of_each_row_has_the_latest_stamp(incoming: list[Bar]) -> None:
    """Several versions of one row in one insert get rising stamps, in their order."""
    stamps: dict[int, list[int]] = {}
    for version in _plan([], incoming, at=1):
        stamps.setdefault(version.value.open_time, []).append(version.ingested_at)
    assert all(found == sorted(set(found)) for found in stamps.values())
