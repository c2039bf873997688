"""How each assumption about a venue is tried: one request or a few, and what was seen.

A trial judges only what its assumption says; an answer that cannot be read raises what reading it
raised, and the caller calls that a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from daemon.doctor import Observation
from daemon.doctor_venue import VenueProbe
from daemon.doctor_wire import has_funding, market_id_of
from market.bar import MINUTE_MS, Bar, bar_defect
from market.clock import WallClock, monotonic_seconds
from market.instrument import Instrument
from market.quote import OrderBook, Quote
from market.retry import VenueUnavailable
from market.rows import binance_bar, bybit_bar

SKEW_MS = 1_000
BOOK_LEVELS = 20
SETTLEMENTS_ASKED = 5
MARKS_COMPARED = 10


async def answers(probe: VenueProbe, *, name: str) -> Observation:
    """Ask for the least that the path can answer."""
    answer = await probe.line.ask(name, _least_query(probe, name))
    if answer.status != 200:
        found = f"HTTP {answer.status}: {str(answer.document)[:200]}"
        return Observation(holds=False, found=found)
    content = probe.line.wire.content(answer.document)
    if name == "time":
        probe.line.wire.time(answer.document)
    may_be_empty = name == "funding info"
    holds = isinstance(content, list | dict) and (bool(content) or may_be_empty)
    return Observation(holds=holds, found="answers" if holds else f"{str(content)[:80]!r}")


def _least_query(probe: VenueProbe, name: str) -> dict[str, Any]:
    if name in ("time", "instruments", "funding info"):
        return {}
    if name in ("klines", "mark klines"):
        return dict(probe.line.candle_query(probe.market_id, probe.interval_ms, 2))
    limit = {"funding history": 1, "depth": 5}.get(name)
    return {"symbol": probe.market_id} | ({} if limit is None else {"limit": limit})


async def kline_fields(probe: VenueProbe) -> Observation:
    """Read the first page cell by cell."""
    wire = probe.line.wire
    _, before, rows = await probe.page()
    wrong = [row for row in rows if not isinstance(row, list) or len(row) != wire.row_fields]
    if wrong:
        cells = len(wrong[0]) if isinstance(wrong[0], list) else "no"
        return Observation(holds=False, found=f"{len(wrong)} rows of {cells} cells")
    bars = [_bar(probe, row) for row in rows]
    closed = [bar for bar in bars if bar.open_time + probe.interval_ms <= before]
    defects = {defect.value for bar in closed if (defect := bar_defect(bar, probe.interval_ms))}
    unread = any(None in _optional(bar, probe) for bar in closed)
    if defects or unread:
        found = ", ".join(sorted(defects)) or "a volume that is no number"
        return Observation(holds=False, found=found)
    return Observation(holds=True, found=f"{len(closed)} sound rows of {wire.row_fields} cells")


def _optional(bar: Bar, probe: VenueProbe) -> tuple[object, ...]:
    if probe.line.wire.is_enveloped:
        return (bar.quote_volume,)
    return (bar.quote_volume, bar.trades, bar.taker_buy_volume)  # what features are made of


def _bar(probe: VenueProbe, row: object) -> Bar:
    read = bybit_bar if probe.line.wire.is_enveloped else binance_bar
    return read(probe.symbols[0], row)


def _times(rows: Sequence[Any]) -> list[int]:
    return [int(row[0]) for row in rows]


async def kline_order(probe: VenueProbe) -> Observation:
    """Look at the order of the first page."""
    times = _times((await probe.page())[2])
    found = (
        "ascending"
        if times == sorted(times)
        else "descending"
        if times == sorted(times, reverse=True)
        else "in no order"
    )
    wanted = "ascending" if probe.line.wire.ascending else "descending"
    return Observation(holds=found == wanted, found=found)


async def kline_limit(probe: VenueProbe) -> Observation:
    """Ask for as many rows as allowed, and for one more."""
    most, interval_ms = probe.line.wire.most_rows, probe.short_interval_ms
    rows = await probe.line.candles("klines", probe.market_id, interval_ms, limit=most)
    more = await probe.line.ask(
        "klines", probe.line.candle_query(probe.market_id, interval_ms, most + 1)
    )
    if more.status != 200:
        beyond, is_refused = f"refused with HTTP {more.status}", True
    else:
        beyond, is_refused = f"{len(probe.line.wire.content(more.document))} rows", False
    as_documented = is_refused if probe.line.wire.refuses_more else beyond == f"{len(rows)} rows"
    whole = len(rows) == most or await _is_everything(probe, min(_times(rows)))
    found = f"{len(rows)} rows; for {most + 1}: {beyond}"
    return Observation(holds=whole and as_documented, found=found)


async def _is_everything(probe: VenueProbe, oldest: int) -> bool:
    """Whether the venue has nothing before ``oldest``: a young symbol fills no page."""
    span = (oldest - probe.short_interval_ms, oldest)
    asked = probe.line.candle_query(probe.market_id, probe.short_interval_ms, 1, span)
    return not await probe.line.content("klines", asked)


async def open_bar(probe: VenueProbe) -> Observation:
    """Compare the newest row with the venue's time just before it was asked for."""
    _, before, rows = await probe.page()
    newest = max(_times(rows))
    age_ms = before - newest
    holds = newest + probe.interval_ms > before
    return Observation(holds=holds, found=f"the newest row opened {age_ms / 1000:.1f} s before")


async def mark_fields(probe: VenueProbe) -> Observation:
    """Compare mark candles with the bars of the same time."""
    now = await probe.line.server_time()
    end = now - now % probe.interval_ms - probe.interval_ms
    span = (end - MARKS_COMPARED * probe.interval_ms, end)
    asked = partial(
        probe.line.candles, market_id=probe.market_id, interval_ms=probe.interval_ms,
        limit=MARKS_COMPARED, span=span,
    )  # fmt: skip
    marks, bars = await asked("mark klines"), await asked("klines")
    prices = [float(cell) for row in marks for cell in row[1:5]]
    if not all(math.isfinite(price) and price > 0 for price in prices):
        return Observation(holds=False, found="a price that is no positive number")
    holds = sorted(_times(marks)) == sorted(_times(bars)) and len(prices) == 4 * len(marks)
    return Observation(holds=holds, found=f"{len(marks)} marks for {len(bars)} bars")


async def funding_fields(probe: VenueProbe) -> Observation:
    """Read the newest settlements."""
    rows = await _settlements(probe, probe.market_id)
    enveloped = probe.line.wire.is_enveloped
    for row in rows:
        int(row["fundingRateTimestamp" if enveloped else "fundingTime"])
        if not math.isfinite(float(row["fundingRate"])):
            return Observation(holds=False, found=f"rate {row['fundingRate']!r}")
    marked = sum(bool(row.get("markPrice")) for row in rows)
    expected = 0 if enveloped else len(rows)
    found = f"{len(rows)} settlements, {marked} with markPrice"
    return Observation(holds=bool(rows) and marked == expected, found=found)


async def _settlements(probe: VenueProbe, market_id: str) -> list[Any]:
    rows: list[Any] = await probe.line.content(
        "funding history", {"symbol": market_id, "limit": SETTLEMENTS_ASKED}
    )
    return rows


async def funding_interval(probe: VenueProbe) -> Observation:
    """Compare with the newest spacing: an interval may have changed a while ago."""
    name = "fundingRateTimestamp" if probe.line.wire.is_enveloped else "fundingTime"
    wrong, stated_minutes = [], []
    for instrument in await probe.instruments():
        rows = await _settlements(probe, market_id_of(instrument.symbol))
        times = sorted(int(row[name]) // MINUTE_MS for row in rows)
        stated = instrument.funding_interval_minutes or 0
        spacing = times[-1] - times[-2] if len(times) > 1 else stated
        stated_minutes.append(stated)
        if not stated or spacing != stated:
            wrong.append(f"{instrument.symbol} states {stated} min and settles every {spacing}")
    found = "; ".join(wrong) or f"{', '.join(map(str, sorted(set(stated_minutes))))} min"
    return Observation(holds=not wrong, found=found)


async def trading_rules(probe: VenueProbe) -> Observation:
    """Read the rules of every symbol."""
    instruments = await probe.instruments()
    wrong = [one.symbol for one in instruments if not _has_rules(one)]
    found = f"unreadable: {', '.join(wrong)}" if wrong else f"{len(instruments)} symbols"
    return Observation(holds=not wrong, found=found)


def _has_rules(one: Instrument) -> bool:
    return min(one.tick_size, one.lot_step, one.min_notional) > 0


async def symbols_trading(probe: VenueProbe) -> Observation:
    """Read the state of every symbol."""
    instruments = await probe.instruments()
    idle = [one.symbol for one in instruments if not one.is_trading]
    found = f"not trading: {', '.join(idle)}" if idle else f"{len(instruments)} trade"
    return Observation(holds=not idle, found=found)


async def clock(probe: VenueProbe) -> Observation:
    """The truth before and after the answer brackets it, whatever the network takes."""
    before = await probe.true_time()
    stated = await probe.line.server_time()
    after = await probe.true_time()
    skew = min(0, stated - before) + max(0, stated - after)
    return Observation(holds=abs(skew) < SKEW_MS, found=f"off by {skew} ms")


async def rate_header(probe: VenueProbe) -> Observation:
    """Look for the header on an ordinary answer."""
    wanted = probe.line.wire.usage_header.lower()
    headers = {
        name.lower(): value for name, value in (await probe.line.ask("time")).headers.items()
    }
    value = headers.get(wanted)
    holds = value is not None and value.isdigit()
    return Observation(holds=holds, found="absent" if value is None else f"says {value}")


async def quotes(probe: VenueProbe) -> Observation:
    """Ask for the quotes of all symbols."""
    exchange = await probe.exchange()
    quotes = await exchange.fetch_quotes(probe.symbols, now=WallClock().now)
    absent = sorted(set(probe.symbols) - {quote.symbol for quote in quotes})
    wrong = [quote.symbol for quote in quotes if not _is_sound(quote, has_funding(probe.venue))]
    if absent or wrong:
        return Observation(holds=False, found=f"absent or unsound: {', '.join(absent + wrong)}")
    return Observation(holds=True, found=f"{len(quotes)} quotes")


def _is_sound(quote: Quote, is_perp: bool) -> bool:
    best = (quote.bid, quote.ask, quote.bid_quantity, quote.ask_quantity)
    outlook = (quote.mark_price, quote.index_price, quote.predicted_funding_rate)
    if None in best or (is_perp and None in (*outlook, quote.next_funding_time)):
        return False
    return (quote.bid or 0.0) < (quote.ask or 0.0)


async def order_book(probe: VenueProbe) -> Observation:
    """Ask for one order book."""
    exchange = await probe.exchange()
    book = await exchange.fetch_book(
        probe.symbols[0], depth=BOOK_LEVELS, decision_time=0, now=WallClock().now
    )
    found = f"{len(book.bids)} bids, {len(book.asks)} asks" + (
        f", spread {book.asks[0][0] - book.bids[0][0]:g}" if book.bids and book.asks else ""
    )
    return Observation(holds=_is_ordered(book), found=found)


def _is_ordered(book: OrderBook) -> bool:
    bids, asks = [price for price, _ in book.bids], [price for price, _ in book.asks]
    if min(len(bids), len(asks)) < BOOK_LEVELS:
        return False
    return bids == sorted(bids, reverse=True) and asks == sorted(asks) and bids[0] < asks[0]


async def subscribes(probe: VenueProbe) -> Observation:
    """Subscribe to every symbol."""
    heard = await (await probe.listen()).subscribed()
    return Observation(holds=heard, found="frames arrive" if heard else "silence")


async def closed_flag(probe: VenueProbe) -> Observation:
    """Wait for a bar to close."""
    stream = await probe.listen()
    bar = await stream.closed_bar()
    found = "arrived" if bar else f"none within {stream.wait_seconds:.0f} s"
    return Observation(holds=bar is not None, found=found)


async def streamed_final(probe: VenueProbe) -> Observation:
    """Ask REST for the bar that the stream has brought."""
    stream = await probe.listen()
    bar = stream.first_bar
    if bar is None:
        cause = "no bar was marked closed, so there is none to compare"
        raise VenueUnavailable(host=probe.line.host, cause=cause, request="stream")
    served = await stream.same_over_rest(bar)
    if served == bar:
        return Observation(holds=True, found=f"equal at {bar.open_time}")
    if served is None:
        return Observation(holds=False, found=f"REST has no bar at {bar.open_time}")
    wrong = [name for name in Bar.__slots__ if getattr(bar, name) != getattr(served, name)]
    return Observation(holds=False, found=f"at {bar.open_time}: {', '.join(wrong)}")


async def reconnects(probe: VenueProbe) -> Observation:
    """Drop the connection."""
    heard = await (await probe.listen()).heard_again()
    return Observation(holds=heard, found="heard again" if heard else "silence")


async def stays(probe: VenueProbe) -> Observation:
    """Ask again for the settled rows of the first page, after everything else."""
    asked_at, before, rows = await probe.page()
    settled = {int(row[0]): row for row in rows if int(row[0]) + 2 * probe.interval_ms <= before}
    span = (min(settled), max(settled) + probe.interval_ms)
    again = await probe.line.candles(
        "klines", probe.market_id, probe.interval_ms, limit=len(settled), span=span
    )
    changed = [time for row in again if settled.get(time := int(row[0])) != row]
    seconds = monotonic_seconds() - asked_at
    found = f"{len(changed)} of {len(settled)} changed after {seconds:.0f} s"
    return Observation(holds=not changed and len(again) == len(settled), found=found)
