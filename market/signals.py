"""Signals: what any outside producer says, and when a decision could first have known it.

A signal is one number about one asset (or, with an empty symbol, about the whole market) from one
``source`` and ``version``. This module owns the value, its validation, and the only as-of join
between signals and decisions: training and live call the same ``join_signals``. It does no IO, it
never reads a clock, and it must never show a decision a row that could not have been used then.

**When a row counts.** A row has three times: ``event_time`` (what it is about), ``published_at``
(when its source made it public) and ``ingested_at`` (when we stored it). Its ``available_at`` is

* observed live: ``max(ingested_at, published_at)``;
* back-filled: ``published_at + lag_ms``, the lag being the one that its source declares.

**Back-fills never change the past that was lived.** A back-filled row claims to have been usable
before we had it. That claim is believed only for decisions earlier than the moment at which the
stream ``(source, version, name)`` was first stored, which no decision of ours can have used: a
policy that reads the stream was trained after that. From that moment on a row is usable only once
it was really stored, back-filled or not. So for a decision at ``t``, a row counts when ::

    available_at <= t                     if t <  first ingested_at of the stream
    max(available_at, ingested_at) <= t   if t >= first ingested_at of the stream

and a decision recomputed later sees what it saw live, whatever is back-filled or revised since.

**Which row wins.** Among the rows that count, market-wide ones included, the one with the newest
``event_time``, then ``published_at``, then ``ingested_at``. If its ``event_time`` is more than the
maximum age before the decision, the value is unknown (a mask), never an older one.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from market.panel import BoolArray, Float64Array, Int64Array

Stream = tuple[str, str, str]
"""(source, version, name): rows that belong together, of every symbol."""

WHOLE_MARKET = ""
"""The symbol of a row that is about every asset."""

MOST_NAME_CHARACTERS = 128
LARGEST_VALUE = 1e30
"""Largest absolute value: what lies beyond is no measurement, and no float32 either."""

LONGEST_LAG_MS = 3_653 * 86_400_000
"""Ten years: what is declared to be usable later than that is a mistake in its unit."""

LONGEST_CONTENT = 4_000
"""Characters that quarantine keeps of a refused row: its fields may hold anything."""

# A time in seconds, or in microseconds, lies outside: the commonest mistake in files from outside.
_FIRST_TIME_MS = 10**11  # 1973
_LAST_TIME_MS = 10**13  # 2286


class SignalFault(enum.StrEnum):
    """Why a row cannot be taken."""

    NOT_A_NUMBER = "not_a_number"
    OUT_OF_RANGE = "out_of_range"
    BAD_NAME = "bad_name"
    BAD_TIME = "bad_time"
    PUBLISHED_BEFORE_EVENT = "published_before_event"
    BAD_LAG = "bad_lag"
    LAG_TOO_LONG = "lag_too_long"


class SignalRejected(ValueError):
    """A row cannot be a signal; ``fault`` says why."""

    def __init__(self, fault: SignalFault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One row; times are UTC milliseconds.

    Attributes:
        source, version, name: who says it, by which recipe, and what it is. A changed recipe is a
            new version: rows of two versions are never mixed.
        symbol: the asset, or ``WHOLE_MARKET``.
        event_time: what the value is about: the end of the time that it summarises.
        published_at: when its source made it public, never before ``event_time``.
        ingested_at: when it was stored here; 0 until it is.
        value: finite.
        is_backfilled: it was taken from the source's archive, not observed when it came out.
        lag_ms: how long after ``published_at`` the source's rows are usable, by declaration; only
            a back-filled row uses it; at most ``LONGEST_LAG_MS``.

    Raises:
        SignalRejected: (a ``ValueError``) a value is not finite, a name is empty or too long, or
            the times are out of order.
    """

    source: str
    version: str
    symbol: str
    event_time: int
    published_at: int
    ingested_at: int
    name: str
    value: float
    is_backfilled: bool
    lag_ms: int = 0

    def __post_init__(self) -> None:
        fault = signal_fault(self)
        if fault is not None:
            raise SignalRejected(fault, f"{fault.value}: {_facts(self)}")

    @property
    def available_at(self) -> int:
        """The first moment at which a decision could have used it (see the module's docstring)."""
        if self.is_backfilled:
            return self.published_at + self.lag_ms
        return max(self.ingested_at, self.published_at)

    @property
    def stream(self) -> Stream:
        """(source, version, name)."""
        return (self.source, self.version, self.name)

    @property
    def key(self) -> tuple[str, str, str, str, int, int]:
        """What it is a value of; equal keys with unequal values are revisions."""
        return (
            self.source, self.version, self.symbol, self.name, self.event_time, self.published_at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalColumn:
    """One signal as an observation uses it.

    Attributes:
        max_age_seconds: a value whose ``event_time`` lies further back is unknown.
    """

    source: str
    name: str
    version: str
    max_age_seconds: int

    def __post_init__(self) -> None:
        if not (self.source and self.name and self.version):
            raise ValueError("a signal column needs a source, a name and a version")
        if self.max_age_seconds <= 0:
            raise ValueError(f"max_age_seconds must be positive, got {self.max_age_seconds}")

    @property
    def stream(self) -> Stream:
        """The rows that it reads."""
        return (self.source, self.version, self.name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SignalPanel:
    """Signals aligned with decisions.

    Attributes:
        columns: S columns, in the order of the last axis.
        decision_times: (T,) UTC milliseconds.
        values: (T, N, S) float64, finite; 0 where unknown.
        known: (T, N, S) whether a row counted and was young enough.
    """

    columns: tuple[SignalColumn, ...]
    decision_times: Int64Array
    values: Float64Array
    known: BoolArray

    def at(self, decision_times: Int64Array) -> SignalPanel:
        """Return the rows of some of its decisions, which must be in ascending order.

        Raises:
            ValueError: a decision is not among them.
        """
        idx = np.searchsorted(self.decision_times, decision_times)
        inside = np.minimum(idx, max(0, len(self.decision_times) - 1))
        if len(self.decision_times) == 0 or (self.decision_times[inside] != decision_times).any():
            raise ValueError("signals were not joined for every decision that asks for them")
        return SignalPanel(
            columns=self.columns,
            decision_times=decision_times,
            values=self.values[inside],
            known=self.known[inside],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedSignal:
    """A row that was refused, for the quarantine.

    Attributes:
        content: the row as it came, JSON; cut off at ``LONGEST_CONTENT`` characters. Empty where
            the message says it all.
    """

    fault: SignalFault
    message: str
    content: str = ""


def join_signals(
    signals: Iterable[Signal],
    columns: Sequence[SignalColumn],
    symbols: Sequence[str],
    decision_times: Int64Array,
    *,
    stored_since: Mapping[Stream, int] | None = None,
) -> SignalPanel:
    """Return what each decision could know of each column, by the module's rule.

    Args:
        signals: rows in any order; those of other streams are ignored. Give every stored row of
            the columns' streams, or those published within the longest maximum age before the
            first decision together with ``stored_since``.
        columns: S columns.
        symbols: N assets, in the order of the asset axis.
        decision_times: (T,) UTC milliseconds, in any order.
        stored_since: when the first row of each stream was stored (``first_stored``), where
            ``signals`` may lack it.

    Raises:
        ValueError: ``decision_times`` is not a vector of integers, or a row was never stored.
    """
    if decision_times.ndim != 1 or decision_times.dtype.kind not in "iu":
        raise ValueError(f"decision times must be (T,) integers, not {decision_times.shape}")
    by_stream = _group(signals, {column.stream for column in columns})
    began = first_stored(row for rows in by_stream.values() for row in rows)
    began |= stored_since or {}
    shape = (len(decision_times), len(symbols), len(columns))
    values, known = np.zeros(shape), np.zeros(shape, dtype=np.bool_)
    for column_idx, column in enumerate(columns):
        rows = by_stream[column.stream]
        if not rows:
            continue
        for asset, symbol in enumerate(symbols):
            table = _table([row for row in rows if row.symbol in (symbol, WHOLE_MARKET)])
            value, event_time = _as_of(table, decision_times, began[column.stream])
            fresh = decision_times - event_time <= column.max_age_seconds * 1000
            known[:, asset, column_idx] = fresh
            values[:, asset, column_idx] = np.where(fresh, value, 0.0)
    return SignalPanel(
        columns=tuple(columns), decision_times=decision_times, values=values, known=known
    )


def first_stored(signals: Iterable[Signal]) -> dict[Stream, int]:
    """Return when the first row of each stream was stored, UTC milliseconds."""
    began: dict[Stream, int] = {}
    for row in signals:
        known = began.get(row.stream)
        began[row.stream] = row.ingested_at if known is None else min(known, row.ingested_at)
    return began


def sources_of(columns: Iterable[SignalColumn]) -> tuple[str, ...]:
    """Return the sources that the columns need, each once, sorted."""
    return tuple(sorted({column.source for column in columns}))


def longest_age_ms(columns: Iterable[SignalColumn]) -> int:
    """Return how far before a decision the rows that it can use may lie; 0 without columns."""
    return max((column.max_age_seconds * 1000 for column in columns), default=0)


def stamped(signal: Signal, ingested_at: int) -> Signal:
    """Return the row as it is stored at ``ingested_at``."""
    return dataclasses.replace(signal, ingested_at=ingested_at)


def read_signals(
    rows: Iterable[Mapping[str, object]],
) -> tuple[tuple[Signal, ...], tuple[RejectedSignal, ...]]:
    """Read rows from outside one by one: the sound ones, and the others with their reasons.

    A row has the fields of ``Signal`` by name; ``symbol``, ``published_at`` (the event's time),
    ``ingested_at``, ``is_backfilled`` and ``lag_ms`` may be absent.
    """
    sound: list[Signal] = []
    refused: list[RejectedSignal] = []
    for row in rows:
        try:
            sound.append(_read(row))
        except SignalRejected as error:
            refused.append(rejected(error.fault, str(error), row))
    return tuple(sound), tuple(refused)


def rejected(fault: SignalFault, message: str, row: object) -> RejectedSignal:
    """Return what the quarantine keeps of a refused row, whatever that is."""
    content = json.dumps(row, sort_keys=True, default=str)
    return RejectedSignal(fault=fault, message=message, content=content[:LONGEST_CONTENT])


def signal_fault(signal: Signal) -> SignalFault | None:
    """Say what is wrong with a row, whatever types its fields really have."""
    if not all(_is_name(each) for each in (signal.source, signal.version, signal.name)):
        return SignalFault.BAD_NAME
    if not (signal.symbol == WHOLE_MARKET or _is_name(signal.symbol)):
        return SignalFault.BAD_NAME
    if isinstance(signal.value, bool) or not isinstance(signal.value, (int, float)):
        return SignalFault.NOT_A_NUMBER
    if not math.isfinite(signal.value):
        return SignalFault.NOT_A_NUMBER
    if abs(signal.value) > LARGEST_VALUE:
        return SignalFault.OUT_OF_RANGE
    return _time_fault(signal)


def _time_fault(signal: Signal) -> SignalFault | None:
    if not (_is_time(signal.event_time) and _is_time(signal.published_at)):
        return SignalFault.BAD_TIME
    if signal.ingested_at != 0 and not _is_time(signal.ingested_at):
        return SignalFault.BAD_TIME
    if signal.published_at < signal.event_time:
        return SignalFault.PUBLISHED_BEFORE_EVENT
    if not _is_integer(signal.lag_ms) or signal.lag_ms < 0:
        return SignalFault.BAD_LAG
    if signal.lag_ms > LONGEST_LAG_MS:
        return SignalFault.LAG_TOO_LONG
    return None


def _is_name(value: object) -> bool:
    return (
        isinstance(value, str)
        and 0 < len(value) <= MOST_NAME_CHARACTERS
        and value.isprintable()
        and value == value.strip()
    )


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_time(value: int) -> bool:
    return _is_integer(value) and _FIRST_TIME_MS <= value < _LAST_TIME_MS


def _facts(signal: Signal) -> str:
    return (
        f"{signal.source!r} {signal.version!r} {signal.symbol!r} {signal.name!r} = "
        f"{signal.value!r}, event_time {signal.event_time!r}, published_at "
        f"{signal.published_at!r}, lag_ms {signal.lag_ms!r}"
    )


def _read(row: Mapping[str, object]) -> Signal:
    # The fields may have any type here; the value checks each before it exists.
    facts: dict[str, object] = {
        "symbol": WHOLE_MARKET,
        "ingested_at": 0,
        "is_backfilled": False,
        "published_at": row.get("event_time"),
        "lag_ms": 0,
        **row,
    }
    names = [item.name for item in dataclasses.fields(Signal)]
    return Signal(**{name: facts.get(name) for name in names})  # type: ignore[arg-type]  # checked there


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Table:
    """Rows as arrays (R,), in ascending order of who wins."""

    event_time: Int64Array
    available_at: Int64Array
    ingested_at: Int64Array
    value: Float64Array


def _group(signals: Iterable[Signal], streams: set[Stream]) -> dict[Stream, list[Signal]]:
    found: dict[Stream, list[Signal]] = {stream: [] for stream in streams}
    for row in signals:
        rows = found.get(row.stream)
        if rows is None:
            continue
        if row.ingested_at <= 0:
            raise ValueError(f"a signal was never stored: {_facts(row)}")
        rows.append(row)
    return found


def _table(rows: Sequence[Signal]) -> _Table:
    event_time = np.array([row.event_time for row in rows], dtype=np.int64)
    published_at = np.array([row.published_at for row in rows], dtype=np.int64)
    ingested_at = np.array([row.ingested_at for row in rows], dtype=np.int64)
    value = np.array([row.value for row in rows], dtype=np.float64)
    # The value itself comes last, so that the order in which rows are given decides nothing.
    order = np.lexsort((value, ingested_at, published_at, event_time))
    return _Table(
        event_time=event_time[order],
        available_at=np.array([row.available_at for row in rows], dtype=np.int64)[order],
        ingested_at=ingested_at[order],
        value=value[order],
    )


def _as_of(
    table: _Table, decision_times: Int64Array, stored_since: int
) -> tuple[Float64Array, Int64Array]:
    """(T,) value and event time of the row that wins at each decision.

    The event time is that of long ago where no row counts.
    """
    by_claim = _winner(table.available_at, decision_times)
    by_storage = _winner(np.maximum(table.available_at, table.ingested_at), decision_times)
    winner = np.where(decision_times < stored_since, by_claim, by_storage)
    # One row more at the end, which index -1 finds where nobody has won.
    value = np.append(table.value, 0.0)
    event_time = np.append(table.event_time, -_LAST_TIME_MS * 1000)
    return value[winner], event_time[winner]


def _winner(since: Int64Array, decision_times: Int64Array) -> Int64Array:
    """(T,) largest index of the rows that count at each decision; −1 where none does.

    Args:
        since: (R,) when each row begins to count, in ascending order of who wins.
        decision_times: (T,) UTC milliseconds.
    """
    order = np.argsort(since, kind="stable")
    best = np.append(np.maximum.accumulate(order), -1)
    counted = np.searchsorted(since[order], decision_times, side="right")
    winner: Int64Array = best[counted - 1]
    return winner
