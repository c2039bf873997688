"""Producers under the daemon: whatever they do, it is counted, and trading never notices."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from daemon.alerts import AlertFacts, AlertLimits, AlertName, active_alerts
from daemon.journal import Journal
from daemon.monitor.metrics import build_registry, render_metrics
from daemon.producers import FAILURES_BEFORE_ALERT, Producers, ask_child, check_producers
from daemon.settings import Settings, SettingsError
from daemon.signal_desk import SignalDesk
from daemon.status import DaemonView
from market.clock import ManualClock, monotonic_seconds
from market.producers.child import Request
from market.producers.producer import ProducerFailed, ProducerFault
from market.signals import RejectedSignal
from market.snapshot import SnapshotCorrupt
from market.warehouse import WarehouseError
from tests.daemon.producer_scene import (
    DESCRIPTION,
    GOOD,
    MemoryStore,
    Scene,
    Silence,
    StandingClock,
)
from tests.market.signal_factory import at

ROOT = Path(__file__).parents[2]


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
    assert [each["event"] for each in logs] == ["signals_stored", "producer_recovered"]


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


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("answer([row(value=10**400)])", "out_of_range"),
        ("answer([row(is_backfilled='no')])", "bad_flag"),
        ("answer([row(symbol='\\ud83d')])", "bad_name"),
    ],
)
async def test_what_no_store_could_take_is_refused(tmp_path: Path, answer: str, fault: str) -> None:
    """A number beyond every float, a flag that is none, half a character: a refusal each."""
    scene = Scene(tmp_path, answer)
    await scene.run()
    assert scene.producers.counters == {"mood:stored": 0, f"mood:{fault}": 1, "mood:succeeded": 1}


@pytest.mark.parametrize(
    "script",
    [
        "print('[' * 200_000)",
        "described['version'] = ['1']; answer([])",
        "described['cadence'] = None; answer([])",
        "answer([{}], [{'fault': 'bad_name'}])",
    ],
)
async def test_an_answer_of_another_shape_is_a_failure(tmp_path: Path, script: str) -> None:
    """Too deep to read, or of other types than it must have: counted, and never raised."""
    assert (await Scene(tmp_path, script).run()).problem.startswith("crashed: ")


async def test_bars_that_cannot_be_read_again_are_a_failed_run(tmp_path: Path) -> None:
    """The snapshot for a producer may be damaged on its way to the disk."""

    async def take_history(root: Path) -> Path:
        raise SnapshotCorrupt(f"{root} differs from what was saved")

    scene = Scene(tmp_path, GOOD, take_history=take_history)
    await scene.producers.run_once("mood", replace(DESCRIPTION, needs_history=True))
    assert scene.state.failures == 1
    assert scene.state.problem.startswith("SnapshotCorrupt: ")


class NoQuarantine(MemoryStore):
    """A store that takes rows and no refusals."""

    def insert_refused_signals(
        self, refused: Sequence[RejectedSignal], *, ingested_at: int
    ) -> None:
        """Fail."""
        raise WarehouseError(f"no space for {len(refused)} rows at {ingested_at}")


async def test_a_run_whose_refusals_are_lost_has_stored_its_rows(tmp_path: Path) -> None:
    """It failed, and what is said of its rows is true."""
    scene = Scene(tmp_path, "answer([row(), row(value='x')])", store=NoQuarantine())
    with structlog.testing.capture_logs() as logs:
        state = await scene.run()
    assert (state.rows, state.refused, state.failures) == (1, 1, 1)
    assert "its 1 rows are stored, its 1 refusals not: no space" in state.problem
    assert [each["event"] for each in logs] == [
        "signals_refused", "signals_stored", "producer_failed",
    ]  # fmt: skip


async def test_a_fire_is_never_too_old(tmp_path: Path) -> None:
    """Bars of four hours in lock-step pass a daily fire by hours; it runs, and once a day."""
    clock = ManualClock(DAY)
    scene = Scene(tmp_path, DAILY, clock=clock)
    scene.producers.begin()
    running = asyncio.create_task(scene.producers.run())
    for bar in range(1, 13):  # two days
        await _until(lambda: scene.state.next_run_at is not None and not _is_due(scene))
        clock.advance(DAY + 4 * bar * HOUR)
    await _until(lambda: not _is_due(scene))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    events = [(one.event_time - DAY) // HOUR for one in scene.store.rows]
    assert events == [0, 4, 28]


HOUR = 3_600_000
DAY = at(0) - at(0) % (24 * HOUR)
DAILY = "described['cadence'] = '30 0 * * *'\n" + GOOD


def _is_due(scene: Scene) -> bool:
    state = scene.state
    assert state.next_run_at is not None
    return state.next_run_at <= scene.clock.now()
