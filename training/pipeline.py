"""One retraining: folds, trainings, out-of-sample record, verdict, registered candidate.

``retrain`` reads one snapshot and ends with a model in the registry and its verdict. It never
promotes, never talks to a venue, and never chooses among the models that it trained: what would
be deployed, the ensemble of the last window's seeds, is fixed before anything is judged.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from broker.costs import Costs, TradingRules
from broker.tiers import MarginTable, shipped_tiers
from market.bar import bars_per_year
from market.features import compute_features, warmup_bars
from market.panel import Panel
from market.snapshot import Snapshot, load_snapshot
from training.artefact import code_version, combine
from training.baselines import BASELINES
from training.config import TrainingConfig, TrainingJob
from training.evaluate import (
    BASE,
    AccountTerms,
    Backtest,
    join,
    prepare_window,
    run_baselines,
    run_policies,
    scenarios,
)
from training.folds import FoldPlan, Window, purge_bars, walk_forward
from training.gates import Comparison, Evidence, Stress, Thresholds, Verdict, judge
from training.inference import load_policy
from training.observation import with_signals
from training.pool import Assignment, Step, default_workers, train_all
from training.progress import Listener, RunFailed, Stage, StageProgress, VerdictReached
from training.records import ModelRecord, OutOfSample, RunStatus
from training.registry import Registry
from training.signal_inputs import signals_at
from training.simulation import prepare_market
from training.summary import record_summary, window_summary

REWARD_HORIZON_BARS = 1
_SCRATCH = ".run-"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldSettings:
    """How the history of a snapshot is cut, whatever its length.

    Attributes:
        test_share: share of the usable bars that all test windows take together.
        minimum_test_bars: shortest test window; minimum_train_bars: shortest training.
        sliding_train_bars: length of every training, or ``None`` for expanding ones.
    """

    windows: int = 4
    test_share: float = 0.5
    minimum_test_bars: int = 500
    minimum_train_bars: int = 1_000
    embargo_bars: int = 24
    sliding_train_bars: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share must be in (0, 1), got {self.test_share}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainRequest:
    """Everything that one retraining needs to know.

    Attributes:
        run_id: made by the caller; the run's row in the registry and the name of its scratch
            directory. trigger: why it runs (``bootstrap``, ``schedule``, ``manual``).
        snapshot_dir: the data. registry_url: the ledger's database.
        models_dir: artefacts go to ``models_dir/MODEL_ID``.
        at: UTC ms on the daemon's clock, stored as the model's creation time.
        margin: maintenance margin of the accounts that train and of those that judge.
        workers: training processes at a time, by default two.
    """

    run_id: str
    trigger: str
    snapshot_dir: Path
    registry_url: str
    models_dir: Path
    at: int
    config: TrainingConfig
    costs: Costs
    rules: TradingRules = field(default_factory=TradingRules)
    margin: MarginTable = field(default_factory=shipped_tiers)
    folds: FoldSettings = field(default_factory=FoldSettings)
    thresholds: Thresholds = field(default_factory=Thresholds)
    workers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainResult:
    """A registered candidate; ``verdict.passed`` says whether it may be promoted."""

    run_id: str
    model_id: str
    artefact_path: Path
    verdict: Verdict


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """The joined out-of-sample records of the candidate's recipe and of the baselines."""

    policy: Mapping[str, Backtest]
    per_window: tuple[Backtest, ...]
    baselines: Mapping[str, Backtest]


def retrain(
    request: RetrainRequest,
    progress: Listener,
    *,
    now: Callable[[], int] | None = None,
) -> RetrainResult:
    """Train, judge and register one candidate.

    Args:
        request: what to train on what.
        progress: told every event, in this thread.
        now: the daemon's clock, for the run's end; by default ``request.at``.

    Raises:
        HistoryTooShort: the snapshot cannot hold the folds.
        SnapshotCorrupt: it does not match its hash.
        SignalMissing: a signal of the configuration is not in the snapshot.
        TrainingFailed: a training raised or its process died.
    """
    registry = Registry.open(request.registry_url)
    clock = now or (lambda: request.at)
    registry.start_run(request.run_id, trigger=request.trigger, at=request.at)
    try:
        result = _retrain(request, registry, progress)
    except BaseException as error:
        message = f"{type(error).__name__}: {error}"
        registry.finish_run(request.run_id, status=RunStatus.FAILED, at=clock(), message=message)
        progress(RunFailed(run_id=request.run_id, message=message))
        raise
    else:
        registry.finish_run(
            request.run_id,
            status=RunStatus.CANDIDATE if result.verdict.passed else RunStatus.REFUSED,
            at=clock(),
            message=" ".join(result.verdict.reasons) or "every gate held",
            model_id=result.model_id,
        )
        progress(
            VerdictReached(
                run_id=request.run_id,
                model_id=result.model_id,
                artefact_path=result.artefact_path,
                verdict=result.verdict,
            )
        )
        return result
    finally:
        registry.close()


def fold_plan(
    bars: int, settings: FoldSettings, config: TrainingConfig, interval_ms: int
) -> FoldPlan:
    """Return the cut of a history of ``bars`` bars of ``interval_ms``."""
    warmup = warmup_bars(config.features, interval_ms) + config.lookback_bars
    purge = purge_bars(
        lookback_bars=config.lookback_bars,
        sigma_window_bars=config.sigma_window_bars,
        reward_horizon_bars=REWARD_HORIZON_BARS,
    )
    usable = max(0, bars - warmup - purge - settings.embargo_bars)
    share = int(usable * settings.test_share) // settings.windows
    return FoldPlan(
        windows=settings.windows,
        test_bars=max(settings.minimum_test_bars, share),
        minimum_train_bars=settings.minimum_train_bars,
        purge_bars=purge,
        embargo_bars=settings.embargo_bars,
        warmup_bars=warmup,
        sliding_train_bars=settings.sliding_train_bars,
    )


def _retrain(request: RetrainRequest, registry: Registry, progress: Listener) -> RetrainResult:
    progress(StageProgress(stage=Stage.PREPARE, window=0, of=0, done=0, total=1, fraction=0.0))
    snapshot = load_snapshot(request.snapshot_dir)
    panel = snapshot.panel
    signals_at(
        panel, snapshot.signals, request.config.signals
    )  # refused before anything is trained
    plan = fold_plan(len(panel), request.folds, request.config, panel.interval_ms)
    windows = tuple(walk_forward(len(panel), plan))
    _remove_abandoned(request.models_dir, registry)
    scratch = request.models_dir / f"{_SCRATCH}{request.run_id}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        ensembles = _train_windows(request, panel, windows, scratch, progress)
        judged = _evaluate(request, snapshot, windows, ensembles, progress)
        evidence = _evidence(judged, registry, panel, len(windows))
        verdict = judge(evidence, request.thresholds)
        model_id, path = _keep(ensembles[-1], request.models_dir)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    registry.register(
        ModelRecord(
            model_id=model_id,
            created_at=request.at,
            snapshot_id=snapshot.id,
            artefact_path=path,
            config=request.config.to_json(),
            lineage=_lineage(request, panel, windows, judged, evidence),
            verdict=verdict,
            out_of_sample=_out_of_sample(judged),
        ),
        judged_at=request.at,
    )
    return RetrainResult(
        run_id=request.run_id, model_id=model_id, artefact_path=path, verdict=verdict
    )


def _remove_abandoned(models_dir: Path, registry: Registry) -> None:
    """Remove what killed runs left behind; a run that is still running keeps its files."""
    running = {run.run_id for run in registry.runs() if run.status is RunStatus.RUNNING}
    for left in models_dir.glob(f"{_SCRATCH}*"):
        if left.name.removeprefix(_SCRATCH) not in running:
            shutil.rmtree(left, ignore_errors=True)


def _train_windows(
    request: RetrainRequest,
    panel: Panel,
    windows: Sequence[Window],
    scratch: Path,
    progress: Listener,
) -> list[Path]:
    """Train every seed on every window; return each window's ensemble."""
    seeds = request.config.seeds
    assignments = [
        Assignment(
            window=window.number,
            job=_job(request, panel, window, seed),
            out_dir=scratch / f"window_{window.number:02d}_seed_{seed}",
        )
        for window in windows
        for seed in seeds
    ]
    shares = [0.0] * len(assignments)

    def on_step(step: Step) -> None:
        item = assignments[step.index]
        shares[step.index] = step.done / step.total
        progress(
            StageProgress(
                stage=Stage.TRAIN,
                window=item.window + 1,
                of=len(windows),
                seed=item.job.seed,
                done=step.done,
                total=step.total,
                fraction=sum(shares) / len(shares),
            )
        )

    workers = request.workers or default_workers()
    train_all(assignments, workers=workers, log_dir=scratch, on_step=on_step)
    ensembles = []
    for window in windows:
        parts = [item.out_dir for item in assignments if item.window == window.number]
        ensembles.append(combine(parts, scratch / f"window_{window.number:02d}"))
    return ensembles


def _job(request: RetrainRequest, panel: Panel, window: Window, seed: int) -> TrainingJob:
    return TrainingJob(
        snapshot_dir=request.snapshot_dir,
        start=int(panel.open_time[window.train_start]),
        stop=int(panel.close_time[window.train_stop - 1]),
        seed=seed,
        config=request.config,
        costs=request.costs,
        rules=request.rules,
        margin=request.margin,
    )


def _evaluate(
    request: RetrainRequest,
    snapshot: Snapshot,
    windows: Sequence[Window],
    ensembles: Sequence[Path],
    progress: Listener,
) -> Judged:
    panel = snapshot.panel
    market = prepare_market(panel, snapshot.instruments, margin=request.margin)
    features = with_signals(
        compute_features(panel, request.config.features),
        signals_at(panel, snapshot.signals, request.config.signals),
    )
    terms = AccountTerms(
        costs=request.costs,
        rules=request.rules,
        deposit_quote=request.config.deposit_quote,
        sigma_window_bars=request.config.sigma_window_bars,
    )
    prepared = [
        prepare_window(load_policy(path), window, panel=panel, features=features)
        for path, window in zip(ensembles, windows, strict=True)
    ]

    def on_offset(done: int, total: int) -> None:
        progress(
            StageProgress(
                stage=Stage.EVALUATE,
                window=len(windows),
                of=len(windows),
                done=done,
                total=total,
                fraction=done / total,
            )
        )

    tests = run_policies(market, prepared, scenarios(request.costs), terms, on_offset=on_offset)
    plans = {name: baseline(panel) for name, baseline in BASELINES.items()}
    others = run_baselines(market, plans, windows, terms)
    return Judged(
        policy={name: join(parts) for name, parts in tests.items()},
        per_window=tests[BASE],
        baselines={name: join(parts) for name, parts in others.items()},
    )


def compare(candidate: Backtest, registry: Registry, panel: Panel) -> Comparison | None:
    """Cut the champion's record and the candidate's to the bars that both have.

    Returns:
        ``None`` without a champion, and where it trades other symbols or another interval than
        ``panel``: it could not be deployed on this market, so it does not lead there.
    """
    champion = registry.champion()
    if champion is None:
        return None
    model = registry.model(champion.model_id)
    trades = (tuple(model.lineage["symbols"]), model.lineage["interval_ms"])
    if trades != (panel.symbols, panel.interval_ms):
        return None
    _, own, other = np.intersect1d(
        candidate.open_time,
        model.out_of_sample.open_time,
        assume_unique=True,
        return_indices=True,
    )
    return Comparison(
        champion_id=champion.model_id,
        candidate=candidate.net_return[own],
        champion=model.out_of_sample.net_return[other],
    )


def _evidence(judged: Judged, registry: Registry, panel: Panel, windows: int) -> Evidence:
    base = judged.policy[BASE]
    return Evidence(
        bars_per_year=bars_per_year(panel.interval_ms),
        windows=windows,
        net_return=base.net_return,
        turnover=base.turnover,
        weights=base.weights,
        stressed={stress: judged.policy[stress].net_return for stress in Stress},
        equal_weight=judged.baselines["equal_weight"].net_return,
        comparison=compare(base, registry, panel),
    )


def _keep(ensemble: Path, models_dir: Path) -> tuple[str, Path]:
    """Move the artefact under its own id; a model that is already there stays as it is."""
    model_id = load_policy(ensemble).model_id
    home = models_dir / model_id
    if not home.exists():
        ensemble.rename(home)
        descriptor = os.open(models_dir, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return model_id, home


def _out_of_sample(judged: Judged) -> OutOfSample:
    base = judged.policy[BASE]
    return OutOfSample(
        open_time=base.open_time,
        net_return=base.net_return,
        equal_weight=judged.baselines["equal_weight"].net_return,
    )


def _lineage(
    request: RetrainRequest,
    panel: Panel,
    windows: Sequence[Window],
    judged: Judged,
    evidence: Evidence,
) -> dict[str, Any]:
    """Where the model comes from and what was measured, as JSON values."""
    comparison = evidence.comparison
    return {
        "run_id": request.run_id,
        "trigger": request.trigger,
        "deploy": "last_window",
        "code_version": code_version(),
        "symbols": list(panel.symbols),
        "interval_ms": panel.interval_ms,
        "seeds": list(request.config.seeds),
        "costs": dataclasses.asdict(request.costs),
        "rules": dataclasses.asdict(request.rules),
        "margin": request.margin.content_hash,
        "folds": dataclasses.asdict(request.folds),
        "compared_with": None if comparison is None else comparison.champion_id,
        "windows": window_summary(panel, windows, judged.per_window),
        "policy": record_summary(judged.policy, panel.interval_ms),
        "baselines": record_summary(judged.baselines, panel.interval_ms),
    }
