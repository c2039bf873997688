"""Binance USD-M futures' public market data, as the venue words it (see ``binance_wire``).

``/fapi/v1`` over REST, kline, mark-price, best-quote and partial-depth streams. A request over the
row limit is refused; every answer states the weight used in the present minute of venue time. The
predicted funding rate (``lastFundingRate``, ``r``) is the one that the tape settles next.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from market.bar import MINUTE_MS
from market.sandbox import binance_sockets as sockets
from market.sandbox import binance_wire as wire
from market.sandbox.binance_rules import usdm_rules
from market.sandbox.dialect import Json, Refusal, Reply, compact_json, number_text
from market.sandbox.limits import RequestMeter
from market.sandbox.playback import Candle, Day, Playback, Range

KLINE_LIMIT = 1500
FUNDING_LIMIT = 1000
DEPTH_LIMITS = (5, 10, 20, 50, 100, 500, 1000)
WEIGHT_LIMIT = 2400
DEFAULT_FUNDING_MINUTES = 480

_PATH = re.compile(r"/fapi/v[12]/(.+)")
_WEIGHT_HEADERS = ("X-MBX-USED-WEIGHT-1M",)
_TOO_MANY = (
    f"Too many requests; current limit of IP(127.0.0.1) is {WEIGHT_LIMIT} requests per minute. "
    "Please use the websocket for live updates to avoid polling the API."
)


class BinanceUsdm:
    """The dialect of Binance USD-M over one playback."""

    # The venue pings every three minutes and drops who has not answered for ten.
    heartbeat_seconds: float | None = 180.0
    silence_seconds: float = 600.0

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
            "exchangeInfo": lambda _query, now: self._exchange_info(now),
            "klines": self._klines,
            "markPriceKlines": self._mark_price_klines,
            "fundingRate": self._funding_rate,
            "fundingInfo": lambda _query, now: self._funding_info(now),
            "premiumIndex": self._for_symbols(self._premium_index),
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
        """Answer ``/fapi/v1/...`` (and the price ticker's ``/fapi/v2``)."""
        return self._rest.answer(path, query, now=now, enforce_limits=self.enforce_limits)

    def kline_topic(self, venue_symbol: str) -> str:
        """Return ``symbol@kline_interval``."""
        return self._candles.topic(venue_symbol)

    def final_frame(self, topic: str, open_time: int, *, now: int) -> str | None:
        """Return the ``"x": true`` frame of ``symbol@kline_interval``."""
        return self._candles.final_frame(topic, open_time, now=now)

    def update_frame(self, topic: str, *, now: int) -> str | None:
        """Return a forming kline, mark price (one or all), best quote or partial depth."""
        if symbol := self._candles.symbol_of(topic):
            return self._candles.forming_frame(symbol, now=now)
        name, _, channel = topic.partition("@")
        if name == "!markPrice":
            listed = self._playback.listed(now=now)
            marks: list[Json] = [self._mark_update(one, now) for one in listed]
            return compact_json(marks)
        symbol = name.upper()
        if not self._playback.is_trading(symbol, now=now):
            return None
        if channel in ("markPrice", "markPrice@1s"):
            return compact_json(self._mark_update(symbol, now))
        if channel == "bookTicker":
            return compact_json(self._book_update(symbol, now))
        depth = sockets.partial_depth(channel)
        return None if depth is None else compact_json(self._depth_update(symbol, depth, now))

    # REST

    def _exchange_info(self, now: int) -> Json:
        minute: Json = {
            "rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1,
            "limit": WEIGHT_LIMIT,
        }  # fmt: skip
        listed = self._playback.listed(now=now)
        quotes = dict.fromkeys(one.quote for one in listed.values())
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
                usdm_rules(one, onboard_time=self._playback.launch_time(one.venue_symbol))
                for one in listed.values()
            ],
        }

    def _klines(self, query: Mapping[str, str], now: int) -> Json:
        symbol, rows = self._symbol(query, now), self._kline_range(query)
        return [self._candles.row(one) for one in self._playback.bars(symbol, rows, now=now)]

    def _mark_price_klines(self, query: Mapping[str, str], now: int) -> Json:
        symbol, rows = self._symbol(query, now), self._kline_range(query)
        candles = self._playback.mark_candles(symbol, rows, now=now)
        return [self._mark_row(one) for one in candles]

    def _mark_row(self, candle: Candle) -> Json:
        # The venue counts one update of the mark per second where klines count trades.
        interval = self._playback.interval_ms
        close_time = candle.open_time + interval - 1
        return [
            candle.open_time, *self._candles.prices(candle), "0", close_time, "0",
            interval // 1000, "0", "0", "0",
        ]  # fmt: skip

    def _kline_range(self, query: Mapping[str, str]) -> Range:
        self._candles.check_interval(query)
        return wire.time_range(query, default_limit=500, most=KLINE_LIMIT, caps=False)

    def _funding_rate(self, query: Mapping[str, str], now: int) -> Json:
        rows = wire.time_range(query, default_limit=100, most=FUNDING_LIMIT, caps=False)
        if "symbol" in query:
            symbol = self._symbol(query, now)
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

    def _funding_info(self, now: int) -> Json:
        return [
            {
                "symbol": symbol,
                "adjustedFundingRateCap": "0.02000000",
                "adjustedFundingRateFloor": "-0.02000000",
                "fundingIntervalHours": (instrument.funding_interval_minutes or 0) // 60,
                "disclaimer": False,
                "updateTime": self._playback.launch_time(symbol),
            }
            for symbol, instrument in self._playback.listed(now=now).items()
            if instrument.funding_interval_minutes != DEFAULT_FUNDING_MINUTES
        ]

    def _premium_index(self, symbol: str, now: int) -> Json:
        mark = number_text(self._playback.mark_price(symbol, now=now))
        return {
            "symbol": symbol,
            "markPrice": mark,
            "indexPrice": mark,
            "estimatedSettlePrice": mark,
            "lastFundingRate": number_text(self._playback.next_rate(symbol, now=now)),
            "interestRate": "0.00010000",
            "nextFundingTime": self._playback.next_funding_time(symbol, now=now),
            "time": now,
        }

    def _day_ticker(self, symbol: str, now: int) -> Json:
        def latest(day: Day) -> dict[str, Json]:
            return {"lastPrice": number_text(day.last), "lastQty": ""}

        return wire.day_ticker(self._playback, symbol, now, latest=latest)

    def _price_ticker(self, symbol: str, now: int) -> Json:
        price = number_text(self._playback.last_price(symbol, now=now))
        return {"symbol": symbol, "price": price, "time": now}

    def _book_ticker(self, symbol: str, now: int) -> Json:
        return {"symbol": symbol, **wire.best_quotes(self._playback, symbol, now), "time": now}

    def _depth(self, query: Mapping[str, str], now: int) -> Json:
        symbol = self._symbol(query, now)
        limit = wire.integer(query, "limit") or 500
        if limit not in DEPTH_LIMITS:
            raise Refusal(-4021, f"{limit} is not valid depth limit (best {DEPTH_LIMITS}).")
        bids, asks = wire.levels(self._playback.book(symbol, depth=limit, now=now))
        return {"lastUpdateId": now, "E": now, "T": now, "bids": bids, "asks": asks}

    def _for_symbols(self, one: Callable[[str, int], Json]) -> wire.Endpoint:
        """Answer for the symbol asked for, or without one for each, as a list."""

        def endpoint(query: Mapping[str, str], now: int) -> Json:
            if "symbol" in query:
                return one(self._symbol(query, now), now)
            return [one(symbol, now) for symbol in self._playback.listed(now=now)]

        return endpoint

    def _symbol(self, query: Mapping[str, str], now: int) -> str:
        return wire.known_symbol(self._playback, query, now)

    # Streams

    def _mark_update(self, symbol: str, now: int) -> Json:
        mark = number_text(self._playback.mark_price(symbol, now=now))
        return {
            "e": "markPriceUpdate",
            "E": now,
            "s": symbol,
            "p": mark,
            "i": mark,
            "P": mark,
            "r": number_text(self._playback.next_rate(symbol, now=now)),
            "T": self._playback.next_funding_time(symbol, now=now),
        }

    def _book_update(self, symbol: str, now: int) -> Json:
        quotes = wire.best_quotes(self._playback, symbol, now, names=wire.STREAM_QUOTE_FIELDS)
        return {"e": "bookTicker", "u": now, "s": symbol, **quotes, "T": now, "E": now}

    def _depth_update(self, symbol: str, depth: int, now: int) -> Json:
        bids, asks = wire.levels(self._playback.book(symbol, depth=depth, now=now))
        return {
            "e": "depthUpdate", "E": now, "T": now, "s": symbol, "U": now, "u": now, "pu": now - 1,
            "b": bids, "a": asks,
        }  # fmt: skip


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
