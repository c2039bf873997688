"""What changed in a venue's list of instruments between two looks at it. Pure.

A live venue delists and renames symbols, raises minimum notionals and changes funding intervals
without asking; each such change is a value that is recorded and reported.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from market.instrument import Instrument


class ListingEvent(enum.StrEnum):
    """What happened to a symbol."""

    LISTED = "listed"  # first seen, or back again
    DELISTED = "delisted"  # gone from the list, or no longer trading
    RENAMED = "renamed"  # gone, and exactly one unknown symbol of the same quote appeared with it
    RULE_CHANGED = "rule_changed"  # a trading rule or the funding interval has another value


@dataclass(frozen=True, slots=True, kw_only=True)
class ListingChange:
    """One change of one symbol.

    Attributes:
        field: the rule that changed, such as ``min_notional``; empty for other events.
        before, after: its values as text; for a renaming the old and the new venue symbol.
        noticed_at: UTC milliseconds.
    """

    symbol: str
    event: ListingEvent
    field: str = ""
    before: str = ""
    after: str = ""
    noticed_at: int


_RULES = (
    "tick_size",
    "lot_step",
    "min_quantity",
    "max_quantity",
    "min_notional",
    "funding_interval_minutes",
)


def listing_changes(
    before: Mapping[str, Instrument],
    after: Mapping[str, Instrument],
    *,
    followed: Sequence[str],
    noticed_at: int,
) -> tuple[ListingChange, ...]:
    """Compare two lists of one venue, by unified symbol, for the symbols that are followed.

    Args:
        before: every instrument that the venue listed then.
        after: every instrument that it lists now.
        followed: symbols whose changes matter.
        noticed_at: UTC milliseconds, stamped on every change.
    """
    appeared = [after[symbol] for symbol in after if symbol not in before]
    changes: list[ListingChange] = []
    for symbol in followed:
        old, new = before.get(symbol), after.get(symbol)
        if old is not None and old.is_trading and (new is None or not new.is_trading):
            changes.append(_gone(old, appeared if new is None else [], noticed_at))
        elif new is not None and new.is_trading and (old is None or not old.is_trading):
            changes.append(
                ListingChange(symbol=symbol, event=ListingEvent.LISTED, noticed_at=noticed_at)
            )
        if old is not None and new is not None:
            changes += _rule_changes(old, new, noticed_at)
    return tuple(changes)


def _gone(old: Instrument, appeared: Sequence[Instrument], noticed_at: int) -> ListingChange:
    heirs = [one for one in appeared if one.quote == old.quote]
    if len(heirs) != 1:
        return ListingChange(symbol=old.symbol, event=ListingEvent.DELISTED, noticed_at=noticed_at)
    return ListingChange(
        symbol=old.symbol,
        event=ListingEvent.RENAMED,
        before=old.venue_symbol,
        after=heirs[0].venue_symbol,
        noticed_at=noticed_at,
    )


def _rule_changes(old: Instrument, new: Instrument, noticed_at: int) -> list[ListingChange]:
    return [
        ListingChange(
            symbol=old.symbol,
            event=ListingEvent.RULE_CHANGED,
            field=rule,
            before=str(getattr(old, rule)),
            after=str(getattr(new, rule)),
            noticed_at=noticed_at,
        )
        for rule in _RULES
        if getattr(old, rule) != getattr(new, rule)
    ]
