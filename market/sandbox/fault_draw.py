"""Draws random scripts of faults from a seed. Pure: the same arguments give the same faults.

A fault that needs something to happen first brings it along: faults of REST answers come with a
disconnection across a close, because a client whose stream is whole asks for little, and
``subscribed_no_data`` comes with one because somebody has to subscribe.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

from market.instrument import Market, Venue
from market.sandbox.fault import LASTING, NO_NUMBERS, REST_KINDS, Fault, FaultKind, Place

SECOND_MS = 1_000
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
FAULT_FREE_MS = 20 * MINUTE_MS
"""The end of every script without faults, in which a client becomes whole."""

PART_MS = 12 * HOUR_MS
"""Every kind comes at least once in each part of this length."""

CALM_MS = 5 * MINUTE_MS
"""What a loss of a symbol keeps from the end of any fault that deafens the client."""

SHORTEST_MS = 2 * HOUR_MS
FEWEST_SYMBOLS = 3

_K = FaultKind
# Shortest and longest duration, venue seconds.
_SECONDS: dict[FaultKind, tuple[int, int]] = {
    _K.SILENCE: (120, 600),
    _K.DISCONNECT: (0, 60),
    _K.RESET: (0, 30),
    _K.HALF_OPEN: (300, 900),
    _K.SUBSCRIBED_NO_DATA: (120, 240),
    _K.RATE_LIMITED: (100, 160),
    _K.BANNED: (120, 300),
    _K.BLOCKED: (120, 180),
    _K.OUTAGE_HTML: (120, 360),
    _K.OUTAGE_JSON: (120, 360),
    _K.HTML_ON_200: (120, 240),
    _K.TRUNCATED_JSON: (120, 240),
    _K.NULL_ROWS: (120, 240),
    _K.STALL: (120, 180),
    _K.MALFORMED_FRAME: (70, 180),
    _K.TRUNCATED_FRAME: (70, 180),
    _K.LATE_FINAL: (180, 480),
    _K.FORMING_STAYS: (120, 300),
    _K.DUPLICATE_FINAL: (180, 360),
    _K.OUT_OF_ORDER: (180, 360),
    _K.MISSING_BARS: (60, 7_200),
    _K.SHIFTED_TIMES: (120, 300),
    _K.NAN_FIELDS: (120, 300),
    _K.CLOCK_SKEW: (300, 900),
}
# Always whole, so that what it concerns is sure to happen.
_ALL_SYMBOLS = frozenset({*REST_KINDS, _K.SUBSCRIBED_NO_DATA})
_DEAFENING = frozenset(
    {
        *REST_KINDS,
        _K.SILENCE,
        _K.DISCONNECT,
        _K.RESET,
        _K.HALF_OPEN,
        _K.SUBSCRIBED_NO_DATA,
        _K.MALFORMED_FRAME,
        _K.TRUNCATED_FRAME,
    }
)
_ONE_OFF = (_K.DELISTING, _K.RENAMING)
_EXTRA_PER_PART = 4
_LACKING = 2
_FUNDING_MINUTES = (60, 120, 240)


def random_faults(
    *, seed: int, since: int, until: int, symbols: Sequence[str], venue: Venue
) -> tuple[Fault, ...]:
    """Draw a script in which every kind comes at least once in each 12 hours.

    One symbol is delisted and another renamed, once, in the last quarter of the script and, where
    it has room, after ``CALM_MS`` in which nothing kept a client from hearing of their last bars:
    what leaves during an outage nobody can ever ask for. Spot has no funding interval to change.

    Args:
        seed: everything random follows from it.
        since: UTC milliseconds.
        until: UTC milliseconds; the 20 minutes before it stay free of faults.
        symbols: unified symbols, at least three.
        venue: whose market it is.

    Returns:
        Faults ascending in time.

    Raises:
        ValueError: fewer than three symbols, or less than two hours.
    """
    if len(symbols) < FEWEST_SYMBOLS:
        raise ValueError(f"random faults need {FEWEST_SYMBOLS} symbols, got {len(symbols)}")
    if until - since < SHORTEST_MS:
        raise ValueError(f"random faults need {SHORTEST_MS} ms, got {until - since}")
    rng = np.random.default_rng(seed)
    order = [symbols[place] for place in rng.permutation(len(symbols))]
    last = until - FAULT_FREE_MS
    script = _Script(rng, staying=sorted(order[2:], key=symbols.index), last=last)
    losses = [*_market_changes(rng, order[:2], since=since, last=last)]
    faults: list[Fault] = []
    parts = -(-(last - since) // PART_MS)
    edges = np.linspace(since, last, parts + 1).astype(np.int64).tolist()
    for begin, end in itertools.pairwise(edges):
        faults += script.part(begin, end, venue)
    faults += [_calmly(loss, faults, last=last) for loss in losses]
    return tuple(sorted(faults, key=lambda one: (one.at, one.kind)))


def _market_changes(
    rng: np.random.Generator, victims: Sequence[str], *, since: int, last: int
) -> Iterator[Fault]:
    """A delisting and a renaming, each on a minute of the last quarter."""
    for kind, symbol in zip(_ONE_OFF, victims, strict=True):
        at = int(rng.integers(last - (last - since) // 4, last - MINUTE_MS))
        base, _, rest = symbol.partition("/")
        renamed: dict[str, Any] = {"renamed_to": f"{base}2/{rest}"}
        parameters = renamed if kind is _K.RENAMING else {}
        yield Fault(kind=kind, at=at - at % MINUTE_MS, symbols=(symbol,), **parameters)


def _calmly(loss: Fault, faults: Sequence[Fault], *, last: int) -> Fault:
    """Put a loss off to the first calm minute; where none is left it stays."""
    deaf = [one for one in faults if one.kind in _DEAFENING]
    calm = (
        at
        for at in range(loss.at, last, MINUTE_MS)
        if not any(one.at <= at and one.at + one.duration_ms > at - CALM_MS for one in deaf)
    )
    return replace(loss, at=next(calm, loss.at))


class _Script:
    """Draws the faults of one part after the other."""

    def __init__(self, rng: np.random.Generator, *, staying: Sequence[str], last: int) -> None:
        """Draw from ``rng``, for symbols that stay listed, ending by ``last``."""
        self._rng = rng
        self._staying = staying
        self._last = last

    def part(self, begin: int, end: int, venue: Venue) -> list[Fault]:
        """Every kind once in a slot of its own, the clock wrong both ways, and some at any time."""
        kinds = [kind for kind in FaultKind if kind not in _ONE_OFF]
        if venue.market is Market.SPOT:
            kinds.remove(_K.FUNDING_INTERVAL)
        kinds.append(_K.CLOCK_SKEW)
        slots = np.linspace(begin, end, len(kinds) + 1).astype(np.int64)
        signs = {_K.CLOCK_SKEW: iter((1, -1))}
        faults = []
        for place, slot in zip(self._rng.permutation(len(kinds)), slots[:-1], strict=True):
            kind = kinds[place]
            latest = max(1, (end - begin) // len(kinds) // 3)
            at = int(slot + self._rng.integers(0, latest))
            faults += self._with_company(kind, at, sign=next(signs[kind]) if kind in signs else 1)
        for _ in range(_EXTRA_PER_PART):
            kind = (*REST_KINDS, _K.DISCONNECT)[self._rng.integers(len(REST_KINDS) + 1)]
            faults += self._with_company(kind, int(self._rng.integers(begin, end)), sign=1)
        return faults

    def _with_company(self, kind: FaultKind, at: int, *, sign: int) -> list[Fault]:
        """One fault, and the disconnection that makes the client meet it."""
        fault = self._fault(kind, at, sign=sign)
        if kind in REST_KINDS:
            cut = self._between(61, 90) * SECOND_MS
            return [fault, Fault(kind=_K.DISCONNECT, at=fault.at, duration_ms=cut)]
        if kind is _K.SUBSCRIBED_NO_DATA:
            return [fault, Fault(kind=_K.DISCONNECT, at=fault.at + SECOND_MS)]
        return [fault]

    def _fault(self, kind: FaultKind, at: int, *, sign: int) -> Fault:
        duration = 0
        if kind not in LASTING:
            shortest, longest = _SECONDS[kind]
            at = min(at, self._last - shortest * SECOND_MS)
            duration = min(self._between(shortest, longest) * SECOND_MS, self._last - at)
        whole = kind in _ALL_SYMBOLS
        parameters = self._parameters(kind, sign)
        symbols = () if whole else self._symbols(kind)
        return Fault(kind=kind, at=at, duration_ms=duration, symbols=symbols, **parameters)

    def _parameters(self, kind: FaultKind, sign: int) -> dict[str, Any]:
        match kind:
            case FaultKind.LATE_FINAL:
                return {"delay_ms": self._between(2, 24) * SECOND_MS}
            case FaultKind.DUPLICATE_FINAL:
                return {"wrong_first": bool(self._rng.integers(2))}
            case FaultKind.SHIFTED_TIMES:
                off = 1 if self._rng.integers(2) else -1
                return {"shift_ms": off * self._between(1, 50) * SECOND_MS}
            case FaultKind.CLOCK_SKEW:
                return {"shift_ms": sign * self._between(10, 50) * SECOND_MS}
            case FaultKind.NAN_FIELDS:
                place = (Place.FRAMES, Place.BOTH)[self._rng.integers(2)]
                return {"text": NO_NUMBERS[self._rng.integers(len(NO_NUMBERS))], "place": place}
            case FaultKind.FUNDING_INTERVAL:
                minutes = _FUNDING_MINUTES[self._rng.integers(len(_FUNDING_MINUTES))]
                return {"funding_interval_minutes": minutes}
            case FaultKind.MIN_NOTIONAL:
                return {"min_notional": Decimal(self._between(110, 500))}
            case _:
                return {}

    def _symbols(self, kind: FaultKind) -> tuple[str, ...]:
        """One or several of the symbols that stay, in their order; none where none are taken."""
        if kind in (_K.DISCONNECT, _K.RESET, _K.HALF_OPEN, _K.CLOCK_SKEW):
            return ()
        # Symbols whose bars are missing for hours would hide what else happens to bars.
        lacking = self._staying[-_LACKING:]
        among = lacking if kind is _K.MISSING_BARS else self._staying[:-_LACKING] or lacking
        count = self._between(1, 1 if kind in LASTING else min(4, len(among)))
        chosen = sorted(self._rng.choice(len(among), size=count, replace=False).tolist())
        return tuple(among[place] for place in chosen)

    def _between(self, least: int, most: int) -> int:
        return int(self._rng.integers(least, most + 1))
