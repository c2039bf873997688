"""Scripted faults over real sockets: what a client sees, and that the truth stays what it is.

Lock-step on hourly bars: venue time stands 1.5 s after a close until the next commit, so a fault
that holds over a close holds until then.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import ccxt
import pytest
from aiohttp import WSMsgType

from market.bar import DAY_MS, HOUR_MS
from market.instrument import Venue
from market.sandbox.fault import Fault, FaultKind, Place
from market.sandbox.minutes import minute_tape
from market.sandbox.rules import listed_symbols
from market.sandbox.server import Sandbox, SandboxOptions
from tests.market.sandbox_client import T0, ccxt_client, commit, get, raw_socket, receive, served
from tests.market.small_tape import BTC, ETH, SOL, small_tape

USDM = Venue.BINANCEUSDM
NOW = T0 + 1_500  # lock-step's time before the first commit
STREAM = "/ws/btcusdt@kline_1h"
KLINES = "/fapi/v1/klines?symbol=BTCUSDT&interval=1h&limit=3"
BYBIT_KLINES = "/v5/market/kline?category=linear&symbol=BTCUSDT&interval=60&limit=3"
QUIET_SECONDS = 0.2


def fault(kind: FaultKind, *, at: int = T0, hours: float = 1, **parameters: Any) -> Fault:
    """A fault from T0 on, on during the first look unless told otherwise."""
    return Fault(kind=kind, at=at, duration_ms=round(hours * HOUR_MS), **parameters)


def faulty(*faults: Fault, venue: Venue = USDM, **options: Any) -> Sandbox:
    """A sandbox on the small tape in lock-step, with faults."""
    return Sandbox(
        SandboxOptions(
            tape=small_tape(venue), start=T0, speed=0.0, lock_step=True, faults=faults, **options
        )
    )


async def fetch(url: str, path: str) -> tuple[int, str, dict[str, str]]:
    """Status, text and headers of a plain GET."""
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        return response.status, await response.text(), dict(response.headers)


async def truth(url: str) -> list[dict[str, Any]]:
    """Every true bar since T0."""
    _, text, _ = await fetch(url, "/sandbox/truth")
    return [json.loads(line) for line in text.splitlines()]


async def touched(url: str) -> dict[str, int]:
    """How much each scripted fault has touched."""
    _, text, _ = await fetch(url, "/sandbox/faults")
    entries = [json.loads(line) for line in text.splitlines()]
    return {entry["fault"]: entry["touched"] for entry in entries}


async def quiet(socket: aiohttp.ClientWebSocketResponse) -> bool:
    """Whether nothing comes for a while."""
    try:
        await socket.receive(timeout=QUIET_SECONDS)
    except TimeoutError:
        return True
    return False


async def klines(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[dict[str, Any]]:
    """The next ``count`` klines of a Binance socket."""
    return [(await receive(socket))["k"] for _ in range(count)]


@asynccontextmanager
async def listening(venue: Sandbox, path: str = STREAM) -> AsyncIterator[Any]:
    """A raw socket whose first forming frame has been read."""
    async with raw_socket(venue.url, path) as socket:
        await receive(socket)
        yield socket


# REST


@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        (FaultKind.RATE_LIMITED, 429, '"code":-1003'),
        (FaultKind.BANNED, 418, "IP banned until"),
        (FaultKind.BLOCKED, 451, "restricted location"),
        (FaultKind.OUTAGE_HTML, 503, "<html>"),
        (FaultKind.OUTAGE_JSON, 503, '{"code":-1,'),
        (FaultKind.HTML_ON_200, 200, "<html>"),
    ],
)
async def test_a_refused_request_is_answered_truly_once_the_fault_is_over(
    kind: FaultKind, status: int, text: str
) -> None:
    """The kind's status and body while it holds, the venue's own rows after it."""
    async with faulty(fault(kind)) as venue:
        seen = await fetch(venue.url, KLINES)
        await commit(venue.url, T0)
        after, rows, _ = await get(venue.url, KLINES)
        logged = await served(venue.url, "request")
    assert seen[0] == status
    assert text in seen[1]
    assert (after, rows[-1][0]) == (200, T0 + HOUR_MS)
    assert [one.get("fault") for one in logged] == [kind, None]
    assert [one["status"] for one in logged] == [status, 200]


@pytest.mark.parametrize("kind", [FaultKind.RATE_LIMITED, FaultKind.BANNED])
async def test_a_refusal_states_its_deadline(kind: FaultKind) -> None:
    """Retry-After is the rest of the fault in the venue's seconds; 418 names the moment too."""
    async with faulty(fault(kind)) as venue:
        _, body, headers = await fetch(venue.url, KLINES)
        (logged,) = await served(venue.url, "request")
    assert headers["Retry-After"] == "3599"
    assert ("banned until" in body) == (kind is FaultKind.BANNED)
    if kind is FaultKind.BANNED:
        assert f"banned until {T0 + HOUR_MS}." in body
        assert logged["banned_until"] == T0 + HOUR_MS


async def test_truncated_json_cannot_be_parsed() -> None:
    """Status 200, JSON's content type, half the body."""
    async with faulty(fault(FaultKind.TRUNCATED_JSON)) as venue:
        status, body, headers = await fetch(venue.url, KLINES)
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    with pytest.raises(ValueError, match="."):
        json.loads(body)


@pytest.mark.parametrize(("venue_name", "path"), [(USDM, KLINES), (Venue.BYBIT, BYBIT_KLINES)])
async def test_null_rows_keep_their_shape(venue_name: Venue, path: str) -> None:
    """As many rows and cells as there are, all null; other answers are left alone."""
    async with faulty(fault(FaultKind.NULL_ROWS), venue=venue_name) as venue:
        _, body, _ = await get(venue.url, path)
        rows = body if isinstance(body, list) else body["result"]["list"]
        other = "/fapi/v1/time" if venue_name is USDM else "/v5/market/time"
        assert NOW in json.loads(json.dumps((await get(venue.url, other))[1])).values()
    assert len(rows) == 3
    assert {cell for row in rows for cell in row} == {None}


async def test_a_stalled_answer_never_comes() -> None:
    """The client waits until it gives up, and the log has the request with status 0."""
    async with faulty(fault(FaultKind.STALL)) as venue, aiohttp.ClientSession() as session:
        with pytest.raises(TimeoutError):
            await session.get(venue.url + KLINES, timeout=aiohttp.ClientTimeout(QUIET_SECONDS))
        (logged,) = await served(venue.url, "request")
    assert (logged["status"], logged["fault"]) == (0, "stall")


async def test_a_fault_of_one_symbol_leaves_the_others_alone() -> None:
    """Requests that name another symbol, or none, are answered."""
    async with faulty(fault(FaultKind.OUTAGE_JSON, symbols=(ETH,))) as venue:
        assert (await fetch(venue.url, KLINES))[0] == 200
        assert (await fetch(venue.url, "/fapi/v1/time"))[0] == 200
        assert (await fetch(venue.url, KLINES.replace("BTC", "ETH")))[0] == 503


async def test_ccxt_takes_a_ban_for_ddos_protection() -> None:
    """The real client raises, and has the deadline only in the text and the headers."""
    async with faulty(fault(FaultKind.BANNED)) as venue, ccxt_client(USDM, venue.url) as exchange:
        with pytest.raises(ccxt.DDoSProtection, match=str(T0 + HOUR_MS)):
            await exchange.fapiPublicGetTime()
        assert exchange.last_response_headers["Retry-After"] == "3599"


@pytest.mark.parametrize(
    "kind", [FaultKind.HTML_ON_200, FaultKind.TRUNCATED_JSON, FaultKind.NULL_ROWS]
)
async def test_ccxt_takes_what_is_no_data_for_rows_of_none(kind: FaultKind) -> None:
    """The real client raises nothing and hands out rows without a single price."""
    broken = fault(kind, at=T0 + HOUR_MS)
    async with faulty(broken) as venue, ccxt_client(USDM, venue.url) as exchange:
        await exchange.load_markets()
        await commit(venue.url, T0)
        await asyncio.sleep(0.05)
        rows = await exchange.fetch_ohlcv(BTC, "1h", limit=3)
    assert rows
    assert {cell for row in rows for cell in row[1:]} == {None}


# Connections


async def test_a_silent_connection_answers_pings_and_a_new_one_works() -> None:
    """No frame of the symbol on the old connection, its pings answered; a new one gets frames."""
    silence = fault(FaultKind.SILENCE, at=T0 + HOUR_MS, symbols=(BTC,))
    both = f"{STREAM}/ethusdt@kline_1h"
    async with (
        faulty(silence) as venue,
        aiohttp.ClientSession() as session,
        session.ws_connect(venue.url + both, autoping=False) as old,
    ):
        assert {(await receive(old))["s"] for _ in range(2)} == {"BTCUSDT", "ETHUSDT"}
        await commit(venue.url, T0)
        assert {(await receive(old))["s"] for _ in range(2)} == {"ETHUSDT"}
        await old.ping(b"there?")
        assert (await old.receive(timeout=5)).type is WSMsgType.PONG
        async with raw_socket(venue.url, STREAM) as new:
            assert (await receive(new))["k"]["t"] == T0
        await commit(venue.url, T0 + HOUR_MS)
        assert {(await receive(old))["s"] for _ in range(4)} == {"BTCUSDT", "ETHUSDT"}
        assert (await touched(venue.url))["silence"] == 2


@pytest.mark.parametrize(("hours", "welcome"), [(0, True), (1, False)])
async def test_a_disconnection_closes_what_is_open(hours: int, welcome: bool) -> None:
    """Open websockets are closed; while it lasts new ones are closed as they come."""
    async with faulty(fault(FaultKind.DISCONNECT, at=T0 + HOUR_MS, hours=hours)) as venue:
        async with listening(venue) as socket:
            await commit(venue.url, T0)
            closed = await socket.receive(timeout=5)
        assert (closed.type, closed.data) == (WSMsgType.CLOSE, aiohttp.WSCloseCode.GOING_AWAY)
        async with raw_socket(venue.url, STREAM) as again:
            first = await again.receive(timeout=5)
    assert (first.type is WSMsgType.TEXT) == welcome


async def test_a_reset_cuts_without_a_word() -> None:
    """The connection ends without a closing frame."""
    async with (
        faulty(fault(FaultKind.RESET, at=T0 + HOUR_MS, hours=0)) as venue,
        listening(venue) as socket,
    ):
        await commit(venue.url, T0)
        ended = await socket.receive(timeout=5)
    assert ended.type in (WSMsgType.CLOSED, WSMsgType.ERROR)


async def test_a_half_open_connection_answers_nothing_and_is_reset_in_the_end() -> None:
    """No frame, no reply, no pong; REST and new connections work; then TCP is reset."""
    half_open = fault(FaultKind.HALF_OPEN, at=T0 + HOUR_MS)
    async with (
        faulty(half_open) as venue,
        aiohttp.ClientSession() as session,
        session.ws_connect(venue.url + STREAM, autoping=False) as socket,
    ):
        await receive(socket)
        await commit(venue.url, T0)
        await socket.ping()
        await socket.send_str('{"method":"LIST_SUBSCRIPTIONS","id":1}')
        assert await quiet(socket)
        assert (await fetch(venue.url, KLINES))[0] == 200
        async with raw_socket(venue.url, STREAM) as new:
            assert (await receive(new))["s"] == "BTCUSDT"
        await commit(venue.url, T0 + HOUR_MS)
        ended = await socket.receive(timeout=5)
        assert (await touched(venue.url))["half_open"] >= 1
    assert ended.type in (WSMsgType.CLOSED, WSMsgType.ERROR)


async def test_a_subscription_without_data_is_acknowledged_and_stays_dead() -> None:
    """Only the acknowledgement comes, after the fault too; subscribing anew then helps."""
    subscribe = '{"method":"SUBSCRIBE","params":["btcusdt@kline_1h"],"id":1}'
    async with (
        faulty(fault(FaultKind.SUBSCRIBED_NO_DATA)) as venue,
        raw_socket(venue.url, "/ws") as socket,
    ):
        await socket.send_str(subscribe)
        assert await receive(socket) == {"result": None, "id": 1}
        await commit(venue.url, T0 + HOUR_MS)
        assert await quiet(socket)
        await socket.send_str(subscribe.replace("SUBSCRIBE", "UNSUBSCRIBE"))
        await socket.send_str(subscribe)
        kinds = [sorted(await receive(socket)) for _ in range(3)]
    assert kinds == [["id", "result"], ["id", "result"], ["E", "e", "k", "s"]]


async def test_a_connection_is_closed_when_its_life_is_over() -> None:
    """After 24 hours of the venue's time the venue closes a websocket; a new one works."""
    async with faulty(connection_life_ms=DAY_MS) as venue:
        async with listening(venue) as socket:
            await commit(venue.url, T0 + 22 * HOUR_MS)
            texts = [await receive(socket) for _ in range(46)]
            await commit(venue.url, T0 + 23 * HOUR_MS)
            closed = [await socket.receive(timeout=5) for _ in range(3)][-1]
        async with raw_socket(venue.url, STREAM) as new:
            assert (await receive(new))["s"] == "BTCUSDT"
    assert texts
    assert closed.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)


async def test_a_client_that_never_pongs_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The venue pings; who answers stays, who does not is cut off."""
    async with faulty() as venue:
        monkeypatch.setattr(venue._dialect, "heartbeat_seconds", 0.1)
        monkeypatch.setattr(venue._dialect, "silence_seconds", 0.4)
        async with (
            listening(venue) as good,
            aiohttp.ClientSession() as session,
            session.ws_connect(venue.url + STREAM, autoping=False) as deaf,
        ):
            answering = asyncio.create_task(good.receive())
            seen = [await deaf.receive(timeout=5)]
            while seen[-1].type in (WSMsgType.TEXT, WSMsgType.PING):
                seen.append(await deaf.receive(timeout=5))
            assert WSMsgType.PING in {one.type for one in seen}
            assert not answering.done()
            answering.cancel()


# Frames


@pytest.mark.parametrize("kind", [FaultKind.MALFORMED_FRAME, FaultKind.TRUNCATED_FRAME])
async def test_a_broken_frame_is_no_json(kind: FaultKind) -> None:
    """Frames of the symbol cannot be parsed; those of the others can."""
    async with faulty(fault(kind, symbols=(BTC,))) as venue:
        async with raw_socket(venue.url, STREAM) as socket:
            text = (await socket.receive(timeout=5)).data
        async with raw_socket(venue.url, "/ws/ethusdt@kline_1h") as other:
            assert (await receive(other))["s"] == "ETHUSDT"
    with pytest.raises(ValueError, match="."):
        json.loads(text)


# Bars


@pytest.mark.parametrize(("venue_name", "path"), [(USDM, KLINES), (Venue.BYBIT, BYBIT_KLINES)])
async def test_a_late_bar_is_late_everywhere(venue_name: Venue, path: str) -> None:
    """Until then REST shows it as forming, no later row, and the socket nothing; then all true."""
    late = fault(FaultKind.LATE_FINAL, at=T0 + HOUR_MS, delay_ms=20_000)
    stream = STREAM if venue_name is USDM else "/v5/public/linear"
    async with faulty(late, venue=venue_name) as venue, raw_socket(venue.url, stream) as socket:
        if venue_name is Venue.BYBIT:
            await socket.send_str('{"op":"subscribe","args":["kline.60.BTCUSDT"]}')
            await receive(socket)
        await receive(socket)
        await commit(venue.url, T0)
        assert await quiet(socket)
        rows = _ascending((await get(venue.url, path))[1])
        await commit(venue.url, T0 + HOUR_MS)
        opens = [_open_and_final(await receive(socket)) for _ in range(4)]
        later = _ascending((await get(venue.url, path))[1])
        true = {one["open_time"]: one for one in await truth(venue.url) if one["symbol"] == BTC}
    assert opens == [
        (T0, True), (T0 + 2 * HOUR_MS, False), (T0 + HOUR_MS, True), (T0 + 2 * HOUR_MS, False),
    ]  # fmt: skip
    assert int(rows[-1][0]) == T0
    assert float(rows[-1][5]) < true[T0]["volume"]
    assert [float(later[0][cell]) for cell in (4, 5)] == [
        true[T0]["close"],
        true[T0]["volume"],
    ]


async def test_a_late_final_comes_after_its_delay_when_time_runs() -> None:
    """At 3600x a bar that is 20 minutes late is sent within 2 minutes of that moment."""
    late = fault(FaultKind.LATE_FINAL, at=T0 + HOUR_MS, delay_ms=1_200_000)
    options = SandboxOptions(tape=small_tape(USDM), start=T0, speed=3600.0, faults=(late,))
    async with Sandbox(options) as venue, raw_socket(venue.url, STREAM) as socket:
        frame = await receive(socket)
        while not frame["k"]["x"]:
            frame = await receive(socket)
    assert frame["k"]["t"] == T0
    assert 0 <= frame["E"] - (T0 + HOUR_MS + 1_200_000) <= 120_000


async def test_a_forming_bar_that_stays_is_sent_instead_of_its_final_frame() -> None:
    """The closed bar comes as forming while the fault lasts; REST has the true bar."""
    stays = fault(FaultKind.FORMING_STAYS, at=T0 + HOUR_MS, hours=2)
    async with faulty(stays) as venue, listening(venue) as socket:
        await commit(venue.url, T0)
        await commit(venue.url, T0 + HOUR_MS)
        stuck = await klines(socket, 2)
        rows = (await get(venue.url, KLINES))[1]
        await commit(venue.url, T0 + 2 * HOUR_MS)
        final, forming = await klines(socket, 2)
        true = (await truth(venue.url))[0]
    assert [(one["t"], one["x"]) for one in stuck] == [(T0, False)] * 2
    assert float(stuck[0]["v"]) < true["volume"]
    assert (rows[0][0], float(rows[0][5])) == (T0, true["volume"])
    assert (final["t"], final["x"]) == (T0 + 2 * HOUR_MS, True)
    assert (forming["t"], forming["x"]) == (T0 + 3 * HOUR_MS, False)


@pytest.mark.parametrize("wrong_first", [True, False])
async def test_a_duplicate_final_has_values_that_never_were(wrong_first: bool) -> None:
    """Two final frames of one bar, only one of them true, in either order; REST is true."""
    double = fault(FaultKind.DUPLICATE_FINAL, at=T0 + HOUR_MS, wrong_first=wrong_first)
    async with faulty(double) as venue, listening(venue) as socket:
        await commit(venue.url, T0)
        finals = (await klines(socket, 3))[:2]
        rows = (await get(venue.url, KLINES))[1]
        true = (await truth(venue.url))[0]
    wrong, right = finals if wrong_first else finals[::-1]
    assert [(one["t"], one["x"]) for one in finals] == [(T0, True)] * 2
    assert (float(right["c"]), float(right["v"])) == (true["close"], true["volume"])
    assert float(wrong["c"]) != true["close"]
    assert float(wrong["l"]) <= float(wrong["c"]) <= float(wrong["h"])
    assert float(rows[1][4]) == true["close"]


async def test_finals_out_of_order_come_in_pairs_the_later_first() -> None:
    """Of each two bars the second one's final frame comes first; none is lost."""
    disorder = fault(FaultKind.OUT_OF_ORDER, at=T0 + HOUR_MS, hours=3)
    async with faulty(disorder) as venue, listening(venue) as socket:
        finals: list[int] = []
        for bar in range(4):
            await commit(venue.url, T0 + bar * HOUR_MS)
        while len(finals) < 4:
            kline = (await receive(socket))["k"]
            finals += [(kline["t"] - T0) // HOUR_MS] if kline["x"] else []
    assert finals == [1, 0, 2, 3]


async def test_missing_bars_exist_nowhere() -> None:
    """No final frame, no row, and the truth says absent; other symbols have theirs."""
    missing = fault(FaultKind.MISSING_BARS, at=T0, symbols=(BTC,))
    async with faulty(missing) as venue, raw_socket(venue.url, STREAM) as socket:
        await commit(venue.url, T0)
        await commit(venue.url, T0 + HOUR_MS)
        finals = [one for one in await klines(socket, 3) if one["x"]]
        rows = (await get(venue.url, KLINES))[1]
        true = {(one["symbol"], one["open_time"]): one for one in await truth(venue.url)}
        assert (await touched(venue.url))["missing_bars"] == 1
    assert [one["t"] for one in finals] == [T0 + HOUR_MS]
    assert T0 not in [row[0] for row in rows]
    assert true[BTC, T0] == {"symbol": BTC, "open_time": T0, "absent": True}
    assert "absent" not in true[ETH, T0]


async def test_shifted_times_are_off_in_frames_only() -> None:
    """Frames state open and close times off by the shift, REST the true ones."""
    async with (
        faulty(fault(FaultKind.SHIFTED_TIMES, shift_ms=-7_000)) as venue,
        raw_socket(venue.url, STREAM) as socket,
    ):
        (kline,) = await klines(socket, 1)
        rows = (await get(venue.url, KLINES))[1]
    assert (kline["t"], kline["T"]) == (T0 - 7_000, T0 + HOUR_MS - 1 - 7_000)
    assert rows[-1][0] == T0


@pytest.mark.parametrize(("text", "value"), [("NaN", "NaN"), ("null", None), ("", "")])
@pytest.mark.parametrize("place", list(Place))
async def test_prices_that_are_no_numbers(text: str, value: str | None, place: Place) -> None:
    """Prices are the word given, in frames, rows or both; times and volumes stay."""
    broken = fault(FaultKind.NAN_FIELDS, text=text, place=place)
    async with faulty(broken) as venue, raw_socket(venue.url, STREAM) as socket:
        (kline,) = await klines(socket, 1)
        rows = (await get(venue.url, KLINES))[1]
    assert ({kline[name] for name in "ohlc"} == {value}) == (place is not Place.ROWS)
    assert (set(rows[0][1:5]) == {value}) == (place is not Place.FRAMES)
    assert float(kline["v"]) >= 0
    assert float(rows[0][5]) > 0


@pytest.mark.parametrize(
    ("name", "path", "rest"),
    [
        (Venue.BINANCEUSDM, "/ws", "/fapi/v1/klines?symbol=BTCUSDT&interval=1m"),
        (Venue.BINANCE, "/stream", "/api/v3/klines?symbol=BTCUSDT&interval=1m"),
        (Venue.BYBIT, "/v5/public/linear", "/v5/market/kline?category=linear&symbol=BTCUSDT"),
        (Venue.BYBITSPOT, "/v5/public/spot", "/v5/market/kline?category=spot&symbol=BTCUSDT"),
    ],
)
async def test_times_and_prices_are_found_in_every_protocol(
    name: Venue, path: str, rest: str
) -> None:
    """Shifted times and prices without numbers reach frames and rows of all four venues."""
    tape = minute_tape(
        seed=1, venue=name, symbols=listed_symbols(name)[:3], start=T0 - HOUR_MS, bars=120
    )
    faults = (
        fault(FaultKind.SHIFTED_TIMES, shift_ms=7_000),
        fault(FaultKind.NAN_FIELDS, place=Place.BOTH),
    )
    options = SandboxOptions(tape=tape, start=T0, speed=0.0, lock_step=True, faults=faults)
    is_bybit = name in (Venue.BYBIT, Venue.BYBITSPOT)
    topic = "kline.1.BTCUSDT" if is_bybit else "btcusdt@kline_1m"
    wanted = {"op": "subscribe", "args": [topic]} if is_bybit else {
        "method": "SUBSCRIBE", "params": [topic], "id": 1,
    }  # fmt: skip
    async with Sandbox(options) as venue, raw_socket(venue.url, path) as socket:
        await socket.send_json(wanted)
        await receive(socket)
        frame = await receive(socket)
        rows = _ascending((await get(venue.url, rest + ("&interval=1" if is_bybit else "")))[1])
    frame = frame["data"] if name is Venue.BINANCE else frame
    kline = frame["data"][0] if is_bybit else frame["k"]
    names = ("open", "high", "low", "close") if is_bybit else ("o", "h", "l", "c")
    assert kline["start" if is_bybit else "t"] == T0 + 7_000
    assert {kline[one] for one in names} == {"NaN"}
    assert {cell for row in rows for cell in row[1:5]} == {"NaN"}


# The market itself


async def test_a_delisted_symbol_ends_and_is_forgotten() -> None:
    """No bars from then on; first not trading, later unknown; the others go on."""
    delisting = Fault(kind=FaultKind.DELISTING, at=T0 + HOUR_MS, symbols=(ETH,))
    async with faulty(delisting) as venue:
        await commit(venue.url, T0)
        states = {one["symbol"]: one["status"] for one in await symbols_of(venue.url)}
        await commit(venue.url, T0 + 2 * HOUR_MS)
        await asyncio.sleep(0.05)
        gone = {one["symbol"] for one in await symbols_of(venue.url)}
        refused = (await get(venue.url, KLINES.replace("BTC", "ETH")))[1]
        absent = [one["open_time"] for one in await truth(venue.url) if "absent" in one]
        assert (await touched(venue.url))["delisting"] >= 2
    assert states["ETHUSDT"] != "TRADING"
    assert states["BTCUSDT"] == "TRADING"
    assert gone == {"BTCUSDT", "SOLUSDT"}
    assert refused["code"] == -1121
    assert absent == [T0 + HOUR_MS, T0 + 2 * HOUR_MS]


async def test_a_renamed_symbol_goes_on_under_its_new_name() -> None:
    """The old id is unknown, the new one has the bars from then on."""
    renaming = Fault(
        kind=FaultKind.RENAMING, at=T0 + HOUR_MS, symbols=(SOL,), renamed_to="NEW/USDT:USDT"
    )
    async with faulty(renaming) as venue:
        before = {one["symbol"] for one in await symbols_of(venue.url)}
        await commit(venue.url, T0 + HOUR_MS)
        await asyncio.sleep(0.05)
        after = {one["symbol"] for one in await symbols_of(venue.url)}
        rows = (await get(venue.url, KLINES.replace("BTC", "NEW")))[1]
    assert before == {"BTCUSDT", "ETHUSDT", "SOLUSDT"}
    assert after == {"BTCUSDT", "ETHUSDT", "NEWUSDT"}
    assert [row[0] for row in rows] == [T0 + HOUR_MS, T0 + 2 * HOUR_MS]


async def test_a_changed_funding_interval_and_minimum_notional_are_listed() -> None:
    """FundingInfo and exchangeInfo state the new values from then on."""
    at = T0 + HOUR_MS
    faults = (
        Fault(kind=FaultKind.FUNDING_INTERVAL, at=at, symbols=(BTC,), funding_interval_minutes=60),
        Fault(kind=FaultKind.MIN_NOTIONAL, at=at, symbols=(BTC,), min_notional=Decimal(250)),
    )
    async with faulty(*faults) as venue:
        before = await _rules(venue.url)
        await commit(venue.url, T0)
        await asyncio.sleep(0.05)
        assert (before, await _rules(venue.url)) == ((None, "5"), (1, "250"))


# Time


@pytest.mark.parametrize("shift_ms", [-30_000, 500])
async def test_a_skewed_clock_moves_every_statement_of_time_and_no_bar(shift_ms: int) -> None:
    """Server time, event times and headers are off, bars and their times are not."""
    skew = fault(FaultKind.CLOCK_SKEW, shift_ms=shift_ms)
    async with faulty(skew) as venue, raw_socket(venue.url, STREAM) as socket:
        frame = await receive(socket)
        stated = (await get(venue.url, "/fapi/v1/time"))[1]["serverTime"]
    async with faulty(skew, venue=Venue.BYBIT) as venue:
        _, body, headers = await get(venue.url, "/v5/market/time")
    assert (stated, frame["E"], frame["k"]["t"]) == (NOW + shift_ms, NOW + shift_ms, T0)
    assert (body["time"], headers["Timenow"]) == (NOW + shift_ms, str(NOW + shift_ms))
    assert body["result"]["timeNano"] == str((NOW + shift_ms) * 1_000_000)


# The truth and the log


@pytest.mark.parametrize("venue_name", [USDM, Venue.BYBIT])
async def test_no_fault_touches_the_truth(venue_name: Venue) -> None:
    """With every fault that is no fact of the market on at once, the truth is the tape's."""
    parameters: dict[FaultKind, dict[str, Any]] = {
        FaultKind.LATE_FINAL: {"delay_ms": 5_000},
        FaultKind.SHIFTED_TIMES: {"shift_ms": 9_000},
        FaultKind.CLOCK_SKEW: {"shift_ms": 20_000},
    }
    facts = {
        FaultKind.MISSING_BARS, FaultKind.DELISTING, FaultKind.RENAMING,
        FaultKind.FUNDING_INTERVAL, FaultKind.MIN_NOTIONAL,
    }  # fmt: skip
    script = [
        fault(one, hours=4, **parameters.get(one, {})) for one in FaultKind if one not in facts
    ]
    found = []
    for faults in ((), tuple(script)):
        async with faulty(*faults, venue=venue_name) as venue:
            await commit(venue.url, T0 + HOUR_MS)
            await asyncio.sleep(0.05)
            found.append(await truth(venue.url))
    panel = small_tape(venue_name).panel
    row = panel.open_time.tolist().index(T0)
    assert found[0] == found[1]
    assert found[0][0]["close"] == panel.close[row, 0]
    assert [one["open_time"] for one in found[0]] == [T0, T0 + HOUR_MS] * 3


async def test_the_log_tells_of_faults_requests_and_connections() -> None:
    """A fault's entry comes when it is over, with what it touched; 0 where nothing met it."""
    met = fault(FaultKind.OUTAGE_JSON, symbols=(BTC,))
    unmet = fault(FaultKind.STALL, symbols=(SOL,))
    async with faulty(met, unmet) as venue:
        async with listening(venue):
            await fetch(venue.url, KLINES.replace("limit=3", "limit=1000"))
        await commit(venue.url, T0)
        await asyncio.sleep(0.05)
        faults = {one["fault"]: one for one in await served(venue.url, "fault")}
        (request,) = await served(venue.url, "request")
        opened = await served(venue.url, "connected")
        closed = await served(venue.url, "disconnected")
        (subscribed,) = await served(venue.url, "subscribed")
    assert {kind: one["touched"] for kind, one in faults.items()} == {"outage_json": 1, "stall": 0}
    assert faults["outage_json"]["symbols"] == [BTC]
    assert faults["outage_json"]["first_touched_at"] == NOW
    assert faults["outage_json"]["until"] == T0 + HOUR_MS
    assert (request["weight"], request["status"], request["symbol"]) == (5, 503, BTC)
    assert request["sent_at"] == NOW
    assert request["real_seconds"] >= 0
    assert [one["connection"] for one in (*opened, *closed, subscribed)] == [1, 1, 1]


async def test_a_log_file_has_what_memory_let_go(tmp_path: Path) -> None:
    """Memory keeps its bounds and counts what went; the file has every entry in order."""
    path = tmp_path / "served.ndjson"
    async with faulty(log_path=path, log_bars=4, log_events=2) as venue:
        for _ in range(5):
            await fetch(venue.url, "/fapi/v1/time")
        await commit(venue.url, T0 + 2 * HOUR_MS)
        await asyncio.sleep(0.05)
        _, kept, headers = await fetch(venue.url, "/sandbox/log")
    numbers = [json.loads(line)["number"] for line in path.read_text().splitlines()]
    assert numbers == list(range(5 + 1 + 9))
    assert len(kept.splitlines()) == 6
    assert headers["X-Sandbox-Dropped"] == "9"


async def test_the_log_can_be_read_from_a_number_on() -> None:
    """``since`` leaves out what was read before."""
    async with faulty() as venue:
        await fetch(venue.url, "/fapi/v1/time")
        await fetch(venue.url, "/fapi/v1/ping")
        _, text, _ = await fetch(venue.url, "/sandbox/log?since=1")
    (entry,) = [json.loads(line) for line in text.splitlines()]
    assert (entry["number"], entry["detail"]) == (1, "200 /fapi/v1/ping")


@pytest.mark.parametrize("path", ["truth?since=x", "truth?until=-1", "log?since=1.5"])
async def test_a_bound_that_is_no_number_is_refused(path: str) -> None:
    """The sandbox's own endpoints answer 400 and name the parameter."""
    async with faulty() as venue:
        status, body, _ = await fetch(venue.url, f"/sandbox/{path}")
    assert status == 400
    assert "must be a whole number" in body


async def symbols_of(url: str) -> Any:
    """The symbols of exchangeInfo."""
    return (await get(url, "/fapi/v1/exchangeInfo"))[1]["symbols"]


async def _rules(url: str) -> tuple[int | None, str]:
    """BTC's adjusted funding interval, where one is listed, and its minimum notional."""
    info = (await get(url, "/fapi/v1/fundingInfo"))[1]
    hours = [one["fundingIntervalHours"] for one in info if one["symbol"] == "BTCUSDT"]
    (rules,) = [one for one in await symbols_of(url) if one["symbol"] == "BTCUSDT"]
    notional = next(one for one in rules["filters"] if one["filterType"] == "MIN_NOTIONAL")
    return (hours[0] if hours else None), notional["notional"]


def _ascending(body: Any) -> list[list[Any]]:
    """Kline rows of either venue, oldest first."""
    return body if isinstance(body, list) else body["result"]["list"][::-1]


def _open_and_final(frame: Any) -> tuple[int, bool]:
    if "k" in frame:
        return frame["k"]["t"], frame["k"]["x"]
    return frame["data"][0]["start"], frame["data"][0]["confirm"]
