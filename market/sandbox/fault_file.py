"""Reads scripted faults from TOML, strictly: an unknown key or a bad value is an error.

One ``[[fault]]`` table per fault. ``at = 2024-07-01T09:30:00Z`` or ``after = "90m"`` (counted from
the sandbox's start), ``for = "5m"`` for how long, ``symbols = [...]`` (all when absent), and the
kind's own parameters. docs/faults.md has an example of each.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from market.sandbox.fault import CUTTING, LASTING, NO_NUMBERS, PARAMETERS, Fault, FaultKind, Place

_T = TypeVar("_T")

_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SPAN = re.compile(r"(-?)([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SPAN_WORDS = 'a span such as "90s", "5m", "2h" or "1d"'


class FaultFileError(ValueError):
    """A fault file is wrong.

    Attributes:
        entry: number of the ``[[fault]]``, from 1; 0 for the file as a whole.
        key: the key that is wrong or missing.
    """

    def __init__(self, path: Path, *, entry: int, key: str, cause: str) -> None:
        """Say where and what was expected."""
        place = f"{path}: fault {entry}: {key}" if entry else f"{path}: {key}"
        super().__init__(f"{place}: {cause}")
        self.path = path
        self.entry = entry
        self.key = key


class _Wrong(ValueError):
    """A value that cannot be taken; the text says what was expected."""


def load_faults(path: Path, *, start: int, symbols: Sequence[str]) -> tuple[Fault, ...]:
    """Read the faults of a file, in the order of their times.

    Args:
        path: the TOML file.
        start: what ``after`` counts from, UTC milliseconds of the venue.
        symbols: unified symbols that the venue has.

    Raises:
        FaultFileError: the file cannot be read, or names the entry, key, value and expectation.
    """
    entries = _entries(path)
    faults = []
    for number, entry in enumerate(entries, start=1):
        reader = _Entry(path, number, entry, start=start, symbols=symbols)
        faults.append(reader.fault())
    return tuple(sorted(faults, key=lambda one: one.at))


def _entries(path: Path) -> list[dict[str, Any]]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FaultFileError(path, entry=0, key="file", cause=error.strerror or "") from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise FaultFileError(path, entry=0, key="file", cause=f"not TOML: {error}") from None
    for key in document:
        if key != "fault":
            raise FaultFileError(path, entry=0, key=key, cause="unknown; expected [[fault]]")
    entries = document.get("fault", [])
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise FaultFileError(path, entry=0, key="fault", cause="expected [[fault]] tables")
    return entries


class _Entry:
    """One ``[[fault]]`` table while it is read."""

    def __init__(
        self,
        path: Path,
        number: int,
        table: Mapping[str, Any],
        *,
        start: int,
        symbols: Sequence[str],
    ) -> None:
        self._path = path
        self._number = number
        self._table = table
        self._start = start
        self._symbols = symbols

    def fault(self) -> Fault:
        kind = self._kind()
        parameters = PARAMETERS.get(kind, {})
        self._check_keys(kind, parameters)
        values: dict[str, Any] = {"kind": kind, "at": self._at(), "duration_ms": 0}
        if kind not in LASTING and (kind not in CUTTING or "for" in self._table):
            values["duration_ms"] = self._duration()
        if "symbols" in self._table:
            values["symbols"] = self._read("symbols", self._known_symbols)
        for name, key, read in _PARAMETERS:
            if key in self._table:
                values[name] = self._read(key, read)
        try:
            return Fault(**values)
        except ValueError as error:
            raise self._error("kind", f"{kind.value!r}: {error}") from None

    def _kind(self) -> FaultKind:
        return self._read("kind", _kind)

    def _check_keys(self, kind: FaultKind, parameters: Mapping[str, bool]) -> None:
        own = [key for name, key, _ in _PARAMETERS if name in parameters]
        lasts = ["for"] if kind not in LASTING else []
        known = ["kind", "at", "after", *lasts, "symbols", *own]
        for key in self._table:
            if key not in known:
                raise self._error(key, f"{kind.value} takes only {', '.join(known)}")
        for name, key, _ in _PARAMETERS:
            if parameters.get(name) and key not in self._table:
                raise self._error(key, f"missing; {kind.value} needs it")

    def _at(self) -> int:
        if ("at" in self._table) == ("after" in self._table):
            raise self._error("at", 'expected either at = (a UTC time) or after = (such as "90m")')
        if "at" in self._table:
            return self._read("at", _time_ms)
        return self._start + self._read("after", _span_ms)

    def _duration(self) -> int:
        duration = self._read("for", _span_ms)
        if duration <= 0:
            raise self._error("for", f"{self._table['for']!r}: expected a positive span")
        return duration

    def _known_symbols(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise _Wrong("expected a list of symbols, or no such key for all")
        for one in value:
            if one not in self._symbols:
                raise _Wrong(f"unknown symbol {one!r}; expected some of {', '.join(self._symbols)}")
        return tuple(value)

    def _read(self, key: str, read: Callable[[object], _T]) -> _T:
        if key not in self._table:
            raise self._error(key, "missing")
        try:
            return read(self._table[key])
        except _Wrong as wrong:
            raise self._error(key, f"{self._table[key]!r}: {wrong}") from None

    def _error(self, key: str, cause: str) -> FaultFileError:
        return FaultFileError(self._path, entry=self._number, key=key, cause=cause)


def _kind(value: object) -> FaultKind:
    if value not in tuple(FaultKind):
        raise _Wrong(f"expected one of {', '.join(FaultKind)}")
    return FaultKind(str(value))


def _time_ms(value: object) -> int:
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise _Wrong("expected a time such as 2024-07-01T09:30:00Z") from None
    if not isinstance(value, datetime.datetime):
        raise _Wrong("expected a time such as 2024-07-01T09:30:00Z")
    if value.tzinfo is None:
        raise _Wrong("expected a time zone, such as the Z of 2024-07-01T09:30:00Z")
    return round(value.timestamp() * 1000)


def _span_ms(value: object) -> int:
    milliseconds = _signed_span_ms(value)
    if milliseconds < 0:
        raise _Wrong(f"expected {_SPAN_WORDS}, not negative")
    return milliseconds


def _signed_span_ms(value: object) -> int:
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise _Wrong(f"expected {_SPAN_WORDS}")
    sign = -1 if match[1] else 1
    return sign * round(Decimal(match[2]) * _UNITS_MS[match[3]])


def _positive_span_ms(value: object) -> int:
    milliseconds = _span_ms(value)
    if not milliseconds:
        raise _Wrong(f"expected {_SPAN_WORDS}, longer than nothing")
    return milliseconds


def _shift_ms(value: object) -> int:
    milliseconds = _signed_span_ms(value)
    if not milliseconds:
        raise _Wrong('expected a shift such as "7s" or "-500ms", not nothing')
    return milliseconds


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("expected true or false")
    return value


def _text(value: object) -> str:
    if value not in NO_NUMBERS:
        raise _Wrong(f"expected one of {', '.join(map(repr, NO_NUMBERS))}")
    return str(value)


def _place(value: object) -> Place:
    if value not in tuple(Place):
        raise _Wrong(f"expected one of {', '.join(Place)}")
    return Place(str(value))


def _name(value: object) -> str:
    if not isinstance(value, str) or "/" not in value:
        raise _Wrong('expected a symbol such as "POL/USDT:USDT"')
    return value


def _minutes(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0 or 1440 % value:
        raise _Wrong("expected whole minutes that divide a day, such as 240")
    return value


def _amount(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise _Wrong("expected a positive amount of the quote currency")
    return Decimal(str(value))


# Field of the fault, key in the file, how it is read.
_PARAMETERS: tuple[tuple[str, str, Callable[[object], Any]], ...] = (
    ("delay_ms", "delay", _positive_span_ms),
    ("shift_ms", "shift", _shift_ms),
    ("wrong_first", "wrong_first", _boolean),
    ("text", "text", _text),
    ("place", "place", _place),
    ("renamed_to", "renamed_to", _name),
    ("funding_interval_minutes", "interval_minutes", _minutes),
    ("min_notional", "min_notional", _amount),
)
