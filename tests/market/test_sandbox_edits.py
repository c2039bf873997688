"""Facts of a venue that change while a tape plays, and what its dialects then say."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.bar import HOUR_MS
from market.instrument import Venue
from market.sandbox.binance_spot import BinanceSpot
from market.sandbox.binance_usdm import BinanceUsdm
from market.sandbox.bybit import Bybit
from market.sandbox.dialect import Dialect
from market.sandbox.edits import (
    Delisting,
    FundingIntervalChange,
    MinNotionalChange,
    MissingBars,
    NewListing,
    Renaming,
    VenueEdit,
    edit_tape,
    edit_time,
)
from market.sandbox.playback import Playback
from tests.market.small_tape import (
    BTC,
    ETH,
    SOL,
    SPOT_SOL,
    SYMBOLS,
    open_time,
    small_tape,
)

AT_BAR = 120
AT = open_time(AT_BAR)
USDM = Venue.BINANCEUSDM


def dialect(*edits: VenueEdit, venue: Venue = USDM) -> Dialect:
    """Return the dialect of the small tape after ``edits``."""
    playback = Playback(small_tape(venue), edits)
    match venue:
        case Venue.BINANCEUSDM:
            return BinanceUsdm(playback)
        case Venue.BINANCE:
            return BinanceSpot(playback)
        case _:
            return Bybit(playback)


def ask(spoken: Dialect, path: str, *, now: int, **query: str) -> Any:
    """Return the JSON answer of a GET request."""
    reply = spoken.answer(path, query, now=now)
    assert reply is not None
    return json.loads(reply.body)


def usdm_klines(spoken: Dialect, symbol: str, *, now: int) -> Any:
    """Return the newest klines, or the error."""
    return ask(spoken, "/fapi/v1/klines", now=now, symbol=symbol, interval="1h", limit="5")


def statuses(spoken: Dialect, *, now: int) -> dict[str, str]:
    """Return the status of each symbol in Binance USD-M's list."""
    listed = ask(spoken, "/fapi/v1/exchangeInfo", now=now)["symbols"]
    return {one["symbol"]: one["status"] for one in listed}


def test_no_edits_leave_the_tape_as_it_is() -> None:
    """Without edits nothing is copied or changed."""
    tape = small_tape(USDM)
    assert edit_tape(tape, ()).tape is tape


def test_a_delisted_symbol_settles_and_then_is_unknown() -> None:
    """No bar opens from then on; it is SETTLING for an hour, then gone and refused with -1121."""
    spoken = dialect(Delisting(symbol=SOL, at=AT))
    before, settling, gone = AT - 1, AT + HOUR_MS - 1, AT + HOUR_MS
    assert statuses(spoken, now=before)["SOLUSDT"] == "TRADING"
    assert statuses(spoken, now=settling)["SOLUSDT"] == "SETTLING"
    assert usdm_klines(spoken, "SOLUSDT", now=settling)[-1][0] == open_time(AT_BAR - 1)
    assert "SOLUSDT" not in statuses(spoken, now=gone)
    assert usdm_klines(spoken, "SOLUSDT", now=gone)["code"] == -1121
    assert sorted(statuses(spoken, now=gone)) == ["BTCUSDT", "ETHUSDT"]


def test_the_last_bar_of_a_delisted_symbol_still_closes() -> None:
    """The final frame of the last bar is sent at the very moment of the delisting."""
    spoken = dialect(Delisting(symbol=SOL, at=AT))
    topic = spoken.kline_topic("SOLUSDT")
    assert spoken.final_frame(topic, AT - HOUR_MS, now=AT) is not None
    assert spoken.final_frame(topic, AT, now=AT + HOUR_MS) is None
    assert spoken.update_frame(topic, now=AT) is None
    assert spoken.update_frame("solusdt@bookTicker", now=AT) is None


def test_nothing_settles_after_a_delisting() -> None:
    """Settlements before it stay, later ones are taken away; other symbols keep theirs."""
    tape, edited = small_tape(USDM), edit_tape(small_tape(USDM), [Delisting(symbol=SOL, at=AT)])
    ended = [one for one in edited.tape.settlements if one.symbol == SOL]
    assert ended == [one for one in tape.settlements if one.symbol == SOL and one.funding_time < AT]
    assert [one for one in edited.tape.settlements if one.symbol == BTC] == [
        one for one in tape.settlements if one.symbol == BTC
    ]


def test_spot_and_bybit_word_a_closed_symbol_their_own_way() -> None:
    """Spot says BREAK; Bybit leaves it out of its list and says Closed when asked by name."""
    spot = dialect(Delisting(symbol=SPOT_SOL, at=AT), venue=Venue.BINANCE)
    listed = ask(spot, "/api/v3/exchangeInfo", now=AT)["symbols"]
    assert {one["symbol"]: one["status"] for one in listed}["SOLUSDT"] == "BREAK"
    bybit = dialect(Delisting(symbol=SOL, at=AT), venue=Venue.BYBIT)
    path = "/v5/market/instruments-info"
    shown = ask(bybit, path, now=AT, category="linear")["result"]["list"]
    assert [one["symbol"] for one in shown] == ["BTCUSDT", "ETHUSDT"]
    named = ask(bybit, path, now=AT, category="linear", symbol="SOLUSDT")["result"]["list"]
    assert named[0]["status"] == "Closed"
    gone = ask(bybit, path, now=AT + HOUR_MS, category="linear", symbol="SOLUSDT")
    assert gone["retCode"] == 10001


def test_a_renamed_symbol_goes_on_under_its_new_id() -> None:
    """The old id leaves the list at once; the new one has the same bars from then on, no older."""
    spoken = dialect(Renaming(symbol=SOL, at=AT, base="LUNA"))
    now = open_time(AT_BAR + 2)
    assert sorted(statuses(spoken, now=AT - 1)) == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
    assert usdm_klines(spoken, "LUNAUSDT", now=AT - 1)["code"] == -1121
    assert sorted(statuses(spoken, now=AT)) == ["BTCUSDT", "ETHUSDT", "LUNAUSDT"]
    rows = usdm_klines(spoken, "LUNAUSDT", now=now)
    closes = small_tape(USDM).panel.close[AT_BAR : AT_BAR + 2, 2].tolist()
    assert [row[0] for row in rows] == [AT, open_time(AT_BAR + 1), now]
    assert [float(row[4]) for row in rows[:2]] == closes
    assert usdm_klines(spoken, "SOLUSDT", now=now)["code"] == -1121


def test_the_last_bar_of_an_old_name_can_still_be_asked_for() -> None:
    """For ten minutes the venue answers for the old id, which has no bar from the renaming on."""
    spoken = dialect(Renaming(symbol=SOL, at=AT, base="LUNA"))
    assert usdm_klines(spoken, "SOLUSDT", now=AT + 599_999)[-1][0] == AT - HOUR_MS
    assert usdm_klines(spoken, "SOLUSDT", now=AT + 600_000)["code"] == -1121


def test_the_truth_of_a_renaming_is_two_columns() -> None:
    """The edited tape splits bars and settlements at the renaming and loses none."""
    tape = small_tape(USDM)
    truth = edit_tape(tape, [Renaming(symbol=SOL, at=AT, base="LUNA")]).tape
    heir = "LUNA/USDT:USDT"
    assert truth.panel.symbols == (BTC, ETH, SOL, heir)
    old, new = truth.panel.close[:, 2], truth.panel.close[:, 3]
    assert np.array_equal(np.concatenate((old[:AT_BAR], new[AT_BAR:])), tape.panel.close[:, 2])
    assert np.isnan(old[AT_BAR:]).all()
    assert np.isnan(new[:AT_BAR]).all()
    assert len(truth.settlements) == len(tape.settlements)
    assert min(one.funding_time for one in truth.settlements if one.symbol == heir) >= AT


def test_a_later_edit_may_name_the_renamed_symbol() -> None:
    """Edits apply in the order of their times, whatever order they come in."""
    spoken = dialect(
        Delisting(symbol="LUNA/USDT:USDT", at=AT + 5 * HOUR_MS),
        Renaming(symbol=SOL, at=AT, base="LUNA"),
    )
    assert statuses(spoken, now=AT + 5 * HOUR_MS)["LUNAUSDT"] == "SETTLING"


def test_a_raised_minimum_notional_shows_from_its_time_on() -> None:
    """The filter has the old value before and the new one after; nothing else changes."""
    spoken = dialect(MinNotionalChange(symbol=BTC, at=AT, min_notional=Decimal(50)))
    values = []
    for now in (AT - 1, AT):
        rules = ask(spoken, "/fapi/v1/exchangeInfo", now=now)["symbols"][0]["filters"]
        values.append(next(one for one in rules if one["filterType"] == "MIN_NOTIONAL")["notional"])
    assert values == ["5", "50"]


def test_settlements_follow_a_changed_funding_interval() -> None:
    """After the change BTC settles every hour, at an eighth of the rate that was to come."""
    edit = FundingIntervalChange(symbol=BTC, at=AT, minutes=60)
    tape, truth = small_tape(USDM), edit_tape(small_tape(USDM), [edit]).tape
    times = [one.nominal_time for one in truth.settlements if one.symbol == BTC]
    assert times == [open_time(bar) for bar in (*range(0, AT_BAR + 1, 8), *range(AT_BAR + 1, 240))]
    new = next(one for one in truth.settlements if one.funding_time == open_time(AT_BAR + 1))
    coming = next(one for one in tape.settlements if one.nominal_time == open_time(AT_BAR + 8))
    assert new.rate == round(coming.rate / 8, 8)
    assert new.mark_price == tape.panel.mark_open[AT_BAR + 1, 0]
    row = AT_BAR + 1
    assert truth.panel.funding_at_open[row, 0] == new.rate * tape.panel.mark_open[row, 0]


def test_a_closed_symbol_settles_no_more_at_any_interval() -> None:
    """A change of interval while a symbol is being delisted brings no settlement back."""
    closed = Delisting(symbol=BTC, at=AT)
    late = FundingIntervalChange(symbol=BTC, at=AT + 1, minutes=60)
    truth = edit_tape(small_tape(USDM), [closed, late]).tape
    assert max(one.nominal_time for one in truth.settlements if one.symbol == BTC) < AT


def test_a_changed_funding_interval_is_announced() -> None:
    """fundingInfo, premiumIndex and Bybit's rules state the interval that is in force."""
    edit = FundingIntervalChange(symbol=BTC, at=AT, minutes=60)
    spoken = dialect(edit)
    stated = [
        {one["symbol"]: one["fundingIntervalHours"] for one in ask(spoken, path, now=now)}
        for path, now in (("/fapi/v1/fundingInfo", AT - 1), ("/fapi/v1/fundingInfo", AT))
    ]
    assert stated == [{"SOLUSDT": 4}, {"BTCUSDT": 1, "SOLUSDT": 4}]
    settled = AT + 1_000  # the settlement at the boundary itself has happened
    index = ask(spoken, "/fapi/v1/premiumIndex", now=settled, symbol="BTCUSDT")
    assert index["nextFundingTime"] == AT + HOUR_MS
    bybit = dialect(edit, venue=Venue.BYBIT)
    rules = ask(bybit, "/v5/market/instruments-info", now=AT, category="linear")["result"]["list"]
    assert rules[0]["fundingInterval"] == 60
    ticker = ask(bybit, "/v5/market/tickers", now=settled, category="linear")["result"]["list"][0]
    assert (ticker["fundingIntervalHour"], ticker["nextFundingTime"]) == ("1", str(AT + HOUR_MS))


@pytest.mark.parametrize("symbol", [BTC, None])
def test_missing_bars_are_in_no_row_and_no_frame(symbol: str | None) -> None:
    """Bars of the range are neither served nor closed; marks and funding stay."""
    spoken = dialect(MissingBars(symbol=symbol, since=AT, until=AT + 2 * HOUR_MS))
    now = open_time(AT_BAR + 4)
    wanted = [open_time(bar) for bar in (117, 118, 119, 122, 123, 124)][-5:]
    assert [row[0] for row in usdm_klines(spoken, "BTCUSDT", now=now)] == wanted
    topic = spoken.kline_topic("BTCUSDT")
    assert spoken.final_frame(topic, AT, now=AT + HOUR_MS) is None
    path = "/fapi/v1/markPriceKlines"
    marks = ask(spoken, path, now=now, symbol="BTCUSDT", interval="1h", limit="5")
    assert AT in [row[0] for row in marks]
    solana = [row[0] for row in usdm_klines(spoken, "SOLUSDT", now=now)]
    assert (AT in solana) is (symbol is not None)


def test_a_new_listing_is_unknown_before_its_time() -> None:
    """Before it the venue refuses the symbol; from then on its bars begin."""
    spoken = dialect(NewListing(symbol=SOL, at=AT))
    assert "SOLUSDT" not in statuses(spoken, now=AT - 1)
    assert usdm_klines(spoken, "SOLUSDT", now=AT - 1)["code"] == -1121
    assert statuses(spoken, now=AT)["SOLUSDT"] == "TRADING"
    assert [row[0] for row in usdm_klines(spoken, "SOLUSDT", now=AT)] == [AT]


@pytest.mark.parametrize(
    "edit",
    [
        Delisting(symbol=SOL, at=AT + 1),
        Delisting(symbol="NO/USDT:USDT", at=AT),
        Renaming(symbol=SOL, at=AT, base="BTC"),
        FundingIntervalChange(symbol=SOL, at=AT, minutes=0),
        MissingBars(symbol="NO/USDT:USDT", since=AT, until=AT + HOUR_MS),
    ],
    ids=["off grid", "unknown", "name taken", "no interval", "no such bars"],
)
def test_an_edit_that_does_not_fit_is_refused(edit: VenueEdit) -> None:
    """An edit must name a listed symbol, cut no bar in two and leave a schedule."""
    with pytest.raises(ValueError, match="USDT"):
        edit_tape(small_tape(USDM), [edit])


def once(edit: VenueEdit) -> str:
    """Return a key that forbids what a symbol cannot undergo twice."""
    repeatable = isinstance(edit, MissingBars | FundingIntervalChange)
    return f"{type(edit).__name__} {edit_time(edit) if repeatable else ''}"


EDITS = st.lists(
    st.one_of(
        st.builds(Delisting, symbol=st.just(ETH), at=st.integers(1, 200).map(open_time)),
        st.builds(
            Renaming,
            symbol=st.just(SOL),
            at=st.integers(1, 200).map(open_time),
            base=st.just("LUNA"),
        ),
        st.builds(
            MissingBars,
            symbol=st.sampled_from([None, BTC]),
            since=st.integers(0, 200).map(open_time),
            until=st.integers(0, 240).map(open_time),
        ),
        st.builds(
            FundingIntervalChange,
            symbol=st.just(BTC),
            at=st.integers(0, 200).map(open_time),
            minutes=st.sampled_from([60, 240]),
        ),
    ),
    max_size=5,
    unique_by=once,
)


@given(edits=EDITS)
def test_edits_take_bars_away_and_never_change_one(edits: list[VenueEdit]) -> None:
    """Whatever happens, each bar of the edited tape is the source's, under one symbol only."""
    source, truth = small_tape(USDM).panel, edit_tape(small_tape(USDM), edits).tape.panel
    for asset, symbol in enumerate(truth.symbols):
        origin = SYMBOLS.index(SOL if symbol.startswith("LUNA") else symbol)
        there = truth.observed[:, asset]
        assert np.array_equal(truth.close[there, asset], source.close[there, origin])
        assert np.array_equal(truth.volume[there, asset], source.volume[there, origin])
    if len(truth.symbols) > len(SYMBOLS):
        assert not (truth.observed[:, 2] & truth.observed[:, 3]).any()


@given(edits=EDITS, seconds=st.integers(0, 239 * 3600))
def test_what_is_listed_is_answered(edits: list[VenueEdit], seconds: int) -> None:
    """At every moment the venue answers for each symbol of its own list."""
    playback = Playback(small_tape(USDM), edits)
    now = open_time(0) + seconds * 1000
    listed = playback.listed(now=now)
    assert all(playback.answers(one, now=now) for one in listed)
    assert all(
        playback.is_trading(one, now=now) == rules.is_trading for one, rules in listed.items()
    )
    assert "BTCUSDT" in listed
