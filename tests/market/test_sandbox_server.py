"""The sandbox's time, control endpoints and life, whatever the venue."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType
from hypothesis import given
from hypothesis import strategies as st

from market.bar import HOUR_MS
from market.instrument import Venue
from market.sandbox import hub as hub_module
from market.sandbox.dialect import number_text
from market.sandbox.playback import Candle, forming
from market.sandbox.server import PortInUse, Sandbox, SandboxOptions, TapeEnded
from tests.market.sandbox_client import (
    T0,
    T0_BAR,
    commit,
    get,
    raw_socket,
    receive,
    sandbox,
    served,
    until,
)
from tests.market.small_tape import BARS, BTC, ETH, MISSING_ETH_BAR, SOL, open_time, small_tape

VENUE = Venue.BINANCEUSDM
KLINE_STREAM = "/ws/btcusdt@kline_1h"


async def clock(url: str) -> Any:
    """Return /sandbox/clock."""
    _, facts, _ = await get(url, "/sandbox/clock")
    return facts


async def finals(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[int]:
    """Return the open_times of the next ``count`` final frames."""
    found: list[int] = []
    while len(found) < count:
        kline = (await receive(socket))["k"]
        found += [kline["t"]] if kline["x"] else []
    return found


async def test_the_clock_endpoint_tells_what_is_played() -> None:
    """now, speed, lock_step, start, synthetic, description and ended are stated."""
    async with sandbox(VENUE) as venue:
        facts = await clock(venue.url)
    assert facts["now"] == T0 + 1500
    assert (facts["speed"], facts["lock_step"], facts["start"]) == (0.0, True, T0)
    assert (facts["synthetic"], facts["description"]) == (True, "test tape, not real data")
    assert (facts["ended"], facts["venue"], facts["interval_ms"]) == (False, "binanceusdm", HOUR_MS)
    assert facts["symbols"] == [BTC, ETH, SOL]


async def test_lock_step_waits_for_the_commit() -> None:
    """Without a commit nothing closes; an older or repeated commit releases nothing."""
    async with sandbox(VENUE) as venue, raw_socket(venue.url, KLINE_STREAM) as socket:
        await commit(venue.url, T0 - HOUR_MS)
        await asyncio.sleep(0.1)
        assert (await clock(venue.url))["last_close"] == T0
        await commit(venue.url, T0)
        assert await finals(socket, 1) == [T0]
        await commit(venue.url, T0)
        await asyncio.sleep(0.1)
        facts = await clock(venue.url)
    assert (facts["last_close"], facts["now"]) == (T0 + HOUR_MS, T0 + HOUR_MS + 1500)


async def test_each_commit_releases_one_interval_in_order() -> None:
    """Committing every close in turn plays the tape without a gap or a repeat."""
    async with sandbox(VENUE) as venue, raw_socket(venue.url, KLINE_STREAM) as socket:
        seen = []
        for bar in range(T0_BAR, BARS):
            await commit(venue.url, open_time(bar))
            seen += await finals(socket, 1)
    assert seen == [open_time(bar) for bar in range(T0_BAR, BARS)]


async def test_a_commit_ahead_releases_up_to_it() -> None:
    """A commit for a later close lets every interval up to and including its next one close."""
    async with sandbox(VENUE) as venue, raw_socket(venue.url, KLINE_STREAM) as socket:
        await commit(venue.url, T0 + 2 * HOUR_MS)
        assert await finals(socket, 3) == [T0, T0 + HOUR_MS, T0 + 2 * HOUR_MS]
        await asyncio.sleep(0.05)
        assert (await clock(venue.url))["last_close"] == T0 + 3 * HOUR_MS


async def test_lock_step_with_a_speed_keeps_the_pace() -> None:
    """With a speed, two closes are at least interval/speed real seconds apart."""
    loop = asyncio.get_running_loop()
    async with (
        sandbox(VENUE, speed=18_000.0) as venue,
        raw_socket(venue.url, KLINE_STREAM) as socket,
    ):
        await commit(venue.url, T0)
        await finals(socket, 1)
        first = loop.time()
        await commit(venue.url, T0 + HOUR_MS)
        await finals(socket, 1)
        assert loop.time() - first >= 0.19


async def test_a_late_subscriber_in_lock_step_gets_the_last_final_frame() -> None:
    """Whoever subscribes after committing sees the bar that closed meanwhile, once."""
    async with sandbox(VENUE) as venue:
        await commit(venue.url, T0)
        await asyncio.sleep(0.05)
        async with raw_socket(venue.url, KLINE_STREAM) as socket:
            frames = [await receive(socket), await receive(socket)]
            await commit(venue.url, T0 + HOUR_MS)
            assert await finals(socket, 1) == [T0 + HOUR_MS]
    assert [(one["k"]["t"], one["k"]["x"]) for one in frames] == [
        (T0, True),
        (T0 + HOUR_MS, False),
    ]


async def test_scaled_time_runs_at_its_speed() -> None:
    """At 36000x an hourly bar closes every tenth of a second, the forming bar moving meanwhile."""
    async with (
        sandbox(VENUE, speed=36_000.0, lock_step=False) as venue,
        raw_socket(venue.url, KLINE_STREAM) as socket,
    ):
        before, started = venue.now(), asyncio.get_running_loop().time()
        assert await finals(socket, 3) == [T0, T0 + HOUR_MS, T0 + 2 * HOUR_MS]
        passed = (venue.now() - before) / 36_000_000
        assert passed == pytest.approx(asyncio.get_running_loop().time() - started, abs=0.05)


async def test_forming_updates_come_between_closes() -> None:
    """A slow venue sends forming frames with growing event times and volumes."""
    async with (
        sandbox(VENUE, speed=600.0, lock_step=False) as venue,
        raw_socket(venue.url, KLINE_STREAM) as socket,
    ):
        frames = [await receive(socket) for _ in range(3)]
    assert [one["k"]["x"] for one in frames] == [False] * 3
    assert sorted({one["E"] for one in frames}) == [one["E"] for one in frames]
    volumes = [float(one["k"]["v"]) for one in frames]
    assert volumes == sorted(volumes)
    assert volumes[0] < volumes[-1]


async def test_all_symbols_of_a_close_are_sent_together() -> None:
    """Every symbol's final frame of one close goes out before any of the next."""
    streams = "/ws/btcusdt@kline_1h/ethusdt@kline_1h/solusdt@kline_1h"
    async with sandbox(VENUE) as venue, raw_socket(venue.url, streams) as socket:
        await commit(venue.url, T0 + HOUR_MS)
        seen = await finals(socket, 6)
    assert seen == [T0] * 3 + [T0 + HOUR_MS] * 3


async def test_the_log_tells_what_was_served() -> None:
    """Each close logs every symbol once, with receivers and the venue's time of sending."""
    async with sandbox(VENUE) as venue, raw_socket(venue.url, KLINE_STREAM) as socket:
        await commit(venue.url, T0)
        await finals(socket, 1)
        entries = await served(venue.url, "final")
        commits = await served(venue.url, "commit")
    assert [(one["symbol"], one["open_time"], one["receivers"]) for one in entries] == [
        (BTC, T0, 1),
        (ETH, T0, 0),
        (SOL, T0, 0),
    ]
    assert {one["sent_at"] for one in entries} == {T0 + HOUR_MS + 1500}
    assert [one["detail"] for one in commits] == [str(T0)]


async def test_a_missing_bar_has_no_final_frame() -> None:
    """For a bar that the tape lacks nothing is sent, and the log calls it absent."""
    start = open_time(MISSING_ETH_BAR)
    async with (
        sandbox(VENUE, start=start) as venue,
        raw_socket(venue.url, "/ws/ethusdt@kline_1h") as socket,
    ):
        await commit(venue.url, start + HOUR_MS)
        assert await finals(socket, 1) == [start + HOUR_MS]
        absent = await served(venue.url, "absent")
    assert [(one["symbol"], one["open_time"]) for one in absent] == [(ETH, start)]


async def test_the_tapes_end_is_stated_and_time_stands_still() -> None:
    """After the last close ended is true, the clock stands, and further commits change nothing."""
    async with sandbox(VENUE, speed=360_000.0, lock_step=False) as venue:
        await asyncio.wait_for(venue.wait_ended(), 5)
        facts = await clock(venue.url)
        await commit(venue.url, open_time(BARS + 5))
        await asyncio.sleep(0.1)
        assert await clock(venue.url) == facts | {"now": facts["end"] + 1500}
        assert venue.ended
    assert (facts["ended"], facts["last_close"]) == (True, open_time(BARS))


@pytest.mark.parametrize("body", ["", "[]", '{"decision_time": "1"}', '{"decision_time": true}'])
async def test_a_commit_that_is_no_commit_is_refused(body: str) -> None:
    """Anything but an integer decision_time answers 400."""
    async with (
        sandbox(VENUE) as venue,
        aiohttp.ClientSession() as session,
        session.post(f"{venue.url}/sandbox/commit", data=body) as response,
    ):
        assert response.status == 400


async def test_a_taken_port_is_named() -> None:
    """A second sandbox on the same port raises PortInUse and leaves the first alone."""
    async with sandbox(VENUE) as first:
        port = int(first.url.rpartition(":")[2])
        with pytest.raises(PortInUse, match=str(port)) as failure:
            await sandbox(VENUE, port=port).start()
        assert failure.value.port == port
        assert (await clock(first.url))["start"] == T0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"start": open_time(BARS)}, TapeEnded),
        ({"start": T0 + 1}, ValueError),
        ({"speed": 0.0, "lock_step": False}, ValueError),
        ({"speed": -1.0}, ValueError),
    ],
)
def test_impossible_options_are_refused(change: dict[str, Any], error: type[Exception]) -> None:
    """A start past the tape or off the grid and a speed that cannot work are errors at once."""
    options: dict[str, Any] = {"tape": small_tape(VENUE), "start": T0, "lock_step": True}
    with pytest.raises(error):
        Sandbox(SandboxOptions(**(options | change)))


async def test_stopping_closes_connections_and_frees_the_port() -> None:
    """After stop a client sees the close, and the port can be taken again."""
    venue = sandbox(VENUE)
    await venue.start()
    port = int(venue.url.rpartition(":")[2])
    async with raw_socket(venue.url, KLINE_STREAM) as socket:
        await receive(socket)
        stopping = asyncio.create_task(venue.stop())
        closed = await socket.receive(timeout=5)
        await stopping
    assert closed.data == aiohttp.WSCloseCode.GOING_AWAY
    async with sandbox(VENUE, port=port) as again:
        assert again.url == venue.url


async def test_a_client_that_stops_reading_is_dropped_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full queue costs that client its connection, nobody else a frame."""
    monkeypatch.setattr(hub_module, "MOST_QUEUED_FRAMES", 3)
    many = "/".join(f"{name}@{channel}" for name in ("btcusdt", "ethusdt", "solusdt")
                    for channel in ("kline_1h", "bookTicker", "markPrice"))  # fmt: skip
    async with sandbox(VENUE) as venue, raw_socket(venue.url, KLINE_STREAM) as good:
        async with raw_socket(venue.url, f"/ws/{many}") as slow:

            async def dropped() -> bool:
                return (await slow.receive()).type in (WSMsgType.CLOSED, WSMsgType.ERROR)

            await until(dropped)
        await commit(venue.url, T0)
        assert await finals(good, 1) == [T0]


async def test_a_client_that_never_answers_does_not_hold_up_stopping() -> None:
    """A peer that ignores the closing handshake is cut off after a second."""
    venue = sandbox(VENUE)
    await venue.start()
    host, _, port = venue.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET {KLINE_STREAM} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    assert b"101" in await reader.readline()
    await asyncio.wait_for(venue.stop(), 4)
    writer.close()


async def test_unknown_paths_are_not_found() -> None:
    """A path that the venue does not have answers 404, over HTTP and as a websocket."""
    async with sandbox(VENUE) as venue, aiohttp.ClientSession() as session:
        async with session.get(f"{venue.url}/fapi/v1/nothing") as response:
            assert response.status == 404
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"{venue.url}/v5/public/linear")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_number_text_survives_the_way_back(value: float) -> None:
    """float(number_text(x)) == x, and no venue ever sees an exponent."""
    text = number_text(value)
    assert float(text) == value
    assert "e" not in text


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_a_forming_bar_only_grows(first: float, second: float) -> None:
    """As time passes a forming bar's range widens inside the final one, and its volume grows."""
    candle = Candle(open_time=0, open=100.03, high=104.7, low=98.2, close=99.1, volume=7.3)
    early, late = (
        forming(candle, progress=share, tick_size=Decimal("0.1"))
        for share in sorted((first, second))
    )
    assert candle.low <= late.low <= early.low <= early.close <= early.high <= late.high
    assert late.high <= candle.high
    assert early.volume <= late.volume <= candle.volume
    assert (early.open, early.final, late.final) == (100.03, False, False)
    assert math.isnan(early.quote_volume)
