"""The comparison of two lists of a venue: what left, what came, what is traded by other rules."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from market.instrument import Instrument, Venue
from market.listing import ListingChange, ListingEvent, listing_changes
from tests.market.small_tape import BTC, ETH, SOL, small_tape

BEFORE = {one.symbol: one for one in small_tape(Venue.BINANCEUSDM).instruments}
NOW = 7


def changes(after: dict[str, Instrument], *followed: str) -> tuple[ListingChange, ...]:
    """Compare with the three symbols of the small tape."""
    return listing_changes(BEFORE, after, followed=followed or (BTC, ETH, SOL), noticed_at=NOW)


def without(*symbols: str) -> dict[str, Instrument]:
    """The list without some symbols."""
    return {name: one for name, one in BEFORE.items() if name not in symbols}


def heir(base: str) -> dict[str, Instrument]:
    """An instrument that was not listed before."""
    symbol = f"{base}/USDT:USDT"
    return {symbol: replace(BEFORE[SOL], symbol=symbol, venue_symbol=f"{base}USDT", base=base)}


def test_the_same_list_has_no_changes() -> None:
    """Nor has one in another order."""
    assert changes(dict(reversed(BEFORE.items()))) == ()


def test_a_symbol_that_left_is_delisted() -> None:
    """Gone from the list, or listed as not trading."""
    gone = ListingChange(symbol=SOL, event=ListingEvent.DELISTED, noticed_at=NOW)
    assert changes(without(SOL)) == (gone,)
    assert changes(BEFORE | {SOL: replace(BEFORE[SOL], is_trading=False)}) == (gone,)


def test_one_newcomer_beside_a_loss_is_its_heir() -> None:
    """The venue renamed it: both of its own names are kept."""
    (change,) = changes(without(SOL) | heir("SOLX"))
    assert (change.symbol, change.event) == (SOL, ListingEvent.RENAMED)
    assert (change.before, change.after) == ("SOLUSDT", "SOLXUSDT")


def test_two_newcomers_are_nobodys_heirs() -> None:
    """Which of them it became is a guess, and no guess is recorded."""
    (change,) = changes(without(SOL) | heir("AAA") | heir("BBB"))
    assert (change.event, change.after) == (ListingEvent.DELISTED, "")


def test_a_newcomer_of_another_quote_is_no_heir() -> None:
    """A new pair against another currency is not the old one under a new name."""
    other = {name: replace(one, quote="USDC") for name, one in heir("SOLX").items()}
    (change,) = changes(without(SOL) | other)
    assert change.event is ListingEvent.DELISTED


def test_a_symbol_that_comes_back_is_listed() -> None:
    """First seen, or trading again."""
    back = listing_changes(without(SOL), BEFORE, followed=[SOL], noticed_at=NOW)
    assert [change.event for change in back] == [ListingEvent.LISTED]


def test_each_rule_that_changed_is_a_change() -> None:
    """Two rules of one symbol: both, as text, with their names."""
    new = replace(BEFORE[ETH], min_notional=Decimal("20"), funding_interval_minutes=240)
    found = [(one.symbol, one.field, one.before, one.after) for one in changes(BEFORE | {ETH: new})]
    assert found == [
        (ETH, "min_notional", "5", "20"),
        (ETH, "funding_interval_minutes", "480", "240"),
    ]


def test_what_is_not_followed_is_no_change() -> None:
    """Other symbols come and go every day."""
    assert changes(without(SOL) | heir("AAA"), BTC) == ()


def test_changes_are_in_the_order_of_the_followed_symbols() -> None:
    """Whatever the venue's order; of one symbol, that it left comes before its rules."""
    stopped = replace(BEFORE[ETH], is_trading=False, min_notional=Decimal("20"))
    found = changes({ETH: stopped, BTC: BEFORE[BTC]}, SOL, ETH, BTC)
    assert [(one.symbol, one.event) for one in found] == [
        (SOL, ListingEvent.DELISTED),
        (ETH, ListingEvent.DELISTED),
        (ETH, ListingEvent.RULE_CHANGED),
    ]
