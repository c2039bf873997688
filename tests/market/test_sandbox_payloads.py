"""Real payloads beside the sandbox's: the same keys in the same order, the same types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from market.instrument import Venue
from tests.market.sandbox_client import T0, commit, get, raw_socket, receive, sandbox

FIXTURES = Path(__file__).parents[2] / "../shared/fixtures"
BINANCE, BYBIT = Venue.BINANCEUSDM, Venue.BYBIT
BINANCE_SPOT, BYBIT_SPOT = Venue.BINANCE, Venue.BYBITSPOT
LINEAR = "category=linear&symbol=BTCUSDT"
SPOT = "category=spot&symbol=BTCUSDT"

# (venue, captured file, path in the sandbox, whether the capture kept the venue's key order)
REST = [
    (BINANCE, "rest_captured_2026-08-15/binance_candles.json",
     "/fapi/v1/klines?symbol=BTCUSDT&interval=1h&limit=2", True),
    (BINANCE, "rest_captured_2026-08-15/binance_funding.json",
     "/fapi/v1/fundingRate?symbol=BTCUSDT&limit=2", True),
    (BINANCE, "rest_captured_2026-09-30/fapi_v1_fundingRate_BTCUSDT_first10.json",
     "/fapi/v1/fundingRate?symbol=BTCUSDT&limit=10", True),
    (BINANCE, "rest_captured_2026-09-30/fapi_v1_fundingInfo_sample.json",
     "/fapi/v1/fundingInfo", True),
    (BINANCE, "rest_captured_2026-09-30/fapi_v1_premiumIndex_BTCUSDT.json",
     "/fapi/v1/premiumIndex?symbol=BTCUSDT", True),
    (BINANCE, "binance_usdm/rest_depth_SUSHIUSDT_limit1000.json",
     "/fapi/v1/depth?symbol=BTCUSDT&limit=1000", True),
    (BINANCE, "binance_docstyle/http_futures_market_mark_price_klines.json",
     "/fapi/v1/markPriceKlines?symbol=BTCUSDT&interval=1h&limit=1", True),
    (BINANCE, "binance_docstyle/http_futures_market_ticker_24hr.json",
     "/fapi/v1/ticker/24hr?symbol=BTCUSDT", True),
    (BINANCE, "binance_docstyle/http_futures_market_book_ticker.json",
     "/fapi/v1/ticker/bookTicker?symbol=BTCUSDT", True),
    (BINANCE, "binance_docstyle/http_futures_market_ticker_price.json",
     "/fapi/v1/ticker/price?symbol=BTCUSDT", True),
    (BYBIT, "rest_captured_2026-08-15/bybit_candles.json",
     f"/v5/market/kline?{LINEAR}&interval=60&limit=2", True),
    (BYBIT, "rest_captured_2026-08-15/bybit_funding.json",
     f"/v5/market/funding/history?{LINEAR}&limit=2", True),
    (BYBIT, "bybit_v5_docstyle/http_get_orderbook.json",
     f"/v5/market/orderbook?{LINEAR}&limit=3", False),
    (BINANCE_SPOT, "binance_docstyle/spot_http/klines_response.json",
     "/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=1", True),
    (BINANCE_SPOT, "binance_spot/rest_depth_RUNEEUR_limit1000.json",
     "/api/v3/depth?symbol=BTCUSDT&limit=1000", True),
    (BINANCE_SPOT, "binance_docstyle/spot_http/book_ticker_response.json",
     "/api/v3/ticker/bookTicker?symbol=BTCUSDT", True),
    (BINANCE_SPOT, "binance_docstyle/spot_http/ticker_price_response.json",
     "/api/v3/ticker/price?symbol=BTCUSDT", True),
    (BINANCE_SPOT, "binance_docstyle/spot_http/ticker_24hr_response.json",
     "/api/v3/ticker/24hr?symbol=BTCUSDT", True),
    (BINANCE_SPOT, "binance_docstyle/http_spot_market_time.json", "/api/v3/time", True),
    (BINANCE_SPOT, "binance_docstyle/http_spot_market_ping.json", "/api/v3/ping", True),
    # Spot rows and books have the shape of linear ones.
    (BYBIT_SPOT, "rest_captured_2026-08-15/bybit_candles.json",
     f"/v5/market/kline?{SPOT}&interval=60&limit=2", True),
    (BYBIT_SPOT, "bybit_v5_docstyle/http_get_orderbook.json",
     f"/v5/market/orderbook?{SPOT}&limit=3", False),
]  # fmt: skip


def captured(name: str) -> Any:
    """Return one captured payload, or skip where it is not at hand."""
    path = FIXTURES / name
    if not path.exists():
        pytest.skip(f"no captured payload {name}")
    text = path.read_text()
    return json.loads(text.splitlines()[0] if name.endswith(".jsonl") else text)


def shape(value: Any, *, ordered: bool = True) -> Any:
    """Reduce JSON to its keys and types; a list to the shape of its first element."""
    if isinstance(value, dict):
        items = [(name, shape(one, ordered=ordered)) for name, one in value.items()]
        return items if ordered else dict(items)
    if isinstance(value, list):
        # A row (a list of scalars) keeps every position, a list of things only its first.
        rows = value[:1] if value and isinstance(value[0], (dict, list)) else value
        return [shape(one, ordered=ordered) for one in rows]
    return type(value).__name__


@pytest.mark.parametrize(("venue", "name", "path", "ordered"), REST, ids=[row[1] for row in REST])
async def test_rest_answers_have_the_captured_shape(
    venue: Venue, name: str, path: str, ordered: bool
) -> None:
    """Keys, their order, nesting and JSON types equal those of a real payload."""
    real = captured(name)
    async with sandbox(venue) as running:
        status, answered, _ = await get(running.url, path)
    if name.startswith("bybit_v5_docstyle"):
        real.setdefault("retExtInfo", {})
    assert status == 200
    assert shape(answered, ordered=ordered) == shape(real, ordered=ordered)


async def test_exchange_info_has_the_captured_rules() -> None:
    """A symbol's rules have exactly the fields of a real one, each filter as well."""
    real = captured("rest_captured_2026-09-30/fapi_v1_exchangeInfo_BTC_ETH.json")["symbols"][0]
    async with sandbox(BINANCE) as running:
        _, answered, _ = await get(running.url, "/fapi/v1/exchangeInfo")
    ours = answered["symbols"][0]
    assert [one["filterType"] for one in ours["filters"]] == [
        one["filterType"] for one in real["filters"]
    ]
    for mine, theirs in zip(ours["filters"], real["filters"], strict=True):
        assert shape(mine, ordered=False) == shape(theirs, ordered=False)
    lists = ("filters", "underlyingSubType", "permissionSets")
    assert shape({name: one for name, one in ours.items() if name not in lists}) == shape(
        {name: one for name, one in real.items() if name not in lists}
    )


async def test_exchange_info_has_the_captured_frame() -> None:
    """The answer around the rules has the fields of a real one."""
    real = captured("binance_usdm/rest_exchangeInfo_majors_2021-07-22.json")
    async with sandbox(BINANCE) as running:
        _, answered, _ = await get(running.url, "/fapi/v1/exchangeInfo")
    del real["symbols"], answered["symbols"]
    assert shape(answered) == shape(real)


async def test_spot_exchange_info_has_the_documented_rules() -> None:
    """A spot symbol has the documented fields, the frame around it those of a capture."""
    documented = captured("binance_docstyle/spot_http/exchange_info_response.json")["symbols"][0]
    frame = captured("binance_spot/rest_exchangeInfo_majors_2021-10-12.json")
    async with sandbox(BINANCE_SPOT) as running:
        _, answered, _ = await get(running.url, "/api/v3/exchangeInfo")
    ours = answered["symbols"].pop(0)
    del frame["symbols"], answered["symbols"]
    assert shape(answered) == shape(frame)
    lists = (
        "filters", "orderTypes", "permissions", "permissionSets",
        "allowedSelfTradePreventionModes",
    )  # fmt: skip
    for name in lists:
        assert isinstance(ours.pop(name), list)
        del documented[name]
    assert shape(ours) == shape(documented)


async def test_spot_filters_have_the_captured_fields() -> None:
    """Each filter that a capture has as well has its fields; the notional's is newer by name."""
    rules = captured("binance_spot/rest_exchangeInfo_majors_2021-10-12.json")["symbols"][0]
    real = {one["filterType"]: one for one in rules["filters"]}
    async with sandbox(BINANCE_SPOT) as running:
        _, answered, _ = await get(running.url, "/api/v3/exchangeInfo?symbol=BTCUSDT")
    ours = {one["filterType"]: one for one in answered["symbols"][0]["filters"]}
    shared = ours.keys() & real.keys()
    assert {"PRICE_FILTER", "LOT_SIZE", "MARKET_LOT_SIZE"} <= shared
    for name in shared:
        assert shape(ours[name]) == shape(real[name])
    assert type(ours["NOTIONAL"]["minNotional"]) is type(real["MIN_NOTIONAL"]["minNotional"])


async def test_spot_instruments_info_has_the_documented_rules() -> None:
    """Bybit's spot rules have exactly the documented fields and types."""
    real = captured("bybit_v5_docstyle/http_get_instruments_spot.json")
    async with sandbox(BYBIT_SPOT) as running:
        _, answered, _ = await get(running.url, "/v5/market/instruments-info?category=spot")
    assert shape(answered["result"]["list"][0]) == shape(real["result"]["list"][0])
    # The documents leave out the category of the answer.
    assert answered["result"].pop("category") == "spot"
    assert shape(answered, ordered=False) == shape(real, ordered=False)


async def test_instruments_info_has_the_captured_rules() -> None:
    """Bybit's rules have the fields of a real answer, and the two that ccxt reads since."""
    real = captured("rest_captured_misc/bybit_v5_instruments-info_linear_BTCUSDT_2023-10-02.json")
    async with sandbox(BYBIT) as running:
        _, answered, _ = await get(running.url, f"/v5/market/instruments-info?{LINEAR}")
    ours, theirs = answered["result"]["list"][0], real["result"]["list"][0]
    since = ["maxMktOrderQty", "minNotionalValue"]
    assert [ours["lotSizeFilter"].pop(name) for name in since] == ["120", "5"]
    assert shape(ours) == shape(theirs)
    assert shape(answered | {"result": None}) == shape(real | {"result": None})
    assert list(answered["result"]) == list(real["result"])


async def test_binance_kline_frames_have_the_captured_shape() -> None:
    """Open and closed kline frames equal captured ones in keys, order and types."""
    names = (
        "binance_usdm/ws_kline_open.jsonl",
        "binance_usdm/ws_kline_closed.jsonl",
        "ws_captured_misc/binance_usdm_kline_closed_BTCUSDT_2026-10-05.json",
    )
    real = [captured(name) for name in names]
    real = [one.get("msg", one) for one in real]
    async with (
        sandbox(BINANCE) as running,
        raw_socket(running.url, "/stream?streams=btcusdt@kline_1h") as socket,
    ):
        opened = await receive(socket)
        await commit(running.url, T0)
        closed = await receive(socket)
    assert [shape(opened), shape(closed), shape(closed)] == [shape(one) for one in real]
    assert [opened["data"]["k"]["x"], closed["data"]["k"]["x"]] == [False, True]


async def test_binance_book_ticker_frames_have_the_captured_shape() -> None:
    """A bookTicker frame equals a captured one in keys, order and types."""
    real = captured("binance_usdm/ws_capture.jsonl")
    lines = (FIXTURES / "binance_usdm/ws_capture.jsonl").read_text().splitlines()
    frames = [json.loads(line)["msg"] for line in lines]
    real = next(one for one in frames if one["stream"].endswith("@bookTicker"))
    async with (
        sandbox(BINANCE) as running,
        raw_socket(running.url, "/stream?streams=btcusdt@bookTicker") as socket,
    ):
        assert shape(await receive(socket)) == shape(real)


async def test_binance_mark_price_frames_have_the_documented_shape() -> None:
    """A mark-price frame has the documented fields (all but the newest, ``st``)."""
    real = captured("binance_docstyle/futures_ws/mark_price_stream.json")
    del real["st"]
    async with (
        sandbox(BINANCE) as running,
        raw_socket(running.url, "/ws/btcusdt@markPrice") as socket,
    ):
        assert shape(await receive(socket)) == shape(real)


async def test_bybit_frames_have_the_captured_shape() -> None:
    """Kline, ticker and order-book frames and the acknowledgement equal real ones."""
    kline = captured("ws_captured_misc/bybit_v5_kline_open_BTCUSDT_2024-06-29.json")
    ticker = captured("bybit_v5_docstyle/ws_ticker_linear.json")
    book = captured("bybit_v5_docstyle/ws_orderbook_snapshot.json")
    acknowledgement = captured("bybit_v5_docstyle/ws_subscription_ack.json")
    topics = ["kline.60.BTCUSDT", "tickers.BTCUSDT", "orderbook.50.BTCUSDT"]
    async with sandbox(BYBIT) as running, raw_socket(running.url, "/v5/public/linear") as socket:
        await socket.send_json({"op": "subscribe", "args": topics, "req_id": "1"})
        received = [await receive(socket) for _ in range(4)]
    assert shape(received[0]) == shape(acknowledgement)
    assert shape(received[1]) == shape(kline)
    # Never sent by the sandbox: the cross sequence, and the tick's direction.
    del ticker["cs"], ticker["data"]["tickDirection"]
    assert shape(received[2], ordered=False) == shape(ticker, ordered=False)
    assert shape(received[3]) == shape(book)


async def test_spot_frames_have_the_captured_shape() -> None:
    """Spot klines and best quotes equal captured ones in keys, order and types."""
    captured("binance_spot/ws_capture.jsonl")
    lines = (FIXTURES / "binance_spot/ws_capture.jsonl").read_text().splitlines()
    frames = [json.loads(line)["msg"] for line in lines]
    quotes = next(one for one in frames if one["stream"].endswith("@bookTicker"))
    kline = next(one for one in frames if "@kline_" in one["stream"])
    path = "/stream?streams=btcusdt@kline_1h/btcusdt@bookTicker"
    async with sandbox(BINANCE_SPOT) as running, raw_socket(running.url, path) as socket:
        received = {one["stream"]: one for one in [await receive(socket), await receive(socket)]}
    assert shape(received["btcusdt@kline_1h"]) == shape(kline)
    assert shape(received["btcusdt@bookTicker"]) == shape(quotes)


async def test_binance_partial_depth_frames_have_the_captured_shape() -> None:
    """A partial-depth frame has the fields of a captured depth frame, both sides filled."""
    captured("binance_usdm/ws_capture.jsonl")
    lines = (FIXTURES / "binance_usdm/ws_capture.jsonl").read_text().splitlines()
    frames = [json.loads(line)["msg"] for line in lines]
    depths = [one["data"] for one in frames if "@depth" in one["stream"]]
    real = next(one for one in depths if one["b"] and one["a"])
    async with (
        sandbox(BINANCE) as running,
        raw_socket(running.url, "/ws/btcusdt@depth20@100ms") as socket,
    ):
        assert shape(await receive(socket)) == shape(real)


async def test_bybit_spot_frames_have_the_captured_shape() -> None:
    """Spot klines and books equal the linear ones in keys, order and types."""
    kline = captured("ws_captured_misc/bybit_v5_kline_open_BTCUSDT_2024-06-29.json")
    book = captured("bybit_v5_docstyle/ws_orderbook_snapshot.json")
    topics = ["kline.60.BTCUSDT", "orderbook.50.BTCUSDT"]
    async with (
        sandbox(BYBIT_SPOT) as running,
        raw_socket(running.url, "/v5/public/spot") as socket,
    ):
        await socket.send_json({"op": "subscribe", "args": topics, "req_id": "1"})
        received = [await receive(socket) for _ in range(3)]
    assert shape(received[1]) == shape(kline)
    assert shape(received[2]) == shape(book)
