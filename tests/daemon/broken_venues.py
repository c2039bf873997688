"""Venues that break one assumption each: what a proxy changes, and which one that is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from daemon.doctor_wire import WIRES
from market.instrument import Venue
from tests.daemon.answer_proxy import AnswerProxy

USDM, SPOT, LINEAR, BYBIT_SPOT = Venue.BINANCEUSDM, Venue.BINANCE, Venue.BYBIT, Venue.BYBITSPOT

Break = Callable[[AnswerProxy], None]


def klines(venue: Venue, change: Callable[[list[Any]], list[Any]]) -> Break:
    """Change the rows of candles."""
    wire = WIRES[venue]

    def rewrite(path: str, _query: Mapping[str, str], document: Any) -> Any:
        if path != wire.root + wire.names["klines"]:
            return document
        if wire.is_enveloped:
            document["result"]["list"] = change(document["result"]["list"])
            return document
        return change(document) if isinstance(document, list) else document

    return lambda proxy: setattr(proxy, "change", rewrite)


def answers(name: str, change: Callable[[Any], Any], venue: Venue = USDM) -> Break:
    """Change the answers of one path."""
    wire = WIRES[venue]

    def rewrite(path: str, _query: Mapping[str, str], document: Any) -> Any:
        return change(document) if path == wire.root + wire.names[name] else document

    return lambda proxy: setattr(proxy, "change", rewrite)


def changed_close() -> Callable[[list[Any]], list[Any]]:
    """Another close of the tenth last bar once it has been seen."""
    seen: dict[int, int] = {}

    def change(rows: list[Any]) -> list[Any]:
        for row in rows:
            seen[row[0]] = seen.get(row[0], 0) + 1
        if len(rows) in range(30, 60) and seen[rows[-10][0]] > 1 and seen.pop(-1, None) is None:
            rows[-10][2] = rows[-10][4] = str(float(rows[-10][2]) * 2)
        return rows

    return change


def frames(change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Break:
    """Change the klines of Binance USD-M; ``None`` drops one."""

    def rewrite(text: str) -> list[str]:
        frame = json.loads(text)
        if "k" not in frame:
            return [text]
        kline = change(frame["k"])
        return [] if kline is None else [json.dumps(frame | {"k": kline})]

    return lambda proxy: setattr(proxy, "rewrite", rewrite)


def deaf_after_one_subscription(proxy: AnswerProxy) -> None:
    """A venue that confirms the first subscription only and then says nothing."""
    confirmed = 0

    def rewrite(text: str) -> list[str]:
        nonlocal confirmed
        confirmed += '"result"' in text
        return [text] if confirmed < 2 else []

    proxy.rewrite = rewrite


def in_first(name: str, **fields: Any) -> Callable[[Any], Any]:
    """Change fields of the first symbol's entry in a list of answers."""

    def change(document: Any) -> Any:
        rows = document[name] if name else document
        for row in rows if isinstance(rows, list) else [rows]:
            if row["symbol"] == "BTCUSDT":
                row |= fields
        return document

    return change


def without_min_notional(document: Any) -> Any:
    """Leave the filter out of every symbol's."""
    for one in document["symbols"]:
        one["filters"] = [each for each in one["filters"] if each["filterType"] != "MIN_NOTIONAL"]
    return document


def stripped(rows: list[Any]) -> list[Any]:
    """Settlements without their mark."""
    return [{name: row[name] for name in row if name != "markPrice"} for row in rows]


def marked(document: Any) -> Any:
    """Settlements with a mark that Bybit does not give."""
    for row in document["result"]["list"]:
        row["markPrice"] = "100"
    return document


def crossed(document: Any) -> Any:
    """Bids and asks exchanged."""
    return document | {"bids": document["asks"], "asks": document["bids"]}


def without_header(proxy: AnswerProxy) -> None:
    """The used weight is not told."""
    proxy.dropped_headers = {"x-mbx-used-weight-1m"}


BROKEN: dict[str, tuple[Venue, Break, set[str], bool]] = {
    "rows in descending order": (
        USDM,
        klines(USDM, lambda rows: rows[::-1]),
        {"kline order"},
        True,
    ),
    "rows in ascending order": (
        LINEAR,
        klines(LINEAR, lambda rows: rows[::-1]),
        {"kline order"},
        True,
    ),
    "eleven cells": (
        SPOT,
        klines(SPOT, lambda rows: [row[:11] for row in rows]),
        {"kline fields"},
        True,
    ),
    "a changed closed bar": (USDM, klines(USDM, changed_close()), {"closed bars"}, True),
    "at most 500 rows": (USDM, klines(USDM, lambda rows: rows[-500:]), {"kline limit"}, True),
    "fewer rows than asked": (
        BYBIT_SPOT,
        klines(BYBIT_SPOT, lambda rows: rows[:200]),
        {"kline limit"},
        True,
    ),
    "settlements without mark": (
        USDM,
        answers("funding history", stripped),
        {"funding fields"},
        True,
    ),
    "settlements with mark": (
        LINEAR,
        answers("funding history", marked, LINEAR),
        {"funding fields"},
        True,
    ),
    "another funding interval stated": (
        USDM,
        answers("funding info", lambda _: [{"symbol": "BTCUSDT", "fundingIntervalHours": 4}]),
        {"funding interval"},
        True,
    ),
    "a symbol that does not trade": (
        USDM,
        answers("instruments", in_first("symbols", status="SETTLING")),
        {"symbols trading"},
        True,
    ),
    "no minimum notional": (
        USDM,
        answers("instruments", without_min_notional),
        {"trading rules"},
        True,
    ),
    "no used weight": (USDM, without_header, {"rate limit header"}, True),
    "a quote without ask": (
        USDM,
        answers("book ticker", in_first("", askPrice="")),
        {"quotes"},
        True,
    ),
    "no next funding": (
        USDM,
        answers("premium index", in_first("", nextFundingTime=0)),
        {"quotes"},
        True,
    ),
    "a crossed book": (USDM, answers("depth", crossed), {"order book"}, True),
    "a final that differs": (
        USDM,
        frames(lambda kline: kline | {"v": "123.5"}),
        {"streamed final"},
        False,
    ),
    "a venue that is heard once": (USDM, deaf_after_one_subscription, {"stream reconnect"}, True),
}
