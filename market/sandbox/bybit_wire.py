"""What every Bybit V5 answer and message is made of: envelopes, parameters, rows, quotes.

Numbers and times are strings. What a tape lacks is an empty string, as the venue writes an unknown
fee rate or price; readers must map ``""`` to unknown, never to zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from market.sandbox.dialect import Json, Refusal, compact_json, decimal_text, number_text
from market.sandbox.playback import Book, Candle, Day, Range

CATEGORIES = ("spot", "linear", "inverse", "option")
PARAMETER_ERROR = 10001
TOO_MANY_VISITS = 10006

_CONNECTION_ID = "sandbox0-0000-0000-0000-000000000000"


def envelope(code: int, message: str, result: Json, now: int) -> str:
    """Wrap a result, or with a code other than 0 an error."""
    return compact_json({
        "retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": now,
    })  # fmt: skip


def server_time(now: int) -> Json:
    """Return the result of ``/v5/market/time``."""
    return {"timeSecond": str(now // 1000), "timeNano": str(now * 1_000_000)}


def time_range(
    query: Mapping[str, str], *, names: tuple[str, str], default_limit: int, most: int
) -> Range:
    """Read a time range and a limit; a limit over the venue's is cut to it, as the venue does."""
    since, until = (integer(query, name) for name in names)
    limit = integer(query, "limit")
    if since is not None and until is not None and since > until:
        raise Refusal(PARAMETER_ERROR, "params error: start is after end")
    return Range(
        since=since,
        until=until,
        limit=max(1, min(limit or default_limit, most)),
        newest=since is None or until is not None,
    )


def integer(query: Mapping[str, str], name: str) -> int | None:
    """Read a whole number, ``None`` where it was not sent or is empty.

    Raises:
        Refusal: it is no whole number.
    """
    text = query.get(name)
    if text is None or text == "":
        return None
    if not re.fullmatch(r"[0-9]{1,20}", text):
        raise Refusal(PARAMETER_ERROR, f"params error: {name} is not a number")
    return int(text)


def category(query: Mapping[str, str]) -> str:
    """Return the category asked for.

    Raises:
        Refusal: the venue has no such category.
    """
    # The venue takes a missing category of a market query as linear.
    category = query.get("category", "linear")
    if category not in CATEGORIES:
        raise Refusal(PARAMETER_ERROR, "params error: category invalid")
    return category


def split(topic: str) -> tuple[str, str]:
    """Return the name of a topic, such as ``kline.1``, and its symbol."""
    name, _, symbol = topic.rpartition(".")
    return name, symbol


def row(candle: Candle) -> tuple[str, str, str, str, str]:
    """Return time, open, high, low and close."""
    return (
        str(candle.open_time),
        number_text(candle.open),
        number_text(candle.high),
        number_text(candle.low),
        number_text(candle.close),
    )


def day_fields(day: Day | None) -> dict[str, Json]:
    """Return the 24-hour figures of a ticker."""
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


def best(book: Book) -> dict[str, Json]:
    """Return the best quotes of a ticker."""
    names = ("bid1Price", "bid1Size", "ask1Price", "ask1Size")
    if not book.bids or not book.asks:
        return dict.fromkeys(names, "")
    values = (*book.bids[0], *book.asks[0])
    return {name: decimal_text(value) for name, value in zip(names, values, strict=True)}


def levels(book: Book) -> dict[str, Json]:
    """Return bids and asks as lists of price and quantity."""
    return {
        "b": [[decimal_text(price), decimal_text(quantity)] for price, quantity in book.bids],
        "a": [[decimal_text(price), decimal_text(quantity)] for price, quantity in book.asks],
    }


def socket_reply(success: bool, text: str, number: Json, operation: str) -> str:
    """Answer a websocket request."""
    return compact_json({
        "success": success,
        "ret_msg": text,
        "conn_id": _CONNECTION_ID,
        "req_id": "" if number is None else str(number),
        "op": operation,
    })  # fmt: skip
