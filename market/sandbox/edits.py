"""What a venue does to its list of symbols while a tape plays: values, and their effect on a tape.

Pure. An edit changes the market itself, so ``edit_tape`` returns another tape, which is then the
truth: bars that an edit takes away are NaN in its panel, a renamed symbol is a column of its own.
What changes without touching a bar (trading rules, being listed) is in the ``Listing`` of each
symbol. An edit never changes the value of a bar.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from market.bar import HOUR_MS, MINUTE_MS, MarkSource, Settlement
from market.instrument import Instrument, Venue
from market.panel import ARRAY_FIELDS, Float64Array, Int64Array, Panel
from market.panels import funding_arrays
from market.sandbox.tape import Tape

FOREVER = 2**62
"""A time that never comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delisting:
    """A symbol ends: no bar opens at or after ``at``; the venue still lists it as not trading.

    Attributes:
        at: UTC milliseconds, on the tape's grid.
        gone_after_ms: how long after ``at`` the venue forgets it: then it is no longer listed and
            requests for it are refused as for an unknown symbol.
    """

    symbol: str
    at: int
    gone_after_ms: int = HOUR_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class Renaming:
    """A symbol gets another base: the old id is gone, the new one has the bars from ``at`` on.

    Attributes:
        at: UTC milliseconds, on the tape's grid.
        base: the new base asset, such as ``POL``; the quote stays.
        refused_after_ms: how long after ``at`` the venue still answers for the old id, which it
            no longer lists; otherwise nobody could ask for its last bar.
    """

    symbol: str
    at: int
    base: str
    refused_after_ms: int = 10 * MINUTE_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class MinNotionalChange:
    """From ``at`` on (UTC milliseconds) the smallest order value is ``min_notional``."""

    symbol: str
    at: int
    min_notional: Decimal


@dataclass(frozen=True, slots=True, kw_only=True)
class FundingIntervalChange:
    """After ``at`` (UTC milliseconds) funding settles at every multiple of ``minutes``.

    A new settlement has the rate of the one that would have come next, scaled to its interval.
    """

    symbol: str
    at: int
    minutes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingBars:
    """Bars with ``since <= open_time < until`` that the venue never made; ``None``: all symbols."""

    symbol: str | None
    since: int
    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewListing:
    """A symbol of the tape that the venue lists only from ``at`` on (UTC milliseconds, on grid)."""

    symbol: str
    at: int


VenueEdit = (
    Delisting | Renaming | MinNotionalChange | FundingIntervalChange | MissingBars | NewListing
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """When the venue lists one symbol, and by which rules.

    Attributes:
        rules: (from when, rules), ascending; the first holds from ever.
        listed_at: from when on the venue knows it.
        closed_at: from when on it is listed and not trading.
        gone_at: from when on it is not listed.
        refused_at: from when on requests for it are refused as for an unknown symbol.
    """

    rules: tuple[tuple[int, Instrument], ...]
    listed_at: int = 0
    closed_at: int = FOREVER
    gone_at: int = FOREVER
    refused_at: int = FOREVER

    def answers(self, now: int) -> bool:
        """Whether the venue answers requests for it at ``now``."""
        return self.listed_at <= now < self.refused_at

    def at(self, now: int) -> Instrument | None:
        """Return the rules in force at ``now``, ``None`` while the venue does not list it."""
        if not self.listed_at <= now < self.gone_at:
            return None
        current = [rules for since, rules in self.rules if since <= now][-1]
        return dataclasses.replace(current, is_trading=now < self.closed_at)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditedTape:
    """A tape after its edits, with the listing of each of its symbols in their order."""

    tape: Tape
    listings: tuple[Listing, ...]


def edit_time(edit: VenueEdit) -> int:
    """Return when ``edit`` takes effect, UTC milliseconds."""
    return edit.since if isinstance(edit, MissingBars) else edit.at


def edit_tape(tape: Tape, edits: Sequence[VenueEdit]) -> EditedTape:
    """Apply ``edits`` in the order of their times; a later one may name a renamed symbol.

    Raises:
        ValueError: an edit names a symbol that does not exist then, a time off the tape's grid
            where a bar would be cut in two, or an interval of no whole minute.
    """
    if not edits:
        return EditedTape(tape=tape, listings=tuple(_listing(one) for one in tape.instruments))
    draft = _Draft.of(tape)
    for edit in sorted(edits, key=edit_time):
        _apply(draft, edit)
    return EditedTape(tape=draft.tape(), listings=tuple(draft.listings.values()))


@dataclass(slots=True, kw_only=True, eq=False)
class _Draft:
    """A tape being edited: one column per symbol and panel array, all of its own."""

    source: Tape
    columns: dict[str, dict[str, Float64Array]]
    listings: dict[str, Listing]
    settlements: list[Settlement]

    @classmethod
    def of(cls, tape: Tape) -> _Draft:
        return cls(
            source=tape,
            columns={
                symbol: {name: getattr(tape.panel, name)[:, asset].copy() for name in ARRAY_FIELDS}
                for asset, symbol in enumerate(tape.panel.symbols)
            },
            listings={one.symbol: _listing(one) for one in tape.instruments},
            settlements=list(tape.settlements),
        )

    @property
    def open_time(self) -> Int64Array:
        return self.source.panel.open_time

    def tape(self) -> Tape:
        symbols = tuple(self.columns)
        arrays = {
            name: np.stack([column[name] for column in self.columns.values()], axis=1)
            for name in ARRAY_FIELDS
        }
        panel = Panel(
            symbols=symbols,
            interval_ms=self.source.panel.interval_ms,
            open_time=self.open_time,
            **arrays,
        )
        return dataclasses.replace(
            self.source,
            panel=panel,
            settlements=_in_order(self.settlements),
            instruments=tuple(one.rules[0][1] for one in self.listings.values()),
        )

    def listing(self, symbol: str, at: int) -> tuple[Listing, Instrument]:
        known = self.listings.get(symbol)
        current = None if known is None else known.at(at)
        if known is None or current is None:
            raise ValueError(f"{symbol} is not listed at {at}; there are {', '.join(self.columns)}")
        return known, current

    def change_rules(self, symbol: str, at: int, rules: Instrument) -> None:
        known, _ = self.listing(symbol, at)
        self.listings[symbol] = dataclasses.replace(known, rules=(*known.rules, (at, rules)))

    def blank(self, symbol: str, since: int, until: int, names: Iterable[str]) -> None:
        """Take away what opens in ``[since, until)``: unknown, and funding that nobody paid."""
        rows = slice(bisect_left(self.open_time, since), bisect_left(self.open_time, until))
        for name in names:
            self.columns[symbol][name][rows] = 0.0 if name in _PAYMENTS else np.nan

    def forget_settlements(self, symbol: str, since: int, until: int) -> None:
        self.settlements = [
            one
            for one in self.settlements
            if one.symbol != symbol or not since <= one.nominal_time < until
        ]


_PAYMENTS = ("funding_at_open", "funding_in_bar")
_BAR_ARRAYS = (
    "open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume",
)  # fmt: skip


def _listing(rules: Instrument) -> Listing:
    return Listing(rules=((0, rules),))


def _apply(draft: _Draft, edit: VenueEdit) -> None:
    match edit:
        case Delisting():
            _delist(draft, edit)
        case Renaming():
            _rename(draft, edit)
        case MinNotionalChange():
            _, rules = draft.listing(edit.symbol, edit.at)
            rules = dataclasses.replace(rules, min_notional=edit.min_notional)
            draft.change_rules(edit.symbol, edit.at, rules)
        case FundingIntervalChange():
            _change_funding(draft, edit)
        case MissingBars():
            if edit.symbol is not None:
                draft.listing(edit.symbol, edit.since)
            for symbol in draft.columns if edit.symbol is None else (edit.symbol,):
                draft.blank(symbol, edit.since, edit.until, _BAR_ARRAYS)
        case NewListing():
            _list_newly(draft, edit)


def _delist(draft: _Draft, edit: Delisting) -> None:
    _check_grid(draft, edit)
    listing, _ = draft.listing(edit.symbol, edit.at)
    gone_at = edit.at + edit.gone_after_ms
    draft.listings[edit.symbol] = dataclasses.replace(
        listing, closed_at=edit.at, gone_at=gone_at, refused_at=gone_at
    )
    draft.blank(edit.symbol, edit.at, FOREVER, ARRAY_FIELDS)
    draft.forget_settlements(edit.symbol, edit.at, FOREVER)


def _list_newly(draft: _Draft, edit: NewListing) -> None:
    _check_grid(draft, edit)
    listing, _ = draft.listing(edit.symbol, edit.at)
    draft.listings[edit.symbol] = dataclasses.replace(listing, listed_at=edit.at)
    draft.blank(edit.symbol, 0, edit.at, ARRAY_FIELDS)
    draft.forget_settlements(edit.symbol, 0, edit.at)


def _rename(draft: _Draft, edit: Renaming) -> None:
    _check_grid(draft, edit)
    listing, rules = draft.listing(edit.symbol, edit.at)
    heir = dataclasses.replace(
        rules,
        symbol=edit.symbol.replace(f"{rules.base}/", f"{edit.base}/", 1),
        venue_symbol=rules.venue_symbol.replace(rules.base, edit.base, 1),
        base=edit.base,
    )
    if heir.symbol in draft.listings:
        raise ValueError(f"{edit.symbol} cannot become {heir.symbol}: it is listed already")
    draft.columns[heir.symbol] = {
        name: column.copy() for name, column in draft.columns[edit.symbol].items()
    }
    draft.listings[heir.symbol] = Listing(rules=((0, heir),), listed_at=edit.at)
    draft.listings[edit.symbol] = dataclasses.replace(
        listing, closed_at=edit.at, gone_at=edit.at, refused_at=edit.at + edit.refused_after_ms
    )
    draft.blank(heir.symbol, 0, edit.at, ARRAY_FIELDS)
    draft.blank(edit.symbol, edit.at, FOREVER, ARRAY_FIELDS)
    draft.settlements = [
        dataclasses.replace(one, symbol=heir.symbol)
        if one.symbol == edit.symbol and one.nominal_time >= edit.at
        else one
        for one in draft.settlements
    ]


def _change_funding(draft: _Draft, edit: FundingIntervalChange) -> None:
    listing, rules = draft.listing(edit.symbol, edit.at)
    if rules.funding_interval_minutes is None or edit.minutes <= 0:
        raise ValueError(f"{edit.symbol} cannot settle every {edit.minutes} minutes")
    share = edit.minutes / rules.funding_interval_minutes
    changed = dataclasses.replace(rules, funding_interval_minutes=edit.minutes)
    draft.change_rules(edit.symbol, edit.at, changed)
    old = [one for one in draft.settlements if one.symbol == edit.symbol]
    draft.forget_settlements(edit.symbol, edit.at + 1, FOREVER)
    step = edit.minutes * MINUTE_MS
    first = (edit.at // step + 1) * step
    tape_end = int(draft.open_time[-1]) + draft.source.panel.interval_ms
    until = min(tape_end, listing.closed_at)
    draft.settlements += [
        _settlement(draft, edit.symbol, old, time, share) for time in range(first, until, step)
    ]
    columns = draft.columns[edit.symbol]
    columns |= _funding_columns(draft, edit.symbol)


def _settlement(
    draft: _Draft, symbol: str, old: Sequence[Settlement], time: int, share: float
) -> Settlement:
    """Settle at ``time`` by what the old schedule would have settled next."""
    if not old:
        raise ValueError(f"{symbol} has no settlements to follow")
    following = next((one for one in old if one.nominal_time >= time), old[-1])
    row = (time - int(draft.open_time[0])) // draft.source.panel.interval_ms
    mark = float(draft.columns[symbol]["mark_open"][row])
    given = draft.source.venue is Venue.BINANCEUSDM
    known = MarkSource.VENUE if given else MarkSource.MARK_CANDLE
    return Settlement(
        symbol=symbol,
        funding_time=time,
        rate=round(following.rate * share, 8),
        mark_price=None if np.isnan(mark) else mark,
        mark_source=MarkSource.UNKNOWN if np.isnan(mark) else known,
    )


def _funding_columns(draft: _Draft, symbol: str) -> dict[str, Float64Array]:
    arrays = funding_arrays(
        [one for one in draft.settlements if one.symbol == symbol],
        (symbol,),
        open_time=draft.open_time,
        interval_ms=draft.source.panel.interval_ms,
    )
    return {name: array[:, 0] for name, array in arrays.items()}


def _in_order(settlements: Iterable[Settlement]) -> tuple[Settlement, ...]:
    return tuple(sorted(settlements, key=lambda one: (one.funding_time, one.symbol)))


def _check_grid(draft: _Draft, edit: Delisting | Renaming | NewListing) -> None:
    interval = draft.source.panel.interval_ms
    if edit.at % interval:
        raise ValueError(f"{edit.at} would cut a bar of {edit.symbol} in two: not on {interval} ms")
