"""The sandbox as Binance spot and Bybit spot, spoken to by the real ccxt.pro classes."""

from __future__ import annotations

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
from tests.market.small_tape import (
    MISSING_ETH_BAR,
    SPOT_BTC,
    SPOT_ETH,
    SPOT_SOL,
    SPOT_SYMBOLS,
    open_time,
)

SPOT = (Venue.BINANCE, Venue.BYBITSPOT)
BYBIT_KLINE = "/v5/market/kline?category=spot&interval=60&symbol=BTCUSDT"


@pytest.fixture(params=SPOT, ids=str)
async def venue(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    """Yield a sandbox in lock-step at T0, one spot venue after the other."""
    async with sandbox(request.param) as running:
        yield running


@pytest.fixture
async def client(venue: Sandbox) -> AsyncIterator[Any]:
    """Yield the ccxt.pro exchange that talks to it, its markets loaded."""
    async with ccxt_client(venue.options.tape.venue, venue.url) as exchange:
        await exchange.load_markets()
        yield exchange


async def test_load_markets_gives_the_rules_of_the_tape(client: Any) -> None:
    """Only spot markets exist; tick, lot step and minimum notional are the tape's."""
    market = client.markets[SPOT_SOL]
    assert sorted(client.markets) == sorted(SPOT_SYMBOLS)
    assert (market["id"], market["type"], market["active"]) == ("SOLUSDT", "spot", True)
    assert (market["precision"]["price"], market["precision"]["amount"]) == (0.001, 1.0)
    assert market["limits"]["cost"]["min"] == 5.0
    assert market["limits"]["amount"]["min"] == 1.0


async def test_final_bars_are_exact_and_the_open_one_comes_last(
    venue: Sandbox, client: Any
) -> None:
    """The client's rows ascend, equal the tape to the last bit, and end with the forming bar."""
    rows = await client.fetch_ohlcv(SPOT_BTC, "1h", limit=500, since=open_time(0))
    panel = venue.options.tape.panel
    names = ("open", "high", "low", "close", "volume")
    stored = np.column_stack([getattr(panel, name)[:T0_BAR, 0] for name in names])
    assert [row[0] for row in rows] == [open_time(bar) for bar in range(T0_BAR + 1)]
    assert np.array_equal(np.array([row[1:] for row in rows[:-1]]), stored)
    assert rows[-1][5] < panel.volume[T0_BAR, 0]


async def test_a_missing_bar_is_absent(client: Any) -> None:
    """A bar that the tape lacks has no row."""
    start = open_time(MISSING_ETH_BAR - 1)
    rows = await client.fetch_ohlcv(SPOT_ETH, "1h", since=start, limit=2)
    assert start in [row[0] for row in rows]
    assert open_time(MISSING_ETH_BAR) not in [row[0] for row in rows]


async def test_an_unknown_symbol_is_the_venues_own_error(venue: Sandbox, client: Any) -> None:
    """Asking for what the venue does not know is a BadSymbol to the client."""
    binance = venue.options.tape.venue is Venue.BINANCE
    ask = client.publicGetKlines if binance else client.publicGetV5MarketKline
    query = {"symbol": "NOUSDT", "interval": "1h" if binance else "60", "category": "spot"}
    with pytest.raises(ccxt.BadSymbol):
        await ask(query)


async def test_tickers_quotes_and_book_agree(venue: Sandbox, client: Any) -> None:
    """Best bid and ask are the same in tickers, in the book and in the bulk call."""
    tickers = await client.fetch_tickers([SPOT_BTC, SPOT_SOL])
    book = await client.fetch_order_book(SPOT_BTC, 20)
    bulk = tickers
    if venue.options.tape.venue is Venue.BINANCE:
        bulk = await client.fetch_bids_asks([SPOT_BTC, SPOT_SOL])
    assert sorted(tickers) == sorted(bulk) == [SPOT_BTC, SPOT_SOL]
    for quoted in (tickers[SPOT_BTC], bulk[SPOT_BTC]):
        assert [quoted["bid"], quoted["ask"]] == [book["bids"][0][0], book["asks"][0][0]]
    assert quoted["ask"] - quoted["bid"] == pytest.approx(0.1)
    assert len(book["bids"]) == len(book["asks"]) == 20


async def test_the_day_ticker_spans_24_hours(venue: Sandbox, client: Any) -> None:
    """High and volume are those of the closed bars of the last day and the open one."""
    ticker = await client.fetch_ticker(SPOT_BTC)
    day = slice(T0_BAR - 23, T0_BAR)
    panel = venue.options.tape.panel
    assert ticker["high"] == panel.high[day, 0].max()
    assert ticker["baseVolume"] == pytest.approx(panel.volume[day, 0].sum(), rel=1e-3)


async def test_server_time_is_the_venues(venue: Sandbox, client: Any) -> None:
    """The server's time is just after the last close in lock-step."""
    assert await client.fetch_time() == venue.now() == T0 + 1500


async def test_watch_ohlcv_for_symbols_sees_the_close(venue: Sandbox, client: Any) -> None:
    """One subscription to two symbols delivers the exact final bar of each after a commit."""
    wanted = [[SPOT_BTC, "1h"], [SPOT_SOL, "1h"]]
    await client.watch_ohlcv_for_symbols(wanted)
    await commit(venue.url, T0)
    while not all(
        client.ohlcvs.get(symbol, {}).get("1h", [[0]])[-1][0] > T0 for symbol, _ in wanted
    ):
        await client.watch_ohlcv_for_symbols(wanted)
    panel = venue.options.tape.panel
    for symbol, _ in wanted:
        closed = next(row for row in client.ohlcvs[symbol]["1h"] if row[0] == T0)
        asset = SPOT_SYMBOLS.index(symbol)
        assert closed[4:] == [panel.close[T0_BAR, asset], panel.volume[T0_BAR, asset]]


async def test_watch_bids_asks(client: Any) -> None:
    """The client's own subscription to best quotes is answered under the spot symbol."""
    quotes = await client.watch_bids_asks([SPOT_BTC])
    assert quotes[SPOT_BTC]["bid"] < quotes[SPOT_BTC]["ask"]


async def test_binance_cuts_rows_to_the_limit_and_states_the_weight() -> None:
    """1001 rows are cut to 1000, not refused; klines weigh 2, the 24-hour ticker of all 80."""
    async with sandbox(Venue.BINANCE) as venue:
        path = "/api/v3/klines?symbol=BTCUSDT&interval=1h&limit=1001"
        status, rows, headers = await get(venue.url, path)
        _, tickers, after = await get(venue.url, "/api/v3/ticker/24hr")
    assert (status, len(rows)) == (200, T0_BAR + 1)
    assert (headers["X-MBX-USED-WEIGHT-1M"], after["X-MBX-USED-WEIGHT-1M"]) == ("2", "82")
    assert tickers[0]["closeTime"] - tickers[0]["openTime"] == DAY_MS


async def test_binance_streams_have_no_event_names() -> None:
    """Best quotes and partial depth carry ``u`` and ``lastUpdateId`` instead of ``e``."""
    async with (
        sandbox(Venue.BINANCE) as venue,
        raw_socket(venue.url, "/stream?streams=btcusdt@bookTicker/btcusdt@depth5@100ms") as socket,
    ):
        quotes, depth = await receive(socket), await receive(socket)
    assert list(quotes["data"]) == ["u", "s", "b", "B", "a", "A"]
    assert list(depth["data"]) == ["lastUpdateId", "bids", "asks"]
    assert [quotes["data"]["b"], quotes["data"]["B"]] == depth["data"]["bids"][0]
    assert len(depth["data"]["asks"]) == 5


async def test_bybit_rows_run_backward_and_other_categories_are_refused() -> None:
    """Spot klines are newest first; the linear category holds nothing here, spot no funding."""
    async with sandbox(Venue.BYBITSPOT) as venue:
        _, answered, headers = await get(venue.url, f"{BYBIT_KLINE}&limit=3")
        _, linear, _ = await get(venue.url, BYBIT_KLINE.replace("spot", "linear"))
        path = "/v5/market/funding/history?category=spot&symbol=BTCUSDT"
        _, funding, _ = await get(venue.url, path)
    times = [int(row[0]) for row in answered["result"]["list"]]
    assert times == [T0, T0 - HOUR_MS, T0 - 2 * HOUR_MS]
    assert answered["result"]["category"] == "spot"
    assert (linear["retCode"], funding["retCode"]) == (10001, 10001)
    assert headers["X-Bapi-Limit-Status"] == "599"


async def test_bybit_spot_tickers_push_no_quotes() -> None:
    """Over the socket a spot ticker has the index price and neither bid nor funding."""
    async with (
        sandbox(Venue.BYBITSPOT) as venue,
        raw_socket(venue.url, "/v5/public/spot") as socket,
    ):
        await socket.send_json({"op": "subscribe", "args": ["tickers.BTCUSDT"]})
        assert (await receive(socket))["success"] is True
        ticker = (await receive(socket))["data"]
    assert "usdIndexPrice" in ticker
    assert not {"bid1Price", "fundingRate", "markPrice", "prevPrice1h"} & ticker.keys()
