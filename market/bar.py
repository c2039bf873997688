"""Bars, mark candles and funding settlements as values, and the rules a row must satisfy.

All times in Ballast are UTC milliseconds held in ``int``. A bar covers ``[open_time, close_time)``
and is known only at or after ``close_time``.
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import dataclass

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
YEAR_DAYS = 365

_UNITS_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_INTERVAL = re.compile(r"([1-9][0-9]*)([mhd])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One final bar of one symbol; prices in quote currency, volume in base units.

    Fields that a venue or a file does not give are ``None``, never zero.
    """

    symbol: str
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float | None = None
    trades: int | None = None
    taker_buy_volume: float | None = None
    taker_buy_quote_volume: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkBar:
    """One final candle of the venue's mark price."""

    symbol: str
    open_time: int
    open: float
    high: float
    low: float
    close: float


class MarkSource(enum.StrEnum):
    """Where the mark price of a funding settlement came from, best first."""

    VENUE = "venue"
    MARK_CANDLE = "mark_candle"
    BAR_OPEN = "bar_open"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One funding settlement as the venue published it.

    ``rate`` is the fraction of notional that longs pay when it is positive. ``mark_price`` is
    ``None`` exactly when ``mark_source`` is ``UNKNOWN``.
    """

    symbol: str
    funding_time: int
    rate: float
    mark_price: float | None
    mark_source: MarkSource

    @property
    def nominal_time(self) -> int:
        """``funding_time`` floored to the minute: venues add milliseconds of jitter."""
        return self.funding_time - self.funding_time % MINUTE_MS


class BarDefect(enum.StrEnum):
    """Why a row from outside was quarantined."""

    NOT_FINITE = "not_finite"
    NOT_POSITIVE = "price_not_positive"
    RANGE_INVERTED = "open_or_close_outside_low_high"
    NEGATIVE_VOLUME = "negative_volume"
    MISALIGNED = "open_time_not_aligned"
    # What one row cannot tell: a file's rows are judged by these as well.
    NOT_CLOSED = "not_closed_yet"
    CONFLICTING = "conflicting_rows"


def bar_defect(bar: Bar, interval_ms: int) -> BarDefect | None:
    """Return the first rule that ``bar`` breaks, or ``None`` for a sound bar."""
    prices = (bar.open, bar.high, bar.low, bar.close)
    if not all(math.isfinite(value) for value in (*prices, bar.volume)):
        return BarDefect.NOT_FINITE
    if min(prices) <= 0:
        return BarDefect.NOT_POSITIVE
    if not (bar.low <= min(bar.open, bar.close) and max(bar.open, bar.close) <= bar.high):
        return BarDefect.RANGE_INVERTED
    if bar.volume < 0:
        return BarDefect.NEGATIVE_VOLUME
    if bar.open_time % interval_ms:
        return BarDefect.MISALIGNED
    return None


def interval_ms(text: str) -> int:
    """Parse an interval such as ``1m``, ``4h`` or ``1d`` into milliseconds.

    Raises:
        ValueError: the text is not a positive number followed by m, h or d, or does not
            divide a day.
    """
    match = _INTERVAL.fullmatch(text)
    if match is None:
        raise ValueError(f"interval {text!r} is not a number followed by m, h or d (such as 1h)")
    milliseconds = int(match[1]) * _UNITS_MS[match[2]]
    if DAY_MS % milliseconds:
        raise ValueError(f"interval {text!r} does not divide a day")
    return milliseconds


def bars_per_year(interval: int) -> float:
    """Number of bars of ``interval`` milliseconds in a 365-day year."""
    return YEAR_DAYS * DAY_MS / interval
