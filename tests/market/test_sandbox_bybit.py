"""The sandbox as Bybit linear, spoken to by the real ccxt.pro class over a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import ccxt.pro
import numpy as np
import pytest

from market.bar import HOUR_MS
from market.instrument import Venue
from market.sandbox.server import Sandbox
from tests.market.sandbox_client import (
    T0,
    T0_BAR,
    ccxt_client,
    commit,
    get,
    raw_socket,
    receive,
    sandbox,
)
from tests.market.small_tape import BTC, ETH, MISSING_ETH_BAR, SOL, open_time

VENUE = Venue.BYBIT
MARKET = "/v5/market"
KLINE = f"{MARKET}/kline?category=linear&interval=60"


@pytest.fixture
async def venue() -> AsyncIterator[Sandbox]:
    """Yield a sandbox in lock-step at T0."""
    async with sandbox(VENUE) as running:
        yield running


@pytest.fixture
async def client(venue: Sandbox) -> AsyncIterator[Any]:
    """Yield the ccxt.pro exchange that talks to it."""
    async with ccxt_client(VENUE, venue.url) as exchange:
        yield exchange


async def rows_of(url: str, path: str) -> list[Any]:
    """Return result.list of a successful answer."""
    _, body, _ = await get(url, path)
    assert (body["retCode"], body["retMsg"]) == (0, "OK")
    rows: list[Any] = body["result"]["list"]
    return rows


async def test_load_markets_gives_the_rules_of_the_tape(client: Any) -> None:
    """The default eleven calls work, and only the linear category holds instruments."""
    markets = await client.load_markets()
    market = markets[SOL]
    assert sorted(markets) == [BTC, ETH, SOL]
    assert (market["id"], market["type"], market["active"]) == ("SOLUSDT", "swap", True)
    assert market["precision"] == market["precision"] | {"price": 0.001, "amount": 1.0}
    assert market["limits"]["cost"]["min"] == 5.0
    assert market["info"]["fundingInterval"] == 240
    assert market["info"]["lotSizeFilter"]["maxMktOrderQty"] == "120"


async def test_klines_are_exact_and_newest_first(venue: Sandbox) -> None:
    """Rows run backward in time and float() of every number equals the stored value."""
    rows = await rows_of(venue.url, f"{KLINE}&symbol=BTCUSDT&limit=1000")
    panel = venue.options.tape.panel
    assert [int(row[0]) for row in rows] == [open_time(bar) for bar in range(T0_BAR, -1, -1)]
    served = np.array([[float(value) for value in row[1:]] for row in rows[:0:-1]])
    names = ("open", "high", "low", "close", "volume", "quote_volume")
    stored = np.column_stack([getattr(panel, name)[:T0_BAR, 0] for name in names])
    assert np.array_equal(served, stored)


async def test_fetch_ohlcv_includes_the_open_bar(venue: Sandbox, client: Any) -> None:
    """The client's rows ascend and end with the forming bar."""
    rows = await client.fetch_ohlcv(BTC, "1h", limit=2)
    panel = venue.options.tape.panel
    assert [row[0] for row in rows] == [T0 - HOUR_MS, T0]
    assert rows[0][4] == panel.close[T0_BAR - 1, 0]
    assert rows[1][1] == panel.open[T0_BAR, 0]


async def test_the_row_limit_keeps_the_newest(venue: Sandbox) -> None:
    """Of more bars than the limit the venue keeps the newest of [start, end]."""
    path = f"{KLINE}&symbol=BTCUSDT&limit=2&start={open_time(10)}"
    newest = await rows_of(venue.url, f"{path}&end={open_time(20)}")
    forward = await rows_of(venue.url, path)
    assert [int(row[0]) for row in newest] == [open_time(20), open_time(19)]
    assert [int(row[0]) for row in forward] == [open_time(11), open_time(10)]


async def test_the_bar_that_contains_start_is_included(venue: Sandbox) -> None:
    """A start inside a bar answers from that bar on."""
    path = f"{KLINE}&symbol=BTCUSDT&start={open_time(10) + 1}&end={open_time(11)}"
    rows = await rows_of(venue.url, path)
    assert [int(row[0]) for row in rows] == [open_time(11), open_time(10)]


async def test_what_the_tape_lacks_is_an_empty_string_or_absent(venue: Sandbox) -> None:
    """An unknown turnover is empty, a missing bar has no row."""
    start, end = open_time(MISSING_ETH_BAR - 1), open_time(MISSING_ETH_BAR + 1)
    rows = await rows_of(venue.url, f"{KLINE}&symbol=ETHUSDT&start={start}&end={end}")
    assert [int(row[0]) for row in rows] == [end, start]
    assert [row[6] for row in rows] == ["", ""]


async def test_errors_are_the_venues_own(venue: Sandbox, client: Any) -> None:
    """Unknown symbol and unknown period answer 10001 with status 200."""
    for path in (f"{KLINE}&symbol=NOUSDT", f"{MARKET}/kline?symbol=BTCUSDT&interval=7"):
        status, body, _ = await get(venue.url, path)
        assert (status, body["retCode"], body["result"]) == (200, 10001, {})
    with pytest.raises(ccxt.BadSymbol):
        await client.publicGetV5MarketKline({"symbol": "NOUSDT", "interval": "60"})


async def test_mark_klines_have_five_fields(venue: Sandbox) -> None:
    """Mark-price klines are the tape's mark candles without volumes."""
    path = f"{MARKET}/mark-price-kline?category=linear&interval=60"
    window = f"&start={open_time(5)}&end={open_time(6)}"
    rows = await rows_of(venue.url, f"{path}&symbol=ETHUSDT{window}")
    panel = venue.options.tape.panel
    assert [len(row) for row in rows] == [5, 5]
    assert [float(row[4]) for row in rows] == panel.mark_close[6:4:-1, 1].tolist()
    assert await rows_of(venue.url, f"{path}&symbol=SOLUSDT{window}") == []


async def test_funding_history_descends_without_mark(venue: Sandbox) -> None:
    """Rows are newest first, at most 200, times and rates as the tape has them."""
    path = f"{MARKET}/funding/history?category=linear&symbol=SOLUSDT"
    rows = await rows_of(venue.url, path)
    wanted = [one for one in venue.options.tape.settlements if one.symbol == SOL]
    past = [one for one in wanted if one.funding_time <= venue.now()][::-1]
    assert [int(row["fundingRateTimestamp"]) for row in rows] == [one.funding_time for one in past]
    assert [float(row["fundingRate"]) for row in rows] == [one.rate for one in past]
    assert set(rows[0]) == {"symbol", "fundingRate", "fundingRateTimestamp"}
    two = await rows_of(venue.url, f"{path}&startTime={open_time(0)}&endTime={T0}&limit=2")
    assert two == [row for row in rows if int(row["fundingRateTimestamp"]) <= T0][:2]


async def test_funding_history_with_start_alone_is_refused(venue: Sandbox) -> None:
    """A startTime needs endTime, as on the venue."""
    path = f"{MARKET}/funding/history?category=linear&symbol=BTCUSDT&startTime={T0}"
    _, body, _ = await get(venue.url, path)
    assert body["retCode"] == 10001


async def test_fetch_funding_rate_history(venue: Sandbox, client: Any) -> None:
    """The client's own call returns the settlements ascending."""
    await client.load_markets()
    rates = await client.fetch_funding_rate_history(BTC, since=open_time(0), limit=100)
    wanted = [one for one in venue.options.tape.settlements if one.symbol == BTC]
    past = [one for one in wanted if one.funding_time <= venue.now()]
    assert [rate["timestamp"] for rate in rates] == [one.funding_time for one in past]


async def test_ticker_book_and_funding_rate_agree(client: Any) -> None:
    """The ticker carries mark, index, funding and the best of the order book."""
    await client.load_markets()
    ticker = await client.fetch_ticker(BTC)
    book = await client.fetch_order_book(BTC, 50)
    funding = await client.fetch_funding_rate(BTC)
    assert [ticker["bid"], ticker["ask"]] == [book["bids"][0][0], book["asks"][0][0]]
    assert ticker["bid"] <= ticker["last"] <= ticker["ask"]
    assert len(book["bids"]) == 50
    assert funding["fundingTimestamp"] == T0 + 8 * HOUR_MS
    assert funding["interval"] == "8h"


async def test_server_time_is_the_venues(venue: Sandbox, client: Any) -> None:
    """The server's time is just after the last close in lock-step."""
    assert await client.fetch_time() == venue.now() == T0 + 1500


async def test_watch_ohlcv_sees_the_close(venue: Sandbox, client: Any) -> None:
    """The client's own subscription delivers the exact final bar after a commit."""
    await client.load_markets()
    rows = await client.watch_ohlcv(BTC, "1h")
    await commit(venue.url, T0)
    while rows[-1][0] == T0:
        rows = await client.watch_ohlcv(BTC, "1h")
    closed = next(row for row in client.ohlcvs[BTC]["1h"] if row[0] == T0)
    panel = venue.options.tape.panel
    wanted = [panel.open, panel.high, panel.low, panel.close, panel.volume]
    assert closed[1:] == [float(column[T0_BAR, 0]) for column in wanted]


async def test_watch_ticker_and_order_book(client: Any) -> None:
    """The client's own ticker and book subscriptions are answered with snapshots."""
    await client.load_markets()
    ticker = await client.watch_ticker(BTC)
    book = await client.watch_order_book(BTC, 50)
    assert ticker["bid"] == book["bids"][0][0]


async def test_frames_of_a_close(venue: Sandbox) -> None:
    """After the acknowledgement come the forming bar, its final frame, and the next forming bar."""
    topic = "kline.60.ETHUSDT"
    async with raw_socket(venue.url, "/v5/public/linear") as socket:
        await socket.send_json({"op": "subscribe", "args": [topic], "req_id": "a"})
        acknowledged = await receive(socket)
        forming = await receive(socket)
        await commit(venue.url, T0)
        frames = [forming, await receive(socket), await receive(socket)]
    assert (acknowledged["success"], acknowledged["req_id"]) == (True, "a")
    assert [frame["topic"] for frame in frames] == [topic] * 3
    assert [frame["data"][0]["confirm"] for frame in frames] == [False, True, False]
    assert [frame["data"][0]["start"] for frame in frames] == [T0, T0, T0 + HOUR_MS]
    assert frames[1]["data"][0]["turnover"] == ""
    assert frames[1]["ts"] == T0 + HOUR_MS + 1500


async def test_ping_is_answered(venue: Sandbox) -> None:
    """The client's ping gets the venue's pong with its request id."""
    async with raw_socket(venue.url, "/v5/public/linear") as socket:
        await socket.send_json({"op": "ping", "req_id": 7})
        pong = await receive(socket)
    assert (pong["ret_msg"], pong["req_id"], pong["op"]) == ("pong", "7", "ping")


async def test_an_unknown_topic_fails_the_subscription(venue: Sandbox, client: Any) -> None:
    """The venue answers success false and subscribes nothing; ccxt raises."""
    async with raw_socket(venue.url, "/v5/public/linear") as socket:
        topics = ["kline.60.BTCUSDT", "kline.60.NOUSDT"]
        await socket.send_json({"op": "subscribe", "args": topics, "req_id": "1"})
        refused = await receive(socket)
        await socket.send_json({"op": "ping"})
        assert (await receive(socket))["ret_msg"] == "pong"
    assert refused["success"] is False
    await client.load_markets()
    with pytest.raises(ccxt.ExchangeError):
        await client.watch_ohlcv(BTC, "5m")


async def test_unsubscribed_topics_fall_silent(venue: Sandbox) -> None:
    """After unsubscribe only the other topics arrive."""
    topics = ["kline.60.BTCUSDT", "kline.60.SOLUSDT"]
    async with raw_socket(venue.url, "/v5/public/linear") as socket:
        await socket.send_json({"op": "subscribe", "args": topics})
        assert {(await receive(socket)).get("topic") for _ in range(3)} == {None, *topics}
        await socket.send_json({"op": "unsubscribe", "args": topics[:1]})
        while (await receive(socket)).get("op") != "unsubscribe":
            pass
        await commit(venue.url, T0)
        assert {(await receive(socket))["topic"] for _ in range(2)} == {topics[1]}
