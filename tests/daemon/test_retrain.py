"""The retraining supervisor: whatever its child does, trading goes on and the outcome is known."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.store import Store
from daemon.journal import Event, Journal
from daemon.retrain import Retrainer, RunOutcome
from daemon.settings import load_settings
from market.clock import ManualClock
from market.snapshot import SnapshotCorrupt
from training.records import RunStatus
from training.registry import Registry

NOW = 1_767_225_600_000
VERDICT = (
    "print(json.dumps({'event': 'verdict', 'model_id': 'm1', 'passed': %s, 'reasons': %s,"
    " 'checks': []}), flush=True)"
)
PROGRESS = (
    "print(json.dumps({'event': 'progress', 'stage': 'train', 'window': 1, 'of': 4, 'seed': 1,"
    " 'done': 5, 'total': 10, 'fraction': 0.5}), flush=True)"
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'ledger.sqlite'}"


def child(folder: Path, *lines: str) -> tuple[str, str]:
    """A child that reads its settings, then runs ``lines``."""
    script = folder / "child.py"
    script.write_text(
        "\n".join(["import json, os, sys, time", "json.loads(sys.stdin.readline())", *lines]),
        encoding="utf-8",
    )
    return (sys.executable, str(script))


@asynccontextmanager
async def supervising(
    url: str,
    folder: Path,
    command: tuple[str, str],
    *,
    time_limit: float = 30.0,
    take_snapshot: Callable[[], Awaitable[Path]] | None = None,
) -> AsyncIterator[tuple[Retrainer, Store, Registry]]:
    settings = load_settings(
        None,
        overrides={
            "": {"state_dir": str(folder)},
            "training": {"time_limit_seconds": time_limit},
        },
    )
    store, registry, clock = Store.open(url), Registry.open(url), ManualClock(NOW)

    async def take_nothing() -> Path:
        return folder

    retrainer = Retrainer(
        settings=settings,
        clock=clock,
        registry=registry,
        journal=Journal(store, now=clock.now),
        take_snapshot=take_snapshot or take_nothing,
        command=command,
    )
    task = asyncio.create_task(retrainer.run())
    try:
        yield retrainer, store, registry
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        registry.close()
        store.close()


async def outcome_of(retrainer: Retrainer) -> RunOutcome:
    deadline = time.monotonic() + 20
    while retrainer.outcome is None or retrainer.progress is not None:
        assert time.monotonic() < deadline, "the run did not end"
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)  # the supervisor notes the end in a thread
    return retrainer.outcome


def events(store: Store) -> list[str]:
    return [row.event for row in store.audits()]


async def test_a_candidate_that_passed_is_handed_over_once(url: str, tmp_path: Path) -> None:
    """The loop takes a promotable candidate exactly once."""
    command = child(tmp_path, PROGRESS, VERDICT % ("True", "[]"))
    async with supervising(url, tmp_path, command) as (retrainer, _, _):
        assert await retrainer.start("schedule")
        outcome = await outcome_of(retrainer)
        assert (outcome.passed, outcome.model_id, outcome.error) == (True, "m1", None)
        taken = retrainer.take_promotable()
        assert taken is not None
        assert taken.model_id == "m1"
        assert retrainer.take_promotable() is None


async def test_a_refusal_is_a_normal_outcome(url: str, tmp_path: Path) -> None:
    """A refused candidate is journaled with its reasons and never handed over."""
    command = child(tmp_path, VERDICT % ("False", "['no position']"))
    async with supervising(url, tmp_path, command) as (retrainer, store, _):
        await retrainer.start("schedule")
        outcome = await outcome_of(retrainer)
        assert (outcome.passed, outcome.reasons, outcome.error) == (False, ("no position",), None)
        assert retrainer.take_promotable() is None
        assert Event.MODEL_REFUSED.value in events(store)
        assert retrainer.outcomes == {"refused": 1}


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (("sys.exit('out of memory')",), "ended with code 1: out of memory"),
        (("os.kill(os.getpid(), 9)",), "ended with code -9"),
        (("pass",), "ended with code 0"),
    ],
)
async def test_a_child_that_dies_is_a_failed_run(
    url: str, tmp_path: Path, lines: tuple[str, ...], cause: str
) -> None:
    """An exit code, a kill, or silence without a verdict fails the run and names the cause."""
    async with supervising(url, tmp_path, child(tmp_path, *lines)) as (retrainer, store, registry):
        registry.start_run(f"run-{NOW}", trigger="schedule", at=NOW)
        await retrainer.start("schedule")
        outcome = await outcome_of(retrainer)
        assert outcome.error is not None
        assert cause in outcome.error
        assert Event.RETRAIN_FAILED.value in events(store)
        assert registry.runs()[0].status is RunStatus.FAILED


async def test_a_snapshot_that_cannot_be_read_again_is_a_failed_run(
    url: str, tmp_path: Path
) -> None:
    """It was damaged on its way to the disk: no training, and trading goes on."""

    async def take_snapshot() -> Path:
        raise SnapshotCorrupt("differs from what was saved")

    async with supervising(url, tmp_path, ("true", ""), take_snapshot=take_snapshot) as (one, *_):
        assert await one.start("manual")
        assert (await outcome_of(one)).error == "SnapshotCorrupt: differs from what was saved"


async def test_a_child_that_hangs_is_stopped_with_its_workers(url: str, tmp_path: Path) -> None:
    """Past its time limit the child's whole process group is gone and the slot is free."""
    mark = tmp_path / "worker"
    worker = f"import os, time; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    lines = (
        "import subprocess",
        f"subprocess.Popen([sys.executable, '-c', {worker!r}])",
        "time.sleep(60)",
    )
    command = child(tmp_path, *lines)
    async with supervising(url, tmp_path, command, time_limit=2.0) as (retrainer, _, _):
        await retrainer.start("schedule")
        outcome = await outcome_of(retrainer)
        assert "time_limit_seconds = 2" in str(outcome.error)
        assert await retrainer.start("manual")
    pid = int(mark.read_text(encoding="utf-8"))
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_text(
        encoding="utf-8"
    )


async def test_one_run_at_a_time(url: str, tmp_path: Path) -> None:
    """While a run is in progress another one is declined."""
    command = child(tmp_path, "time.sleep(1)", VERDICT % ("False", "[]"))
    async with supervising(url, tmp_path, command) as (retrainer, _, _):
        assert await retrainer.start("schedule")
        assert not await retrainer.start("schedule")
        await asyncio.sleep(0.3)
        assert not await retrainer.start("manual")
        await outcome_of(retrainer)
        assert await retrainer.start("manual")


async def test_progress_is_visible_while_it_runs(url: str, tmp_path: Path) -> None:
    """The stage in words and the share that is done."""
    command = child(tmp_path, PROGRESS, "time.sleep(1)", VERDICT % ("False", "[]"))
    async with supervising(url, tmp_path, command) as (retrainer, _, _):
        await retrainer.start("schedule")
        deadline = time.monotonic() + 15
        while retrainer.progress is None or retrainer.progress.total == 0:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert retrainer.progress.stage == "train window 1 of 4, seed 1"
        assert (retrainer.progress.done, retrainer.progress.total) == (500, 1000)
