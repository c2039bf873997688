"""What of a tape has happened at a given venue time, in terms that belong to no venue.

Pure: every question takes ``now``. Values of final bars leave exactly as the tape holds them. Three
things are made up, because a tape of bars has none of them, and must never be taken for market
data: the path inside a forming bar, the order book, and the index price (which equals the mark).
The predicted funding rate is what the tape settles next, so it is right before a venue could be.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

import numpy as np

from market.bar import DAY_MS, HOUR_MS, MINUTE_MS, Settlement
from market.instrument import Instrument
from market.panel import Float64Array, Int64Array
from market.sandbox.edits import VenueEdit, edit_tape
from market.sandbox.tape import Tape

_BAR_COLUMNS = (
    "open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_buy_volume",
)  # fmt: skip
_MARK_COLUMNS = ("mark_open", "mark_high", "mark_low", "mark_close")
# Share of the last full bar's hourly volume that the made-up book holds on its first level.
_BOOK_LEVEL_SHARE = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Candle:
    """A bar or a mark candle, forming or final; NaN where the source gave nothing."""

    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float = math.nan
    quote_volume: float = math.nan
    trades: float = math.nan
    taker_buy_volume: float = math.nan
    final: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Which rows a request wants: ``since <= time <= until``, at most ``limit`` of them.

    ``newest`` keeps the last rows of the range where there are more than ``limit``, else the first.
    """

    since: int | None
    until: int | None
    limit: int
    newest: bool

    def cut(self, times: Sequence[int] | Int64Array, *, now: int) -> slice:
        """Return the rows of ascending ``times`` that have happened and are wanted."""
        first = 0 if self.since is None else bisect_left(times, self.since)
        last = bisect_right(times, now if self.until is None else min(now, self.until))
        if self.newest:
            return slice(max(first, last - self.limit), max(first, last))
        return slice(first, max(first, min(last, first + self.limit)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """A made-up order book: (price, quantity) levels, best first."""

    bids: tuple[tuple[Decimal, Decimal], ...]
    asks: tuple[tuple[Decimal, Decimal], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """The trailing 24 hours of one symbol; NaN where a bar in it lacks the figure."""

    open: float
    hour_ago: float
    high: float
    low: float
    last: float
    volume: float
    quote_volume: float
    trades: float


class Playback:
    """Answers for one tape, by the venue's own symbol ids."""

    def __init__(self, tape: Tape, edits: Sequence[VenueEdit] = ()) -> None:
        """Index ``tape`` by venue symbol, after ``edits``; rows without a bar are left out.

        Raises:
            ValueError: an edit does not fit the tape.
        """
        edited = edit_tape(tape, edits)
        self.tape = edited.tape
        self.interval_ms = tape.panel.interval_ms
        self.instruments: dict[str, Instrument] = {
            instrument.venue_symbol: instrument for instrument in self.tape.instruments
        }
        self._listings = dict(zip(self.instruments, edited.listings, strict=True))
        self._ids = {one.symbol: venue_symbol for venue_symbol, one in self.instruments.items()}
        self._bars = self._series(_BAR_COLUMNS)
        self._marks = self._series(_MARK_COLUMNS)
        self._settlements: dict[str, list[Settlement]] = {one: [] for one in self.instruments}
        for settlement in self.tape.settlements:
            self._settlements[self._ids[settlement.symbol]].append(settlement)
        self._settlement_times = {
            venue_symbol: [one.funding_time for one in rows]
            for venue_symbol, rows in self._settlements.items()
        }
        self._all_times = [one.funding_time for one in self.tape.settlements]

    def listed(self, *, now: int) -> dict[str, Instrument]:
        """Return what the venue lists at ``now``, by its own id, with the rules in force."""
        rules = ((one, listing.at(now)) for one, listing in self._listings.items())
        return {venue_symbol: one for venue_symbol, one in rules if one is not None}

    def instrument(self, venue_symbol: str, *, now: int) -> Instrument | None:
        """Return the rules in force at ``now``, ``None`` for what the venue does not list then."""
        listing = self._listings.get(venue_symbol)
        return None if listing is None else listing.at(now)

    def answers(self, venue_symbol: str, *, now: int) -> bool:
        """Whether the venue answers requests for ``venue_symbol`` at ``now``."""
        listing = self._listings.get(venue_symbol)
        return listing is not None and listing.answers(now)

    def is_trading(self, venue_symbol: str, *, now: int) -> bool:
        """Whether anything about ``venue_symbol`` still moves at ``now``."""
        rules = self.instrument(venue_symbol, now=now)
        return rules is not None and rules.is_trading

    def bars(self, venue_symbol: str, rows: Range, *, now: int) -> list[Candle]:
        """Return bars by open_time, ascending, the open one with what it shows at ``now``."""
        return self._candles(self._bars[venue_symbol], venue_symbol, rows, now)

    def mark_candles(self, venue_symbol: str, rows: Range, *, now: int) -> list[Candle]:
        """Return mark candles by open_time, ascending, the open one included."""
        return self._candles(self._marks[venue_symbol], venue_symbol, rows, now)

    def bar(self, venue_symbol: str, open_time: int, *, now: int) -> Candle | None:
        """Return the bar that opened at ``open_time``, ``None`` where the tape has none."""
        rows = Range(since=open_time, until=open_time, limit=1, newest=True)
        return next(iter(self.bars(venue_symbol, rows, now=now)), None)

    def last_price(self, venue_symbol: str, *, now: int) -> float:
        """Return the price last traded, NaN before the first bar."""
        return _last_close(self.bars(venue_symbol, _LATEST, now=now))

    def mark_price(self, venue_symbol: str, *, now: int) -> float:
        """Return the latest mark price, NaN where the tape has no mark candle yet."""
        return _last_close(self.mark_candles(venue_symbol, _LATEST, now=now))

    def settlements(self, venue_symbol: str, rows: Range, *, now: int) -> list[Settlement]:
        """Return the settlements of one symbol that have happened, ascending."""
        times = self._settlement_times[venue_symbol]
        return self._settlements[venue_symbol][rows.cut(times, now=now)]

    def all_settlements(self, rows: Range, *, now: int) -> tuple[tuple[str, Settlement], ...]:
        """Return (venue symbol, settlement) over all symbols, ascending in time."""
        found = self.tape.settlements[rows.cut(self._all_times, now=now)]
        return tuple((self._ids[one.symbol], one) for one in found)

    def last_rate(self, venue_symbol: str, *, now: int) -> float:
        """Return the rate of the latest settlement, NaN before the first."""
        latest = self.settlements(venue_symbol, _LATEST, now=now)
        return latest[0].rate if latest else math.nan

    def next_rate(self, venue_symbol: str, *, now: int) -> float:
        """Return the rate that settles next, as a venue predicts it; the last one after that."""
        following = bisect_right(self._settlement_times[venue_symbol], now)
        coming = self._settlements[venue_symbol][following : following + 1]
        return coming[0].rate if coming else self.last_rate(venue_symbol, now=now)

    def next_funding_time(self, venue_symbol: str, *, now: int) -> int:
        """Return the nominal time of the next settlement, UTC milliseconds.

        After the tape's last settlement it is the next multiple of the stated interval.
        """
        times = self._settlement_times[venue_symbol]
        following = bisect_right(times, now)
        if following < len(times):
            return times[following] - times[following] % MINUTE_MS
        rules = self.instrument(venue_symbol, now=now) or self.instruments[venue_symbol]
        if rules.funding_interval_minutes is None:
            raise ValueError(f"{venue_symbol} is spot: nothing settles")
        step = rules.funding_interval_minutes * MINUTE_MS
        return (now // step + 1) * step

    def launch_time(self, venue_symbol: str) -> int:
        """Return the open_time of the symbol's first bar, 0 where the tape has none."""
        times, _ = self._bars[venue_symbol]
        return int(times[0]) if len(times) else 0

    def day(self, venue_symbol: str, *, now: int) -> Day | None:
        """Return the trailing 24 hours, ``None`` where no bar of them exists."""
        open_time, values = self._bars[venue_symbol]
        rows = Range(since=now - DAY_MS, until=None, limit=DAY_MS // self.interval_ms, newest=True)
        cut = rows.cut(open_time, now=now)
        if cut.start == cut.stop:
            return None
        shown = values[cut].copy()
        # The newest bar may still be open: it counts as far as it is known.
        newest = self._candles(self._bars[venue_symbol], venue_symbol, _LATEST, now)[-1]
        shown[-1] = [getattr(newest, name) for name in _BAR_COLUMNS]
        recent = open_time[cut] > now - HOUR_MS
        volume, quote_volume, trades = shown[:, 4:7].sum(axis=0).tolist()
        return Day(
            open=float(shown[0, 0]),
            hour_ago=float(shown[int(recent.argmax()), 0]),
            high=float(shown[:, 1].max()),
            low=float(shown[:, 2].min()),
            last=float(shown[-1, 3]),
            volume=volume,
            quote_volume=quote_volume,
            trades=trades,
        )

    def book(self, venue_symbol: str, *, depth: int, now: int) -> Book:
        """Return a one-tick-wide book around the last price, its levels growing outward.

        The first level holds 0.1 % of the last full bar's hourly volume, level k holds k times
        that. Empty before the first bar.
        """
        last = self.last_price(venue_symbol, now=now)
        if math.isnan(last):
            return Book(bids=(), asks=())
        instrument = self.instruments[venue_symbol]
        tick = instrument.tick_size
        best_bid = max(tick, _floor_to(Decimal(repr(last)), tick))
        unit = self._level_quantity(venue_symbol, instrument, now=now)
        levels = range(depth)
        return Book(
            bids=tuple(
                (best_bid - k * tick, unit * (k + 1)) for k in levels if best_bid > k * tick
            ),
            asks=tuple((best_bid + (k + 1) * tick, unit * (k + 1)) for k in levels),
        )

    def _level_quantity(self, venue_symbol: str, instrument: Instrument, *, now: int) -> Decimal:
        rows = Range(since=None, until=now - self.interval_ms, limit=1, newest=True)
        full = self.bars(venue_symbol, rows, now=now)
        volume = full[-1].volume if full and math.isfinite(full[-1].volume) else 0.0
        hourly = volume * HOUR_MS / self.interval_ms
        share = _floor_to(Decimal(repr(hourly * _BOOK_LEVEL_SHARE)), instrument.lot_step)
        return max(share, instrument.min_quantity, instrument.lot_step)

    def _series(self, columns: Sequence[str]) -> dict[str, tuple[Int64Array, Float64Array]]:
        panel = self.tape.panel
        series = {}
        for index, instrument in enumerate(self.tape.instruments):
            values = np.column_stack([getattr(panel, name)[:, index] for name in columns])
            known = ~np.isnan(values[:, :4]).any(axis=1)
            series[instrument.venue_symbol] = (panel.open_time[known], values[known])
        return series

    def _candles(
        self, series: tuple[Int64Array, Float64Array], venue_symbol: str, rows: Range, now: int
    ) -> list[Candle]:
        open_times, values = series
        cut = rows.cut(open_times, now=now)
        candles = [
            Candle(open_time=open_time, **dict(zip(_BAR_COLUMNS, row, strict=False)))
            for open_time, row in zip(open_times[cut].tolist(), values[cut].tolist(), strict=True)
        ]
        if candles and candles[-1].open_time + self.interval_ms > now:
            progress = (now - candles[-1].open_time) / self.interval_ms
            tick = self.instruments[venue_symbol].tick_size
            candles[-1] = forming(candles[-1], progress=progress, tick_size=tick)
        return candles


def forming(candle: Candle, *, progress: float, tick_size: Decimal) -> Candle:
    """Return what ``candle`` shows when the share ``progress`` of its interval has passed.

    The price walks straight from the open over the extremes to the close (low first when the bar
    rises, high first when it falls), a third of the interval for each leg.
    """
    middle = (candle.low, candle.high) if candle.close >= candle.open else (candle.high, candle.low)
    corners = (candle.open, *middle, candle.close)
    leg = min(int(progress * 3), 2)
    share = progress * 3 - leg
    before, after = corners[leg], corners[leg + 1]
    price = round(before + share * (after - before), decimal_places(tick_size))
    # A tape's prices need not lie on the tick: rounding must not leave the leg.
    price = min(max(price, min(before, after)), max(before, after))
    seen = (*corners[: leg + 1], price)
    return Candle(
        open_time=candle.open_time,
        open=candle.open,
        high=max(seen),
        low=min(seen),
        close=price,
        volume=round(candle.volume * progress, 8),
        quote_volume=round(candle.quote_volume * progress, 8),
        trades=candle.trades * progress // 1,
        taker_buy_volume=round(candle.taker_buy_volume * progress, 8),
        final=False,
    )


def decimal_places(step: Decimal) -> int:
    """Return how many decimals a multiple of ``step`` needs, never negative."""
    return max(0, -int(step.normalize().as_tuple().exponent))


_LATEST = Range(since=None, until=None, limit=1, newest=True)


def _last_close(candles: Sequence[Candle]) -> float:
    return candles[-1].close if candles else math.nan


def _floor_to(value: Decimal, step: Decimal) -> Decimal:
    return (value / step).to_integral_value(rounding=ROUND_FLOOR) * step
