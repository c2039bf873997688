"""Bybit's V5 public market data, linear or spot, as the venue words it (see ``bybit_wire``).

Lists run **newest first**; every answer is ``retCode, retMsg, result, retExtInfo, time``
with status 200, errors too. Only the category of the tape's venue holds anything; the others are
empty. Open interest, which no tape holds, is ``"0"`` (ccxt takes a ticker without it for a spot
ticker). The predicted funding rate of a ticker is the one that the tape settles next.

Rows: where more bars lie in ``[start, end]`` than ``limit``, the venue keeps the newest; with
``start`` alone it goes forward from the bar that contains ``start``. Every answer states what is
left of the 600 requests per five seconds of venue time. A spot connection takes at most ten topics
in one subscription request (``args size >10``), any number in several.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

from market.bar import MINUTE_MS
from market.instrument import Instrument, Market
from market.sandbox import bybit_wire as wire
from market.sandbox.bybit_rules import linear_rules, spot_rules
from market.sandbox.dialect import Heard, Json, Refusal, Reply, compact_json, number_text
from market.sandbox.limits import RequestMeter
from market.sandbox.playback import Candle, Playback, Range

KLINE_LIMIT = 1000
FUNDING_LIMIT = 200
REQUEST_LIMIT = 600
REQUEST_WINDOW_MS = 5_000

_INTERVALS = {
    minutes * MINUTE_MS: name
    for minutes, name in (
        (1, "1"), (3, "3"), (5, "5"), (15, "15"), (30, "30"), (60, "60"), (120, "120"),
        (240, "240"), (360, "360"), (720, "720"), (1440, "D"),
    )
}  # fmt: skip
_STREAM_DEPTHS = {"linear": (1, 50, 200, 500, 1000), "spot": (1, 50, 200, 1000)}
_SPOT_TOPICS_PER_REQUEST = 10
# (default, most) levels over REST.
_REST_DEPTHS = {"linear": (25, 500), "spot": (1, 200)}

Endpoint = Callable[[Mapping[str, str], int], Json]


class Bybit:
    """The dialect of one category of Bybit over one playback."""

    # The client pings ({"op": "ping"}, every 20 s); the venue drops who is silent for ten minutes.
    heartbeat_seconds: float | None = None
    silence_seconds: float = 600.0

    def __init__(self, playback: Playback, *, enforce_limits: bool = False) -> None:
        """Serve ``playback``.

        Raises:
            ValueError: the venue has no klines of the tape's interval.
        """
        if playback.interval_ms not in _INTERVALS:
            raise ValueError(f"Bybit has no klines of {playback.interval_ms} ms")
        self.enforce_limits = enforce_limits
        self.category = "spot" if playback.tape.venue.market is Market.SPOT else "linear"
        self._playback = playback
        self._meter = RequestMeter(limit=REQUEST_LIMIT, window_ms=REQUEST_WINDOW_MS)
        self._interval = _INTERVALS[playback.interval_ms]
        self._endpoints: dict[str, Endpoint] = {
            "time": lambda _query, now: wire.server_time(now),
            "instruments-info": self._instruments_info,
            "kline": self._kline,
            "mark-price-kline": self._mark_price_kline,
            "funding/history": self._funding_history,
            "tickers": self._tickers,
            "orderbook": self._orderbook,
        }
        if self.category == "spot":
            for name in ("mark-price-kline", "funding/history"):
                self._endpoints[name] = _refuse_category

    def answer(self, path: str, query: Mapping[str, str], *, now: int) -> Reply | None:
        """Answer ``/v5/market/...``."""
        endpoint = self._endpoints.get(path.removeprefix("/v5/market/"))
        if endpoint is None or not path.startswith("/v5/market/"):
            return None
        headers = {"Timenow": str(now), **self._count_request(now)}
        if self.enforce_limits and self._meter.is_exceeded:
            text = "access too frequent. Too many visits. Exceeded the API Rate Limit."
            body = wire.envelope(wire.TOO_MANY_VISITS, text, {}, now)
            return Reply(body=body, status=403, headers=headers)
        try:
            body = wire.envelope(0, "OK", endpoint(query, now), now)
        except Refusal as refusal:
            body = wire.envelope(refusal.code, refusal.message, {}, now)
        return Reply(body=body, headers=headers)

    def _count_request(self, now: int) -> dict[str, str]:
        used = self._meter.add(1, now=now)
        return {
            "X-Bapi-Limit": str(REQUEST_LIMIT),
            "X-Bapi-Limit-Status": str(max(0, REQUEST_LIMIT - used)),
            # The present time, unless the limit is exceeded.
            "X-Bapi-Limit-Reset-Timestamp": str(
                self._meter.resets_at if self._meter.is_exceeded else now
            ),
        }

    def opening_topics(self, path: str, query: Mapping[str, str]) -> tuple[str, ...] | None:
        """Bybit's URLs name no topics."""
        del query
        return () if path == f"/v5/public/{self.category}" else None

    def wraps_frames(self, path: str) -> bool:
        """Every Bybit frame names its topic itself."""
        del path
        return False

    def kline_topic(self, venue_symbol: str) -> str:
        """Return ``kline.interval.symbol``."""
        return f"kline.{self._interval}.{venue_symbol}"

    def hear(self, text: str, topics: frozenset[str], *, now: int) -> Heard:
        """Answer ping, subscribe and unsubscribe; one unknown topic fails the whole request."""
        del topics
        try:
            message = json.loads(text)
        except ValueError:
            return Heard(replies=(wire.socket_reply(False, "error:invalid json", None, ""),))
        if not isinstance(message, dict):
            return Heard(replies=(wire.socket_reply(False, "error:invalid op", None, ""),))
        number, operation = message.get("req_id"), message.get("op")
        wanted = [one for one in message.get("args") or [] if isinstance(one, str)]
        match operation:
            case "ping":
                return Heard(replies=(wire.socket_reply(True, "pong", number, "ping"),))
            case "subscribe":
                return self._subscribe(wanted, number, now)
            case "unsubscribe":
                reply = wire.socket_reply(True, "", number, "unsubscribe")
                return Heard(replies=(reply,), unsubscribed=tuple(wanted))
            case _:
                return Heard(
                    replies=(wire.socket_reply(False, "error:invalid op", number, str(operation)),)
                )

    def final_frame(self, topic: str, open_time: int, *, now: int) -> str | None:
        """Return the ``"confirm": true`` frame of ``kline.interval.symbol``."""
        _, symbol = wire.split(topic)
        if symbol not in self._playback.instruments or topic != self.kline_topic(symbol):
            return None
        candle = self._playback.bar(symbol, open_time, now=now)
        return self._kline_frame(topic, candle, now) if candle else None

    def update_frame(self, topic: str, *, now: int) -> str | None:
        """Return a forming kline, or a snapshot of the ticker or the order book."""
        name, symbol = wire.split(topic)
        if not self._playback.is_trading(symbol, now=now):
            return None
        if topic == self.kline_topic(symbol):
            open_time = now - now % self._playback.interval_ms
            candle = self._playback.bar(symbol, open_time, now=now)
            return self._kline_frame(topic, candle, now) if candle else None
        if name == "tickers":
            # Spot pushes no best quotes with its ticker.
            data: Json = self._ticker(symbol, now, quotes=self.category == "linear")
        else:
            depth = int(name.removeprefix("orderbook."))
            book = self._playback.book(symbol, depth=depth, now=now)
            data = {"s": symbol, **wire.levels(book), "u": now, "seq": now}
        return compact_json({"topic": topic, "type": "snapshot", "ts": now, "data": data})

    # REST

    def _instruments_info(self, query: Mapping[str, str], now: int) -> Json:
        """List what trades; what has closed is only shown when asked for by name or status."""
        category = wire.category(query)
        listed = self._playback.listed(now=now) if category == self.category else {}
        if "symbol" in query:
            symbol = self._symbol(query, now) if category == self.category else ""
            shown = [one for one in listed.values() if one.venue_symbol == symbol]
        else:
            wanted = query.get("status", "Trading")
            status = {True: "Trading", False: "Closed"}
            shown = [one for one in listed.values() if status[one.is_trading] == wanted]
        rules: list[Json] = [self._rules(one) for one in shown]
        return {"category": category, "list": rules, "nextPageCursor": ""}

    def _rules(self, instrument: Instrument) -> Json:
        if self.category == "spot":
            return spot_rules(instrument)
        launch_time = self._playback.launch_time(instrument.venue_symbol)
        return linear_rules(instrument, launch_time=launch_time)

    def _kline(self, query: Mapping[str, str], now: int) -> Json:
        symbol, rows = self._symbol(query, now), self._kline_range(query)
        found: list[Json] = [
            [*wire.row(one), number_text(one.volume), number_text(one.quote_volume)]
            for one in reversed(self._playback.bars(symbol, rows, now=now))
        ]
        return {"symbol": symbol, "category": self.category, "list": found}

    def _mark_price_kline(self, query: Mapping[str, str], now: int) -> Json:
        symbol, rows = self._symbol(query, now), self._kline_range(query)
        candles = reversed(self._playback.mark_candles(symbol, rows, now=now))
        found: list[Json] = [[*wire.row(one)] for one in candles]
        return {"symbol": symbol, "category": self.category, "list": found}

    def _kline_range(self, query: Mapping[str, str]) -> Range:
        if query.get("interval") != self._interval:
            raise Refusal(wire.PARAMETER_ERROR, "Invalid period!")
        rows = wire.time_range(query, names=("start", "end"), default_limit=200, most=KLINE_LIMIT)
        if rows.since is None:
            return rows
        # The venue answers from the bar that contains `start`.
        return replace(rows, since=rows.since - rows.since % self._playback.interval_ms)

    def _funding_history(self, query: Mapping[str, str], now: int) -> Json:
        symbol = self._symbol(query, now)
        rows = wire.time_range(
            query, names=("startTime", "endTime"), default_limit=FUNDING_LIMIT, most=FUNDING_LIMIT
        )
        if rows.since is not None and rows.until is None:
            raise Refusal(wire.PARAMETER_ERROR, "params error: endTime is required with startTime")
        settled = self._playback.settlements(symbol, rows, now=now)
        found: list[Json] = [
            {
                "symbol": symbol,
                "fundingRate": number_text(one.rate),
                "fundingRateTimestamp": str(one.funding_time),
            }
            for one in reversed(settled)
        ]
        return {"category": self.category, "list": found}

    def _tickers(self, query: Mapping[str, str], now: int) -> Json:
        category = wire.category(query)
        if category != self.category:
            return {"category": category, "list": []}
        symbols = [self._symbol(query, now)] if "symbol" in query else self._trading(now)
        tickers: list[Json] = [self._ticker(one, now, quotes=True) for one in symbols]
        return {"category": category, "list": tickers}

    def _trading(self, now: int) -> list[str]:
        return [name for name, one in self._playback.listed(now=now).items() if one.is_trading]

    def _ticker(self, symbol: str, now: int, *, quotes: bool) -> dict[str, Json]:
        day = wire.day_fields(self._playback.day(symbol, now=now))
        book = self._playback.book(symbol, depth=1, now=now)
        best = wire.best(book) if quotes else {}
        if self.category == "spot":
            del day["prevPrice1h"]
            return {"symbol": symbol, **best, **day, "usdIndexPrice": day["lastPrice"]}
        mark = number_text(self._playback.mark_price(symbol, now=now))
        rules = self._playback.instrument(symbol, now=now) or self._playback.instruments[symbol]
        return {
            "symbol": symbol,
            **day,
            "markPrice": mark,
            "indexPrice": mark,
            "openInterest": "0",
            "openInterestValue": "0",
            "nextFundingTime": str(self._playback.next_funding_time(symbol, now=now)),
            "fundingRate": number_text(self._playback.next_rate(symbol, now=now)),
            **best,
            "fundingIntervalHour": str((rules.funding_interval_minutes or 0) // 60),
        }

    def _orderbook(self, query: Mapping[str, str], now: int) -> Json:
        symbol = self._symbol(query, now)
        usual, most = _REST_DEPTHS[self.category]
        depth = wire.integer(query, "limit") or usual
        if not 1 <= depth <= most:
            raise Refusal(wire.PARAMETER_ERROR, "params error: limit is out of range")
        book = self._playback.book(symbol, depth=depth, now=now)
        return {"s": symbol, **wire.levels(book), "ts": now, "u": now, "seq": now, "cts": now}

    def _symbol(self, query: Mapping[str, str], now: int) -> str:
        symbol = query.get("symbol", "")
        if wire.category(query) != self.category or not self._playback.answers(symbol, now=now):
            raise Refusal(wire.PARAMETER_ERROR, "Not supported symbols")
        return symbol

    # Streams

    def _subscribe(self, wanted: list[str], number: Json, now: int) -> Heard:
        if self.category == "spot" and len(wanted) > _SPOT_TOPICS_PER_REQUEST:
            text = f"args size >{_SPOT_TOPICS_PER_REQUEST}"
            return Heard(replies=(wire.socket_reply(False, text, number, "subscribe"),))
        unknown = [topic for topic in wanted if not self._knows(topic, now)]
        if unknown or not wanted:
            text = f"error:handler not found,topic:{unknown[0] if unknown else ''}"
            return Heard(replies=(wire.socket_reply(False, text, number, "subscribe"),))
        reply = wire.socket_reply(True, "", number, "subscribe")
        return Heard(replies=(reply,), subscribed=tuple(wanted))

    def _knows(self, topic: str, now: int) -> bool:
        name, symbol = wire.split(topic)
        depths = _STREAM_DEPTHS[self.category]
        names = {f"kline.{self._interval}", "tickers", *(f"orderbook.{n}" for n in depths)}
        return name in names and self._playback.answers(symbol, now=now)

    def _kline_frame(self, topic: str, candle: Candle, now: int) -> str:
        _, opened, high, low, close = wire.row(candle)
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


def _refuse_category(query: Mapping[str, str], now: int) -> Json:
    del query, now
    raise Refusal(wire.PARAMETER_ERROR, "params error: category invalid")
