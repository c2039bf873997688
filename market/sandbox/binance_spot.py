"""Binance spot's public market data, as the venue words it (see ``binance_wire``).

``/api/v3`` over REST, kline, best-quote and partial-depth streams at ``/stream`` and ``/ws``. More
rows than the limit are cut to it, the depth is any number up to 5000, tickers take ``symbols`` as a
JSON list, and nothing states a mark or funding. Best quotes and partial depth name no event.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from market.bar import MINUTE_MS
from market.sandbox import binance_sockets as sockets
from market.sandbox import binance_wire as wire
from market.sandbox.binance_rules import spot_rules
from market.sandbox.dialect import Json, Refusal, Reply, compact_json, number_text
from market.sandbox.limits import RequestMeter
from market.sandbox.playback import Day, Playback

KLINE_LIMIT = 1000
DEPTH_LIMIT = 5000
WEIGHT_LIMIT = 6000

_PATH = re.compile(r"/api/v3/(.+)")
_WEIGHT_HEADERS = ("X-MBX-USED-WEIGHT", "X-MBX-USED-WEIGHT-1M")
_TOO_MANY = (
    f"Too much request weight used; current limit is {WEIGHT_LIMIT} request weight per 1 MINUTE. "
    "Please use WebSocket Streams for live updates to avoid polling the API."
)


class BinanceSpot:
    """The dialect of Binance spot over one playback."""

    # The venue pings every 20 seconds and drops who has not answered for a minute.
    heartbeat_seconds: float | None = 20.0
    silence_seconds: float = 60.0

    # Sockets are opened and spoken to in the same way on both markets.
    opening_topics = staticmethod(sockets.opening_topics)
    wraps_frames = staticmethod(sockets.wraps_frames)
    hear = staticmethod(sockets.hear)

    def __init__(self, playback: Playback, *, enforce_limits: bool = False) -> None:
        """Serve ``playback``.

        Raises:
            ValueError: the venue has no klines of the tape's interval.
        """
        self.enforce_limits = enforce_limits
        self._playback = playback
        self._candles = wire.Klines.of(playback)
        endpoints: dict[str, wire.Endpoint] = {
            "ping": lambda _query, _now: {},
            "time": lambda _query, now: {"serverTime": now},
            "exchangeInfo": self._exchange_info,
            "klines": self._klines,
            "ticker/24hr": self._for_symbols(self._day_ticker),
            "ticker/price": self._for_symbols(self._price_ticker),
            "ticker/bookTicker": self._for_symbols(self._book_ticker),
            "depth": self._depth,
        }
        self._rest = wire.RestApi(
            path=_PATH,
            endpoints=endpoints,
            weigh=_weight,
            meter=RequestMeter(limit=WEIGHT_LIMIT, window_ms=MINUTE_MS),
            stated_in=_WEIGHT_HEADERS,
            refusal=_TOO_MANY,
        )

    def answer(self, path: str, query: Mapping[str, str], *, now: int) -> Reply | None:
        """Answer ``/api/v3/...``."""
        return self._rest.answer(path, query, now=now, enforce_limits=self.enforce_limits)

    def kline_topic(self, venue_symbol: str) -> str:
        """Return ``symbol@kline_interval``."""
        return self._candles.topic(venue_symbol)

    def final_frame(self, topic: str, open_time: int, *, now: int) -> str | None:
        """Return the ``"x": true`` frame of ``symbol@kline_interval``."""
        return self._candles.final_frame(topic, open_time, now=now)

    def update_frame(self, topic: str, *, now: int) -> str | None:
        """Return a forming kline, best quote or partial depth."""
        if symbol := self._candles.symbol_of(topic):
            return self._candles.forming_frame(symbol, now=now)
        name, _, channel = topic.partition("@")
        symbol = name.upper()
        if not self._playback.is_trading(symbol, now=now):
            return None
        if channel == "bookTicker":
            return compact_json(self._book_update(symbol, now))
        depth = sockets.partial_depth(channel)
        return None if depth is None else compact_json(self._levels(symbol, depth, now))

    # REST

    def _exchange_info(self, query: Mapping[str, str], now: int) -> Json:
        limits: list[Json] = [
            {"rateLimitType": kind, "interval": interval, "intervalNum": number, "limit": limit}
            for kind, interval, number, limit in (
                ("REQUEST_WEIGHT", "MINUTE", 1, WEIGHT_LIMIT),
                ("ORDERS", "SECOND", 10, 100),
                ("ORDERS", "DAY", 1, 200_000),
                ("RAW_REQUESTS", "MINUTE", 5, 61_000),
            )
        ]
        listed = self._playback.listed(now=now)
        chosen = self._chosen(query, now)
        return {
            "timezone": "UTC",
            "serverTime": now,
            "rateLimits": limits,
            "exchangeFilters": [],
            "symbols": [spot_rules(listed[one]) for one in chosen if one in listed],
        }

    def _klines(self, query: Mapping[str, str], now: int) -> Json:
        symbol = wire.known_symbol(self._playback, query, now)
        self._candles.check_interval(query)
        rows = wire.time_range(query, default_limit=500, most=KLINE_LIMIT, caps=True)
        return [self._candles.row(one) for one in self._playback.bars(symbol, rows, now=now)]

    def _day_ticker(self, symbol: str, now: int) -> Json:
        def latest(day: Day) -> dict[str, Json]:
            return {
                "prevClosePrice": number_text(day.open),
                "lastPrice": number_text(day.last),
                "lastQty": "",
                **wire.best_quotes(self._playback, symbol, now),
            }

        return wire.day_ticker(self._playback, symbol, now, latest=latest)

    def _price_ticker(self, symbol: str, now: int) -> Json:
        return {
            "symbol": symbol,
            "price": number_text(self._playback.last_price(symbol, now=now)),
        }

    def _book_ticker(self, symbol: str, now: int) -> Json:
        return {"symbol": symbol, **wire.best_quotes(self._playback, symbol, now)}

    def _depth(self, query: Mapping[str, str], now: int) -> Json:
        symbol = wire.known_symbol(self._playback, query, now)
        limit = wire.integer(query, "limit")
        if limit == 0:
            raise Refusal(-1130, "Data sent for parameter 'limit' is not valid.")
        return self._levels(symbol, min(limit or 100, DEPTH_LIMIT), now)

    def _for_symbols(self, one: Callable[[str, int], Json]) -> wire.Endpoint:
        """Answer for ``symbol`` as an object, for ``symbols`` or all of them as a list."""

        def endpoint(query: Mapping[str, str], now: int) -> Json:
            chosen = self._chosen(query, now)
            if "symbol" in query:
                return one(chosen[0], now)
            return [one(symbol, now) for symbol in chosen]

        return endpoint

    def _chosen(self, query: Mapping[str, str], now: int) -> list[str]:
        """Return the symbols that a request is about, all that are listed where it names none."""
        if "symbol" in query:
            return [wire.known_symbol(self._playback, query, now)]
        if "symbols" not in query:
            return list(self._playback.listed(now=now))
        named = _symbol_list(query["symbols"])
        return [wire.known_symbol(self._playback, {"symbol": one}, now) for one in named]

    def _levels(self, symbol: str, depth: int, now: int) -> Json:
        bids, asks = wire.levels(self._playback.book(symbol, depth=depth, now=now))
        return {"lastUpdateId": now, "bids": bids, "asks": asks}

    def _book_update(self, symbol: str, now: int) -> Json:
        quotes = wire.best_quotes(self._playback, symbol, now, names=wire.STREAM_QUOTE_FIELDS)
        return {"u": now, "s": symbol, **quotes}


def _symbol_list(text: str) -> list[str]:
    try:
        named = json.loads(text)
    except ValueError:
        named = None
    if not isinstance(named, list) or not all(isinstance(one, str) for one in named):
        raise Refusal(-1100, "Illegal characters found in parameter 'symbols'.")
    return named


def _weight(endpoint: str, query: Mapping[str, str]) -> int:
    """Request weight after the venue's tables of 2025."""
    text = query.get("limit", "100")
    limit = int(text) if text.isdigit() else 100
    named = 1 if "symbol" in query else query["symbols"].count(",") + 1 if "symbols" in query else 0
    match endpoint:
        case "exchangeInfo":
            return 20
        case "klines":
            return 2
        case "depth":
            return 5 if limit <= 100 else 25 if limit <= 500 else 50 if limit <= 1000 else 250
        case "ticker/24hr":
            return 80 if not named or named > 100 else 2 if named <= 20 else 40
        case "ticker/price" | "ticker/bookTicker":
            return 2 if "symbol" in query else 4
        case _:
            return 1
