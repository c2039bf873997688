"""The sandbox as Binance USD-M, spoken to by the real ccxt.pro class over a real socket."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

import ccxt.pro
import numpy as np
import pytest

from market.bar import DAY_MS, HOUR_MS
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
from tests.market.small_tape import BARS, BTC, ETH, MISSING_ETH_BAR, SOL, open_time

VENUE = Venue.BINANCEUSDM


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


async def test_load_markets_gives_the_rules_of_the_tape(client: Any) -> None:
    """Tick, lot step, minimum notional and largest market order arrive as the tape has them."""
    markets = await client.load_markets()
    market = markets[BTC]
    assert sorted(markets) == [BTC, ETH, SOL]
    assert (market["id"], market["type"], market["active"]) == ("BTCUSDT", "swap", True)
    assert market["precision"]["price"] == 0.1
    assert market["precision"]["amount"] == 0.001
    assert market["limits"]["cost"]["min"] == 5.0
    assert market["limits"]["market"]["max"] == 120.0


async def test_final_klines_carry_the_tape_bit_by_bit(venue: Sandbox, client: Any) -> None:
    """float() of every number in a final row equals the stored value exactly."""
    rows = await client.fapiPublicGetKlines(
        {"symbol": "BTCUSDT", "interval": "1h", "startTime": open_time(0), "limit": 1500}
    )
    panel = venue.options.tape.panel
    assert len(rows) == T0_BAR + 1
    served = np.array([[float(value) for value in row[1:6]] for row in rows[:-1]])
    names = ("open", "high", "low", "close", "volume")
    stored = np.column_stack([getattr(panel, name)[:T0_BAR, 0] for name in names])
    assert np.array_equal(served, stored)
    assert [float(row[7]) for row in rows[:-1]] == panel.quote_volume[:T0_BAR, 0].tolist()
    assert [int(row[8]) for row in rows[:-1]] == panel.trades[:T0_BAR, 0].tolist()
    assert [float(row[9]) for row in rows[:-1]] == panel.taker_buy_volume[:T0_BAR, 0].tolist()
    assert [int(row[0]) for row in rows] == [open_time(bar) for bar in range(T0_BAR + 1)]
    assert all(int(row[6]) == int(row[0]) + HOUR_MS - 1 for row in rows)


async def test_the_last_kline_is_the_open_bar(venue: Sandbox, client: Any) -> None:
    """REST includes the open bar, with its own open and a range inside the final one."""
    rows = await client.fetch_ohlcv(BTC, "1h", limit=2)
    panel = venue.options.tape.panel
    closed, forming = rows
    assert closed[4] == panel.close[T0_BAR - 1, 0]
    assert forming[:2] == [T0, panel.open[T0_BAR, 0]]
    assert panel.low[T0_BAR, 0] <= forming[3] <= forming[4] <= forming[2] <= panel.high[T0_BAR, 0]
    assert forming[5] < panel.volume[T0_BAR, 0]


async def test_what_the_tape_lacks_is_an_empty_string(venue: Sandbox) -> None:
    """Unknown quote volume, trades and taker volumes are empty strings, never zero."""
    query = "/fapi/v1/klines?symbol=ETHUSDT&interval=1h&limit=2"
    _, rows, _ = await get(venue.url, query)
    assert rows[0][7:] == ["", "", "", "", "0"]


async def test_a_missing_bar_is_absent(venue: Sandbox) -> None:
    """A bar that the tape lacks is skipped; the limit counts the rows that exist."""
    start = open_time(MISSING_ETH_BAR - 1)
    query = f"/fapi/v1/klines?symbol=ETHUSDT&interval=1h&startTime={start}&limit=2"
    _, rows, _ = await get(venue.url, query)
    wanted = [open_time(MISSING_ETH_BAR - 1), open_time(MISSING_ETH_BAR + 1)]
    assert [row[0] for row in rows] == wanted


async def test_kline_windows(venue: Sandbox) -> None:
    """With startTime rows run forward from it, without it they are the newest up to endTime."""
    path = "/fapi/v1/klines?symbol=BTCUSDT&interval=1h&limit=3"
    _, forward, _ = await get(venue.url, f"{path}&startTime={open_time(10) + 1}")
    _, newest, _ = await get(venue.url, f"{path}&endTime={open_time(10)}")
    _, both, _ = await get(
        venue.url, f"{path}&startTime={open_time(10)}&endTime={open_time(10) + 1}"
    )
    assert [row[0] for row in forward] == [open_time(bar) for bar in (11, 12, 13)]
    assert [row[0] for row in newest] == [open_time(bar) for bar in (8, 9, 10)]
    assert [row[0] for row in both] == [open_time(10)]


async def test_the_row_limit_is_refused_and_the_weight_is_stated(venue: Sandbox) -> None:
    """1500 rows are allowed (weight 10), 1501 are refused with -1130."""
    path = "/fapi/v1/klines?symbol=BTCUSDT&interval=1h&limit="
    status, _, headers = await get(venue.url, f"{path}1500")
    assert (status, headers["X-MBX-USED-WEIGHT-1M"]) == (200, "10")
    status, error, headers = await get(venue.url, f"{path}1501")
    assert (status, error["code"]) == (400, -1130)
    assert headers["X-MBX-USED-WEIGHT-1M"] == "20"


async def test_errors_are_the_venues_own(venue: Sandbox, client: Any) -> None:
    """Unknown symbol, unknown interval and a missing parameter answer -1121, -1120, -1102."""
    answers = [
        await get(venue.url, f"/fapi/v1/klines?{query}")
        for query in ("symbol=NOUSDT&interval=1h", "symbol=BTCUSDT&interval=7h", "interval=1h")
    ]
    assert [(status, body["code"]) for status, body, _ in answers] == [
        (400, -1121),
        (400, -1120),
        (400, -1102),
    ]
    with pytest.raises(ccxt.BadSymbol):
        await client.fapiPublicGetFundingRate({"symbol": "NOUSDT"})


async def test_mark_klines_come_from_the_mark_candles(venue: Sandbox, client: Any) -> None:
    """Mark-price klines are the tape's mark candles; a symbol without them has no row."""
    panel = venue.options.tape.panel
    rows = await client.fetch_ohlcv(
        BTC, "1h", since=open_time(5), limit=2, params={"price": "mark"}
    )
    assert [row[1] for row in rows] == panel.mark_open[5:7, 0].tolist()
    assert await client.fetch_ohlcv(SOL, "1h", params={"price": "mark"}) == []


async def test_funding_history_ascends_with_the_mark_of_each_charge(
    venue: Sandbox, client: Any
) -> None:
    """Times keep their jitter, rates and marks are exact, nothing lies in the future."""
    rows = await client.fapiPublicGetFundingRate(
        {"symbol": "BTCUSDT", "startTime": open_time(0), "limit": 1000}
    )
    wanted = [one for one in venue.options.tape.settlements if one.symbol == BTC]
    past = [one for one in wanted if one.funding_time <= venue.now()]
    assert [int(row["fundingTime"]) for row in rows] == [one.funding_time for one in past]
    assert [float(row["fundingRate"]) for row in rows] == [one.rate for one in past]
    assert [float(row["markPrice"]) for row in rows] == [one.mark_price for one in past]
    assert past[-1].nominal_time == T0
    assert len(past) < len(wanted)


async def test_an_unknown_mark_is_an_empty_string(venue: Sandbox) -> None:
    """A settlement without a mark is served as the venue serves its oldest ones."""
    _, rows, _ = await get(venue.url, "/fapi/v1/fundingRate?symbol=SOLUSDT&limit=1")
    assert rows[0]["markPrice"] == ""


async def test_funding_info_lists_only_adjusted_intervals(client: Any) -> None:
    """The eight-hour symbols are left out, as on the venue."""
    await client.load_markets()
    intervals = await client.fetch_funding_intervals()
    assert {symbol: one["interval"] for symbol, one in intervals.items()} == {SOL: "4h"}


async def test_premium_index_states_the_next_settlement(venue: Sandbox, client: Any) -> None:
    """Next funding time and predicted rate are those of the tape's next settlement."""
    await client.load_markets()
    rate = await client.fetch_funding_rate(BTC)
    assert rate["fundingTimestamp"] == T0 + 8 * HOUR_MS
    assert rate["markPrice"] == pytest.approx(venue.options.tape.panel.open[T0_BAR, 0], rel=0.01)
    assert rate["fundingRate"] == (T0_BAR + 8 - 90) / 3e6


async def test_book_and_ticker_agree(client: Any) -> None:
    """Best bid and ask lie one tick apart around the last price, in every endpoint."""
    await client.load_markets()
    ticker = await client.fetch_ticker(BTC)
    quotes = (await client.fetch_bids_asks([BTC]))[BTC]
    book = await client.fetch_order_book(BTC, 20)
    assert quotes["bid"] <= ticker["last"] <= quotes["ask"]
    assert quotes["ask"] - quotes["bid"] == pytest.approx(0.1)
    assert [book["bids"][0][0], book["asks"][0][0]] == [quotes["bid"], quotes["ask"]]
    assert len(book["bids"]) == len(book["asks"]) == 20


async def test_day_ticker_spans_24_hours(venue: Sandbox, client: Any) -> None:
    """Volume and range of the day ticker are those of the bars of the last 24 hours."""
    await client.load_markets()
    ticker = await client.fetch_ticker(BTC)
    panel = venue.options.tape.panel
    day = slice(T0_BAR - 23, T0_BAR)
    assert ticker["high"] == panel.high[day, 0].max()
    assert ticker["baseVolume"] == pytest.approx(panel.volume[day, 0].sum(), rel=1e-3)
    assert int(ticker["info"]["closeTime"]) - int(ticker["info"]["openTime"]) == DAY_MS


async def test_server_time_is_the_venues(venue: Sandbox, client: Any) -> None:
    """The server's time is just after the last close in lock-step."""
    assert await client.fetch_time() == venue.now() == T0 + 1500


async def test_watch_ohlcv_sees_the_close_and_the_next_bar(venue: Sandbox, client: Any) -> None:
    """The client's own subscription delivers the exact final bar after a commit."""
    await client.load_markets()
    panel = venue.options.tape.panel
    first = await client.watch_ohlcv(BTC, "1h")
    assert first[-1][:2] == [T0, panel.open[T0_BAR, 0]]
    await commit(venue.url, T0)
    rows = first
    while rows[-1][0] == T0:
        rows = await client.watch_ohlcv(BTC, "1h")
    closed = next(row for row in client.ohlcvs[BTC]["1h"] if row[0] == T0)
    wanted = [panel.open, panel.high, panel.low, panel.close, panel.volume]
    assert closed[1:] == [float(column[T0_BAR, 0]) for column in wanted]


async def test_frames_of_a_close(venue: Sandbox) -> None:
    """After the acknowledgement come the forming bar, its final frame, and the next forming bar."""
    async with raw_socket(venue.url, "/market/ws/0") as socket:
        await socket.send_json({"method": "SUBSCRIBE", "params": ["ethusdt@kline_1h"], "id": 3})
        assert await receive(socket) == {"result": None, "id": 3}
        forming = await receive(socket)
        await commit(venue.url, T0)
        final = await receive(socket)
        following = await receive(socket)
    assert [frame["k"]["x"] for frame in (forming, final, following)] == [False, True, False]
    assert [frame["k"]["t"] for frame in (forming, final, following)] == [T0, T0, T0 + HOUR_MS]
    assert final["E"] == T0 + HOUR_MS + 1500
    assert (final["k"]["q"], final["k"]["n"]) == ("", "")
    panel = venue.options.tape.panel
    assert float(final["k"]["c"]) == panel.close[T0_BAR, 1]


async def test_other_streams(venue: Sandbox) -> None:
    """Book and mark streams are served; an unknown one is acknowledged and stays silent."""
    streams = ["btcusdt@bookTicker", "btcusdt@markPrice@1s", "nousdt@kline_1h", "!markPrice@arr"]
    async with raw_socket(venue.url, "/public/ws/1") as socket:
        await socket.send_json({"method": "SUBSCRIBE", "params": streams, "id": 1})
        acknowledged, book, mark, marks = [await receive(socket) for _ in range(4)]
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        listed = await receive(socket)
    assert acknowledged == {"result": None, "id": 1}
    assert float(book["b"]) < float(book["a"])
    assert (mark["e"], mark["s"]) == ("markPriceUpdate", "BTCUSDT")
    assert [one["s"] for one in marks] == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert listed == {"result": sorted(streams), "id": 2}


async def test_watch_bids_asks_and_mark_price(client: Any) -> None:
    """The client's own book and mark-price subscriptions are answered."""
    await client.load_markets()
    quotes = await client.watch_bids_asks([BTC])
    assert quotes[BTC]["bid"] < quotes[BTC]["ask"]
    mark = await client.watch_mark_price(BTC)
    assert math.isfinite(mark["markPrice"])


async def test_unsubscribed_topics_fall_silent(venue: Sandbox) -> None:
    """After UNSUBSCRIBE only the acknowledgement and the other streams arrive."""
    async with raw_socket(venue.url, "/ws/btcusdt@kline_1h/solusdt@kline_1h") as socket:
        assert {(await receive(socket))["s"] for _ in range(2)} == {"BTCUSDT", "SOLUSDT"}
        await socket.send_json({"method": "UNSUBSCRIBE", "params": ["btcusdt@kline_1h"], "id": 9})
        while (await receive(socket)).get("id") != 9:
            pass
        await commit(venue.url, T0)
        assert {(await receive(socket))["s"] for _ in range(2)} == {"SOLUSDT"}


async def test_combined_streams_are_wrapped(venue: Sandbox) -> None:
    """A connection to /stream gets frames as stream and data."""
    async with raw_socket(venue.url, "/stream?streams=btcusdt@kline_1h") as socket:
        frame = await receive(socket)
    assert list(frame) == ["stream", "data"]
    assert frame["data"]["s"] == "BTCUSDT"


async def test_a_malformed_message_gets_an_error_and_keeps_the_connection(venue: Sandbox) -> None:
    """Broken JSON is answered with the venue's error; the next request works."""
    async with raw_socket(venue.url, "/ws") as socket:
        await socket.send_str("{nonsense")
        assert (await receive(socket))["error"]["code"] == 3
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 1})
        assert await receive(socket) == {"result": [], "id": 1}


async def test_bars_after_the_tapes_end_do_not_exist() -> None:
    """Past the last close REST has every bar as final and no open one."""
    async with sandbox(VENUE, start=open_time(BARS - 1)) as venue:
        await commit(venue.url, open_time(BARS - 1))
        await venue.wait_ended()
        _, rows, _ = await get(venue.url, "/fapi/v1/klines?symbol=BTCUSDT&interval=1h&limit=1")
    panel = venue.options.tape.panel
    assert (rows[0][0], float(rows[0][4])) == (open_time(BARS - 1), panel.close[-1, 0])
