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
# 2009-01-03, the first block: no row of a market is older. Times in seconds lie far before it.
FIRST_TIME_MS = 1_230_940_800_000
# From here on float64, in which panels and CSV files hold counts, skips whole numbers.
TRADES_LIMIT = 2**53
# So much may sums of one volume differ that were rounded on the way, to float32 at worst.
VOLUME_ROUNDING = 1e-6

_UNITS_MS = {"m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_INTERVAL = re.compile(r"([1-9][0-9]*)([mhd])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One final bar of one symbol; prices in quote currency, volume in base units.

    Fields that a venue or a file does not give are ``None``, never zero. ``trades`` is a whole
    number in every sound bar.
    """

    symbol: str
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float | None = None
    trades: float | None = None
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedSettlement:
    """A row of a venue's settlements without a readable time or rate.

    Attributes:
        funding_time: UTC milliseconds; 0 where it states none that can be read.
        content: the row as it came, JSON.
    """

    symbol: str
    funding_time: int
    content: str


class BarDefect(enum.StrEnum):
    """Why a row from outside was quarantined."""

    NOT_FINITE = "not_finite"
    NOT_POSITIVE = "price_not_positive"
    RANGE_INVERTED = "open_or_close_outside_low_high"
    NEGATIVE_VOLUME = "negative_volume"
    TAKER_ABOVE_TOTAL = "taker_volume_above_volume"
    NOT_A_COUNT = "trades_not_a_count"
    MISALIGNED = "open_time_not_aligned"
    TOO_EARLY = "time_before_2009"
    # What one row cannot tell: a file's rows are judged by these as well.
    NOT_CLOSED = "not_closed_yet"
    CONFLICTING = "conflicting_rows"
    # What became no value that the rules could judge: a settlement of a venue.
    UNREADABLE = "not_readable"


def row_defect(bar: Bar, interval_ms: int) -> BarDefect | None:
    """Return the first rule that a row from outside breaks, or ``None`` for a sound bar.

    What a venue and what a file says is judged by this one rule (``market.importers.rules`` is the
    same over columns): a time that none can be, and ``bar_defect``.
    """
    if bar.open_time < FIRST_TIME_MS:
        return BarDefect.TOO_EARLY
    return bar_defect(bar, interval_ms)


def bar_defect(bar: Bar, interval_ms: int) -> BarDefect | None:
    """Return the first rule that the figures of ``bar`` break, or ``None``.

    An optional figure that cannot be makes the whole bar unsound: columns that slipped look so, and
    nothing tells which figure of the row is the wrong one.
    """
    prices = (bar.open, bar.high, bar.low, bar.close)
    if not all(math.isfinite(value) for value in (*prices, bar.volume)):
        return BarDefect.NOT_FINITE
    if min(prices) <= 0:
        return BarDefect.NOT_POSITIVE
    if not (bar.low <= min(bar.open, bar.close) and max(bar.open, bar.close) <= bar.high):
        return BarDefect.RANGE_INVERTED
    if bar.open_time % interval_ms:
        return BarDefect.MISALIGNED
    return _volume_defect(bar)


def is_count(trades: float) -> bool:
    """Whether ``trades`` is a whole number that every form of storage holds exactly."""
    return 0 <= trades < TRADES_LIMIT and trades % 1 == 0


def _volume_defect(bar: Bar) -> BarDefect | None:
    """The first rule that volumes and trades break; what is not given breaks none."""
    taker = bar.taker_buy_volume
    volumes = (bar.volume, bar.quote_volume, taker, bar.taker_buy_quote_volume)
    if any(volume is not None and volume < 0 for volume in volumes):
        return BarDefect.NEGATIVE_VOLUME
    if taker is not None and taker > bar.volume * (1 + VOLUME_ROUNDING):
        return BarDefect.TAKER_ABOVE_TOTAL
    if bar.trades is not None and not is_count(bar.trades):
        return BarDefect.NOT_A_COUNT
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


def interval_name(interval_ms: int) -> str:
    """Write an interval as the settings and the files do, such as ``1h``."""
    for unit_ms, unit in ((DAY_MS, "d"), (HOUR_MS, "h")):
        if interval_ms % unit_ms == 0:
            return f"{interval_ms // unit_ms}{unit}"
    return f"{interval_ms // MINUTE_MS}m"


def bars_per_year(interval: int) -> float:
    """Number of bars of ``interval`` milliseconds in a 365-day year."""
    return YEAR_DAYS * DAY_MS / interval
