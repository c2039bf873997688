"""Signals: what any outside producer says, and when a decision could first have known it.

A signal is one number about one asset (or, with an empty symbol, about the whole market) from one
``source`` and ``version``. This module owns the value and its validation; what a decision may see
of it is decided by ``market.signal_join`` alone. It does no IO and never reads a clock.

A row has three times: ``event_time`` (what it is about), ``published_at`` (when its source made it
public) and ``ingested_at`` (when we stored it). Its ``available_at`` is

* observed live: ``max(ingested_at, published_at)``;
* back-filled: ``published_at + lag_ms``, the lag being the one that its source declares.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
"""Characters that are kept of a refused row or of a message: they may hold anything."""

LONGEST_SHOWN = 200
"""Characters of one field in a message."""

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
    BAD_FLAG = "bad_flag"
    NOT_A_SIGNAL = "not_a_signal"
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
            raise SignalRejected(fault, f"{fault.value}: {signal_facts(self)}")

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
    try:
        content = json.dumps(row, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError):  # keys of two kinds, a circle, a huge integer
        content = json.dumps(_shown(row))
    return RejectedSignal(
        fault=fault, message=foreign_text(message), content=content[:LONGEST_CONTENT]
    )


def foreign_text(value: object) -> str:
    """Return a text from outside such that every store and log can take it.

    Half a surrogate pair, as JSON may spell it, is no text in UTF-8: it is written out instead.
    """
    return str(value)[:LONGEST_CONTENT].encode(errors="backslashreplace").decode()


def signal_fault(signal: Signal) -> SignalFault | None:
    """Say what is wrong with a row, whatever types its fields really have."""
    if not all(_is_name(each) for each in (signal.source, signal.version, signal.name)):
        return SignalFault.BAD_NAME
    if not (signal.symbol == WHOLE_MARKET or _is_name(signal.symbol)):
        return SignalFault.BAD_NAME
    if isinstance(signal.value, bool) or not isinstance(signal.value, (int, float)):
        return SignalFault.NOT_A_NUMBER
    # Every integer is finite, and the largest are none that ``isfinite`` could take.
    if isinstance(signal.value, float) and not math.isfinite(signal.value):
        return SignalFault.NOT_A_NUMBER
    if abs(signal.value) > LARGEST_VALUE:
        return SignalFault.OUT_OF_RANGE
    if not isinstance(signal.is_backfilled, bool):
        return SignalFault.BAD_FLAG
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


def signal_facts(signal: Signal) -> str:
    """Name a row and its times, for messages."""
    return (
        f"{_shown(signal.source)} {_shown(signal.version)} {_shown(signal.symbol)} "
        f"{_shown(signal.name)} = {_shown(signal.value)}, event_time {_shown(signal.event_time)}, "
        f"published_at {_shown(signal.published_at)}, lag_ms {_shown(signal.lag_ms)}, "
        f"is_backfilled {_shown(signal.is_backfilled)}"
    )


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


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
