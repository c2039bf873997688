"""What the venues' rows mean: raw JSON values in, bars, settlements and instruments out.

Pure functions over values that were already read from the wire. A field that a venue leaves out,
sends empty or sends as null becomes ``None`` (or NaN where a bar needs a number, so that the row
is quarantined by ``row_defect``), never zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import numpy as np

from market.bar import (
    Bar,
    BarDefect,
    MarkBar,
    MarkSource,
    RefusedSettlement,
    Settlement,
    row_defect,
)
from market.instrument import Instrument
from market.panel import Int64Array

DEFAULT_FUNDING_MINUTES = 480  # Binance lists only the symbols that differ from it
EVENT_TOLERANCE_MS = 60_000
_LATEST_TIME_MS = 2**53  # what is later was not meant as a time


class RowMalformed(ValueError):
    """A row that is not even a row: not a list of fields, or without a readable time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamUpdate:
    """One websocket message: the venue's time of it (``None`` where not given), its final bars."""

    event_time: int | None
    final_bars: tuple[Bar, ...]


def number(value: object) -> float:
    """Read a venue's number; NaN where it is missing or unreadable."""
    try:
        return float(value)  # type: ignore[arg-type]  # asking first costs more than failing
    except (TypeError, ValueError, OverflowError):
        return math.nan


def optional_number(value: object) -> float | None:
    """Read a venue's number; ``None`` where it is missing or unreadable."""
    if value is None or value == "":
        return None
    parsed = number(value)
    return parsed if math.isfinite(parsed) else None


def optional_count(value: object) -> float | None:
    """Read a venue's count; what is no whole number stays as it is and is quarantined."""
    parsed = optional_number(value)
    return int(parsed) if parsed is not None and parsed.is_integer() else parsed


def time_ms(value: object) -> int:
    """Read a time in UTC milliseconds.

    Raises:
        RowMalformed: the value is not a whole number.
    """
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]  # the except is the check
    except (TypeError, ValueError, OverflowError) as error:
        raise RowMalformed(f"{value!r} is not a time") from error


def _fields(row: object, least: int) -> Sequence[object]:
    if not isinstance(row, list) or len(row) < least:
        raise RowMalformed(f"{str(row)[:80]!r} is not a row of {least} fields")
    return row


def _mapping(row: object) -> Mapping[str, object]:
    if not isinstance(row, dict):
        raise RowMalformed(f"{str(row)[:80]!r} is not an object")
    return row


def binance_bar(symbol: str, row: object) -> Bar:
    """Read one row of ``/fapi/v1/klines``.

    Raises:
        RowMalformed: the row has no readable time or too few fields.
    """
    cells = _fields(row, 11)
    return Bar(
        symbol=symbol,
        open_time=time_ms(cells[0]),
        open=number(cells[1]),
        high=number(cells[2]),
        low=number(cells[3]),
        close=number(cells[4]),
        volume=number(cells[5]),
        quote_volume=optional_number(cells[7]),
        trades=optional_count(cells[8]),
        taker_buy_volume=optional_number(cells[9]),
        taker_buy_quote_volume=optional_number(cells[10]),
    )


def bybit_bar(symbol: str, row: object) -> Bar:
    """Read one row of ``/v5/market/kline``: Bybit counts neither trades nor taker volume.

    Raises:
        RowMalformed: the row has no readable time or too few fields.
    """
    cells = _fields(row, 7)
    return Bar(
        symbol=symbol,
        open_time=time_ms(cells[0]),
        open=number(cells[1]),
        high=number(cells[2]),
        low=number(cells[3]),
        close=number(cells[4]),
        volume=number(cells[5]),
        quote_volume=optional_number(cells[6]),
    )


def mark_bar(symbol: str, row: object) -> MarkBar:
    """Read one row of either venue's mark-price candles: time, open, high, low, close.

    Raises:
        RowMalformed: the row has no readable time or too few fields.
    """
    cells = _fields(row, 5)
    return MarkBar(
        symbol=symbol,
        open_time=time_ms(cells[0]),
        open=number(cells[1]),
        high=number(cells[2]),
        low=number(cells[3]),
        close=number(cells[4]),
    )


def mark_defect(bar: MarkBar, interval_ms: int) -> BarDefect | None:
    """Return the first rule of ``row_defect`` that a mark candle breaks, or ``None``."""
    traded = Bar(
        symbol=bar.symbol, open_time=bar.open_time, open=bar.open, high=bar.high, low=bar.low,
        close=bar.close, volume=0.0,
    )  # fmt: skip
    return row_defect(traded, interval_ms)


def binance_settlement(symbol: str, row: object) -> Settlement:
    """Read one row of ``/fapi/v1/fundingRate``; an empty or zero mark is an unknown one.

    Raises:
        RowMalformed: the row has no readable time or rate.
    """
    cells = _mapping(row)
    mark = optional_number(cells.get("markPrice"))
    return _settlement(symbol, cells.get("fundingTime"), cells.get("fundingRate"), mark)


def bybit_settlement(symbol: str, row: object) -> Settlement:
    """Read one row of ``/v5/market/funding/history``, which never states the mark.

    Raises:
        RowMalformed: the row has no readable time or rate.
    """
    cells = _mapping(row)
    return _settlement(symbol, cells.get("fundingRateTimestamp"), cells.get("fundingRate"), None)


def _settlement(symbol: str, time: object, rate: object, mark: float | None) -> Settlement:
    known_rate = optional_number(rate)
    if known_rate is None:
        raise RowMalformed(f"{symbol}: {rate!r} is not a funding rate")
    known_mark = mark if mark is not None and mark > 0 else None
    return Settlement(
        symbol=symbol,
        funding_time=time_ms(time),
        rate=known_rate,
        mark_price=known_mark,
        mark_source=MarkSource.UNKNOWN if known_mark is None else MarkSource.VENUE,
    )


def binance_stream(message: object, symbol_of: Mapping[str, str], interval: str) -> StreamUpdate:
    """Read a kline message; only a kline that the venue marked final (``x``) becomes a bar.

    Args:
        message: the event, already unwrapped from a combined stream.
        symbol_of: unified symbol by the venue's own.
        interval: the venue's name of the interval that was subscribed.

    Raises:
        RowMalformed: the message is no kline.
    """
    event = _mapping(message)
    kline = _mapping(event.get("k"))
    event_time = time_ms(event["E"]) if "E" in event else None
    symbol = symbol_of.get(str(kline.get("s")))
    if kline.get("x") is not True or symbol is None or kline.get("i") != interval:
        return StreamUpdate(event_time=event_time, final_bars=())
    names = ("t", "o", "h", "l", "c", "v", "T", "q", "n", "V", "Q")
    row = [kline.get(name) for name in names]
    return StreamUpdate(event_time=event_time, final_bars=(binance_bar(symbol, row),))


def bybit_stream(message: object, symbol_of: Mapping[str, str], interval: str) -> StreamUpdate:
    """Read a kline message; only a kline that the venue marked final (``confirm``) becomes a bar.

    Raises:
        RowMalformed: the message is no kline.
    """
    event = _mapping(message)
    event_time = time_ms(event["ts"]) if "ts" in event else None
    _, topic_interval, venue_symbol = str(event.get("topic")).split(".", 2)
    symbol, data = symbol_of.get(venue_symbol), event.get("data")
    if symbol is None or topic_interval != interval or not isinstance(data, list):
        return StreamUpdate(event_time=event_time, final_bars=())
    names = ("start", "open", "high", "low", "close", "volume", "turnover")
    klines = (_mapping(entry) for entry in data)
    finals = tuple(
        bybit_bar(symbol, [kline.get(name) for name in names])
        for kline in klines
        if kline.get("confirm") is True
    )
    return StreamUpdate(event_time=event_time, final_bars=finals)


def final_open_times(
    open_times: Iterable[int], *, interval_ms: int, venue_now: int, settle_ms: int
) -> frozenset[int]:
    """Return the open times of those bars in one REST answer that the venue will not change.

    A bar is final once it closed by the venue's time and a later bar is in the same answer; a bar
    that closed at least ``settle_ms`` ago is final without one.
    """
    times = list(open_times)
    newest = max(times, default=0)
    return frozenset(
        time
        for time in times
        if time + interval_ms <= venue_now
        and (time < newest or time + interval_ms + settle_ms <= venue_now)
    )


def sift(bars: Sequence[Bar], interval_ms: int) -> tuple[list[Bar], list[tuple[Bar, BarDefect]]]:
    """Part sound bars from those that break a rule, each with the rule it breaks."""
    judged = [(bar, row_defect(bar, interval_ms)) for bar in bars]
    sound = [bar for bar, defect in judged if defect is None]
    return sound, [(bar, defect) for bar, defect in judged if defect is not None]


def parse_rows(
    symbol: str, rows: Iterable[object], parse: Callable[[str, object], Settlement]
) -> tuple[list[Settlement], list[RefusedSettlement]]:
    """Read settlement rows; one unreadable row is kept apart and does not stop the others."""
    settlements, refused = [], []
    for row in rows:
        try:
            settlements.append(parse(symbol, row))
        except RowMalformed:
            refused.append(_refused(symbol, row))
    return settlements, refused


def _refused(symbol: str, row: object) -> RefusedSettlement:
    cells = row if isinstance(row, dict) else {}
    stated = number(cells.get("fundingTime", cells.get("fundingRateTimestamp")))
    return RefusedSettlement(
        symbol=symbol,
        funding_time=int(stated) if 0 <= stated < _LATEST_TIME_MS else 0,
        content=json.dumps(row, sort_keys=True, default=str),
    )


def missing_times(stored: Int64Array, *, since: int, until: int, interval_ms: int) -> Int64Array:
    """Return the open times in ``[since, until)`` that are not in ``stored``, ascending."""
    first = -(-since // interval_ms) * interval_ms
    expected = np.arange(first, until, interval_ms, dtype=np.int64)
    return np.setdiff1d(expected, stored, assume_unique=True)


def pages(missing: Int64Array, *, interval_ms: int, page_bars: int) -> list[tuple[int, int, int]]:
    """Cut missing open times into requests ``(since, until, count)`` of at most ``page_bars``."""
    cuts, index = [], 0
    while index < len(missing):
        since = int(missing[index])
        end = int(np.searchsorted(missing, since + page_bars * interval_ms))
        cuts.append((since, int(missing[end - 1]) + interval_ms, end - index))
        index = end
    return cuts


def binance_instrument(market: Mapping[str, object], funding_minutes: int | None) -> Instrument:
    """Read the trading rules of one symbol of ``exchangeInfo``, of USD-M or spot.

    ``pricePrecision`` is not the tick size; the filters are what orders must obey.
    """
    info = _mapping(market["info"])
    entries = info.get("filters")
    filters = {
        str(entry.get("filterType")): entry
        for entry in (entries if isinstance(entries, list) else ())
    }
    lot, market_lot = filters["LOT_SIZE"], filters.get("MARKET_LOT_SIZE", {})
    largest = [_decimal(entry.get("maxQty")) for entry in (lot, market_lot)]
    stated = [quantity for quantity in largest if quantity is not None and quantity > 0]
    steps = [_decimal(entry.get("stepSize")) or Decimal(0) for entry in (lot, market_lot)]
    # USD-M: MIN_NOTIONAL.notional; spot: NOTIONAL.minNotional, before 2023 MIN_NOTIONAL.minNotional
    notional = filters.get("MIN_NOTIONAL", {}) | filters.get("NOTIONAL", {})
    return Instrument(
        symbol=str(market["symbol"]),
        venue_symbol=str(market["id"]),
        base=str(market["base"]),
        quote=str(market["quote"]),
        tick_size=_decimal(filters["PRICE_FILTER"].get("tickSize")) or Decimal(0),
        lot_step=max(steps),
        min_quantity=_decimal(lot.get("minQty")) or Decimal(0),
        max_quantity=min(stated) if stated else None,
        min_notional=_decimal(notional.get("notional") or notional.get("minNotional"))
        or Decimal(0),
        funding_interval_minutes=funding_minutes,
        is_trading=info.get("status") == "TRADING",
    )


def bybit_instrument(market: Mapping[str, object]) -> Instrument:
    """Read the trading rules of one linear symbol of ``/v5/market/instruments-info``."""
    info = _mapping(market["info"])
    lot, price = _mapping(info["lotSizeFilter"]), _mapping(info["priceFilter"])
    return Instrument(
        symbol=str(market["symbol"]),
        venue_symbol=str(market["id"]),
        base=str(market["base"]),
        quote=str(market["quote"]),
        tick_size=_decimal(price.get("tickSize")) or Decimal(0),
        lot_step=_decimal(lot.get("qtyStep")) or Decimal(0),
        min_quantity=_decimal(lot.get("minOrderQty")) or Decimal(0),
        max_quantity=_decimal(lot.get("maxMktOrderQty")) or _decimal(lot.get("maxOrderQty")),
        min_notional=_decimal(lot.get("minNotionalValue")) or Decimal(0),
        funding_interval_minutes=int(number(info["fundingInterval"])),
        is_trading=info.get("status") == "Trading",
    )


def bybit_spot_instrument(market: Mapping[str, object]) -> Instrument:
    """Read the trading rules of one spot symbol of ``/v5/market/instruments-info``."""
    info = _mapping(market["info"])
    lot, price = _mapping(info["lotSizeFilter"]), _mapping(info["priceFilter"])
    largest = (_decimal(lot.get(name)) for name in ("maxMarketOrderQty", "maxOrderQty"))
    return Instrument(
        symbol=str(market["symbol"]),
        venue_symbol=str(market["id"]),
        base=str(market["base"]),
        quote=str(market["quote"]),
        tick_size=_decimal(price.get("tickSize")) or Decimal(0),
        lot_step=_decimal(lot.get("basePrecision")) or Decimal(0),
        min_quantity=_decimal(lot.get("minOrderQty")) or Decimal(0),
        max_quantity=next((one for one in largest if one), None),
        min_notional=_decimal(lot.get("minOrderAmt")) or Decimal(0),
        funding_interval_minutes=None,
        is_trading=info.get("status") == "Trading",
    )


def _decimal(value: object) -> Decimal | None:
    try:
        return None if value in (None, "") else Decimal(str(value))
    except InvalidOperation:
        return None
