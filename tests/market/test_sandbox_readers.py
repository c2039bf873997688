"""Real payloads and the sandbox's, read by the same code: our readers and ccxt's parsers.

What a reader makes of both must know the same things: a field that a real payload fills must not
stay unknown in ours, nor the other way round. The one exception is named where it occurs.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields
from typing import Any

import ccxt
import pytest

from market.bar import HOUR_MS
from market.instrument import Venue
from market.quote_rows import binance_book, binance_quote, bybit_book, bybit_quote
from market.rows import (
    binance_bar,
    binance_instrument,
    binance_settlement,
    binance_stream,
    bybit_bar,
    bybit_instrument,
    bybit_settlement,
    bybit_spot_instrument,
    bybit_stream,
    mark_bar,
)
from market.sandbox.binance_spot import BinanceSpot
from market.sandbox.binance_usdm import BinanceUsdm
from market.sandbox.bybit import Bybit
from market.sandbox.dialect import Dialect
from market.sandbox.playback import Playback
from tests.market.sandbox_client import T0
from tests.market.small_tape import small_tape
from tests.market.test_sandbox_payloads import captured

NOW = T0 + 1_500
SYMBOL = "BTC/USDT:USDT"


def dialect(venue: Venue) -> Dialect:
    """Return the dialect of the small tape."""
    playback = Playback(small_tape(venue))
    if venue is Venue.BINANCEUSDM:
        return BinanceUsdm(playback)
    return BinanceSpot(playback) if venue is Venue.BINANCE else Bybit(playback)


def ask(venue: Venue, path: str, **query: str) -> Any:
    """Return what the sandbox answers just after T0."""
    reply = dialect(venue).answer(path, {"symbol": "BTCUSDT", **query}, now=NOW)
    assert reply is not None
    assert reply.status == 200
    return json.loads(reply.body)


def frame(venue: Venue, topic: str, *, final: bool) -> Any:
    """Return the closing frame of the bar before T0, or the update at T0."""
    spoken = dialect(venue)
    text = (
        spoken.final_frame(topic, T0 - HOUR_MS, now=NOW)
        if final
        else spoken.update_frame(topic, now=NOW)
    )
    assert text is not None
    return json.loads(text)


def known(value: Any) -> set[str]:
    """Return the fields of a value that are neither ``None`` nor NaN nor empty."""
    names = [one.name for one in fields(value)]
    read = {name: getattr(value, name) for name in names}
    return {
        name
        for name, one in read.items()
        if one not in (None, ()) and not (isinstance(one, float) and math.isnan(one))
    }


def present(parsed: dict[str, Any]) -> set[str]:
    """Return the keys of a ccxt structure that it could fill, the raw payload aside."""
    return {name for name, value in parsed.items() if value is not None} - {"info"}


@pytest.mark.parametrize(
    ("venue", "name", "path"),
    [
        (Venue.BINANCEUSDM, "rest_captured_2026-08-15/binance_candles.json", "/fapi/v1/klines"),
        (Venue.BINANCE, "binance_docstyle/http_spot_market_klines.json", "/api/v3/klines"),
    ],
)
def test_binance_klines(venue: Venue, name: str, path: str) -> None:
    """Both rows become a bar; only the taker-buy quote volume, which no tape has, is unknown."""
    real, ours = captured(name)[0], ask(venue, path, interval="1h", limit="2")[0]
    theirs, mine = binance_bar(SYMBOL, real), binance_bar(SYMBOL, ours)
    assert known(theirs) - known(mine) == {"taker_buy_quote_volume"}
    assert known(mine) <= known(theirs)
    client = ccxt.binance()
    parsed = [client.parse_ohlcv(row) for row in (real, ours)]
    assert [len([cell for cell in row if cell is not None]) for row in parsed] == [6, 6]


@pytest.mark.parametrize(
    ("venue", "category"), [(Venue.BYBIT, "linear"), (Venue.BYBITSPOT, "spot")]
)
def test_bybit_klines(venue: Venue, category: str) -> None:
    """Both rows become a bar with turnover and without trade count."""
    real = captured("rest_captured_2026-08-15/bybit_candles.json")["result"]["list"]
    asked = {"category": category, "interval": "60", "limit": "2"}
    ours = ask(venue, "/v5/market/kline", **asked)["result"]["list"]
    assert known(bybit_bar(SYMBOL, real[0])) == known(bybit_bar(SYMBOL, ours[0]))
    for rows in (real, ours):
        assert bybit_bar(SYMBOL, rows[0]).open_time > bybit_bar(SYMBOL, rows[1]).open_time
    parsed = [ccxt.bybit().parse_ohlcv(row) for row in (real[0], ours[0])]
    assert [len([cell for cell in row if cell is not None]) for row in parsed] == [6, 6]


def test_binance_mark_klines() -> None:
    """Both rows become a mark candle."""
    real = captured("binance_docstyle/http_futures_market_mark_price_klines.json")[0]
    ours = ask(Venue.BINANCEUSDM, "/fapi/v1/markPriceKlines", interval="1h", limit="2")[0]
    assert known(mark_bar(SYMBOL, real)) == known(mark_bar(SYMBOL, ours))


def test_settlements() -> None:
    """Binance's settlements state their mark, Bybit's do not."""
    real = captured("rest_captured_2026-08-15/binance_funding.json")[0]
    ours = ask(Venue.BINANCEUSDM, "/fapi/v1/fundingRate", limit="2")[0]
    theirs, mine = binance_settlement(SYMBOL, real), binance_settlement(SYMBOL, ours)
    assert known(theirs) == known(mine)
    assert theirs.mark_source is mine.mark_source
    real = captured("rest_captured_2026-08-15/bybit_funding.json")["result"]["list"][0]
    path = "/v5/market/funding/history"
    ours = ask(Venue.BYBIT, path, category="linear", limit="2")["result"]["list"][0]
    assert known(bybit_settlement(SYMBOL, real)) == known(bybit_settlement(SYMBOL, ours))


def test_quotes() -> None:
    """Best quotes joined with the premium index know mark, index and predicted funding."""
    top = captured("binance_docstyle/http_futures_market_book_ticker.json")
    premium = captured("rest_captured_2026-09-30/fapi_v1_premiumIndex_BTCUSDT.json")
    real = binance_quote(top, premium, available_at=NOW)
    ours = binance_quote(
        ask(Venue.BINANCEUSDM, "/fapi/v1/ticker/bookTicker"),
        ask(Venue.BINANCEUSDM, "/fapi/v1/premiumIndex"),
        available_at=NOW,
    )
    assert known(real) == known(ours)
    assert "predicted_funding_rate" in known(ours)
    parsed = [
        ccxt.binanceusdm().parse_funding_rate(one)
        for one in (premium, ask(Venue.BINANCEUSDM, "/fapi/v1/premiumIndex"))
    ]
    assert present(parsed[0]) == present(parsed[1])


def test_bybit_quotes() -> None:
    """A linear ticker fills every field of a quote, as a documented one does."""
    ticker = captured("bybit_v5_docstyle/ws_ticker_linear.json")["data"]
    ours = ask(Venue.BYBIT, "/v5/market/tickers", category="linear")["result"]["list"][0]
    read = [bybit_quote(one, event_time=NOW, available_at=NOW) for one in (ticker, ours)]
    assert known(read[0]) == known(read[1])
    parsed = [ccxt.bybit().parse_ticker(one) for one in (ticker, ours)]
    assert present(parsed[0]) == present(parsed[1])


def test_spot_quotes_know_bid_and_ask_alone() -> None:
    """A spot quote has neither mark, index nor funding, on either exchange."""
    real = captured("binance_docstyle/http_spot_market_book_ticker.json")
    ours = ask(Venue.BINANCE, "/api/v3/ticker/bookTicker")
    read = [binance_quote(one, {}, available_at=NOW) for one in (real, ours)]
    ticker = ask(Venue.BYBITSPOT, "/v5/market/tickers", category="spot")["result"]["list"][0]
    read.append(bybit_quote(ticker, event_time=NOW, available_at=NOW))
    assert known(read[0]) == known(read[1]) == known(read[2])
    assert not {"mark_price", "index_price", "predicted_funding_rate"} & known(read[0])


@pytest.mark.parametrize(
    ("venue", "name", "path"),
    [
        (Venue.BINANCEUSDM, "binance_usdm/rest_depth_SUSHIUSDT_limit1000.json", "/fapi/v1/depth"),
        (Venue.BINANCE, "binance_spot/rest_depth_RUNEEUR_limit1000.json", "/api/v3/depth"),
    ],
)
def test_binance_books(venue: Venue, name: str, path: str) -> None:
    """Both answers become a book: bids falling, asks rising, an update id."""
    for answer in (captured(name), ask(venue, path, limit="100")):
        book = binance_book(SYMBOL, answer, decision_time=NOW, available_at=NOW)
        bids, asks = [price for price, _ in book.bids], [price for price, _ in book.asks]
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert bids[0] < asks[0]
        assert book.update_id is not None
        assert book.update_id > 0
        parsed = ccxt.binance().parse_order_book(answer, SYMBOL)
        assert [parsed["bids"][0][0], parsed["asks"][0][0]] == [bids[0], asks[0]]


@pytest.mark.parametrize(
    ("venue", "category"), [(Venue.BYBIT, "linear"), (Venue.BYBITSPOT, "spot")]
)
def test_bybit_books(venue: Venue, category: str) -> None:
    """Both answers become a book with the venue's own time."""
    real = captured("bybit_v5_docstyle/http_get_orderbook.json")["result"]
    ours = ask(venue, "/v5/market/orderbook", category=category, limit="50")["result"]
    read = [bybit_book(SYMBOL, one, decision_time=0, available_at=0) for one in (real, ours)]
    assert known(read[0]) == known(read[1])
    assert [len(book.bids) for book in read] == [3, 50]


def test_binance_frames() -> None:
    """A closing frame becomes one final bar, a forming one none, real or ours."""
    closed = captured("ws_captured_misc/binance_usdm_kline_closed_BTCUSDT_2026-10-05.json")
    opened = captured("binance_usdm/ws_kline_open.jsonl")["msg"]["data"]
    real = binance_stream(closed["data"], {"BTCUSDT": SYMBOL}, closed["data"]["k"]["i"])
    topic = "btcusdt@kline_1h"
    final = frame(Venue.BINANCEUSDM, topic, final=True)
    ours = binance_stream(final, {"BTCUSDT": SYMBOL}, "1h")
    assert known(real.final_bars[0]) - known(ours.final_bars[0]) == {"taker_buy_quote_volume"}
    forming = frame(Venue.BINANCEUSDM, topic, final=False)
    for message in (opened, forming):
        name, interval = message["s"], message["k"]["i"]
        assert binance_stream(message, {name: SYMBOL}, interval).final_bars == ()


def test_bybit_frames() -> None:
    """A confirmed kline becomes one final bar, an open one none, real or ours."""
    name = "ws_captured_misc/bybit_v5_kline_open_BTCUSDT_2024-06-29.json"
    real = captured(name)
    interval = real["topic"].split(".")[1]
    confirmed = real | {"data": [real["data"][0] | {"confirm": True}]}
    topic = "kline.60.BTCUSDT"
    final, forming = (frame(Venue.BYBIT, topic, final=one) for one in (True, False))
    read = [
        bybit_stream(message, {"BTCUSDT": SYMBOL}, name)
        for message, name in ((confirmed, interval), (final, "60"))
    ]
    assert known(read[0].final_bars[0]) == known(read[1].final_bars[0])
    assert bybit_stream(real, {"BTCUSDT": SYMBOL}, interval).final_bars == ()
    assert bybit_stream(forming, {"BTCUSDT": SYMBOL}, "60").final_bars == ()


def test_binance_usdm_rules() -> None:
    """Ccxt and our reader give the tape's rules back, and read the captured ones."""
    real = captured("rest_captured_2026-09-30/fapi_v1_exchangeInfo_BTC_ETH.json")["symbols"][0]
    ours = ask(Venue.BINANCEUSDM, "/fapi/v1/exchangeInfo")["symbols"][0]
    client = ccxt.binanceusdm()
    theirs, mine = (binance_instrument(client.parse_market(one), 480) for one in (real, ours))
    assert mine == small_tape(Venue.BINANCEUSDM).instruments[0]
    assert (str(theirs.tick_size), str(theirs.min_notional)) == ("0.10", "50")
    assert known(theirs) == known(mine)


def test_binance_spot_rules() -> None:
    """The notional filter is read under both its names, the captured and the present one."""
    real = captured("binance_spot/rest_exchangeInfo_majors_2021-10-12.json")["symbols"][0]
    ours = ask(Venue.BINANCE, "/api/v3/exchangeInfo")["symbols"][0]
    # What ccxt would have fetched with a key.
    client = ccxt.binance({"options": {"crossMarginPairsData": [], "isolatedMarginPairsData": []}})
    theirs, mine = (binance_instrument(client.parse_market(one), None) for one in (real, ours))
    assert mine == small_tape(Venue.BINANCE).instruments[0]
    assert theirs.min_notional == 10
    assert known(theirs) == known(mine)


def test_bybit_rules() -> None:
    """Linear and spot rules read as a captured and a documented payload do."""
    read = (
        (Venue.BYBIT, "linear", bybit_instrument,
         "rest_captured_misc/bybit_v5_instruments-info_linear_BTCUSDT_2023-10-02.json"),
        (Venue.BYBITSPOT, "spot", bybit_spot_instrument,
         "bybit_v5_docstyle/http_get_instruments_spot.json"),
    )  # fmt: skip
    for venue, category, reader, name in read:
        path = "/v5/market/instruments-info"
        ours = ask(venue, path, category=category)["result"]["list"][0]
        real = captured(name)["result"]["list"][0]
        tape_rules = small_tape(venue).instruments[0]
        names = {"symbol": tape_rules.symbol, "id": "BTCUSDT", "base": "BTC", "quote": "USDT"}
        theirs, mine = (reader(names | {"info": one}) for one in (real, ours))
        assert mine == tape_rules
        assert known(theirs) == known(mine)
