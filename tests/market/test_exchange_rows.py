"""Rows of both venues, as they were captured, become values; nonsense becomes neither."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.backfill import settlement_gaps
from market.bar import DAY_MS, HOUR_MS, MINUTE_MS, Bar, BarDefect, MarkSource, bar_defect
from market.retry import (
    RateLimited,
    RegionBlocked,
    VenueError,
    VenueRefused,
    VenueUnavailable,
    answer_fault,
    ask_patiently,
)
from market.rows import (
    RowMalformed,
    binance_bar,
    binance_instrument,
    binance_settlement,
    binance_stream,
    bybit_bar,
    bybit_instrument,
    bybit_settlement,
    bybit_stream,
    final_open_times,
    missing_times,
    pages,
    parse_rows,
)

FIXTURES = Path(__file__).parents[2] / "../shared/fixtures"
BTC = "BTC/USDT:USDT"


def captured(name: str) -> Any:
    """Return one captured payload (a list of them for JSON lines), or skip where it is absent."""
    path = FIXTURES / name
    if not path.exists():
        pytest.skip(f"no captured payload {name}")
    text = path.read_text()
    return (
        [json.loads(line) for line in text.splitlines()] if ".jsonl" in name else json.loads(text)
    )


def test_a_binance_row_keeps_every_field() -> None:
    """The captured hour of 2026-08-15 18:00 has quote volume, trades and taker volumes."""
    row = captured("rest_captured_2026-08-15/binance_candles.json")[0]
    assert binance_bar(BTC, row) == Bar(
        symbol=BTC,
        open_time=1786816800000,
        open=63043.40,
        high=63083.00,
        low=63011.60,
        close=63026.30,
        volume=1116.068,
        quote_volume=70342488.017,
        trades=16911,
        taker_buy_volume=460.737,
        taker_buy_quote_volume=29038581.7224,
    )


def test_a_bybit_row_has_turnover_and_no_counts() -> None:
    """Bybit's seven fields end with the turnover; trades and taker volumes are unknown."""
    row = captured("rest_captured_2026-08-15/bybit_candles.json")["result"]["list"][1]
    assert bybit_bar(BTC, row) == Bar(
        symbol=BTC,
        open_time=1786816800000,
        open=63044.4,
        high=63089.6,
        low=63000.1,
        close=63027.8,
        volume=385.721,
        quote_volume=24314058.6517,
    )


@pytest.mark.parametrize("nothing", [None, "", "n/a"])
def test_a_missing_optional_field_is_none_and_not_zero(nothing: object) -> None:
    """What a venue does not give must never look like a measured zero."""
    row = [0, "1", "1", "1", "1", "0", 3599999, nothing, nothing, nothing, nothing, "0"]
    bar = binance_bar(BTC, row)
    assert (bar.quote_volume, bar.trades, bar.taker_buy_volume) == (None, None, None)
    assert bar.taker_buy_quote_volume is None


@pytest.mark.parametrize("price", [None, "", "n/a", "NaN"])
def test_a_missing_price_is_a_defect_and_not_an_error(price: object) -> None:
    """One bad row goes to quarantine with its reason; it stops nothing."""
    bar = binance_bar(BTC, [0, "1", "1", price, "1", "0", 0, "", "", "", ""])
    assert bar_defect(bar, HOUR_MS) is BarDefect.NOT_FINITE


@pytest.mark.parametrize("row", [None, "text", [], [1, 2], ["soon"] * 11, [None] * 11])
def test_what_is_no_row_is_malformed(row: object) -> None:
    """Rows of None, which ccxt would pass on, are noticed."""
    with pytest.raises(RowMalformed):
        binance_bar(BTC, row)


def test_a_binance_settlement_has_the_mark_that_was_charged() -> None:
    """Jitter stays in the funding time and leaves the nominal time."""
    row = captured("rest_captured_2026-08-15/binance_funding.json")[0]
    settlement = binance_settlement(BTC, row)
    assert (settlement.funding_time, settlement.nominal_time) == (1786780800002, 1786780800000)
    assert (settlement.rate, settlement.mark_price) == (0.00006523, 63050.01692754)
    assert settlement.mark_source is MarkSource.VENUE


@pytest.mark.parametrize("mark", ["", None, "0", "0.00000000", "-1"])
def test_a_settlement_without_a_positive_mark_has_an_unknown_one(mark: object) -> None:
    """Old Binance rows have an empty mark: it is unknown, not zero."""
    row = {"fundingTime": 8 * HOUR_MS, "fundingRate": "0.0001", "markPrice": mark}
    settlement = binance_settlement(BTC, row)
    assert (settlement.mark_price, settlement.mark_source) == (None, MarkSource.UNKNOWN)


def test_a_bybit_settlement_never_has_a_mark() -> None:
    """Bybit states times and rates only."""
    row = captured("rest_captured_2026-08-15/bybit_funding.json")["result"]["list"][0]
    settlement = bybit_settlement(BTC, row)
    assert (settlement.funding_time, settlement.rate) == (1786809600000, 0.00004403)
    assert settlement.mark_source is MarkSource.UNKNOWN


def test_an_unreadable_settlement_is_kept_apart_and_never_zero() -> None:
    """One without a rate does not stop the others and is not invented; its time is kept."""
    rows: list[object] = [
        {"fundingTime": 7, "fundingRate": ""},
        {"fundingTime": HOUR_MS, "fundingRate": "0.0002"},
        {"fundingTime": "soon", "fundingRate": "0.0002"},
        {"fundingTime": 10**30, "fundingRate": None},
        None,
    ]
    settlements, refused = parse_rows(BTC, rows, binance_settlement)
    assert [one.rate for one in settlements] == [0.0002]
    assert [one.funding_time for one in refused] == [7, 0, 0, 0]
    assert [json.loads(one.content) for one in refused] == [rows[0], *rows[2:]]
    assert {one.symbol for one in refused} == {BTC}


def test_an_unreadable_bybit_settlement_keeps_its_time() -> None:
    """Bybit has another name for it, and writes digits."""
    row = {"fundingRateTimestamp": "28800000", "fundingRate": "n/a"}
    _, (refused,) = parse_rows(BTC, [row], bybit_settlement)
    assert refused.funding_time == 8 * HOUR_MS


def test_only_a_kline_that_binance_marks_final_becomes_a_bar() -> None:
    """``x`` decides, whatever else the kline says."""
    symbols = {"BTCUSDT": BTC}
    message = captured("ws_captured_misc/binance_usdm_kline_closed_BTCUSDT_2026-10-05.json")["data"]
    update = binance_stream(message, symbols, "1m")
    assert update.event_time == 1791240060493
    (bar,) = update.final_bars
    assert (bar.open_time, bar.close, bar.trades) == (1791240000000, 85893.90, 856)
    assert (bar.quote_volume, bar.taker_buy_volume) == (2579673.5922, 8.679)
    message["k"]["x"] = False
    assert binance_stream(message, symbols, "1m").final_bars == ()


def test_every_captured_open_kline_is_forming() -> None:
    """Not one message of a real session that was not closed gives a bar."""
    for line in captured("binance_usdm/ws_kline_open.jsonl"):
        message = line["msg"]["data"]
        interval = message["k"]["i"]
        assert binance_stream(message, {message["s"]: "X"}, interval).final_bars == ()


def test_bybit_confirms_the_bar_that_was_forming() -> None:
    """Of two captured messages with the same prices only the confirmed one gives a bar."""
    messages = captured("ws_captured_misc/bybit_v5_kline_forming_then_closed_BTCUSDT_2026-08.jsonl")
    bars = [bybit_stream(message, {"BTCUSDT": BTC}, "1").final_bars for message in messages]
    assert bars[0] == ()
    assert [bar.open_time for bar in bars[1]] == [1786650720000]


def test_other_symbols_and_intervals_give_no_bar() -> None:
    """A stream that was not subscribed must not be taken for one that was."""
    message = captured("ws_captured_misc/binance_usdm_kline_closed_BTCUSDT_2026-10-05.json")["data"]
    assert binance_stream(message, {"ETHUSDT": "E"}, "1m").final_bars == ()
    assert binance_stream(message, {"BTCUSDT": BTC}, "1h").final_bars == ()


@pytest.mark.parametrize(
    ("times", "venue_now", "final"),
    [
        # The last bar closed just now: it counts only once a later one is in the answer.
        ([0, 1], 2 * HOUR_MS, [0]),
        ([0, 1, 2], 2 * HOUR_MS, [0, 1]),
        # It closed 30 s ago: the venue has settled.
        ([0, 1], 2 * HOUR_MS + 30_000, [0, 1]),
        # A later bar in the answer cannot make a bar final that has not closed.
        ([0, 1, 2], 2 * HOUR_MS - 1, [0]),
        ([], HOUR_MS, []),
    ],
)
def test_a_rest_bar_is_final_after_a_later_one_or_after_settling(
    times: list[int], venue_now: int, final: list[int]
) -> None:
    """A forming candle taken for a final one has only its close wrong, and looks valid."""
    answer = final_open_times(
        [time * HOUR_MS for time in times],
        interval_ms=HOUR_MS,
        venue_now=venue_now,
        settle_ms=30_000,
    )
    assert sorted(answer) == [time * HOUR_MS for time in final]


@given(st.sets(st.integers(0, 300)), st.integers(1, 50))
def test_pages_ask_for_every_missing_bar_once(stored: set[int], page_bars: int) -> None:
    """Requests are disjoint, hold at most a page, and cover exactly what is not stored."""
    times = np.array(sorted(stored), dtype=np.int64) * HOUR_MS
    missing = missing_times(times, since=0, until=300 * HOUR_MS, interval_ms=HOUR_MS)
    cuts = pages(missing, interval_ms=HOUR_MS, page_bars=page_bars)
    asked = [time for since, until, _ in cuts for time in missing.tolist() if since <= time < until]
    assert asked == [hour * HOUR_MS for hour in range(300) if hour not in stored]
    assert all(until - since <= page_bars * HOUR_MS for since, until, _ in cuts)
    assert sum(count for _, _, count in cuts) == len(missing)


@pytest.mark.parametrize(
    ("hours", "gaps"),
    [
        (
            [16, 24, 32, 56],
            [(0, 16), (32, 56)],
        ),  # before the first, and longer than eight hours
        ([0, 8, 16, 24], []),
        ([0, 4, 8, 16, 20], [(8, 16)]),  # every four hours, and one is not there
        ([3, 4, 6, 7], [(0, 3), (4, 6)]),  # every hour; nothing is stored of the first three
        ([0, 8, 16, 20, 24], [(8, 16), (0, 8)]),  # shortened at 16: asked for in vain
    ],
)
def test_settlements_are_asked_for_where_they_may_be_missing(
    hours: list[int], gaps: list[tuple[int, int]]
) -> None:
    """Before the first, after the last, and in pauses longer than their neighbours."""
    settled = np.array(hours, dtype=np.int64) * HOUR_MS
    after = (hours[-1] * HOUR_MS + MINUTE_MS, 60 * HOUR_MS)
    expected = [
        (first * HOUR_MS + MINUTE_MS * (first in hours), last * HOUR_MS)
        for first, last in sorted(gaps)
    ]
    assert settlement_gaps(settled, since=0, until=60 * HOUR_MS) == [*expected, after]


def test_without_settlements_the_whole_span_is_asked_for() -> None:
    """Nothing is known of it."""
    nothing = np.array([], dtype=np.int64)
    assert settlement_gaps(nothing, since=0, until=DAY_MS) == [(0, DAY_MS)]


def test_binance_steps_come_from_the_filters() -> None:
    """The price precision of 2 is not the tick of 0.10; market orders end at 120 BTC."""
    info = captured("rest_captured_2026-09-30/fapi_v1_exchangeInfo_BTC_ETH.json")["symbols"][0]
    market = {"info": info, "symbol": BTC, "id": "BTCUSDT", "base": "BTC", "quote": "USDT"}
    instrument = binance_instrument(market, 480)
    assert instrument.tick_size == Decimal("0.10")
    assert (instrument.lot_step, instrument.min_quantity) == (Decimal("0.001"), Decimal("0.001"))
    assert (instrument.max_quantity, instrument.min_notional) == (Decimal(120), Decimal(50))


def test_bybit_states_its_funding_interval_in_minutes() -> None:
    """A rule that an old answer lacks (the minimum notional) is zero: no rule."""
    answer = captured("rest_captured_misc/bybit_v5_instruments-info_linear_BTCUSDT_2023-10-02.json")
    info = answer["result"]["list"][0]
    market = {"info": info, "symbol": BTC, "id": "BTCUSDT", "base": "BTC", "quote": "USDT"}
    instrument = bybit_instrument(market)
    assert instrument.funding_interval_minutes == 480
    assert (instrument.tick_size, instrument.lot_step) == (Decimal("0.10"), Decimal("0.001"))
    assert (instrument.max_quantity, instrument.min_notional) == (Decimal(100), Decimal(0))


NOW = 1_700_000_000_000
FAULTS = [
    (429, {"Retry-After": "7"}, "slow down", True, RateLimited, 7.0),
    (418, {}, f"banned until {NOW + 90_000}", True, RateLimited, 90.0),
    (429, {}, "slow down", True, RateLimited, 60.0),
    (403, {}, "<html>forbidden", False, RateLimited, 60.0),
    (403, {}, "configured to block access from your country", False, RegionBlocked, None),
    (451, {}, "<html>unavailable for legal reasons", False, RegionBlocked, None),
    (503, {}, '{"code":-1,"msg":"busy"}', True, VenueUnavailable, None),
    (502, {}, "<html>bad gateway", False, VenueUnavailable, None),
    (200, {}, "<html>maintenance", False, VenueUnavailable, None),
]


@pytest.mark.parametrize(("status", "headers", "body", "is_json", "kind", "seconds"), FAULTS)
def test_an_answer_is_judged_by_status_and_shape(
    status: int,
    headers: dict[str, str],
    body: str,
    is_json: bool,
    kind: type[VenueError],
    seconds: float | None,
) -> None:
    """Each kind of outage is told from a final refusal, with the wait that the venue states."""
    fault = answer_fault(
        host="venue",
        status=status,
        headers=headers,
        body=body,
        is_json=is_json,
        venue_now=NOW,
        request="bars",
    )
    assert type(fault) is kind
    assert isinstance(fault, RateLimited) == (seconds is not None)
    if isinstance(fault, RateLimited) and seconds is not None:
        assert math.isclose(fault.retry_after_seconds, seconds)


@pytest.mark.parametrize(("status", "body"), [(200, "[]"), (400, '{"code":-1121}')])
def test_a_readable_answer_is_left_to_be_read(status: int, body: str) -> None:
    """A JSON answer with a code of the venue is ccxt's to name."""
    fault = answer_fault(
        host="v", status=status, headers={}, body=body, is_json=True, venue_now=0, request=""
    )
    assert fault is None


async def test_a_refusal_is_not_asked_again() -> None:
    """Asking again cannot change a final answer."""
    asked = []

    async def ask() -> int:
        asked.append(1)
        raise VenueRefused(host="venue", cause="region blocked")

    with pytest.raises(VenueRefused):
        await ask_patiently(ask, attempts=5, on_failure=lambda _error: None)
    assert len(asked) == 1


async def test_an_outage_is_asked_again_until_it_ends() -> None:
    """Every failure is reported; the answer that follows is returned."""
    failures: list[VenueError] = []

    async def ask() -> str:
        if not failures:
            raise VenueUnavailable(host="venue", cause="HTTP 502")
        return "answer"

    assert await ask_patiently(ask, attempts=3, on_failure=failures.append) == "answer"
    assert [failure.cause for failure in failures] == ["HTTP 502"]
