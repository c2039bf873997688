"""Scripts of faults without a venue: the file, the random draw, and the report."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.cli import main
from daemon.settings import DEFAULT_SYMBOLS
from market.bar import HOUR_MS, MINUTE_MS
from market.instrument import Market, Venue
from market.sandbox.edits import edit_tape
from market.sandbox.fault import LASTING, REST_KINDS, Fault, FaultKind, Place
from market.sandbox.fault_edits import edits_of
from market.sandbox.faults import (
    FAULT_FREE_MS,
    NOTICED_BY,
    CounterSample,
    FaultFileError,
    early_requests,
    fault_report,
    fault_totals,
    load_faults,
    random_faults,
)
from market.sandbox.minutes import minute_tape
from market.sandbox.rules import listed_symbols

START = 1_700_006_400_000  # 2023-11-15 00:00 UTC
BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
EXAMPLE = Path(__file__).parents[2] / "deploy" / "faults.example.toml"
GOOD = 'kind = "silence"\nafter = "90m"\nfor = "5m"\n'


def load(path: Path, text: str) -> tuple[Fault, ...]:
    """The faults of a file with this text."""
    path.write_text(text, encoding="utf-8")
    return load_faults(path, start=START, symbols=(BTC, ETH))


# The file


def test_times_are_relative_or_absolute(tmp_path: Path) -> None:
    """``after`` counts from the start, ``at`` is a UTC time; faults come in the order of time."""
    text = (
        f'[[fault]]\n{GOOD}\n[[fault]]\nkind = "nan_fields"\nat = 2023-11-15T01:00:00Z\n'
        f'for = "1.5h"\nsymbols = ["{BTC}"]\ntext = "null"\nplace = "both"\n'
        '[[fault]]\nkind = "disconnect"\nat = "2023-11-15T03:00:00+01:00"\n'
        '[[fault]]\nkind = "clock_skew"\nafter = "1d"\nfor = "10m"\nshift = "-500ms"\n'
    )
    assert load(tmp_path / "faults.toml", text) == (
        Fault(
            kind=FaultKind.NAN_FIELDS,
            at=START + HOUR_MS,
            duration_ms=90 * MINUTE_MS,
            symbols=(BTC,),
            text="null",
            place=Place.BOTH,
        ),
        Fault(kind=FaultKind.SILENCE, at=START + 90 * MINUTE_MS, duration_ms=5 * MINUTE_MS),
        Fault(kind=FaultKind.DISCONNECT, at=START + 2 * HOUR_MS),
        Fault(
            kind=FaultKind.CLOCK_SKEW,
            at=START + 24 * HOUR_MS,
            duration_ms=10 * MINUTE_MS,
            shift_ms=-500,
        ),
    )


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        ('after = "1m"\nfor = "1m"', "kind", ["missing"]),
        ('kind = "silent"\nafter = "1m"', "kind", ["'silent'", "silence", "clock_skew"]),
        (GOOD + 'colour = "red"', "colour", ["silence takes only", "symbols"]),
        (GOOD + 'delay = "1s"', "delay", ["silence takes only"]),
        ('kind = "silence"\nafter = "1m"', "for", ["missing"]),
        ('kind = "silence"\nafter = "1m"\nfor = "-5m"', "for", ["'-5m'", "not negative"]),
        ('kind = "silence"\nafter = "1m"\nfor = "0s"', "for", ["'0s'", "positive"]),
        ('kind = "silence"\nafter = "1m"\nfor = 5', "for", ["5", '"90s"']),
        ('kind = "silence"\nfor = "5m"', "at", ["either", "after"]),
        (GOOD + "at = 2023-11-15T01:00:00Z", "at", ["either", "after"]),
        ('kind = "disconnect"\nat = 2023-11-15T01:00:00', "at", ["time zone"]),
        ('kind = "disconnect"\nat = "soon"', "at", ["'soon'", "2024-07-01T09:30:00Z"]),
        (GOOD + 'symbols = ["NOPE/USDT:USDT"]', "symbols", ["NOPE", BTC]),
        (GOOD + "symbols = []", "symbols", ["list of symbols"]),
        ('kind = "late_final"\nafter = "1m"\nfor = "5m"', "delay", ["missing", "late_final"]),
        ('kind = "clock_skew"\nafter = "1m"\nfor = "5m"\nshift = "0s"', "shift", ["not nothing"]),
        (
            f'kind = "clock_skew"\nafter = "1m"\nfor = "5m"\nshift = "1s"\nsymbols = ["{BTC}"]',
            "kind",
            ["whole venue"],
        ),
        (
            f'kind = "delisting"\nafter = "1m"\nfor = "1m"\nsymbols = ["{BTC}"]',
            "for",
            ["delisting takes only"],
        ),
        ('kind = "delisting"\nafter = "1m"', "kind", ["needs symbols"]),
        (
            f'kind = "funding_interval"\nafter = "1m"\nsymbols = ["{BTC}"]\ninterval_minutes = 7',
            "interval_minutes",
            ["7", "divide a day"],
        ),
        (
            'kind = "nan_fields"\nafter = "1m"\nfor = "1m"\ntext = "none"',
            "text",
            ["'none'", "'NaN'"],
        ),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, entry: str, key: str, words: Sequence[str]) -> None:
    """The error names file, entry number, key, value and what was expected."""
    path = tmp_path / "faults.toml"
    with pytest.raises(FaultFileError) as failure:
        load(path, f"[[fault]]\n{GOOD}\n[[fault]]\n{entry}\n")
    message = str(failure.value)
    assert message.startswith(f"{path}: fault 2: {key}: ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("text", "words"),
    [("[[fault]", "not TOML"), ("[faults]\n", "unknown; expected [[fault]]"), ("fault = 1", "[[")],
)
def test_a_file_that_is_no_script_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """Broken TOML and other tables are errors that name the file."""
    with pytest.raises(FaultFileError, match=r"faults\.toml") as failure:
        load(tmp_path / "faults.toml", text)
    assert words in str(failure.value)


def test_the_example_has_every_kind_and_fits_the_default_market() -> None:
    """deploy/faults.example.toml loads, shows each kind, and its edits fit the tape."""
    faults = load_faults(EXAMPLE, start=START, symbols=DEFAULT_SYMBOLS)
    assert {one.kind for one in faults} == set(FaultKind)
    tape = minute_tape(
        seed=1, venue=Venue.BINANCEUSDM, symbols=DEFAULT_SYMBOLS, start=START, bars=720
    )
    edited = edit_tape(tape, edits_of(faults, interval_ms=MINUTE_MS))
    assert "SOLANA/USDT:USDT" in edited.tape.panel.symbols


def test_a_wrong_file_is_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``ballast sandbox --faults`` ends with exit code 2 and one line, and serves nothing."""
    path = tmp_path / "faults.toml"
    path.write_text('[[fault]]\nkind = "silent"\n', encoding="utf-8")
    code = main(["sandbox", "--history-days", "30", "--port", "0", "--faults", str(path)])
    assert code == 2
    assert f"{path}: fault 1: kind: 'silent'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "parameters",
    [
        {"kind": FaultKind.SILENCE},
        {"kind": FaultKind.SILENCE, "duration_ms": -1},
        {"kind": FaultKind.SILENCE, "duration_ms": 1, "shift_ms": 1},
        {"kind": FaultKind.CLOCK_SKEW, "duration_ms": 1},
        {"kind": FaultKind.DELISTING, "duration_ms": 1, "symbols": (BTC,)},
        {"kind": FaultKind.RENAMING, "symbols": (BTC, ETH), "renamed_to": "A/B"},
        {"kind": FaultKind.HALF_OPEN, "duration_ms": 1, "symbols": (BTC,)},
    ],
)
def test_an_impossible_fault_cannot_be_made(parameters: dict[str, Any]) -> None:
    """Durations, symbols and parameters that a kind does not take are errors at once."""
    with pytest.raises(ValueError, match=parameters["kind"].value):
        Fault(at=0, **parameters)


# The random draw


@st.composite
def scripts(draw: st.DrawFn) -> tuple[tuple[Fault, ...], int, int, tuple[str, ...], Venue]:
    """A random script with what it was drawn from: faults, since, until, symbols, venue."""
    venue = draw(st.sampled_from(list(Venue)))
    symbols = listed_symbols(venue)[: draw(st.integers(3, 10))]
    since = START + draw(st.integers(0, 600)) * MINUTE_MS
    until = since + draw(st.integers(120, 3_000)) * MINUTE_MS
    faults = random_faults(
        seed=draw(st.integers(0, 2**32)), since=since, until=until, symbols=symbols, venue=venue
    )
    return faults, since, until, symbols, venue


@given(scripts())
@settings(deadline=None, max_examples=60)
def test_a_random_script_keeps_its_promises(
    drawn: tuple[tuple[Fault, ...], int, int, tuple[str, ...], Venue],
) -> None:
    """In its span, ascending, the end free, at most two symbols lost, and every kind in it."""
    faults, since, until, symbols, venue = drawn
    ends = [one.at if one.until is None else one.until for one in faults]
    lost = [one for one in faults if one.kind in (FaultKind.DELISTING, FaultKind.RENAMING)]
    every = set(FaultKind)
    if venue.market is Market.SPOT:
        every.remove(FaultKind.FUNDING_INTERVAL)
    assert [one.at for one in faults] == sorted(one.at for one in faults)
    assert min(one.at for one in faults) >= since
    assert max(ends) <= until - FAULT_FREE_MS
    assert {one.kind for one in faults} == every
    assert {symbol for one in faults for symbol in one.symbols} <= set(symbols)
    assert len({one.symbols for one in lost}) == len(lost) == 2
    assert all(one.at >= since + (until - FAULT_FREE_MS - since) * 0.74 for one in lost)
    skews = [one.shift_ms for one in faults if one.kind is FaultKind.CLOCK_SKEW]
    assert min(skews) < 0 < max(skews)


@pytest.mark.parametrize("seed", range(1, 21))
def test_a_symbol_leaves_when_its_last_bars_can_be_heard(seed: int) -> None:
    """Neither socket nor REST is disturbed in the five minutes before."""
    symbols = listed_symbols(Venue.BYBIT)[:10]
    until = START + 12 * HOUR_MS
    faults = random_faults(seed=seed, since=START, until=until, symbols=symbols, venue=Venue.BYBIT)
    deaf = {*REST_KINDS, FaultKind.DISCONNECT, FaultKind.RESET, FaultKind.HALF_OPEN}
    for lost in (one for one in faults if one.kind in (FaultKind.DELISTING, FaultKind.RENAMING)):
        before = range(lost.at - 5 * MINUTE_MS, lost.at + 1, MINUTE_MS)
        assert not [one for one in faults if one.kind in deaf and any(map(one.holds, before))]


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_every_kind_comes_in_every_twelve_hours(seed: int) -> None:
    """In a script of 36 hours each third has every kind that does not last."""
    symbols = listed_symbols(Venue.BINANCEUSDM)[:10]
    until = START + 36 * HOUR_MS + FAULT_FREE_MS
    faults = random_faults(
        seed=seed, since=START, until=until, symbols=symbols, venue=Venue.BINANCEUSDM
    )
    for part in range(3):
        begin = START + part * 12 * HOUR_MS
        kinds = {one.kind for one in faults if begin <= one.at < begin + 12 * HOUR_MS}
        assert kinds >= set(FaultKind) - LASTING


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=20)
def test_a_seed_gives_one_script_that_fits_its_market(seed: int) -> None:
    """Twice the same, another for the next seed, and the tape takes its edits."""
    symbols = listed_symbols(Venue.BYBIT)[:10]
    spans = {"since": START, "until": START + 6 * HOUR_MS}
    first, again, other = (
        random_faults(seed=one, symbols=symbols, venue=Venue.BYBIT, **spans)
        for one in (seed, seed, seed + 1)
    )
    assert first == again != other
    tape = minute_tape(seed=1, venue=Venue.BYBIT, symbols=symbols, start=START, bars=360)
    edited = edit_tape(tape, edits_of(first, interval_ms=MINUTE_MS))
    assert len(edited.tape.panel.symbols) == 11


@pytest.mark.parametrize("change", [{"symbols": (BTC, ETH)}, {"until": START + HOUR_MS}])
def test_too_small_a_market_is_refused(change: dict[str, Any]) -> None:
    """Fewer than three symbols or two hours cannot hold a script."""
    options: dict[str, Any] = {
        "symbols": DEFAULT_SYMBOLS,
        "until": START + 12 * HOUR_MS,
        "since": START,
    }
    with pytest.raises(ValueError, match="random faults need"):
        random_faults(seed=1, venue=Venue.BINANCEUSDM, **(options | change))


# The report


def request(at: int, path: str = "/fapi/v1/klines", **facts: Any) -> dict[str, Any]:
    """A request's entry at second ``at`` of both clocks."""
    entry = {"kind": "request", "sent_at": at * 1000, "real_seconds": float(at), "symbol": BTC}
    return entry | {"status": 200, "detail": f"{facts.get('status', 200)} {path}?x=1"} | facts


def injected(kind: FaultKind, *, touched: int = 1, first: int = 10, last: int = 20) -> Any:
    """The entry of a fault that touched BTC from second ``first`` to ``last``."""
    return {
        "kind": "fault", "sent_at": 30_000, "real_seconds": 30.0, "fault": kind.value,
        "at": 10_000, "until": 30_000, "touched": touched, "symbols": [BTC],
        "first_touched_at": first * 1000, "last_touched_at": last * 1000,
    }  # fmt: skip


def noticed(*entries: Any, samples: Sequence[CounterSample] = ()) -> str | None:
    """What shows that the only fault among ``entries`` was noticed."""
    (row,) = fault_report(entries, samples)
    assert row.noticed == (row.noticed_by is not None)
    return row.noticed_by


def test_every_kind_has_a_notice_with_a_counter() -> None:
    """No kind is left without a way to show that it was noticed."""
    assert set(NOTICED_BY) == set(FaultKind)
    assert all(one.counter for one in NOTICED_BY.values())


def test_a_fault_that_touched_nothing_is_not_injected() -> None:
    """It counts as scripted only, whatever the client did."""
    subscribed = {"kind": "subscribed", "sent_at": 15_000, "real_seconds": 15.0, "detail": "x"}
    rows = fault_report([subscribed, injected(FaultKind.SILENCE, touched=0)])
    assert fault_totals(rows)[FaultKind.SILENCE] == (1, 0, 0)


def test_silence_is_noticed_by_subscribing_again() -> None:
    """A subscription after the first lost frame shows it, one before does not."""
    before = {"kind": "subscribed", "sent_at": 9_000, "real_seconds": 9.0, "detail": "x"}
    after = before | {"sent_at": 12_000}
    silence = injected(FaultKind.SILENCE)
    assert noticed(before, silence) is None
    assert noticed(before, after, silence) == "subscription"


def test_a_lost_final_is_noticed_by_asking_for_the_bars() -> None:
    """A kline request for the symbol shows it; other symbols and paths do not."""
    stays = injected(FaultKind.FORMING_STAYS)
    assert noticed(request(12, symbol=ETH), request(13, "/fapi/v1/markPriceKlines"), stays) is None
    assert noticed(request(12), stays) == "bars_asked"


def test_an_outage_is_noticed_by_asking_again() -> None:
    """The spoilt request made again and answered shows it, any other request does not."""
    spoilt = request(12, status=503, fault="outage_json")
    outage = injected(FaultKind.OUTAGE_JSON)
    assert noticed(spoilt, request(13, "/fapi/v1/time"), outage) is None
    assert noticed(spoilt, request(13), outage) == "asked_again"


def test_a_ban_is_noticed_by_waiting_for_its_end() -> None:
    """Nothing before the deadline and something after it; one early request spoils it."""
    refused = request(10, status=418, fault="banned", banned_until=30_000)
    ban = injected(FaultKind.BANNED)
    assert noticed(refused, request(31), ban) == "waited"
    assert noticed(refused, ban) is None
    assert noticed(refused, request(20), request(31), ban) is None
    (early,) = early_requests([refused, request(20), request(31)])
    assert early == request(20) | {"after_refusal_seconds": 10.0, "before_deadline_ms": 10_000}


def test_a_later_ban_does_not_hide_that_the_first_was_noticed() -> None:
    """Only refusals within the fault itself set the deadline that it is judged by."""
    first = request(10, status=418, fault="banned", banned_until=30_000)
    second = request(40, status=418, fault="banned", banned_until=5_000_000)
    assert noticed(first, request(31), second, injected(FaultKind.BANNED)) == "waited"


def test_requests_on_their_way_when_the_ban_came_are_not_early() -> None:
    """Within the grace after the first refusal other requests may still arrive."""
    first = request(10, status=418, fault="banned", banned_until=30_000)
    companion = first | {"real_seconds": 10.2}
    late = first | {"real_seconds": 10.3}
    (early,) = early_requests([first, companion, late])
    assert early["real_seconds"] == late["real_seconds"]
    assert early["after_refusal_seconds"] == pytest.approx(0.3)


def test_what_the_venue_cannot_see_is_noticed_by_a_counter() -> None:
    """The counter must grow after the first touch; a higher one from before does not count."""
    broken = injected(FaultKind.NAN_FIELDS)
    samples = [
        CounterSample(at=5_000, counters={"bars_quarantined": 3}),
        CounterSample(at=12_000, counters={"bars_quarantined": 3, "gaps_repaired": 9}),
    ]
    assert noticed(broken, samples=samples) is None
    samples.append(CounterSample(at=25_000, counters={"bars_quarantined": 4}))
    assert noticed(broken, samples=samples) == "bars_quarantined"


def test_amounts_are_read_exactly(tmp_path: Path) -> None:
    """A minimum notional is the decimal that the file states."""
    text = (
        f'[[fault]]\nkind = "min_notional"\nafter = "1m"\nsymbols = ["{BTC}"]\n'
        "min_notional = 100.1\n"
    )
    (fault,) = load(tmp_path / "faults.toml", text)
    assert fault.min_notional == Decimal("100.1")
