"""Which version of a fact is stored, and which mark price a settlement takes.

Pure rules; the warehouse applies them. A row that says nothing new changes nothing, a row that
differs becomes a new revision, and a row that knows less never erases what is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from market.bar import Bar, MarkBar, MarkSource, Settlement

V = TypeVar("V", bound=Bar | MarkBar | Settlement)

_MARK_RANK = {source: rank for rank, source in enumerate(MarkSource)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Version(Generic[V]):
    """One stored version of a value; ``origin`` is empty where a table keeps none."""

    value: V
    ingested_at: int
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revisions(Generic[V]):
    """What an insert writes, and the versions it replaces, each with the moment it ended."""

    written: list[Version[V]]
    superseded: list[tuple[Version[V], int]]


def plan_revisions(
    stored: Iterable[Version[V]],
    incoming: Iterable[Version[V]],
    *,
    key: Callable[[V], tuple[str, int]],
    revise: Callable[[V, V], V | None],
) -> Revisions[V]:
    """Compare ``incoming``, in order, with what is stored.

    A new revision is stamped later than the version it replaces even where the clock went back,
    because the latest ``ingested_at`` is the version that is read.
    """
    known = {key(version.value): version for version in stored}
    plan: Revisions[V] = Revisions(written=[], superseded=[])
    for version in incoming:
        identity = key(version.value)
        old = known.get(identity)
        fresh = version
        if old is not None:
            value = revise(old.value, version.value)
            if value is None:
                continue
            stamp = max(version.ingested_at, old.ingested_at + 1)
            fresh = replace(version, value=value, ingested_at=stamp)
            plan.superseded.append((old, stamp))
        known[identity] = fresh
        plan.written.append(fresh)
    return plan


def revise_bar(stored: Bar, incoming: Bar) -> Bar | None:
    """Return the bar to store after ``incoming``, or ``None`` when it says nothing new.

    Where prices and volume agree, the fields that only one source gives are united; where they
    differ the incoming bar stands alone, because its volumes belong to its own prices.
    """
    if stored == incoming:
        return None
    if _traded(stored) != _traded(incoming):
        return incoming
    united = replace(
        incoming,
        quote_volume=_first_known(incoming.quote_volume, stored.quote_volume),
        trades=_first_known(incoming.trades, stored.trades),
        taker_buy_volume=_first_known(incoming.taker_buy_volume, stored.taker_buy_volume),
        taker_buy_quote_volume=_first_known(
            incoming.taker_buy_quote_volume, stored.taker_buy_quote_volume
        ),
    )
    return None if united == stored else united


def revise_mark_bar(stored: MarkBar, incoming: MarkBar) -> MarkBar | None:
    """Return ``incoming`` when it differs from ``stored``."""
    return None if incoming == stored else incoming


def revise_settlement(stored: Settlement, incoming: Settlement) -> Settlement | None:
    """Return the settlement to store after ``incoming``, or ``None`` when it says nothing new.

    A mark from a worse source never replaces a better one, and the jitter of ``funding_time``
    within its nominal minute is no news.
    """
    if _MARK_RANK[incoming.mark_source] > _MARK_RANK[stored.mark_source]:
        incoming = replace(incoming, mark_price=stored.mark_price, mark_source=stored.mark_source)
    same = replace(incoming, funding_time=stored.funding_time) == stored
    return None if same else incoming


def resolve_mark(
    settlement: Settlement, *, candle_open: float | None, bar_open: float | None
) -> Settlement:
    """Give a settlement the best mark that is known at its nominal time.

    In order: the venue's own mark, the mark candle's open, the bar's open, ``UNKNOWN``.

    Args:
        settlement: as stored.
        candle_open: open of the mark candle that opens at the nominal time, if there is one.
        bar_open: open of the bar that opens at the nominal time, if there is one.
    """
    if not needs_candles(settlement):
        return settlement
    candidates = [(MarkSource.MARK_CANDLE, candle_open), (MarkSource.BAR_OPEN, bar_open)]
    for source, price in candidates:
        if price is not None:
            return replace(settlement, mark_price=price, mark_source=source)
    return settlement


def needs_candles(settlement: Settlement) -> bool:
    """Whether a candle could give ``settlement`` a better mark than the stored one."""
    return _MARK_RANK[settlement.mark_source] > _MARK_RANK[MarkSource.MARK_CANDLE]


def _traded(bar: Bar) -> tuple[float, float, float, float, float]:
    return (bar.open, bar.high, bar.low, bar.close, bar.volume)


T = TypeVar("T")


def _first_known(first: T | None, second: T | None) -> T | None:
    return second if first is None else first
