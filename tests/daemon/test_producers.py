"""Producers under the daemon: whatever they do, it is counted, and trading never notices."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import structlog

from daemon.alerts import AlertFacts, AlertLimits, AlertName, active_alerts
from daemon.journal import Journal
from daemon.monitor.metrics import build_registry, render_metrics
from daemon.producers import (
    FAILURES_BEFORE_ALERT,
    Producers,
    ProducerState,
    ask_child,
    check_producers,
)
from daemon.settings import Settings, SettingsError
from daemon.signal_desk import OTHERS_MARGIN_MS, SignalDesk
from daemon.status import DaemonView
from daemon.targets import CashTarget, informed
from market.clock import monotonic_seconds
from market.producers.child import Description, Request
from market.producers.producer import ProducerFailed, ProducerFault
from market.signals import (
    RejectedSignal,
    Signal,
    SignalColumn,
    Stream,
    first_stored,
    join_signals,
    stamped,
)
from market.warehouse import Warehouse
from tests.market.signal_factory import BTC, at, backfilled, column, hours, live

ROOT = Path(__file__).parents[2]


class MemoryStore:
    """The warehouse's promise about signals, kept in a list."""

    def __init__(self) -> None:
        self.rows: list[Signal] = []
        self.asked: list[tuple[int, int]] = []
        self.refused: set[RejectedSignal] = set()

    def insert_signals(self, signals: Sequence[Signal], *, ingested_at: int) -> int:
        """Add what is not there yet."""
        there = {(row.key, row.value) for row in self.rows}
        new = [stamped(row, ingested_at) for row in signals if (row.key, row.value) not in there]
        self.rows += new
        return len(new)

    def signals(
        self, *, sources: Sequence[str] | None = None, since: int, until: int
    ) -> tuple[Signal, ...]:
        """Return what was published then."""
        self.asked.append((since, until))
        return tuple(
            row
            for row in self.rows
            if since <= row.published_at < until and (sources is None or row.source in sources)
        )

    def signals_stored_since(self, sources: Sequence[str]) -> dict[Stream, int]:
        """Return when each stream began."""
        return first_stored(row for row in self.rows if row.source in sources)

    def newest_signal_event(self, source: str, version: str, *, until: int) -> int | None:
        """Return the newest event that was published by then."""
        events = [
            row.event_time
            for row in self.rows
            if (row.source, row.version) == (source, version) and row.published_at < until
        ]
        return max(events, default=None)

    def insert_refused_signals(
        self, refused: Sequence[RejectedSignal], *, ingested_at: int
    ) -> None:
        """Keep each once."""
        self.refused |= set(refused)


class StandingClock:
    """A clock that moves when it is told to."""

    def __init__(self, hour: float) -> None:
        self.time = at(hour)

    def now(self) -> int:
        """Return the hour it stands at."""
        return self.time

    async def sleep_until(self, time_ms: int) -> None:
        """Jump there, letting others run."""
        await asyncio.sleep(0)
        self.time = max(self.time, time_ms)


class Silence:
    """An audit trail that must not be written by producers."""

    def audit(self, event: str, *, at: int, **facts: object) -> object:
        """Fail."""
        raise AssertionError(f"{event} was written to the ledger")


def row(event: float, value: float = 1.0) -> Signal:
    """A row as a producer gives it: not stored yet."""
    return stamped(live(event, value, ingested=event), 0)


DESCRIBES = """
import json, sys, os, time
request = json.loads(sys.stdin.readline())
described = {"name": "mood", "version": "1", "cadence": "0 * * * *", "lag_ms": 0,
             "needs_history": False}
def answer(rows, refused=()):
    print(json.dumps({"description": described, "rows": rows, "refused": list(refused)}))
def row(**changes):
    facts = dict(source="mood", version="1", symbol="", event_time=request["now"],
                 published_at=request["now"], ingested_at=0, name="value", value=1.5,
                 is_backfilled=False, lag_ms=0)
    return facts | changes
"""
GOOD = "answer([row()] if request['now'] else [])"
DESCRIPTION = Description(
    name="mood", version="1", cadence="0 * * * *", lag_ms=0, needs_history=False
)


class Scene:
    """Producers over a memory store, with a child made of a few lines."""

    def __init__(self, tmp_path: Path, script: str, *, time_limit: float = 20.0) -> None:
        child = tmp_path / "child.py"
        child.write_text(DESCRIBES + script)
        self.store, self.clock = MemoryStore(), StandingClock(10)
        self.settings = Settings.model_validate(
            {
                "state_dir": str(tmp_path),
                "signals": {"producers": ["mood"], "time_limit_seconds": time_limit},
            }
        )
        self.desk = SignalDesk(store=self.store, clock=self.clock)
        self.producers = Producers(
            settings=self.settings,
            clock=self.clock,
            journal=Journal(Silence(), now=self.clock.now),
            desk=self.desk,
            take_history=self._history,
            command=(sys.executable, str(child)),
        )

    async def _history(self, root: Path) -> Path:
        raise AssertionError("this producer needs no bars")

    @property
    def state(self) -> ProducerState:
        """How the one producer fares."""
        return self.producers.states["mood"]

    async def run(self) -> ProducerState:
        """One run, now."""
        await self.producers.run_once("mood", DESCRIPTION)
        return self.state


async def test_rows_are_stored_stamped_and_counted(tmp_path: Path) -> None:
    """A good run stores its rows as ingested now; the same row again adds nothing."""
    scene = Scene(tmp_path, GOOD)
    state = await scene.run()
    assert (state.runs, state.failures, state.rows) == (1, 0, 1)
    assert [one.ingested_at for one in scene.store.rows] == [at(10) + 1]
    assert (await scene.run()).rows == 1
    assert scene.producers.counters["mood:succeeded"] == 2


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("raise RuntimeError('broken')", ProducerFault.CRASHED),
        ("os.kill(os.getpid(), 9)", ProducerFault.CRASHED),
        ("print('{\"rows\": [')", ProducerFault.CRASHED),
        ("sys.exit(0)", ProducerFault.CRASHED),
        ("answer('rows')", ProducerFault.CRASHED),
        ("print(json.dumps({'fault': 'refused', 'message': 'no'}))", ProducerFault.REFUSED),
        ("time.sleep(60)", ProducerFault.TIMED_OUT),
        ("os.close(1); os.close(2); time.sleep(60)", ProducerFault.TIMED_OUT),
    ],
)
async def test_however_a_producer_ends_it_is_counted(
    tmp_path: Path, script: str, fault: ProducerFault
) -> None:
    """A raise, a kill, half an answer, none, nonsense, a refusal and a hang: a failure each."""
    scene = Scene(tmp_path, script, time_limit=1.0 if fault is ProducerFault.TIMED_OUT else 20.0)
    started = monotonic_seconds()
    with structlog.testing.capture_logs() as logs:
        state = await scene.run()
    assert monotonic_seconds() - started < 10
    assert (state.failures, state.failures_in_a_row, state.rows) == (1, 1, 0)
    assert state.problem.startswith(fault.value)
    assert scene.producers.counters["mood:failed"] == 1
    assert [each["event"] for each in logs] == ["producer_failed"]
    assert scene.store.rows == []


async def test_a_hanging_producers_own_children_go_too(tmp_path: Path) -> None:
    """At the time limit the whole process group ends."""
    mark = tmp_path / "alive"
    nested = f"import time; time.sleep(1.5); open({str(mark)!r}, 'w')"
    script = (
        f"import subprocess; subprocess.Popen([sys.executable, '-c', {nested!r}]); time.sleep(60)"
    )
    await Scene(tmp_path, script, time_limit=0.8).run()
    await asyncio.sleep(1.5)
    assert not mark.exists()


async def test_bad_rows_are_refused_and_counted_by_reason(tmp_path: Path) -> None:
    """The parent validates every row again; a child cannot vouch for it."""
    script = (
        "answer([row(), row(value=float('nan')), row(published_at=1)], "
        "[{'fault': 'out_of_range', 'message': 'said by the child'}])"
    )
    scene = Scene(tmp_path, script)
    with structlog.testing.capture_logs() as logs:
        state = await scene.run()
    assert (state.rows, state.refused) == (1, 3)
    counted = {name: n for name, n in scene.producers.counters.items() if n == 1}
    assert {"mood:not_a_number", "mood:bad_time", "mood:out_of_range"} <= set(counted)
    assert [each["event"] for each in logs] == ["signals_refused", "signals_stored"]


async def test_an_alert_after_repeated_failure_only(tmp_path: Path) -> None:
    """Three failures in a row alert; a good run clears them."""
    flag = tmp_path / "good"
    scene = Scene(tmp_path, f"answer([row()]) if os.path.exists({str(flag)!r}) else sys.exit(3)")
    for number in range(1, FAILURES_BEFORE_ALERT + 1):
        await scene.run()
        assert bool(scene.producers.failing()) == (number == FAILURES_BEFORE_ALERT)
    assert scene.state.failed_since == at(10)
    flag.touch()
    with structlog.testing.capture_logs() as logs:
        await scene.run()
    assert scene.producers.failing() == ()
    assert logs[0]["event"] == "producer_recovered"


def test_the_alert_names_the_producer_and_its_problem() -> None:
    """It is a warning: trading goes on with a mask."""
    facts = AlertFacts(
        now=at(2), running_since=at(0), champion_id="m", failed_producers={"mood": "timed_out: x"}
    )
    limits = AlertLimits(stale_feed_seconds=1e9, no_decision_seconds=1e9, no_commit_seconds=1e9)
    (alert,) = active_alerts(facts, limits)
    assert alert.name is AlertName.PRODUCER_FAILED
    assert "mood: timed_out: x" in alert.message


async def test_counts_reach_the_metrics(tmp_path: Path) -> None:
    """What was counted since the start is on /metrics, by producer and kind."""
    scene = Scene(tmp_path, "sys.exit(1)")
    await scene.run()
    view = DaemonView(settings=scene.settings)
    view._producers = scene.producers  # attached with every other part in a running daemon
    rendered, _ = render_metrics(build_registry(view), "text/plain")
    assert 'ballast_signal_events_total{kind="mood:failed"} 1.0' in rendered.decode()


def test_an_unknown_producer_is_a_bad_setting() -> None:
    """The daemon refuses to start with a producer, or options of one, that is not installed."""
    check_producers(Settings.model_validate({"signals": {"producers": ["forecast"]}}))
    for section in ({"producers": ["forcast"]}, {"options": {"forcast": {"seed": 2}}}):
        with pytest.raises(SettingsError, match="'forcast'.*forecast"):
            check_producers(Settings.model_validate({"signals": section}))


async def test_producers_run_on_the_venues_clock(tmp_path: Path) -> None:
    """After the history is there: at once, and then at every fire of the cadence."""
    scene = Scene(tmp_path, GOOD)
    running = asyncio.create_task(scene.producers.run())
    await asyncio.sleep(0.1)
    assert scene.store.rows == []
    scene.producers.begin()
    await _until(lambda: len(scene.store.rows) >= 3)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [one.event_time for one in scene.store.rows[:3]] == [at(10), at(11), at(12)]


async def test_without_producers_the_task_waits_for_ever(tmp_path: Path) -> None:
    """The daemon ends when a task of its ends: this one does not."""
    producers = Producers(
        settings=Settings(state_dir=tmp_path),
        clock=StandingClock(1),
        journal=Journal(Silence(), now=lambda: 0),
        desk=SignalDesk(store=MemoryStore(), clock=StandingClock(1)),
        take_history=lambda root: asyncio.sleep(0, root),
    )
    producers.begin()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(producers.run(), 0.1)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def test_an_answer_without_end_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that writes for ever costs a bounded amount of memory."""
    monkeypatch.setattr("daemon.producers.MOST_ANSWER_BYTES", 100_000)
    child = tmp_path / "child.py"
    child.write_text("while True: print('x' * 65536)")
    remedy = "signals.options.mood.history_bars"
    with pytest.raises(ProducerFailed, match=remedy) as failed:
        await ask_child(Request(name="mood"), command=(sys.executable, str(child)))
    assert failed.value.fault is ProducerFault.PAYLOAD


def open_files() -> set[str]:
    """The descriptors of this process."""
    return {each.name for each in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("script", ["print('{}')", ""])
async def test_a_helper_that_keeps_stderr_open_keeps_nobody_waiting(
    tmp_path: Path, script: str
) -> None:
    """The end of stdout ends the conversation, and nothing goes on reading afterwards."""
    child = tmp_path / "child.py"
    child.write_text(
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(12)'], "
        f"stdout=subprocess.DEVNULL, start_new_session=True)\n{script}\n"
    )
    before, began = open_files(), monotonic_seconds()
    with pytest.raises(ProducerFailed) as failed:
        await ask_child(Request(name="mood"), command=(sys.executable, str(child)))
    assert failed.value.fault is ProducerFault.CRASHED
    assert monotonic_seconds() - began < 9
    assert open_files() <= before


async def test_refused_rows_are_kept(tmp_path: Path) -> None:
    """What a producer gave and could not be stored is in quarantine, each row once."""
    scene = Scene(tmp_path, "answer([row(), row(value='x')])")
    await scene.run()
    await scene.run()
    (kept,) = scene.store.refused
    assert json.loads(kept.content)["value"] == "x"


def test_another_process_stamps_ahead_of_a_daemon() -> None:
    """It shares no lock with the daemon's reads: its rows count when they are surely there."""
    store, clock = MemoryStore(), StandingClock(5)
    SignalDesk(store=store, clock=clock, ahead_ms=OTHERS_MARGIN_MS).insert([row(1)])
    assert [each.ingested_at for each in store.rows] == [at(5) + OTHERS_MARGIN_MS + 1]


def test_the_daemon_reads_producers_without_their_libraries() -> None:
    """Importing and listing loads neither scikit-learn nor torch, nor any producer."""
    code = (
        "import sys, daemon.producers, daemon.run\n"
        "from market.producers.producer import installed_producers\n"
        "installed_producers()\n"
        "print([m for m in ('sklearn', 'torch', 'market.producers.forecast') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_a_decision_read_before_a_row_never_accepts_it() -> None:
    """On a clock that stands still or lags, a row stored after a read is stamped later than it."""
    clock = StandingClock(5)
    desk = SignalDesk(store=MemoryStore(), clock=clock)
    desk.insert([row(1, 7.0)])
    before = desk.join([column()], [BTC], hours(6))
    desk.insert([row(4, 9.0)])  # our clock says 5; the decision of hour 6 has read already
    after = desk.join([column()], [BTC], hours(6))
    assert before.values.tolist() == after.values.tolist() == [[[7.0]]]
    clock.time = at(6) + 1
    assert desk.join([column()], [BTC], hours(7)).values.tolist() == [[[9.0]]]


def test_live_reads_a_window_and_sees_what_a_full_join_sees() -> None:
    """A late back-fill stays invisible to earlier bars of the lookback, as it is in training."""
    store, clock = MemoryStore(), StandingClock(100)
    store.rows = [
        backfilled(1, 1.0, ingested=50),
        backfilled(92, 2.0, ingested=99),
    ]
    desk = SignalDesk(store=store, clock=clock)
    joined = desk.join([column(12)], [BTC], hours(95, 98, 99, 100))
    assert joined.known[:, 0, 0].tolist() == [False, False, True, True]
    desk.join([column(12)], [BTC], hours(101))
    assert store.asked[-1] == (at(89), at(101) + 1)


def test_the_warehouse_keeps_what_the_desk_relies_on(empty_warehouse: Warehouse) -> None:
    """Live reads, a repeated back-fill, a revision and a training over all rows agree."""
    clock, columns = StandingClock(10), [column(48)]
    desk = SignalDesk(store=empty_warehouse, clock=clock)
    history = [stamped(backfilled(hour, hour, ingested=10, lag=1), 0) for hour in range(0, 10, 2)]
    assert desk.insert(history) == 5
    assert desk.insert(history) == 0
    lived: dict[float, list[float]] = {}
    for hour in (11, 12, 13, 14):
        clock.time = at(hour)
        lived[hour] = desk.join(columns, [BTC], hours(hour)).values.ravel().tolist()
        desk.insert([row(hour, 100.0 + hour), row(8, 80.0 + hour)])
    desk.insert([stamped(backfilled(12.5, 9e9, ingested=1), 0)])
    stored = empty_warehouse.signals(sources=["mood"], since=0, until=at(100))
    joined = join_signals(stored, columns, [BTC], hours(3, 9, *lived))
    assert joined.values.ravel().tolist() == [2.0, 8.0, *(value for (value,) in lived.values())]
    assert [value for (value,) in lived.values()] == [8.0, 111.0, 112.0, 113.0]
    assert SignalDesk(store=empty_warehouse, clock=clock).join(
        columns, [BTC], hours(11, 12, 13, 14)
    ).values.tolist() == [[lived[hour]] for hour in lived]


def test_only_a_policy_with_signals_is_given_any() -> None:
    """Fallbacks and policies without signals cost no query."""

    def join(columns: Sequence[SignalColumn], symbols: Sequence[str], times: object) -> None:
        raise AssertionError("nothing to read")

    target = CashTarget()
    times = np.array([at(1)], dtype=np.int64)
    assert informed(target, times, join) is target  # type: ignore[arg-type]  # must not be called


def test_the_newest_event_is_remembered_per_version() -> None:
    """A producer is told how far its own version reaches; ``None`` asks it for its history."""
    desk = SignalDesk(store=MemoryStore(), clock=StandingClock(9))
    assert desk.newest_event_time("mood", "1") is None
    desk.insert([row(3), row(2)])
    assert desk.newest_event_time("mood", "1") == at(3)
    assert desk.newest_event_time("mood", "2") is None


def run_cli(*words: str) -> tuple[int, dict[str, object]]:
    """Run ``ballast signals`` and read its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "signals", *words, "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=60,
    )
    return done.returncode, json.loads(done.stdout)


def test_the_command_lists_what_there_is(tmp_path: Path) -> None:
    """Both built-ins, off, and no streams where nothing was stored."""
    code, document = run_cli("list", "--state-dir", str(tmp_path))
    assert code == 0
    producers = document["producers"]
    assert isinstance(producers, list)
    assert {(one["name"], one["enabled"]) for one in producers} >= {
        ("crypto_fear_greed", False),
        ("forecast", False),
    }
    assert document["streams"] == []


def test_a_dry_run_prints_rows_and_stores_none(tmp_path: Path) -> None:
    """One producer runs once against a site; no warehouse is opened."""
    from tests.market.fear_greed_site import serving

    with serving() as site:
        config = tmp_path / "ballast.toml"
        config.write_text(
            f'state_dir = "{tmp_path}/state"\n'
            "[signals.options.crypto_fear_greed]\n"
            f'base_url = "{site.url}"\n'
        )
        code, document = run_cli("run", "crypto_fear_greed", "--history", "--config", str(config))
    assert code == 0
    assert (document["rows"], document["stored"]) == (1, None)
    assert not (tmp_path / "state" / "warehouse").exists()


def test_a_dry_run_that_fails_says_so() -> None:
    """Exit code 1 and the kind of the failure."""
    code, document = run_cli("run", "nobody")
    assert (code, document["fault"]) == (1, "unknown")
