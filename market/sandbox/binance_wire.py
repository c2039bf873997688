"""What Binance's two markets have in common on the wire: requests, errors, tickers, klines.

Formats follow captured payloads: numbers are strings, rows ascend, errors are ``{"code", "msg"}``
with status 400.

**What a tape lacks is an empty string.** Binance itself serves ``"markPrice": ""`` where it knows
no mark; the sandbox does the same for every field that the source of the tape did not give: quote
volume, number of trades (``n`` and row field 8, a number otherwise), taker-buy volumes. Tapes hold
no taker-buy quote volume, so that field is always ``""``. Readers must map ``""`` to unknown, never
to zero. Trade ids (``f``, ``L``) are −1, the venue's own word for none.

Only the tape's own interval exists; any other is refused with −1120.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from market.bar import DAY_MS, MINUTE_MS
from market.sandbox.dialect import (
    Json,
    Refusal,
    Reply,
    compact_json,
    decimal_text,
    number_text,
)
from market.sandbox.limits import RequestMeter
from market.sandbox.playback import Book, Candle, Day, Playback, Range

Endpoint = Callable[[Mapping[str, str], int], Json]

_INTERVALS = {
    minutes * MINUTE_MS: name
    for minutes, name in (
        (1, "1m"), (3, "3m"), (5, "5m"), (15, "15m"), (30, "30m"), (60, "1h"), (120, "2h"),
        (240, "4h"), (360, "6h"), (480, "8h"), (720, "12h"), (1440, "1d"),
    )
}  # fmt: skip
QUOTE_FIELDS = ("bidPrice", "bidQty", "askPrice", "askQty")
STREAM_QUOTE_FIELDS = ("b", "B", "a", "A")


# REST


@dataclass(frozen=True, slots=True, kw_only=True)
class RestApi:
    """One market's REST API: every request comes in here, and its weight is counted.

    Attributes:
        path: matches the market's paths; its group is the endpoint's name.
        endpoints: by name.
        weigh: weight of (endpoint's name, query).
        stated_in: headers that state the weight used in the present minute of venue time.
        refusal: the venue's words when the limit is exceeded.
    """

    path: re.Pattern[str]
    endpoints: Mapping[str, Endpoint]
    weigh: Callable[[str, Mapping[str, str]], int]
    meter: RequestMeter
    stated_in: tuple[str, ...]
    refusal: str

    def answer(
        self, path: str, query: Mapping[str, str], *, now: int, enforce_limits: bool
    ) -> Reply | None:
        """Answer one request, a refused one with the venue's error; ``None``: no such path."""
        match = self.path.fullmatch(path)
        endpoint = self.endpoints.get(match[1]) if match else None
        if match is None or endpoint is None:
            return None
        used = str(self.meter.add(self.weigh(match[1], query), now=now))
        headers = dict.fromkeys(self.stated_in, used)
        if enforce_limits and self.meter.is_exceeded:
            return _too_many_requests(self.meter, headers, self.refusal, now)
        return _answer(endpoint, query, headers, now)


def _answer(
    endpoint: Endpoint, query: Mapping[str, str], headers: dict[str, str], now: int
) -> Reply:
    try:
        return Reply(body=compact_json(endpoint(query, now)), headers=headers)
    except Refusal as refusal:
        return Reply(body=error_body(refusal.code, refusal.message), status=400, headers=headers)


def _too_many_requests(
    meter: RequestMeter, headers: dict[str, str], message: str, now: int
) -> Reply:
    """Refuse a request over the limit: 429, with the seconds until the minute ends."""
    wait = str(-(-(meter.resets_at - now) // 1000))
    return Reply(
        body=error_body(-1003, message), status=429, headers=headers | {"Retry-After": wait}
    )


def error_body(code: int, message: str) -> str:
    """Return the venue's error as JSON text."""
    return compact_json({"code": code, "msg": message})


def missing(name: str) -> Refusal:
    """Return the refusal of a request without parameter ``name``."""
    return Refusal(
        -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
    )


def integer(query: Mapping[str, str], name: str) -> int | None:
    """Read a whole number, ``None`` where it was not sent.

    Raises:
        Refusal: it is no whole number.
    """
    text = query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise Refusal(-1100, f"Illegal characters found in parameter '{name}'.")
    return int(text)


def time_range(query: Mapping[str, str], *, default_limit: int, most: int, caps: bool) -> Range:
    """Read startTime, endTime and limit: from the start on if one is given, else the newest.

    Args:
        query: the request's parameters.
        default_limit: rows where no limit is asked for.
        most: rows that one request can bring.
        caps: whether more than ``most`` means ``most`` (spot); else it is refused (USD-M).

    Raises:
        Refusal: the range is backward or the limit not allowed.
    """
    since, until, limit = (integer(query, name) for name in ("startTime", "endTime", "limit"))
    if limit is not None and caps:
        limit = min(limit, most)
    if limit is not None and not 1 <= limit <= most:
        raise Refusal(-1130, "Data sent for parameter 'limit' is not valid.")
    if since is not None and until is not None and since > until:
        raise Refusal(-1023, "Start time is greater than end time.")
    return Range(since=since, until=until, limit=limit or default_limit, newest=since is None)


def known_symbol(playback: Playback, query: Mapping[str, str], now: int) -> str:
    """Return the symbol asked for.

    Raises:
        Refusal: none was named, or the venue does not know it at ``now``.
    """
    symbol = query.get("symbol")
    if not symbol:
        raise missing("symbol")
    if not playback.answers(symbol, now=now):
        raise Refusal(-1121, "Invalid symbol.")
    return symbol


def day_ticker(
    playback: Playback, symbol: str, now: int, *, latest: Callable[[Day], dict[str, Json]]
) -> Json:
    """Return the ticker of the 24 hours up to ``now``; ``latest`` gives what the markets differ in.

    A symbol that has no bar there has only its name and the hours.
    """
    day = playback.day(symbol, now=now)
    if day is None:
        return {"symbol": symbol, "lastPrice": "", "openTime": now - DAY_MS, "closeTime": now}
    return {"symbol": symbol, **_day_change(day), **latest(day), **_day_totals(day, now)}


def _day_change(day: Day) -> dict[str, Json]:
    """Return change, its percentage and the average price over 24 hours."""
    change = day.last - day.open
    average = day.quote_volume / day.volume if day.volume else math.nan
    return {
        "priceChange": number_text(change),
        "priceChangePercent": f"{100 * change / day.open:.3f}",
        "weightedAvgPrice": number_text(average),
    }


def _day_totals(day: Day, now: int) -> dict[str, Json]:
    """Return prices, volumes and count over the 24 hours up to ``now``."""
    return {
        "openPrice": number_text(day.open),
        "highPrice": number_text(day.high),
        "lowPrice": number_text(day.low),
        "volume": number_text(day.volume),
        "quoteVolume": number_text(day.quote_volume),
        "openTime": now - DAY_MS,
        "closeTime": now,
        "firstId": -1,
        "lastId": -1,
        "count": count(day.trades),
    }


def best_quotes(
    playback: Playback, symbol: str, now: int, *, names: Iterable[str] = QUOTE_FIELDS
) -> dict[str, Json]:
    """Return bid price and quantity, ask price and quantity; empty before the first bar.

    ``names`` are the fields' names in that order.
    """
    book = playback.book(symbol, depth=1, now=now)
    if not book.bids or not book.asks:
        return dict.fromkeys(names, "")
    best = (*book.bids[0], *book.asks[0])
    return {name: decimal_text(value) for name, value in zip(names, best, strict=True)}


def levels(book: Book) -> tuple[list[Json], list[Json]]:
    """Return bids and asks as lists of price and quantity."""
    bids: list[Json] = [[decimal_text(price), decimal_text(size)] for price, size in book.bids]
    asks: list[Json] = [[decimal_text(price), decimal_text(size)] for price, size in book.asks]
    return bids, asks


def count(value: float) -> int | str:
    """Return a count as the venue writes it, ``""`` where the tape has none."""
    return "" if math.isnan(value) else int(value)


# Klines


@dataclass(frozen=True, slots=True, kw_only=True)
class Klines:
    """The bars of a playback as rows and frames; ``interval`` is the venue's name of theirs."""

    playback: Playback
    interval: str

    @classmethod
    def of(cls, playback: Playback) -> Klines:
        """Name the interval of ``playback``.

        Raises:
            ValueError: the venue has no klines of the tape's interval.
        """
        if playback.interval_ms not in _INTERVALS:
            raise ValueError(f"Binance has no klines of {playback.interval_ms} ms")
        return cls(playback=playback, interval=_INTERVALS[playback.interval_ms])

    def check_interval(self, query: Mapping[str, str]) -> None:
        """Refuse any interval but the tape's."""
        interval = query.get("interval")
        if not interval:
            raise missing("interval")
        if interval != self.interval:
            raise Refusal(-1120, "Invalid interval.")

    def row(self, candle: Candle) -> Json:
        """Return the twelve fields of a kline."""
        return [
            candle.open_time,
            *self.prices(candle),
            number_text(candle.volume),
            candle.open_time + self.playback.interval_ms - 1,
            number_text(candle.quote_volume),
            count(candle.trades),
            number_text(candle.taker_buy_volume),
            "",
            "0",
        ]

    def prices(self, candle: Candle) -> tuple[str, str, str, str]:
        """Return open, high, low and close."""
        return (
            number_text(candle.open), number_text(candle.high),
            number_text(candle.low), number_text(candle.close),
        )  # fmt: skip

    def topic(self, venue_symbol: str) -> str:
        """Return ``symbol@kline_interval``."""
        return f"{venue_symbol.lower()}@kline_{self.interval}"

    def symbol_of(self, topic: str) -> str:
        """Return the symbol of one of the tape's kline streams, else an empty string."""
        symbol = topic.partition("@")[0].upper()
        known = symbol in self.playback.instruments and topic == self.topic(symbol)
        return symbol if known else ""

    def final_frame(self, topic: str, open_time: int, *, now: int) -> str | None:
        """Return the ``"x": true`` frame of a bar, ``None`` for other topics and missing bars."""
        symbol = self.symbol_of(topic)
        candle = self.playback.bar(symbol, open_time, now=now) if symbol else None
        return self._frame(symbol, candle, now) if candle else None

    def forming_frame(self, symbol: str, *, now: int) -> str | None:
        """Return the frame of the bar that is open at ``now``."""
        open_time = now - now % self.playback.interval_ms
        candle = self.playback.bar(symbol, open_time, now=now)
        return self._frame(symbol, candle, now) if candle else None

    def _frame(self, symbol: str, candle: Candle, now: int) -> str:
        opened, high, low, close = self.prices(candle)
        kline: Json = {
            "t": candle.open_time,
            "T": candle.open_time + self.playback.interval_ms - 1,
            "s": symbol,
            "i": self.interval,
            "f": -1,
            "L": -1,
            "o": opened,
            "c": close,
            "h": high,
            "l": low,
            "v": number_text(candle.volume),
            "n": count(candle.trades),
            "x": candle.final,
            "q": number_text(candle.quote_volume),
            "V": number_text(candle.taker_buy_volume),
            "Q": "",
            "B": "0",
        }
        return compact_json({"e": "kline", "E": now, "s": symbol, "k": kline})
