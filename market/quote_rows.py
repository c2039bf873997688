"""What the venues' tickers and order books mean: raw JSON values in, quotes and books out.

Pure functions. A field that a venue leaves out, sends empty or as null becomes ``None``, not 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import pairwise

from market.quote import Level, OrderBook, Quote
from market.rows import RowMalformed, number, optional_number, time_ms

Fields = Mapping[str, object]


def by_symbol(rows: object) -> dict[str, Fields]:
    """Index a list of tickers by the venue's symbol; what is no ticker is left out.

    Raises:
        RowMalformed: ``rows`` is no list.
    """
    if not isinstance(rows, list):
        raise RowMalformed(f"{str(rows)[:80]!r} is no list of tickers")
    tickers = (row for row in rows if isinstance(row, dict))
    return {str(row["symbol"]): row for row in tickers if row.get("symbol")}


def binance_quote(top: Fields, premium: Fields, *, available_at: int) -> Quote:
    """Join ``ticker/bookTicker`` and ``premiumIndex`` (empty for spot) of one symbol.

    Spot's book ticker has no time; the moment it was received stands in for it.
    """
    stamp = optional_number(top.get("time"))
    following = optional_number(premium.get("nextFundingTime"))
    return Quote(
        symbol=str(top["symbol"]),
        event_time=available_at if stamp is None else int(stamp),
        available_at=available_at,
        bid=optional_number(top.get("bidPrice")),
        bid_quantity=optional_number(top.get("bidQty")),
        ask=optional_number(top.get("askPrice")),
        ask_quantity=optional_number(top.get("askQty")),
        mark_price=optional_number(premium.get("markPrice")),
        index_price=optional_number(premium.get("indexPrice")),
        predicted_funding_rate=optional_number(premium.get("lastFundingRate")),
        next_funding_time=int(following) if following else None,
    )


def bybit_quote(ticker: Fields, *, event_time: int, available_at: int) -> Quote:
    """Read one of ``/v5/market/tickers``; spot tickers lack mark, index and funding."""
    following = optional_number(ticker.get("nextFundingTime"))
    return Quote(
        symbol=str(ticker["symbol"]),
        event_time=event_time,
        available_at=available_at,
        bid=optional_number(ticker.get("bid1Price")),
        bid_quantity=optional_number(ticker.get("bid1Size")),
        ask=optional_number(ticker.get("ask1Price")),
        ask_quantity=optional_number(ticker.get("ask1Size")),
        mark_price=optional_number(ticker.get("markPrice")),
        index_price=optional_number(ticker.get("indexPrice")),
        predicted_funding_rate=optional_number(ticker.get("fundingRate")),
        next_funding_time=int(following) if following else None,
    )


def binance_book(
    symbol: str, answer: object, *, decision_time: int, available_at: int
) -> OrderBook:
    """Read ``depth``; spot gives no time, so the moment it was received stands in for it.

    Raises:
        RowMalformed: it is no order book.
    """
    fields = _fields(answer)
    book = OrderBook(
        symbol=symbol,
        decision_time=decision_time,
        event_time=time_ms(fields.get("E") or available_at),
        available_at=available_at,
        update_id=time_ms(fields.get("lastUpdateId")),
        bids=_levels(fields.get("bids")),
        asks=_levels(fields.get("asks")),
    )
    return _sound(book)


def bybit_book(symbol: str, answer: object, *, decision_time: int, available_at: int) -> OrderBook:
    """Read ``result`` of ``/v5/market/orderbook``.

    Raises:
        RowMalformed: it is no order book.
    """
    fields = _fields(answer)
    book = OrderBook(
        symbol=symbol,
        decision_time=decision_time,
        event_time=time_ms(fields.get("ts")),
        available_at=available_at,
        update_id=time_ms(fields.get("u")),
        bids=_levels(fields.get("b")),
        asks=_levels(fields.get("a")),
    )
    return _sound(book)


def _sound(book: OrderBook) -> OrderBook:
    """Return a book whose prices rise from the worst bid through the best to the worst ask."""
    rising = [price for price, _ in (*reversed(book.bids), *book.asks)]
    if any(below >= above for below, above in pairwise(rising)):
        raise RowMalformed(f"{book.symbol}: the order book is crossed or out of order")
    return book


def _fields(answer: object) -> Fields:
    if not isinstance(answer, dict):
        raise RowMalformed(f"{str(answer)[:80]!r} is no order book")
    return answer


def _levels(rows: object) -> tuple[Level, ...]:
    if not isinstance(rows, list):
        raise RowMalformed(f"{str(rows)[:80]!r} are no price levels")
    return tuple(_known_levels(rows))


def _known_levels(rows: Iterable[object]) -> Iterable[Level]:
    for row in rows:
        if not isinstance(row, list) or len(row) < 2:
            raise RowMalformed(f"{str(row)[:80]!r} is no price level")
        price, quantity = number(row[0]), number(row[1])
        if not (0 < price < math.inf and 0 <= quantity < math.inf):
            raise RowMalformed(f"{row!r} is no price level")
        yield price, quantity
