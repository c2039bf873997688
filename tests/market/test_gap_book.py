"""The gap book: what is missing, on what evidence, and when it is asked for again."""

from __future__ import annotations

from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.gap import Gap, GapKind
from market.gap_book import GapBook
from market.warehouse import Warehouse

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
NOW = 1_767_225_600_000
NOTICED = NOW - MINUTE_MS
BAR = NOW - 10 * MINUTE_MS


def book_with(*open_times: int, symbol: str = BTC) -> GapBook:
    """A book that knows of bars that did not come."""
    book = GapBook()
    book.missing(symbol, open_times, now=NOW, reason="not there at the deadline")
    return book


def latest(book: GapBook) -> Gap:
    """Return the one version that no warehouse has yet."""
    (gap,) = book.take_unsaved()
    return gap


def absent_book() -> GapBook:
    """A book in which one bar is verified absent at NOW."""
    book = GapBook()
    book.missing(BTC, [BAR], now=NOTICED, reason="not there at the deadline")
    for now in (NOTICED, NOW):
        book.not_served(BTC, [BAR], now=now, reason="later bars")
    return book


# Evidence


def test_a_missing_bar_is_asked_for_at_once() -> None:
    """It is fetchable and due when it is noticed; nobody has asked yet."""
    book = book_with(BAR)
    assert latest(book) == Gap(
        symbol=BTC,
        open_time=BAR,
        kind=GapKind.FETCHABLE,
        noticed_at=NOW,
        updated_at=NOW,
        attempts=0,
        reason="not there at the deadline",
    )
    assert book.due(NOW) == {BTC: [BAR]}


def test_two_pieces_of_evidence_make_an_absence() -> None:
    """One answer without the bar leaves it fetchable; the second verifies it."""
    book = book_with(BAR)
    book.not_served(BTC, [BAR], now=NOW, reason="later bars")
    first = latest(book)
    book.not_served(BTC, [BAR], now=NOW + MINUTE_MS, reason="later bars")
    second = latest(book)
    assert (first.kind, second.kind) == (GapKind.FETCHABLE, GapKind.ABSENT)
    assert (first.attempts, second.attempts) == (1, 2)
    assert second.noticed_at == NOW
    assert book.absent(BTC) == [BAR]


@given(failures=st.integers(1, 50))
def test_a_failed_request_is_never_an_absence(failures: int) -> None:
    """However often the venue cannot be asked, the bar is deferred; then two answers count."""
    book = book_with(BAR)
    for number in range(failures):
        book.deferred(BTC, [BAR], now=NOW + number, reason="503")
    assert book.counts() == {"fetchable": 0, "absent": 0, "deferred": 1}
    book.not_served(BTC, [BAR], now=NOW, reason="later bars")
    assert book.counts() == {"fetchable": 1, "absent": 0, "deferred": 0}


def test_a_failure_between_two_answers_does_not_undo_the_first() -> None:
    """Served without the bar, then down, then served without it: that is two answers."""
    book = book_with(BAR)
    book.not_served(BTC, [BAR], now=NOW, reason="later bars")
    book.deferred(BTC, [BAR], now=NOW + MINUTE_MS, reason="503")
    book.not_served(BTC, [BAR], now=NOW + 3 * MINUTE_MS, reason="later bars")
    assert book.absent(BTC) == [BAR]


def test_an_answer_repeated_at_once_is_no_second_evidence() -> None:
    """A close asks again within seconds; a venue that lags by those must not lose a bar to it."""
    book = book_with(BAR)
    for now in range(NOW, NOW + MINUTE_MS, 1000):
        book.not_served(BTC, [BAR], now=now, reason="later bars")
    assert book.counts() == {"fetchable": 1, "absent": 0, "deferred": 0}
    assert book.due(NOW + MINUTE_MS) == {BTC: [BAR]}


def test_a_verified_absence_survives_an_outage() -> None:
    """What is known to be absent is not deferred when a later look fails."""
    book = absent_book()
    book.deferred(BTC, [BAR], now=NOW + HOUR_MS, reason="503")
    assert book.counts() == {"fetchable": 0, "absent": 1, "deferred": 0}


def test_a_second_notice_changes_nothing() -> None:
    """A bar that is missed again keeps its evidence, its kind and its next look."""
    book = absent_book()
    book.take_unsaved()
    book.missing(BTC, [BAR], now=NOW + 5, reason="again")
    assert book.take_unsaved() == []
    assert book.absent(BTC) == [BAR]
    assert book.due(NOW + MINUTE_MS) == {}


# When it is asked for again


def waits(book: GapBook, *, attempts: int) -> list[int]:
    """Fail so many times, each at the moment it was due; return the waits in minutes."""
    found, now = [], NOW
    for _ in range(attempts):
        book.deferred(BTC, [BAR], now=now, reason="503")
        wait = next(
            minutes
            for minutes in range(121)
            if book.due(now + minutes * MINUTE_MS) and not book.due(now + minutes * MINUTE_MS - 1)
        )
        found.append(wait)
        now += wait * MINUTE_MS
    return found


def test_the_waits_double_up_to_an_hour() -> None:
    """1, 2, 4, 8, 16, 32 minutes, then every hour."""
    assert waits(book_with(BAR), attempts=8) == [1, 2, 4, 8, 16, 32, 60, 60]


def test_an_absence_is_looked_at_three_times_more() -> None:
    """Venues mend their history: after one hour, six and 24; then never again."""
    book, now = absent_book(), NOW
    for wait in (HOUR_MS, 6 * HOUR_MS, DAY_MS):
        assert book.due(now + wait - 1) == {}
        assert book.due(now + wait) == {BTC: [BAR]}
        now += wait
        book.not_served(BTC, [BAR], now=now, reason="later bars")
    assert book.due(now + 365 * DAY_MS) == {}
    assert book.absent(BTC) == [BAR]


def test_a_look_that_failed_is_no_look() -> None:
    """Three outages at the three looks: the absence is looked at again all the same."""
    book, now = absent_book(), NOW
    for _ in range(3):
        now += DAY_MS
        book.deferred(BTC, [BAR], now=now, reason="503")
    assert book.due(now + DAY_MS) == {BTC: [BAR]}


def test_due_bars_are_ascending_and_by_symbol() -> None:
    """Whoever repairs can ask for spans."""
    book = book_with(BAR + 2 * MINUTE_MS, BAR, BAR + MINUTE_MS)
    book.missing(ETH, [BAR], now=NOW + 1, reason="late")
    assert book.due(NOW) == {BTC: [BAR, BAR + MINUTE_MS, BAR + 2 * MINUTE_MS]}
    assert book.due(NOW + 1)[ETH] == [BAR]


# Closing


def test_closing_counts_what_was_a_gap() -> None:
    """Of three bars that came one was missing; it is closed once."""
    book = book_with(BAR, BAR + MINUTE_MS)
    came = [BAR, BAR - MINUTE_MS, BAR - 2 * MINUTE_MS]
    assert book.close(BTC, came, now=NOW + 7) == 1
    assert book.close(BTC, came, now=NOW + 8) == 0
    assert book.counts() == {"fetchable": 1, "absent": 0, "deferred": 0}
    assert book.due(NOW + DAY_MS) == {BTC: [BAR + MINUTE_MS]}


def test_a_closed_gap_says_when() -> None:
    """Its last version keeps what it was, and since when."""
    book = absent_book()
    book.close(BTC, [BAR], now=NOW + HOUR_MS)
    gap = latest(book)
    assert (gap.kind, gap.noticed_at) == (GapKind.ABSENT, NOTICED)
    assert (gap.updated_at, gap.closed_at) == (NOW + HOUR_MS, NOW + HOUR_MS)


def test_a_bar_that_goes_missing_again_starts_anew() -> None:
    """Evidence of a closed gap does not count for a later one."""
    book = absent_book()
    book.close(BTC, [BAR], now=NOW)
    book.not_served(BTC, [BAR], now=NOW + 1, reason="later bars")
    assert book.counts() == {"fetchable": 1, "absent": 0, "deferred": 0}


def test_one_symbols_bar_is_not_anothers() -> None:
    """The same open time of two symbols is two gaps."""
    book = book_with(BAR)
    book.missing(ETH, [BAR], now=NOW, reason="late")
    assert book.close(ETH, [BAR], now=NOW) == 1
    assert book.due(NOW) == {BTC: [BAR]}


# Versions for the warehouse


def test_versions_are_handed_out_once() -> None:
    """Between two writes only the last version of a bar is new."""
    book = absent_book()
    assert [gap.kind for gap in book.take_unsaved()] == [GapKind.ABSENT]
    assert book.take_unsaved() == []


def test_a_failed_write_does_not_undo_a_newer_version() -> None:
    """What is given back fills in only where nothing newer is there."""
    book = book_with(BAR, BAR + MINUTE_MS)
    taken = book.take_unsaved()
    book.close(BTC, [BAR], now=NOW + 1)
    book.give_back(taken)
    unsaved = {gap.open_time: gap for gap in book.take_unsaved()}
    assert unsaved[BAR].closed_at == NOW + 1
    assert unsaved[BAR + MINUTE_MS] == taken[1]


def test_a_book_is_read_back_from_the_warehouse(warehouse: Warehouse, venue_name: str) -> None:
    """Open gaps come back with their kinds; closed ones do not, and are kept with their time."""
    book = absent_book()
    late, down = BAR + MINUTE_MS, BAR + 2 * MINUTE_MS
    book.missing(BTC, [late], now=NOW, reason="late")
    book.deferred(ETH, [down], now=NOW, reason="503 \u201cdown\u201d")
    book.missing(ETH, [BAR], now=NOW, reason="late")
    warehouse.insert_gaps(book.take_unsaved(), venue=venue_name, interval_ms=MINUTE_MS)
    book.close(ETH, [BAR], now=NOW + HOUR_MS)
    warehouse.insert_gaps(book.take_unsaved(), venue=venue_name, interval_ms=MINUTE_MS)
    gaps = partial(warehouse.gaps, venue=venue_name, interval_ms=MINUTE_MS, since=BAR, until=NOW)

    again = GapBook()
    again.load(gaps())
    assert again.counts() == {"fetchable": 1, "absent": 1, "deferred": 1}
    assert again.absent(BTC) == [BAR]
    assert again.take_unsaved() == []
    assert again.due(NOW) == {BTC: [late]}
    assert again.due(NOW + MINUTE_MS) == {BTC: [late], ETH: [down]}
    assert again.due(NOW + HOUR_MS) == {BTC: [BAR, late], ETH: [down]}

    every = {(gap.symbol, gap.open_time): gap for gap in gaps(open_only=False)}
    assert every[ETH, BAR].closed_at == NOW + HOUR_MS
    assert every[ETH, down].reason == "503 \u201cdown\u201d"
    assert every[ETH, down].attempts == 1
    assert len(every) == 4


def test_a_loaded_absence_stays_one_after_one_more_look() -> None:
    """What an earlier run has verified needs no second proof, and comes back if it comes."""
    book = GapBook()
    book.load([latest(absent_book())])
    book.not_served(BTC, [BAR], now=NOW + HOUR_MS, reason="later bars")
    assert book.absent(BTC) == [BAR]
    assert book.close(BTC, [BAR], now=NOW + 2 * HOUR_MS) == 1


def test_a_clock_that_steps_back_does_not_open_a_closed_gap(
    warehouse: Warehouse, venue_name: str
) -> None:
    """The warehouse keeps the newest version, so each is newer than the last by its own count."""
    book = book_with(BAR)
    scope: dict[str, Any] = {"venue": venue_name, "interval_ms": MINUTE_MS}
    warehouse.insert_gaps(book.take_unsaved(), **scope)
    book.close(BTC, [BAR], now=NOW - MINUTE_MS)
    warehouse.insert_gaps(book.take_unsaved(), **scope)
    assert not warehouse.gaps(since=BAR, until=NOW, **scope)
