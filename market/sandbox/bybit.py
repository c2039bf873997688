"""Bybit's V5 public market data for linear contracts, as the venue words it.

Formats follow captured payloads: numbers and times are strings, lists run **newest first**, every
answer is ``{"retCode", "retMsg", "result", "retExtInfo", "time"}`` with status 200, errors too.

**What a tape lacks is an empty string**, as the venue writes an unknown fee rate or price: the
turnover where the tape has no quote volume, the mark where it has no mark candle. Readers must map
``""`` to unknown, never to zero. Open interest, which no tape holds, is ``"0"`` (ccxt takes a
ticker without it for a spot ticker).

Rows: where more bars lie in ``[start, end]`` than ``limit``, the venue keeps the newest; with
``start`` alone it goes forward from the bar that contains ``start``. Only the tape's own interval
and the category ``linear`` hold anything; the other categories are empty.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from market.bar import MINUTE_MS
from market.instrument import Instrument
from market.sandbox.dialect import (
    Heard,
    Json,
    Refusal,
    Reply,
    compact_json,
    decimal_text,
    number_text,
)
from market.sandbox.playback import Book, Candle, Day, Playback, Range, decimal_places

KLINE_LIMIT = 1000
FUNDING_LIMIT = 200
BOOK_DEPTHS = (1, 50, 200, 500)
CATEGORIES = ("spot", "linear", "inverse", "option")
PARAMETER_ERROR = 10001

_INTERVALS = {
    minutes * MINUTE_MS: name
    for minutes, name in (
        (1, "1"), (3, "3"), (5, "5"), (15, "15"), (30, "30"), (60, "60"), (120, "120"),
        (240, "240"), (360, "360"), (720, "720"), (1440, "D"),
    )
}  # fmt: skip
_CONNECTION_ID = "sandbox0-0000-0000-0000-000000000000"

Endpoint = Callable[[Mapping[str, str], int], Json]


class BybitLinear:
    """The dialect of Bybit's linear contracts over one playback."""

    # The client pings ({"op": "ping"}); the venue does not.
    heartbeat_seconds: float | None = None

    def __init__(self, playback: Playback) -> None:
        """Serve ``playback``.

        Raises:
            ValueError: the venue has no klines of the tape's interval.
        """
        if playback.interval_ms not in _INTERVALS:
            raise ValueError(f"Bybit has no klines of {playback.interval_ms} ms")
        self._playback = playback
        self._interval = _INTERVALS[playback.interval_ms]
        self._endpoints: dict[str, Endpoint] = {
            "time": lambda _query, now: _server_time(now),
            "instruments-info": self._instruments_info,
            "kline": self._kline,
            "mark-price-kline": self._mark_price_kline,
            "funding/history": self._funding_history,
            "tickers": self._tickers,
            "orderbook": self._orderbook,
        }

    def answer(self, path: str, query: Mapping[str, str], *, now: int) -> Reply | None:
        """Answer ``/v5/market/...``."""
        endpoint = self._endpoints.get(path.removeprefix("/v5/market/"))
        if endpoint is None or not path.startswith("/v5/market/"):
            return None
        headers = {"Timenow": str(now)}
        try:
            body = _envelope(0, "OK", endpoint(query, now), now)
        except Refusal as refusal:
            body = _envelope(refusal.code, refusal.message, {}, now)
        return Reply(body=body, headers=headers)

    def opening_topics(self, path: str, query: Mapping[str, str]) -> tuple[str, ...] | None:
        """Bybit's URLs name no topics."""
        del query
        return () if path == "/v5/public/linear" else None

    def wraps_frames(self, path: str) -> bool:
        """Every Bybit frame names its topic itself."""
        del path
        return False

    def kline_topic(self, venue_symbol: str) -> str:
        """Return ``kline.interval.symbol``."""
        return f"kline.{self._interval}.{venue_symbol}"

    def hear(self, text: str, topics: frozenset[str]) -> Heard:
        """Answer ping, subscribe and unsubscribe; one unknown topic fails the whole request."""
        del topics
        try:
            message = json.loads(text)
        except ValueError:
            return Heard(replies=(_socket_reply(False, "error:invalid json", None, ""),))
        if not isinstance(message, dict):
            return Heard(replies=(_socket_reply(False, "error:invalid op", None, ""),))
        number, operation = message.get("req_id"), message.get("op")
        wanted = [one for one in message.get("args") or [] if isinstance(one, str)]
        match operation:
            case "ping":
                return Heard(replies=(_socket_reply(True, "pong", number, "ping"),))
            case "subscribe":
                return self._subscribe(wanted, number)
            case "unsubscribe":
                reply = _socket_reply(True, "", number, "unsubscribe")
                return Heard(replies=(reply,), unsubscribed=tuple(wanted))
            case _:
                return Heard(
                    replies=(_socket_reply(False, "error:invalid op", number, str(operation)),)
                )

    def final_frame(self, topic: str, open_time: int, *, now: int) -> str | None:
        """Return the ``"confirm": true`` frame of ``kline.interval.symbol``."""
        _, symbol = _split(topic)
        if symbol not in self._playback.instruments or topic != self.kline_topic(symbol):
            return None
        candle = self._playback.bar(symbol, open_time, now=now)
        return self._kline_frame(topic, candle, now) if candle else None

    def update_frame(self, topic: str, *, now: int) -> str | None:
        """Return a forming kline, or a snapshot of the ticker or the order book."""
        name, symbol = _split(topic)
        if symbol not in self._playback.instruments:
            return None
        if topic == self.kline_topic(symbol):
            open_time = now - now % self._playback.interval_ms
            candle = self._playback.bar(symbol, open_time, now=now)
            return self._kline_frame(topic, candle, now) if candle else None
        if name == "tickers":
            data: Json = self._ticker(symbol, now)
        else:
            depth = int(name.removeprefix("orderbook."))
            book = self._playback.book(symbol, depth=depth, now=now)
            data = {"s": symbol, **_levels(book), "u": now, "seq": now}
        return compact_json({"topic": topic, "type": "snapshot", "ts": now, "data": data})

    # REST

    def _instruments_info(self, query: Mapping[str, str], now: int) -> Json:
        del now
        category = _category(query)
        shown = category == "linear" and query.get("status", "Trading") == "Trading"
        instruments = list(self._playback.instruments.values()) if shown else []
        if "symbol" in query:
            instruments = [self._playback.instruments[self._symbol(query)]] if shown else []
        rules: list[Json] = [
            _instrument_rules(one, launch_time=self._playback.launch_time(one.venue_symbol))
            for one in instruments
        ]
        return {"category": category, "list": rules, "nextPageCursor": ""}

    def _kline(self, query: Mapping[str, str], now: int) -> Json:
        symbol, rows = self._symbol(query), self._kline_range(query)
        found: list[Json] = [
            [*_row(one), number_text(one.volume), number_text(one.quote_volume)]
            for one in reversed(self._playback.bars(symbol, rows, now=now))
        ]
        return {"symbol": symbol, "category": "linear", "list": found}

    def _mark_price_kline(self, query: Mapping[str, str], now: int) -> Json:
        symbol, rows = self._symbol(query), self._kline_range(query)
        candles = reversed(self._playback.mark_candles(symbol, rows, now=now))
        found: list[Json] = [[*_row(one)] for one in candles]
        return {"symbol": symbol, "category": "linear", "list": found}

    def _kline_range(self, query: Mapping[str, str]) -> Range:
        if query.get("interval") != self._interval:
            raise Refusal(PARAMETER_ERROR, "Invalid period!")
        rows = _range(query, names=("start", "end"), default_limit=200, most=KLINE_LIMIT)
        if rows.since is None:
            return rows
        # The venue answers from the bar that contains `start`.
        return replace(rows, since=rows.since - rows.since % self._playback.interval_ms)

    def _funding_history(self, query: Mapping[str, str], now: int) -> Json:
        symbol = self._symbol(query)
        rows = _range(
            query, names=("startTime", "endTime"), default_limit=FUNDING_LIMIT, most=FUNDING_LIMIT
        )
        if rows.since is not None and rows.until is None:
            raise Refusal(PARAMETER_ERROR, "params error: endTime is required with startTime")
        settled = self._playback.settlements(symbol, rows, now=now)
        found: list[Json] = [
            {
                "symbol": symbol,
                "fundingRate": number_text(one.rate),
                "fundingRateTimestamp": str(one.funding_time),
            }
            for one in reversed(settled)
        ]
        return {"category": "linear", "list": found}

    def _tickers(self, query: Mapping[str, str], now: int) -> Json:
        category = _category(query)
        symbols = [self._symbol(query)] if "symbol" in query else [*self._playback.instruments]
        shown = symbols if category == "linear" else []
        return {"category": category, "list": [self._ticker(one, now) for one in shown]}

    def _ticker(self, symbol: str, now: int) -> dict[str, Json]:
        day = self._playback.day(symbol, now=now)
        mark = number_text(self._playback.mark_price(symbol, now=now))
        book = self._playback.book(symbol, depth=1, now=now)
        return {
            "symbol": symbol,
            **_day_fields(day),
            "markPrice": mark,
            "indexPrice": mark,
            "openInterest": "0",
            "openInterestValue": "0",
            "nextFundingTime": str(self._playback.next_funding_time(symbol, now=now)),
            "fundingRate": number_text(self._playback.last_rate(symbol, now=now)),
            **_best(book),
            "fundingIntervalHour": str(
                self._playback.instruments[symbol].funding_interval_minutes // 60
            ),
        }

    def _orderbook(self, query: Mapping[str, str], now: int) -> Json:
        symbol = self._symbol(query)
        depth = _integer(query, "limit") or 25
        if not 1 <= depth <= max(BOOK_DEPTHS):
            raise Refusal(PARAMETER_ERROR, "params error: limit is out of range")
        book = self._playback.book(symbol, depth=depth, now=now)
        return {"s": symbol, **_levels(book), "ts": now, "u": now, "seq": now, "cts": now}

    def _symbol(self, query: Mapping[str, str]) -> str:
        if _category(query) != "linear" or query.get("symbol") not in self._playback.instruments:
            raise Refusal(PARAMETER_ERROR, "Not supported symbols")
        return query["symbol"]

    # Streams

    def _subscribe(self, wanted: list[str], number: Json) -> Heard:
        unknown = [topic for topic in wanted if not self._knows(topic)]
        if unknown or not wanted:
            text = f"error:handler not found,topic:{unknown[0] if unknown else ''}"
            return Heard(replies=(_socket_reply(False, text, number, "subscribe"),))
        reply = _socket_reply(True, "", number, "subscribe")
        return Heard(replies=(reply,), subscribed=tuple(wanted))

    def _knows(self, topic: str) -> bool:
        name, symbol = _split(topic)
        names = {f"kline.{self._interval}", "tickers", *(f"orderbook.{n}" for n in BOOK_DEPTHS)}
        return name in names and symbol in self._playback.instruments

    def _kline_frame(self, topic: str, candle: Candle, now: int) -> str:
        _, opened, high, low, close = _row(candle)
        bar: Json = {
            "start": candle.open_time,
            "end": candle.open_time + self._playback.interval_ms - 1,
            "interval": self._interval,
            "open": opened,
            "close": close,
            "high": high,
            "low": low,
            "volume": number_text(candle.volume),
            "turnover": number_text(candle.quote_volume),
            "confirm": candle.final,
            "timestamp": now,
        }
        return compact_json({"topic": topic, "data": [bar], "ts": now, "type": "snapshot"})


def _envelope(code: int, message: str, result: Json, now: int) -> str:
    return compact_json({
        "retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": now,
    })  # fmt: skip


def _server_time(now: int) -> Json:
    return {"timeSecond": str(now // 1000), "timeNano": str(now * 1_000_000)}


def _instrument_rules(instrument: Instrument, *, launch_time: int) -> Json:
    """Trading rules as in instruments-info; leverage figures are the venue's usual constants."""
    tick, step = instrument.tick_size, instrument.lot_step
    # Limit orders may be larger than market orders; tapes state only the latter.
    most = instrument.max_quantity
    largest = decimal_text(most * 10 if most is not None else step * 10**9)
    lot_size: dict[str, Json] = {
        "maxOrderQty": largest,
        "minOrderQty": decimal_text(instrument.min_quantity),
        "qtyStep": decimal_text(step),
        "postOnlyMaxOrderQty": largest,
    }
    if most is not None:
        lot_size["maxMktOrderQty"] = decimal_text(most)
    lot_size["minNotionalValue"] = decimal_text(instrument.min_notional)
    return {
        "symbol": instrument.venue_symbol,
        "contractType": "LinearPerpetual",
        "status": "Trading",
        "baseCoin": instrument.base,
        "quoteCoin": instrument.quote,
        "launchTime": str(launch_time),
        "deliveryTime": "0",
        "deliveryFeeRate": "",
        "priceScale": str(decimal_places(tick)),
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {
            "minPrice": decimal_text(tick),
            "maxPrice": decimal_text(tick * 10**8),
            "tickSize": decimal_text(tick),
        },
        "lotSizeFilter": lot_size,
        "unifiedMarginTrade": True,
        "fundingInterval": instrument.funding_interval_minutes,
        "settleCoin": instrument.quote,
        "copyTrading": "none",
    }


def _range(
    query: Mapping[str, str], *, names: tuple[str, str], default_limit: int, most: int
) -> Range:
    """Read a time range and a limit; a limit over the venue's is cut to it, as the venue does."""
    since, until = (_integer(query, name) for name in names)
    limit = _integer(query, "limit")
    if since is not None and until is not None and since > until:
        raise Refusal(PARAMETER_ERROR, "params error: start is after end")
    return Range(
        since=since,
        until=until,
        limit=max(1, min(limit or default_limit, most)),
        newest=since is None or until is not None,
    )


def _integer(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None or text == "":
        return None
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise Refusal(PARAMETER_ERROR, f"params error: {name} is not a number")
    return int(text)


def _category(query: Mapping[str, str]) -> str:
    # The venue takes a missing category of a market query as linear.
    category = query.get("category", "linear")
    if category not in CATEGORIES:
        raise Refusal(PARAMETER_ERROR, "params error: category invalid")
    return category


def _split(topic: str) -> tuple[str, str]:
    name, _, symbol = topic.rpartition(".")
    return name, symbol


def _row(candle: Candle) -> tuple[str, str, str, str, str]:
    return (
        str(candle.open_time),
        number_text(candle.open),
        number_text(candle.high),
        number_text(candle.low),
        number_text(candle.close),
    )


def _day_fields(day: Day | None) -> dict[str, Json]:
    names = (
        "lastPrice", "prevPrice24h", "price24hPcnt", "highPrice24h", "lowPrice24h", "prevPrice1h",
        "turnover24h", "volume24h",
    )  # fmt: skip
    if day is None:
        return dict.fromkeys(names, "")
    change = day.last / day.open - 1 if day.open else math.nan
    values = (
        day.last, day.open, round(change, 6), day.high, day.low, day.hour_ago, day.quote_volume,
        day.volume,
    )  # fmt: skip
    return {name: number_text(value) for name, value in zip(names, values, strict=True)}


def _best(book: Book) -> dict[str, Json]:
    names = ("bid1Price", "bid1Size", "ask1Price", "ask1Size")
    if not book.bids or not book.asks:
        return dict.fromkeys(names, "")
    values = (*book.bids[0], *book.asks[0])
    return {name: decimal_text(value) for name, value in zip(names, values, strict=True)}


def _levels(book: Book) -> dict[str, Json]:
    return {
        "b": [[decimal_text(price), decimal_text(quantity)] for price, quantity in book.bids],
        "a": [[decimal_text(price), decimal_text(quantity)] for price, quantity in book.asks],
    }


def _socket_reply(success: bool, text: str, number: Json, operation: str) -> str:
    return compact_json({
        "success": success,
        "ret_msg": text,
        "conn_id": _CONNECTION_ID,
        "req_id": "" if number is None else str(number),
        "op": operation,
    })  # fmt: skip
