"""A whole retraining on a tiny market, and what happens when its processes fail."""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing as mp
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from broker.costs import CostModel, TradingRules
from broker.tiers import Ladder, MarginTable
from market.bar import HOUR_MS
from market.features import WARMUP_BARS
from market.snapshot import save_snapshot
from tests.training.market_factory import instruments_of, panel_of, random_close
from training.config import TrainingConfig, TrainingJob
from training.evaluate import Backtest
from training.folds import HistoryTooShort
from training.gates import Thresholds
from training.inference import load_policy
from training.pipeline import FoldSettings, RetrainRequest, compare, fold_plan, retrain
from training.pool import Assignment, Step, TrainingFailed, train_all
from training.progress import (
    Event,
    RunFailed,
    Stage,
    StageProgress,
    VerdictReached,
    event_line,
)
from training.records import RunStatus
from training.registry import Registry

BARS = 700
CONFIG = TrainingConfig(
    preset="tiny",
    lookback_bars=2,
    actor_sizes=(4,),
    critic_sizes=(4,),
    env_count=16,
    rollout_steps=16,
    batch_size=128,
    epochs=1,
    total_steps=512,
    sigma_window_bars=20,
    episode_bars=20,
    seeds=(1, 2),
)
FOLDS = FoldSettings(minimum_test_bars=60, minimum_train_bars=100, embargo_bars=5)
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.1)
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def snapshot_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven hundred bars of two random walks."""
    panel = panel_of(random_close(11, BARS, 2))
    root = tmp_path_factory.mktemp("snapshots")
    return save_snapshot(panel, instruments_of(panel), venue="test", root=root).directory


def request(snapshot_dir: Path, home: Path, run_id: str = "r1") -> RetrainRequest:
    """A retraining whose state is kept under ``home``."""
    return RetrainRequest(
        run_id=run_id,
        trigger="manual",
        snapshot_dir=snapshot_dir,
        registry_url=f"sqlite:///{home / 'ledger.sqlite'}",
        models_dir=home / "models",
        at=1_000,
        config=CONFIG,
        costs=COSTS,
        folds=FOLDS,
        thresholds=Thresholds(common_bars=100),
    )


def job(snapshot_dir: Path, *, seed: int = 1, total_steps: int = 512) -> TrainingJob:
    """One training over the whole snapshot."""
    return TrainingJob(
        snapshot_dir=snapshot_dir,
        start=0,
        stop=2**62,
        seed=seed,
        config=CONFIG.replace(total_steps=total_steps),
        costs=COSTS,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Two retrainings of the same recipe in one home, the first forced to lead."""

    home: Path
    events: list[Event]
    registry: Registry
    first: str
    second: str


@pytest.fixture(scope="module")
def rehearsal(snapshot_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """Run them once for all tests that only look."""
    home = tmp_path_factory.mktemp("home")
    (home / "models" / ".run-killed").mkdir(parents=True)
    events: list[Event] = []
    first = retrain(request(snapshot_dir, home), events.append)
    registry = Registry.open(f"sqlite:///{home / 'ledger.sqlite'}")
    registry.promote(first.model_id, reason="rehearsal", at=2_000, force=True)
    again = dataclasses.replace(request(snapshot_dir, home, "r2"), workers=1)
    second = retrain(again, lambda _: None, now=lambda: 9_000)
    yield Rehearsal(
        home=home,
        events=events,
        registry=registry,
        first=first.model_id,
        second=second.model_id,
    )
    registry.close()


def test_the_candidate_is_registered_with_its_verdict(rehearsal: Rehearsal) -> None:
    """The model, its artefact and its verdict are there, and nothing was promoted by the run."""
    model = rehearsal.registry.model(rehearsal.first)
    policy = load_policy(model.artefact_path)
    assert policy.model_id == rehearsal.first
    assert model.artefact_path == rehearsal.home / "models" / rehearsal.first
    assert model.created_at == 1_000
    assert len(model.verdict.checks) == 12
    assert [move.model_id for move in rehearsal.registry.promotions()] == [rehearsal.first]


def test_what_is_deployed_is_the_last_windows_ensemble(rehearsal: Rehearsal) -> None:
    """Both seeds, trained up to the end of the last training window."""
    model = rehearsal.registry.model(rehearsal.first)
    artefact = load_policy(model.artefact_path).artefact
    assert [member.seed for member in artefact.members] == [1, 2]
    assert artefact.lineage.stop == model.lineage["windows"][-1]["train_stop"]


def test_the_record_is_every_test_bar_once(rehearsal: Rehearsal, snapshot_dir: Path) -> None:
    """Four windows joined are consecutive bars up to the end of the history."""
    record = rehearsal.registry.model(rehearsal.first).out_of_sample
    plan = fold_plan(BARS, FOLDS, CONFIG, HOUR_MS)
    times = panel_of(random_close(11, BARS, 2)).open_time
    np.testing.assert_array_equal(record.open_time, times[BARS - 4 * plan.test_bars :])
    assert np.isfinite(record.net_return).all()


def test_no_training_reaches_its_test(rehearsal: Rehearsal) -> None:
    """By the times in the lineage, at least purge + embargo bars lie between."""
    hour = 3_600_000
    for window in rehearsal.registry.model(rehearsal.first).lineage["windows"]:
        assert window["test_start"] - window["train_stop"] == (2 + 20 + 1 + 5) * hour


def test_the_same_request_gives_the_same_record(rehearsal: Rehearsal) -> None:
    """Retraining is deterministic: bit-equal out-of-sample returns."""
    first = rehearsal.registry.model(rehearsal.first).out_of_sample
    second = rehearsal.registry.model(rehearsal.second).out_of_sample
    np.testing.assert_array_equal(first.net_return, second.net_return)


def test_a_candidate_is_judged_under_the_margin_of_the_request(
    snapshot_dir: Path, tmp_path: Path
) -> None:
    """A wild policy holds twice its equity; where 90 % is asked for, that ends at a fee of 30 %."""
    strict = MarginTable((Ladder(symbol="*", since=0, tiers=((0.0, 0.9),), liquidation_fee=0.3),))
    asked = dataclasses.replace(
        request(snapshot_dir, tmp_path),
        config=CONFIG.replace(learning_rate_start=1.0, seeds=(1,)),
        rules=TradingRules(leverage_limit=2.0),
        margin=strict,
    )
    found = retrain(asked, lambda _: None)
    registry = Registry.open(asked.registry_url)
    model = registry.model(found.model_id)
    registry.close()
    assert model.lineage["margin"] == strict.content_hash
    assert model.out_of_sample.net_return.min() < -0.3


def test_a_champion_is_compared_with(rehearsal: Rehearsal) -> None:
    """The second run is judged against the first on all common bars: no difference."""
    verdict = rehearsal.registry.verdict(rehearsal.second)
    check = next(c for c in verdict.checks if c.name == "not_worse_than_champion")
    assert check.passed
    assert check.value == 0.0
    assert rehearsal.first in check.explanation


def test_a_champion_of_another_market_is_no_comparison(rehearsal: Rehearsal) -> None:
    """A champion that trades other symbols could not be deployed here, so it does not count."""
    record = rehearsal.registry.model(rehearsal.second).out_of_sample
    count = len(record.open_time)
    candidate = Backtest(
        open_time=record.open_time,
        weights=np.zeros((count, 2)),
        **dict.fromkeys(
            ("net_return", "gross_return", "turnover", "cost", "funding", "equity"),
            record.net_return,
        ),
    )
    here = panel_of(random_close(11, BARS, 2))
    elsewhere = panel_of(random_close(11, BARS, 3))
    found = compare(candidate, rehearsal.registry, here)
    assert found is not None
    assert len(found.champion) == count
    assert compare(candidate, rehearsal.registry, elsewhere) is None


def test_runs_are_recorded(rehearsal: Rehearsal) -> None:
    """Each run has its row, its end on the given clock and its model."""
    newest = {run.run_id: run for run in rehearsal.registry.runs()}
    assert newest["r1"].status is RunStatus.PROMOTED
    assert newest["r2"].status in (RunStatus.CANDIDATE, RunStatus.REFUSED)
    assert newest["r2"].ended_at == 9_000
    assert newest["r2"].model_id == rehearsal.second


def test_nothing_is_left_behind(rehearsal: Rehearsal) -> None:
    """Only finished artefacts remain, and what a killed run left is removed by the next."""
    left = {path.name for path in (rehearsal.home / "models").iterdir()}
    assert left == {rehearsal.first, rehearsal.second}


def test_progress_covers_every_training_and_ends_in_a_verdict(rehearsal: Rehearsal) -> None:
    """Stages come in order, fractions grow to 1, and the last line is the verdict."""
    *steps, last = rehearsal.events
    assert isinstance(last, VerdictReached)
    assert last.model_id == rehearsal.first
    moves = [event for event in steps if isinstance(event, StageProgress)]
    order = [move.stage for move in moves]
    assert sorted(order, key=list(Stage).index) == order
    training = [move for move in moves if move.stage is Stage.TRAIN]
    assert {(move.window, move.seed) for move in training} == {
        (window, seed) for window in (1, 2, 3, 4) for seed in (1, 2)
    }
    assert training[-1].fraction == 1.0
    assert all(a.fraction <= b.fraction for a, b in itertools.pairwise(training))


def test_events_are_strict_json_lines(rehearsal: Rehearsal) -> None:
    """Each event is one line of JSON without NaN that says what it is."""
    lines = [event_line(event) for event in rehearsal.events]
    assert all("\n" not in line for line in lines)
    documents = [json.loads(line) for line in lines]
    assert {document["event"] for document in documents} == {"progress", "verdict"}
    assert documents[-1]["passed"] is False or documents[-1]["reasons"] == []


def test_a_short_history_fails_by_name(tmp_path: Path) -> None:
    """Too few bars: a typed error that names the need, a failed run, no model."""
    panel = panel_of(random_close(11, 300, 2))
    short = save_snapshot(panel, instruments_of(panel), venue="test", root=tmp_path / "s")
    events: list[Event] = []
    with pytest.raises(HistoryTooShort, match="the history has 300"):
        retrain(request(short.directory, tmp_path), events.append)
    assert isinstance(events[-1], RunFailed)
    registry = Registry.open(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    (run,) = registry.runs()
    assert run.status is RunStatus.FAILED
    assert "HistoryTooShort" in run.message
    assert registry.list_models() == ()
    registry.close()


def test_fold_plan_by_hand() -> None:
    """700 bars: 248 warm-up, 23 purge, 5 embargo leave 424; half of them in four windows."""
    plan = fold_plan(BARS, FOLDS, CONFIG, HOUR_MS)
    assert (plan.warmup_bars, plan.purge_bars) == (WARMUP_BARS + 2, 23)
    assert plan.test_bars == max(60, (BARS - WARMUP_BARS - 2 - 23 - 5) // 2 // 4)


def test_a_failing_training_is_named_with_its_cause(tmp_path: Path) -> None:
    """A snapshot that is not there: the error names window, seed and cause."""
    broken = Assignment(window=2, job=job(tmp_path / "absent", seed=7), out_dir=tmp_path / "out")
    with pytest.raises(TrainingFailed, match="window 3 with seed 7 failed"):
        train_all([broken], workers=1, log_dir=tmp_path, on_step=lambda _: None)


def test_a_killed_worker_is_a_failure_and_the_others_stop(
    snapshot_dir: Path, tmp_path: Path
) -> None:
    """SIGKILL of a worker in mid-training ends the run with an error, not with a hang."""
    long = [
        Assignment(
            window=0,
            job=job(snapshot_dir, seed=seed, total_steps=50_000_000),
            out_dir=tmp_path / f"out{seed}",
        )
        for seed in (1, 2)
    ]

    def kill_one(_: Step) -> None:
        os.kill(mp.active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(TrainingFailed, match="terminated abruptly"):
        train_all(long, workers=2, log_dir=tmp_path, on_step=kill_one)
    assert mp.active_children() == []


def test_workers_die_with_their_parent(snapshot_dir: Path, tmp_path: Path) -> None:
    """After SIGKILL of the training process no worker is left."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path
            from tests.training.test_pipeline import job
            from training.pool import Assignment, train_all

            if __name__ == "__main__":
                here = Path({str(tmp_path)!r})
                item = Assignment(
                    window=0,
                    job=job(Path({str(snapshot_dir)!r}), total_steps=50_000_000),
                    out_dir=here / "out",
                )
                tell = lambda step: print("step", flush=True)
                train_all([item], workers=1, log_dir=here, on_step=tell)
            """
        )
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "step\n"
    workers = [int(log.stem.split("-")[1]) for log in tmp_path.glob("worker-*.stderr")]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert workers
    assert _all_gone(workers, within_seconds=10)


def test_the_parent_never_loads_torch() -> None:
    """Importing the pipeline and the registry does not import torch, SB3 or gymnasium."""
    code = (
        "import sys, training.pipeline, training.registry, training.report;"
        "print({'torch', 'stable_baselines3', 'gymnasium'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert done.stdout.strip() == "set()"


def _all_gone(pids: list[int], *, within_seconds: float) -> bool:
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        if not any(_runs(pid) for pid in pids):
            return True
        time.sleep(0.05)
    return False


def _runs(pid: int) -> bool:
    """Whether the process exists and is not a zombie that waits for whoever adopted it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
