"""Binance USD-M futures' public market data, as the venue words it.

Formats follow captured payloads: numbers are strings, rows ascend, a request over the row limit is
refused, errors are ``{"code", "msg"}`` with status 400, and every answer carries the weight used in
the present minute (counted as the venue counts it, never enforced).

**What a tape lacks is an empty string.** Binance itself serves ``"markPrice": ""`` where it knows
no mark; the sandbox does the same for every field that the source of the tape did not give: quote
volume, number of trades (``n`` and row field 8, a number otherwise), taker-buy volumes. Tapes hold
no taker-buy quote volume, so that field is always ``""``. Readers must map ``""`` to unknown, never
to zero. Trade ids (``f``, ``L``) are −1, the venue's own word for none.

Only the tape's own interval exists; any other is refused with −1120.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping

from market.bar import DAY_MS, MINUTE_MS
from market.clock import monotonic_seconds
from market.sandbox.binance_rules import symbol_rules
from market.sandbox.dialect import (
    Heard,
    Json,
    Refusal,
    Reply,
    compact_json,
    decimal_text,
    number_text,
)
from market.sandbox.playback import Book, Candle, Playback, Range

KLINE_LIMIT = 1500
FUNDING_LIMIT = 1000
DEPTH_LIMITS = (5, 10, 20, 50, 100, 500, 1000)
DEFAULT_FUNDING_MINUTES = 480

_INTERVALS = {
    minutes * MINUTE_MS: name
    for minutes, name in (
        (1, "1m"), (3, "3m"), (5, "5m"), (15, "15m"), (30, "30m"), (60, "1h"), (120, "2h"),
        (240, "4h"), (360, "6h"), (480, "8h"), (720, "12h"), (1440, "1d"),
    )
}  # fmt: skip
# /ws and /stream, and where ccxt sends them: /market/ws/0, /public/ws/0 (a number is no stream).
_SOCKET_PATH = re.compile(r"(?:/(?:market|public))?/(ws|stream)(?:/(.*))?")

Endpoint = Callable[[Mapping[str, str], int], Json]


class BinanceUsdm:
    """The dialect of Binance USD-M over one playback."""

    # The venue pings every three minutes and drops a client that stays silent.
    heartbeat_seconds: float | None = 180.0

    def __init__(self, playback: Playback) -> None:
        """Serve ``playback``.

        Raises:
            ValueError: the venue has no klines of the tape's interval.
        """
        if playback.interval_ms not in _INTERVALS:
            raise ValueError(f"Binance has no klines of {playback.interval_ms} ms")
        self._playback = playback
        self._interval = _INTERVALS[playback.interval_ms]
        self._weights = _WeightCounter()
        self._endpoints: dict[str, Endpoint] = {
            "ping": lambda _query, _now: {},
            "time": lambda _query, now: {"serverTime": now},
            "exchangeInfo": lambda _query, now: self._exchange_info(now),
            "klines": self._klines,
            "markPriceKlines": self._mark_price_klines,
            "fundingRate": self._funding_rate,
            "fundingInfo": lambda _query, _now: self._funding_info(),
            "premiumIndex": self._for_symbols(self._premium_index),
            "ticker/24hr": self._for_symbols(self._day_ticker),
            "ticker/price": self._for_symbols(self._price_ticker),
            "ticker/bookTicker": self._for_symbols(self._book_ticker),
            "depth": self._depth,
        }

    def answer(self, path: str, query: Mapping[str, str], *, now: int) -> Reply | None:
        """Answer ``/fapi/v1/...`` (and the price ticker's ``/fapi/v2``)."""
        match = re.fullmatch(r"/fapi/v[12]/(.+)", path)
        endpoint = self._endpoints.get(match[1]) if match else None
        if match is None or endpoint is None:
            return None
        headers = {"X-MBX-USED-WEIGHT-1M": str(self._weights.add(_weight(match[1], query)))}
        try:
            return Reply(body=compact_json(endpoint(query, now)), headers=headers)
        except Refusal as refusal:
            body = compact_json({"code": refusal.code, "msg": refusal.message})
            return Reply(body=body, status=400, headers=headers)

    def opening_topics(self, path: str, query: Mapping[str, str]) -> tuple[str, ...] | None:
        """Return the streams of ``/ws/a/b`` or ``/stream?streams=a/b``."""
        match = _SOCKET_PATH.fullmatch(path)
        if match is None:
            return None
        named = query.get("streams", "") if match[1] == "stream" else match[2] or ""
        return tuple(name for name in named.split("/") if name and not name.isdigit())

    def wraps_frames(self, path: str) -> bool:
        """Combined streams (``/stream``) wrap each frame as ``{"stream", "data"}``."""
        match = _SOCKET_PATH.fullmatch(path)
        return match is not None and match[1] == "stream"

    def kline_topic(self, venue_symbol: str) -> str:
        """Return ``symbol@kline_interval``."""
        return f"{venue_symbol.lower()}@kline_{self._interval}"

    def hear(self, text: str, topics: frozenset[str]) -> Heard:
        """Answer SUBSCRIBE, UNSUBSCRIBE and LIST_SUBSCRIPTIONS.

        Like the venue, it acknowledges a stream that does not exist and then sends nothing on it.
        """
        try:
            message = json.loads(text)
        except ValueError as broken:
            return _socket_error(3, f"Invalid JSON: {broken}", None)
        if not isinstance(message, dict) or "method" not in message:
            return _socket_error(2, "Invalid request: missing field `method`", None)
        number, streams = message.get("id"), message.get("params", [])
        if not isinstance(streams, list) or not all(isinstance(one, str) for one in streams):
            return _socket_error(2, "Invalid request: params must be strings", number)
        acknowledged = compact_json({"result": None, "id": number})
        match message["method"]:
            case "SUBSCRIBE":
                return Heard(replies=(acknowledged,), subscribed=tuple(streams))
            case "UNSUBSCRIBE":
                return Heard(replies=(acknowledged,), unsubscribed=tuple(streams))
            case "LIST_SUBSCRIPTIONS":
                listed: list[Json] = [*sorted(topics)]
                return Heard(replies=(compact_json({"result": listed, "id": number}),))
            case unknown:
                return _socket_error(2, f"Invalid request: unknown variant `{unknown}`", number)

    def final_frame(self, topic: str, open_time: int, *, now: int) -> str | None:
        """Return the ``"x": true`` frame of ``symbol@kline_interval``."""
        symbol = self._kline_symbol(topic)
        candle = self._playback.bar(symbol, open_time, now=now) if symbol else None
        return self._kline_frame(symbol, candle, now) if symbol and candle else None

    def update_frame(self, topic: str, *, now: int) -> str | None:
        """Return a forming kline, ``markPrice``, ``!markPrice@arr`` or ``bookTicker`` frame."""
        if symbol := self._kline_symbol(topic):
            open_time = now - now % self._playback.interval_ms
            candle = self._playback.bar(symbol, open_time, now=now)
            return self._kline_frame(symbol, candle, now) if candle else None
        name, _, channel = topic.partition("@")
        if name == "!markPrice":
            marks: list[Json] = [self._mark_update(one, now) for one in self._playback.instruments]
            return compact_json(marks)
        symbol = name.upper()
        if symbol not in self._playback.instruments:
            return None
        if channel in ("markPrice", "markPrice@1s"):
            return compact_json(self._mark_update(symbol, now))
        if channel == "bookTicker":
            return compact_json(self._book_update(symbol, now))
        return None

    # REST

    def _exchange_info(self, now: int) -> Json:
        minute: Json = {
            "rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
            "limit": 2400,
        }  # fmt: skip
        quotes = dict.fromkeys(one.quote for one in self._playback.instruments.values())
        return {
            "timezone": "UTC",
            "serverTime": now,
            "futuresType": "U_MARGINED",
            "rateLimits": [minute],
            "exchangeFilters": [],
            "assets": [
                {"asset": quote, "marginAvailable": True, "autoAssetExchange": "-10000"}
                for quote in quotes
            ],
            "symbols": [
                symbol_rules(one, onboard_time=self._playback.launch_time(one.venue_symbol))
                for one in self._playback.instruments.values()
            ],
        }

    def _klines(self, query: Mapping[str, str], now: int) -> Json:
        symbol, rows = self._symbol(query), self._kline_range(query)
        return [self._kline_row(one) for one in self._playback.bars(symbol, rows, now=now)]

    def _mark_price_klines(self, query: Mapping[str, str], now: int) -> Json:
        symbol, rows = self._symbol(query), self._kline_range(query)
        candles = self._playback.mark_candles(symbol, rows, now=now)
        return [self._mark_row(one) for one in candles]

    def _kline_row(self, candle: Candle) -> Json:
        return [
            candle.open_time,
            *_prices(candle),
            number_text(candle.volume),
            candle.open_time + self._playback.interval_ms - 1,
            number_text(candle.quote_volume),
            _count(candle.trades),
            number_text(candle.taker_buy_volume),
            "",
            "0",
        ]

    def _mark_row(self, candle: Candle) -> Json:
        # The venue counts one update of the mark per second where klines count trades.
        interval = self._playback.interval_ms
        close_time = candle.open_time + interval - 1
        return [
            candle.open_time, *_prices(candle), "0", close_time, "0", interval // 1000,
            "0", "0", "0",
        ]  # fmt: skip

    def _kline_range(self, query: Mapping[str, str]) -> Range:
        interval = query.get("interval")
        if not interval:
            raise _missing("interval")
        if interval != self._interval:
            raise Refusal(-1120, "Invalid interval.")
        return _range(query, default_limit=500, most=KLINE_LIMIT)

    def _funding_rate(self, query: Mapping[str, str], now: int) -> Json:
        rows = _range(query, default_limit=100, most=FUNDING_LIMIT)
        if "symbol" in query:
            symbol = self._symbol(query)
            found = [(symbol, one) for one in self._playback.settlements(symbol, rows, now=now)]
        else:
            found = list(self._playback.all_settlements(rows, now=now))
        return [
            {
                "symbol": symbol,
                "fundingTime": one.funding_time,
                "fundingRate": number_text(one.rate),
                "markPrice": "" if one.mark_price is None else number_text(one.mark_price),
                "rateType": "Regular",
            }
            for symbol, one in found
        ]

    def _funding_info(self) -> Json:
        return [
            {
                "symbol": symbol,
                "adjustedFundingRateCap": "0.02000000",
                "adjustedFundingRateFloor": "-0.02000000",
                "fundingIntervalHours": instrument.funding_interval_minutes // 60,
                "disclaimer": False,
                "updateTime": self._playback.launch_time(symbol),
            }
            for symbol, instrument in self._playback.instruments.items()
            if instrument.funding_interval_minutes != DEFAULT_FUNDING_MINUTES
        ]

    def _premium_index(self, symbol: str, now: int) -> Json:
        mark = number_text(self._playback.mark_price(symbol, now=now))
        return {
            "symbol": symbol,
            "markPrice": mark,
            "indexPrice": mark,
            "estimatedSettlePrice": mark,
            "lastFundingRate": number_text(self._playback.last_rate(symbol, now=now)),
            "interestRate": "0.00010000",
            "nextFundingTime": self._playback.next_funding_time(symbol, now=now),
            "time": now,
        }

    def _day_ticker(self, symbol: str, now: int) -> Json:
        day = self._playback.day(symbol, now=now)
        if day is None:
            return {"symbol": symbol, "lastPrice": "", "openTime": now - DAY_MS, "closeTime": now}
        change = day.last - day.open
        average = day.quote_volume / day.volume if day.volume else math.nan
        return {
            "symbol": symbol,
            "priceChange": number_text(change),
            "priceChangePercent": f"{100 * change / day.open:.3f}",
            "weightedAvgPrice": number_text(average),
            "lastPrice": number_text(day.last),
            "lastQty": "",
            "openPrice": number_text(day.open),
            "highPrice": number_text(day.high),
            "lowPrice": number_text(day.low),
            "volume": number_text(day.volume),
            "quoteVolume": number_text(day.quote_volume),
            "openTime": now - DAY_MS,
            "closeTime": now,
            "firstId": -1,
            "lastId": -1,
            "count": _count(day.trades),
        }

    def _price_ticker(self, symbol: str, now: int) -> Json:
        price = number_text(self._playback.last_price(symbol, now=now))
        return {"symbol": symbol, "price": price, "time": now}

    def _book_ticker(self, symbol: str, now: int) -> Json:
        bid_price, bid_quantity, ask_price, ask_quantity = self._best(symbol, now)
        return {
            "symbol": symbol,
            "bidPrice": bid_price,
            "bidQty": bid_quantity,
            "askPrice": ask_price,
            "askQty": ask_quantity,
            "time": now,
        }

    def _depth(self, query: Mapping[str, str], now: int) -> Json:
        symbol = self._symbol(query)
        limit = _integer(query, "limit") or 500
        if limit not in DEPTH_LIMITS:
            raise Refusal(-4021, f"{limit} is not valid depth limit (best {DEPTH_LIMITS}).")
        book = self._playback.book(symbol, depth=limit, now=now)
        return {"lastUpdateId": now, "E": now, "T": now, **_levels(book)}

    def _for_symbols(self, one: Callable[[str, int], Json]) -> Endpoint:
        """Answer for the symbol asked for, or without one for each, as a list."""

        def endpoint(query: Mapping[str, str], now: int) -> Json:
            if "symbol" in query:
                return one(self._symbol(query), now)
            return [one(symbol, now) for symbol in self._playback.instruments]

        return endpoint

    def _symbol(self, query: Mapping[str, str]) -> str:
        symbol = query.get("symbol")
        if not symbol:
            raise _missing("symbol")
        if symbol not in self._playback.instruments:
            raise Refusal(-1121, "Invalid symbol.")
        return symbol

    # Streams

    def _kline_symbol(self, topic: str) -> str:
        """Return the symbol of one of the tape's kline streams, else an empty string."""
        symbol = topic.partition("@")[0].upper()
        known = symbol in self._playback.instruments and topic == self.kline_topic(symbol)
        return symbol if known else ""

    def _kline_frame(self, symbol: str, candle: Candle, now: int) -> str:
        opened, high, low, close = _prices(candle)
        kline: Json = {
            "t": candle.open_time,
            "T": candle.open_time + self._playback.interval_ms - 1,
            "s": symbol,
            "i": self._interval,
            "f": -1,
            "L": -1,
            "o": opened,
            "c": close,
            "h": high,
            "l": low,
            "v": number_text(candle.volume),
            "n": _count(candle.trades),
            "x": candle.final,
            "q": number_text(candle.quote_volume),
            "V": number_text(candle.taker_buy_volume),
            "Q": "",
            "B": "0",
        }
        return compact_json({"e": "kline", "E": now, "s": symbol, "k": kline})

    def _mark_update(self, symbol: str, now: int) -> Json:
        mark = number_text(self._playback.mark_price(symbol, now=now))
        return {
            "e": "markPriceUpdate",
            "E": now,
            "s": symbol,
            "p": mark,
            "i": mark,
            "P": mark,
            "r": number_text(self._playback.last_rate(symbol, now=now)),
            "T": self._playback.next_funding_time(symbol, now=now),
        }

    def _book_update(self, symbol: str, now: int) -> Json:
        bid_price, bid_quantity, ask_price, ask_quantity = self._best(symbol, now)
        return {
            "e": "bookTicker",
            "u": now,
            "s": symbol,
            "b": bid_price,
            "B": bid_quantity,
            "a": ask_price,
            "A": ask_quantity,
            "T": now,
            "E": now,
        }

    def _best(self, symbol: str, now: int) -> tuple[str, str, str, str]:
        book = self._playback.book(symbol, depth=1, now=now)
        if not book.bids or not book.asks:
            return "", "", "", ""
        (bid_price, bid_quantity), (ask_price, ask_quantity) = book.bids[0], book.asks[0]
        return (
            decimal_text(bid_price), decimal_text(bid_quantity),
            decimal_text(ask_price), decimal_text(ask_quantity),
        )  # fmt: skip


class _WeightCounter:
    """Request weight used in the present real minute: the limit is on us, not on venue time."""

    def __init__(self) -> None:
        self._minute = -1
        self._used = 0

    def add(self, weight: int) -> int:
        """Count ``weight`` and return what the minute has used with it."""
        minute = int(monotonic_seconds() // 60)
        self._used = weight if minute != self._minute else self._used + weight
        self._minute = minute
        return self._used


def _weight(endpoint: str, query: Mapping[str, str]) -> int:
    """Request weight after the venue's tables; funding has a limit of its own and weighs 0."""
    text = query.get("limit", "500")
    limit = int(text) if text.isdigit() else 500
    match endpoint:
        case "klines" | "markPriceKlines":
            return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1000 else 10
        case "depth":
            return 2 if limit <= 50 else 5 if limit <= 100 else 10 if limit <= 500 else 20
        case "fundingRate" | "fundingInfo":
            return 0
        case "ticker/24hr" | "premiumIndex" if "symbol" not in query:
            return 40 if endpoint == "ticker/24hr" else 10
        case "ticker/price" | "ticker/bookTicker":
            return 2 if "symbol" in query else 5
        case _:
            return 1


def _range(query: Mapping[str, str], *, default_limit: int, most: int) -> Range:
    """Read startTime, endTime and limit: from the start on if one is given, else the newest."""
    since, until, limit = (_integer(query, name) for name in ("startTime", "endTime", "limit"))
    if limit is not None and not 1 <= limit <= most:
        raise Refusal(-1130, "Data sent for parameter 'limit' is not valid.")
    if since is not None and until is not None and since > until:
        raise Refusal(-1023, "Start time is greater than end time.")
    return Range(since=since, until=until, limit=limit or default_limit, newest=since is None)


def _integer(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise Refusal(-1100, f"Illegal characters found in parameter '{name}'.")
    return int(text)


def _missing(name: str) -> Refusal:
    return Refusal(
        -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
    )


def _socket_error(code: int, message: str, number: Json) -> Heard:
    error: Json = {"code": code, "msg": message}
    body: dict[str, Json] = {"error": error} if number is None else {"error": error, "id": number}
    return Heard(replies=(compact_json(body),))


def _prices(candle: Candle) -> tuple[str, str, str, str]:
    return (
        number_text(candle.open), number_text(candle.high),
        number_text(candle.low), number_text(candle.close),
    )  # fmt: skip


def _count(value: float) -> int | str:
    return "" if math.isnan(value) else int(value)


def _levels(book: Book) -> dict[str, Json]:
    return {
        "bids": [[decimal_text(price), decimal_text(quantity)] for price, quantity in book.bids],
        "asks": [[decimal_text(price), decimal_text(quantity)] for price, quantity in book.asks],
    }
