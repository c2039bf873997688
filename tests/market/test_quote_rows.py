"""Tickers and order books as the venues write them: what is not given is unknown, never zero."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.quote import OrderBook, Quote
from market.quote_rows import binance_book, binance_quote, by_symbol, bybit_book, bybit_quote
from market.rows import RowMalformed
from tests.market.test_sandbox_payloads import captured

NOW = 1_767_225_600_000
BTC = "BTC/USDT:USDT"
QUOTED = ("bid", "bid_quantity", "ask", "ask_quantity")
OF_PERPETUALS = ("mark_price", "index_price", "predicted_funding_rate", "next_funding_time")

TOP = {
    "symbol": "BTCUSDT",
    "bidPrice": "4.00000000",
    "bidQty": "431.00000000",
    "askPrice": "4.00000200",
    "askQty": "9.00000000",
}
PREMIUM = {
    "symbol": "BTCUSDT",
    "markPrice": "11793.63104562",
    "indexPrice": "11781.80495970",
    "lastFundingRate": "0.00038246",
    "nextFundingTime": 1597392000000,
    "time": 1597370495002,
}
TICKER = {
    "symbol": "BTCUSDT",
    "bid1Price": "16596.00",
    "bid1Size": "1",
    "ask1Price": "16597.50",
    "ask1Size": "0.5",
    "markPrice": "16596.20",
    "indexPrice": "16598.54",
    "fundingRate": "0.0001",
    "nextFundingTime": "1672387200000",
}


def read_binance_book(answer: object) -> OrderBook:
    """Read an answer of ``depth``."""
    return binance_book(BTC, answer, decision_time=NOW, available_at=NOW + 9)


def read_bybit_book(answer: object) -> OrderBook:
    """Read the result of ``orderbook``."""
    return bybit_book(BTC, answer, decision_time=NOW, available_at=NOW + 9)


# Quotes, worked out by hand


def test_binances_two_answers_become_one_quote() -> None:
    """Best bid and ask of the one, mark, index and funding of the other."""
    assert binance_quote(TOP | {"time": 1589437530011}, PREMIUM, available_at=NOW) == Quote(
        symbol="BTCUSDT",
        event_time=1589437530011,
        available_at=NOW,
        bid=4.0,
        bid_quantity=431.0,
        ask=4.000002,
        ask_quantity=9.0,
        mark_price=11793.63104562,
        index_price=11781.8049597,
        predicted_funding_rate=0.00038246,
        next_funding_time=1597392000000,
    )


def test_binances_spot_quote_has_neither_time_nor_mark() -> None:
    """The moment it was received stands in for its time."""
    quote = binance_quote(TOP, {}, available_at=NOW)
    assert (quote.event_time, quote.bid, quote.ask) == (NOW, 4.0, 4.000002)
    assert [getattr(quote, name) for name in OF_PERPETUALS] == [None] * 4


def test_bybits_ticker_is_a_quote() -> None:
    """Its numbers are text, the time is that of the answer."""
    assert bybit_quote(TICKER, event_time=NOW - 5, available_at=NOW) == Quote(
        symbol="BTCUSDT",
        event_time=NOW - 5,
        available_at=NOW,
        bid=16596.0,
        bid_quantity=1.0,
        ask=16597.5,
        ask_quantity=0.5,
        mark_price=16596.2,
        index_price=16598.54,
        predicted_funding_rate=0.0001,
        next_funding_time=1672387200000,
    )


@pytest.mark.parametrize("nothing", ["", None, "NaN", "null", {}])
def test_what_is_empty_is_unknown(nothing: object) -> None:
    """Empty text, null and what is no number become ``None``, for every field of both venues."""
    empty_top = dict.fromkeys(TOP, nothing) | {"symbol": "BTCUSDT"}
    empty_premium = dict.fromkeys(PREMIUM, nothing)
    empty_ticker = dict.fromkeys(TICKER, nothing) | {"symbol": "BTCUSDT"}
    for quote in (
        binance_quote(empty_top, empty_premium, available_at=NOW),
        bybit_quote(empty_ticker, event_time=NOW, available_at=NOW),
    ):
        assert [getattr(quote, name) for name in (*QUOTED, *OF_PERPETUALS)] == [None] * 8
        assert quote.event_time == NOW


def test_a_symbol_that_never_settles_has_no_next_time() -> None:
    """Dated futures have nextFundingTime 0, which is no time."""
    assert (
        binance_quote(TOP, PREMIUM | {"nextFundingTime": 0}, available_at=NOW).next_funding_time
        is None
    )
    ticker = TICKER | {"nextFundingTime": "0"}
    assert bybit_quote(ticker, event_time=NOW, available_at=NOW).next_funding_time is None


def test_a_rate_of_zero_is_a_rate() -> None:
    """Zero that the venue says is not nothing."""
    premium = PREMIUM | {"lastFundingRate": "0.00000000"}
    assert binance_quote(TOP, premium, available_at=NOW).predicted_funding_rate == 0.0


def test_tickers_are_found_by_their_symbol() -> None:
    """What names no symbol is left out; what is no list is malformed."""
    assert set(by_symbol([TOP, TICKER | {"symbol": "ETHUSDT"}, {}, None, {"symbol": ""}])) == {
        "BTCUSDT",
        "ETHUSDT",
    }
    for answer in (None, {}, "", TOP):
        with pytest.raises(RowMalformed):
            by_symbol(answer)


# Books

BINANCE_BOOK = {
    "lastUpdateId": 1027024,
    "E": 1589436922972,
    "T": 1589436922959,
    "bids": [["4.00000000", "431.00000000"], ["3.99", "1"]],
    "asks": [["4.00000200", "12.00000000"]],
}
BYBIT_BOOK = {
    "s": "BTCUSDT",
    "b": [["16638.64", "0.008479"]],
    "a": [["16638.65", "1"], ["16640", "2"]],
    "ts": 1672765737733,
    "u": 5277055,
}


def test_a_binance_book_is_read() -> None:
    """Levels in their order, the update's number, the venue's time."""
    assert read_binance_book(BINANCE_BOOK) == OrderBook(
        symbol=BTC,
        decision_time=NOW,
        event_time=1589436922972,
        available_at=NOW + 9,
        update_id=1027024,
        bids=((4.0, 431.0), (3.99, 1.0)),
        asks=((4.000002, 12.0),),
    )


def test_a_bybit_book_is_read() -> None:
    """The same under other names."""
    book = read_bybit_book(BYBIT_BOOK)
    assert (book.event_time, book.update_id) == (1672765737733, 5277055)
    assert (book.bids, book.asks) == (((16638.64, 0.008479),), ((16638.65, 1.0), (16640.0, 2.0)))


def test_a_spot_book_without_a_time_has_that_of_its_arrival() -> None:
    """Binance spot's depth has no E."""
    spot = {name: BINANCE_BOOK[name] for name in ("lastUpdateId", "bids", "asks")}
    assert read_binance_book(spot).event_time == NOW + 9


def test_an_empty_side_is_a_book() -> None:
    """A market without sellers is a fact, not a fault."""
    assert read_binance_book(BINANCE_BOOK | {"asks": []}).asks == ()


BAD_LEVELS: list[Any] = [
    None, {}, "", [None], ["4.0"], [[]], [["4.0"]], [["", "1"]], [["4.0", ""]], [["4.0", None]],
    [["NaN", "1"]], [["inf", "1"]], [["4.0", "inf"]], [["0", "1"]], [["-1", "1"]], [["4.0", "-1"]],
]  # fmt: skip


@pytest.mark.parametrize("levels", BAD_LEVELS, ids=repr)
def test_a_malformed_level_spoils_the_book(levels: object) -> None:
    """A book with a hole could not recompute a fill: it is refused whole, on both sides."""
    for side in ("bids", "asks"):
        with pytest.raises(RowMalformed):
            read_binance_book(BINANCE_BOOK | {side: levels})
    for side in ("b", "a"):
        with pytest.raises(RowMalformed):
            read_bybit_book(BYBIT_BOOK | {side: levels})


@pytest.mark.parametrize(
    ("bids", "asks"),
    [
        ([["4.0", "1"]], [["4.0", "1"]]),
        ([["4.1", "1"]], [["4.0", "1"]]),
        ([["3.9", "1"], ["4.0", "1"]], [["4.1", "1"]]),
        ([["4.0", "1"]], [["4.2", "1"], ["4.1", "1"]]),
        ([["4.0", "1"], ["4.0", "2"]], [["4.1", "1"]]),
    ],
    ids=["locked", "crossed", "bids ascend", "asks descend", "price twice"],
)
def test_a_crossed_or_unsorted_book_is_malformed(bids: object, asks: object) -> None:
    """A snapshot of a matching engine cannot be crossed, and its best level comes first."""
    with pytest.raises(RowMalformed):
        read_binance_book(BINANCE_BOOK | {"bids": bids, "asks": asks})
    with pytest.raises(RowMalformed):
        read_bybit_book(BYBIT_BOOK | {"b": bids, "a": asks})


@pytest.mark.parametrize("answer", [None, [], "", 7, [["4.0", "1"]]])
def test_what_is_no_book_is_malformed(answer: object) -> None:
    """HTML, null or a list instead of an object."""
    with pytest.raises(RowMalformed):
        read_binance_book(answer)
    with pytest.raises(RowMalformed):
        read_bybit_book(answer)


@given(
    bids=st.lists(st.floats(1e-9, 1e9), unique=True, max_size=8),
    gap=st.floats(1e-3, 1e9),
)
def test_any_sorted_book_is_read_exactly(bids: list[float], gap: float) -> None:
    """Text in, the same float out, level by level."""
    bids = sorted(bids, reverse=True)
    ask = (bids[0] if bids else 1.0) + gap
    rows = [[repr(price), "0.5"] for price in bids]
    book = read_binance_book(BINANCE_BOOK | {"bids": rows, "asks": [[repr(ask), "2"]]})
    assert [price for price, _ in book.bids] == bids
    assert book.asks == ((ask, 2.0),)


# Real payloads


def check_book(book: OrderBook, levels: int) -> None:
    """A real book is uncrossed and sorted."""
    assert len(book.bids) >= levels
    assert len(book.asks) >= levels
    assert book.bids[0][0] < book.asks[0][0]
    assert sorted(book.bids, reverse=True) == list(book.bids)
    assert sorted(book.asks) == list(book.asks)


@pytest.mark.parametrize(
    "name",
    [
        "binance_usdm/rest_depth_SUSHIUSDT_limit1000.json",
        "binance_spot/rest_depth_RUNEEUR_limit1000.json",
    ],
)
def test_a_captured_binance_book_is_read(name: str) -> None:
    """Every level of a real depth, in its order."""
    answer: Any = captured(name)
    book = read_binance_book(answer)
    check_book(book, 100)
    assert len(book.bids) == len(answer["bids"])
    assert book.bids[0] == (float(answer["bids"][0][0]), float(answer["bids"][0][1]))
    assert book.update_id == answer["lastUpdateId"]


def test_a_documented_bybit_book_is_read() -> None:
    """Bybit's own example."""
    check_book(read_bybit_book(captured("bybit_v5_docstyle/http_get_orderbook.json")["result"]), 1)


def test_a_captured_premium_is_read() -> None:
    """Mark, index, rate and next settlement of a real premiumIndex."""
    premium = captured("rest_captured_2026-09-30/fapi_v1_premiumIndex_BTCUSDT.json")
    quote = binance_quote(TOP, premium, available_at=NOW)
    assert quote.mark_price == float(premium["markPrice"])
    assert quote.index_price == float(premium["indexPrice"])
    assert quote.predicted_funding_rate == float(premium["lastFundingRate"])
    assert quote.next_funding_time == premium["nextFundingTime"]


@pytest.mark.parametrize(
    "name",
    [
        "binance_docstyle/http_futures_market_book_ticker.json",
        "binance_docstyle/spot_http/book_ticker_response.json",
    ],
)
def test_a_documented_book_ticker_is_read(name: str) -> None:
    """Binance's own examples, of futures and spot."""
    answer = captured(name)
    top = answer[0] if isinstance(answer, list) else answer
    quote = binance_quote(top, {}, available_at=NOW)
    assert (quote.bid, quote.ask) == (float(top["bidPrice"]), float(top["askPrice"]))
    assert quote.event_time == top.get("time", NOW)
