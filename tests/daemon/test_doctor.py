"""The doctor: at a sound venue every assumption holds, and a broken one is called by its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from daemon import doctor_stream
from daemon.doctor import Finding, Outcome, examine
from daemon.doctor_assumptions import assumptions_of, skipped_of
from daemon.doctor_venue import VenueProbe
from market.bar import DAY_MS, MINUTE_MS
from market.instrument import Market, Venue
from market.sandbox.fault import Fault, FaultKind, Place
from market.sandbox.minutes import minute_tape
from market.sandbox.rules import listed_symbols
from market.sandbox.server import Sandbox, SandboxOptions
from market.sandbox.tape import Tape
from tests.daemon.answer_proxy import AnswerProxy
from tests.daemon.broken_venues import BROKEN, SPOT, USDM, frames
from tests.market.fault_proxy import Fault as Missing
from tests.market.fault_proxy import FaultProxy

FIRST = 1_700_006_400_000
HISTORY = 1_600
NOW = FIRST + HISTORY * MINUTE_MS
SPEED = 60.0

_TAPES: dict[Venue, Tape] = {}


def tape_of(venue: Venue) -> Tape:
    """One day and a bit of minutes of two symbols, made once."""
    if venue not in _TAPES:
        symbols = listed_symbols(venue)[:2]
        _TAPES[venue] = minute_tape(
            seed=1, venue=venue, symbols=symbols, start=FIRST, bars=HISTORY + 200
        )
    return _TAPES[venue]


def serve(venue: Venue, *faults: Fault) -> Sandbox:
    """A venue where a minute lasts a second."""
    options = SandboxOptions(tape=tape_of(venue), start=NOW, speed=SPEED, faults=faults)
    return Sandbox(options)


async def diagnose(venue: Venue, url: str, *, quick: bool = False) -> list[Finding]:
    """What the doctor finds at ``url``."""
    probe = VenueProbe(
        venue, base_url=url, symbols=tape_of(venue).panel.symbols, interval_ms=MINUTE_MS
    )
    try:
        await probe.open()
        trials = assumptions_of(probe, quick=quick)
        return await examine(trials, probe, progress=lambda *_: None)
    finally:
        await probe.close()


def outcomes(findings: Iterable[Finding]) -> dict[str, str]:
    """Those that do not hold, by name."""
    return {one.name: one.outcome.value for one in findings if one.outcome is not Outcome.HOLDS}


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute lasts a second here, so that waits in vain need not be longer."""
    monkeypatch.setattr(doctor_stream, "SUBSCRIBE_SECONDS", 5.0)
    monkeypatch.setattr(doctor_stream, "GRACE_SECONDS", 4.0)
    monkeypatch.setattr(doctor_stream, "COMPARE_SECONDS", 3.0)


@pytest.mark.parametrize("venue", list(Venue))
async def test_every_assumption_holds_at_a_sound_venue(venue: Venue) -> None:
    """At each of the four venues, and each says what it expected and what it found."""
    async with serve(venue) as server:
        findings = await diagnose(venue, server.url)
    assert outcomes(findings) == {}
    names = [one.name for one in findings]
    assert len(names) == len(set(names))
    assert {"kline order", "closed flag", "streamed final", "clock"} <= set(names)
    assert ("funding interval" in names) is (venue.market is Market.PERP)
    assert all(one.expected and one.found and one.consequence for one in findings)


async def test_a_young_symbol_fills_no_page_and_that_is_all_right() -> None:
    """Fewer rows than asked for hold where the venue has none before them."""
    options = SandboxOptions(tape=tape_of(SPOT), start=FIRST + 100 * MINUTE_MS, speed=SPEED)
    async with Sandbox(options) as server:
        findings = await diagnose(SPOT, server.url, quick=True)
    limit = next(one for one in findings if one.name == "kline limit")
    assert (limit.outcome, limit.found[:3]) == (Outcome.HOLDS, "101")


async def test_a_sandbox_that_waits_for_a_daemon_is_not_waited_for() -> None:
    """In lock-step no bar closes before a commit: that is said, and the rest holds."""
    options = SandboxOptions(tape=tape_of(USDM), start=NOW, speed=0.0, lock_step=True)
    async with Sandbox(options) as server:
        probe = VenueProbe(
            USDM, base_url=server.url, symbols=tape_of(USDM).panel.symbols, interval_ms=MINUTE_MS
        )
        await probe.open()
        skipped = skipped_of(probe, quick=False)
        await probe.close()
        findings = await diagnose(USDM, server.url)
    assert set(skipped) == {"closed flag", "streamed final"}
    assert "lock-step" in skipped["closed flag"]
    assert outcomes(findings) == {}
    assert not set(skipped) & {one.name for one in findings}


# One assumption broken at a time


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_assumption_is_named_and_the_others_hold(name: str) -> None:
    """Exactly that one differs."""
    venue, broken, named, quick = BROKEN[name]
    async with serve(venue) as server, AnswerProxy(server.url) as proxy:
        broken(proxy)
        findings = await diagnose(venue, proxy.url, quick=quick)
    assert outcomes(findings) == dict.fromkeys(named, "differs")


@pytest.mark.usefixtures("short_waits")
async def test_without_a_closed_flag_there_is_no_final_to_compare() -> None:
    """The flag differs; what needs it is unreachable and says why."""
    async with serve(USDM) as server, AnswerProxy(server.url) as proxy:
        frames(lambda kline: kline | {"x": False})(proxy)
        findings = await diagnose(USDM, proxy.url)
    assert outcomes(findings) == {"closed flag": "differs", "streamed final": "unreachable"}
    last = next(one for one in findings if one.name == "streamed final")
    assert "no bar was marked closed" in last.found


async def test_a_path_that_is_gone_is_named_with_what_needs_it() -> None:
    """The path differs, and so do the fields that it would have brought."""
    async with serve(USDM) as server, AnswerProxy(server.url) as proxy:
        gone = Missing(status=404, body="Not Found", content_type="text/html")
        proxy.answer = lambda path: gone if "/markPriceKlines" in path else None
        findings = await diagnose(USDM, proxy.url, quick=True)
    assert outcomes(findings) == {"mark klines path": "differs", "mark kline fields": "differs"}


def lasting(kind: FaultKind, **parameters: Any) -> Fault:
    """A fault that is on before the doctor comes and stays."""
    return Fault(kind=kind, at=NOW, duration_ms=DAY_MS, **parameters)


SCRIPTED: dict[str, tuple[Fault, dict[str, str], bool]] = {
    "a clock that is wrong": (
        lasting(FaultKind.CLOCK_SKEW, shift_ms=-5_000),
        {"clock": "differs"},
        True,
    ),
    "prices that are no numbers": (
        lasting(FaultKind.NAN_FIELDS, place=Place.ROWS),
        {"kline fields": "differs"},
        True,
    ),
    "bars that are never closed": (
        lasting(FaultKind.FORMING_STAYS),
        {"closed flag": "differs", "streamed final": "unreachable"},
        False,
    ),
    "finals that never were": (
        lasting(FaultKind.DUPLICATE_FINAL, wrong_first=True),
        {"streamed final": "differs"},
        False,
    ),
}


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("name", SCRIPTED)
async def test_a_scripted_fault_is_named(name: str) -> None:
    """The venue's own faults, from before the doctor came."""
    fault, expected, quick = SCRIPTED[name]
    async with serve(USDM, fault) as server:
        findings = await diagnose(USDM, server.url, quick=quick)
    assert outcomes(findings) == expected


@pytest.mark.parametrize("kind", [FaultKind.BLOCKED, FaultKind.BANNED, FaultKind.OUTAGE_HTML])
async def test_a_venue_that_lets_nobody_in_is_asked_once(kind: FaultKind) -> None:
    """Everything is unreachable for one cause, and nothing is asked after the refusal."""
    async with serve(USDM, lasting(kind)) as server, FaultProxy(server.url) as proxy:
        findings = await diagnose(USDM, proxy.url)
    asked = [path for path in proxy.requests if not path.startswith("/sandbox/")]
    assert len(asked) == 1
    assert {one.outcome for one in findings} == {Outcome.UNREACHABLE}
    assert len({one.found for one in findings}) == 1
    assert len(findings) > 20


# The command


def ballast(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "daemon", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )


def test_the_command_at_a_venue_that_is_not_there(tmp_path: Path) -> None:
    """One cause for each assumption about it, exit code 1, no traceback; the machine is sound."""
    done = ballast(
        *("doctor", "--base-url", "http://127.0.0.1:9", "--exchange", "bybit", "--json"),
        *("--state-dir", str(tmp_path / "state")),
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    document = json.loads(done.stdout)
    assert not document["holds"]
    by_name = {one["name"]: one for one in document["findings"]}
    assert by_name["python"]["outcome"] == "holds"
    assert by_name["clock"]["outcome"] == by_name["closed flag"]["outcome"] == "unreachable"
    assert "connection refused" in by_name["clock"]["found"]
    assert not (tmp_path / "state").exists()


def test_the_command_at_its_own_sandbox(tmp_path: Path) -> None:
    """All hold, exit code 0; what ``--quick`` leaves out is said."""
    config = tmp_path / "ballast.toml"
    config.write_text(
        f'state_dir = "{tmp_path / "state"}"\n[exchange]\nhistory_days = 100\n'
        'symbols = ["BTC/USDT:USDT"]\n[sandbox]\nenabled = true\n[monitor]\nport = 0\n',
        encoding="utf-8",
    )
    done = ballast("doctor", "--config", str(config), "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped      closed flag" in done.stdout
    assert "kline order" in done.stdout
    whole = ballast("doctor", "--config", str(config), "--json")
    assert json.loads(whole.stdout)["holds"], whole.stdout
    assert json.loads(whole.stdout)["skipped"] == {}
