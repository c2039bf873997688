"""Limits of rates, rows and topics, as the venues count, state and enforce them."""

from __future__ import annotations

import json

import pytest

from market.instrument import Venue
from market.sandbox.binance_spot import BinanceSpot
from market.sandbox.binance_usdm import BinanceUsdm
from market.sandbox.bybit import Bybit
from market.sandbox.dialect import Dialect, Reply
from market.sandbox.limits import RequestMeter
from market.sandbox.minutes import minute_tape
from market.sandbox.playback import Playback
from market.sandbox.rules import listed_symbols
from tests.market.sandbox_client import T0
from tests.market.small_tape import small_tape

MINUTE = 60_000
TIME = "/v5/market/time"
KLINE = "/v5/market/kline"
BASES = ("BTC", "ETH", "SOL")
DIALECTS: dict[Venue, type[BinanceUsdm] | type[BinanceSpot] | type[Bybit]] = {
    Venue.BINANCEUSDM: BinanceUsdm,
    Venue.BINANCE: BinanceSpot,
    Venue.BYBIT: Bybit,
    Venue.BYBITSPOT: Bybit,
}


def fetch(spoken: Dialect, path: str, *, now: int) -> Reply:
    """Return the reply to a request without parameters."""
    reply = spoken.answer(path, {}, now=now)
    assert reply is not None
    return reply


def test_a_window_begins_at_multiples_of_its_length() -> None:
    """Weights add up within a window and start again in the next."""
    meter = RequestMeter(limit=5, window_ms=1_000)
    assert [meter.add(3, now=now) for now in (1_000, 1_999, 2_000)] == [3, 6, 3]
    assert meter.resets_at == 3_000


def test_exactly_the_limit_is_allowed() -> None:
    """A window that used its limit is not over it; one more is."""
    meter = RequestMeter(limit=5, window_ms=1_000)
    meter.add(5, now=0)
    assert not meter.is_exceeded
    meter.add(1, now=0)
    assert meter.is_exceeded


def test_weights_count_minutes_of_the_venue() -> None:
    """The same real moment holds as many minutes as the venue's clock says."""
    spoken = BinanceUsdm(Playback(small_tape(Venue.BINANCEUSDM)))
    used = [
        fetch(spoken, "/fapi/v1/ticker/24hr", now=now).headers["X-MBX-USED-WEIGHT-1M"]
        for now in (T0, T0 + MINUTE - 1, T0 + MINUTE)
    ]
    assert used == ["40", "80", "40"]


@pytest.mark.parametrize(
    ("venue", "path", "allowed"),
    [
        # 2400 a minute at weight 40, 6000 at weight 80.
        (Venue.BINANCEUSDM, "/fapi/v1/ticker/24hr", 60),
        (Venue.BINANCE, "/api/v3/ticker/24hr", 75),
    ],
)
def test_binance_refuses_with_429_and_says_how_long(venue: Venue, path: str, allowed: int) -> None:
    """Over the limit: code -1003, Retry-After until the minute ends, and then all is well."""
    spoken = DIALECTS[venue](Playback(small_tape(venue)), enforce_limits=True)
    now = T0 + 15_500
    assert [fetch(spoken, path, now=now).status for _ in range(allowed)] == [200] * allowed
    refused = fetch(spoken, path, now=now)
    assert (refused.status, json.loads(refused.body)["code"]) == (429, -1003)
    assert refused.headers["Retry-After"] == "45"
    assert fetch(spoken, path, now=T0 + MINUTE).status == 200


def test_limits_are_not_enforced_unless_asked_for() -> None:
    """By default the weight is stated and nobody is refused."""
    spoken = BinanceSpot(Playback(small_tape(Venue.BINANCE)))
    replies = [fetch(spoken, "/api/v3/ticker/24hr", now=T0) for _ in range(80)]
    assert {reply.status for reply in replies} == {200}
    assert replies[-1].headers["X-MBX-USED-WEIGHT-1M"] == "6400"


@pytest.mark.parametrize("venue", [Venue.BYBIT, Venue.BYBITSPOT])
def test_bybit_refuses_after_600_requests_in_five_seconds(venue: Venue) -> None:
    """The 601st is answered 403 with 10006; the headers state limit, rest and reset."""
    spoken = Bybit(Playback(small_tape(venue)), enforce_limits=True)
    now = T0 + 1_000
    last = [fetch(spoken, TIME, now=now) for _ in range(600)][-1]
    assert last.status == 200
    assert last.headers["X-Bapi-Limit"] == "600"
    assert last.headers["X-Bapi-Limit-Status"] == "0"
    assert last.headers["X-Bapi-Limit-Reset-Timestamp"] == str(now)
    refused = fetch(spoken, TIME, now=now)
    assert (refused.status, json.loads(refused.body)["retCode"]) == (403, 10006)
    assert refused.headers["X-Bapi-Limit-Reset-Timestamp"] == str(T0 + 5_000)
    assert "access too frequent" in json.loads(refused.body)["retMsg"]
    assert fetch(spoken, TIME, now=T0 + 5_000).status == 200


@pytest.mark.parametrize(("venue", "taken"), [(Venue.BYBIT, True), (Venue.BYBITSPOT, False)])
def test_a_spot_subscription_names_ten_topics_at_most(venue: Venue, taken: bool) -> None:
    """Eleven topics in one request are refused as a whole on spot, and fine on linear."""
    spoken = Bybit(Playback(small_tape(venue)))
    topics = [f"orderbook.{depth}.{base}USDT" for depth in (1, 50, 200, 1000) for base in BASES]
    heard = spoken.hear(json.dumps({"op": "subscribe", "args": topics[:11]}), frozenset(), now=T0)
    assert len(heard.subscribed) == (11 if taken else 0)
    assert json.loads(heard.replies[0])["ret_msg"] == ("" if taken else "args size >10")
    ten = json.dumps({"op": "subscribe", "args": topics[:10]})
    assert len(spoken.hear(ten, frozenset(), now=T0).subscribed) == 10


@pytest.mark.parametrize(
    ("venue", "path", "query", "most"),
    [
        (Venue.BINANCEUSDM, "/fapi/v1/klines", {"interval": "1m", "limit": "1500"}, 1500),
        (Venue.BINANCE, "/api/v3/klines", {"interval": "1m", "limit": "1500"}, 1000),
        (Venue.BYBIT, KLINE, {"category": "linear", "interval": "1", "limit": "1500"}, 1000),
        (Venue.BYBITSPOT, KLINE, {"category": "spot", "interval": "1", "limit": "1500"}, 1000),
    ],
)
def test_one_request_brings_so_many_rows_and_no_more(
    venue: Venue, path: str, query: dict[str, str], most: int
) -> None:
    """Asked for 1500 minutes each venue gives its most, the newest ones."""
    tape = minute_tape(seed=1, venue=venue, symbols=listed_symbols(venue)[:1], start=T0, bars=1_600)
    last = int(tape.panel.open_time[-1])
    reply = DIALECTS[venue](Playback(tape)).answer(path, {"symbol": "BTCUSDT"} | query, now=last)
    assert reply is not None
    answered = json.loads(reply.body)
    rows = answered if isinstance(answered, list) else answered["result"]["list"][::-1]
    assert len(rows) == most
    assert [int(rows[0][0]), int(rows[-1][0])] == [last - (most - 1) * MINUTE, last]
