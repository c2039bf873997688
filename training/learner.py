"""One training: from a snapshot to an artefact, on one window with one seed.

It cuts the window, fits the normaliser on it alone, runs PPO, and writes what came out; a training
that died is taken up where its checkpoint was. It must never see data at or after the end of the
job's window.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure

from market.features import compute_features, warmup_bars
from market.instrument import Instrument
from market.panel import Panel
from market.signal_join import SignalPanel
from market.snapshot import load_snapshot
from training.allocation import allocate
from training.artefact import Artefact, Lineage, Member, SelfCheck, code_version, write_artefact
from training.checkpoint import CheckpointWriter, resume
from training.config import TrainingJob
from training.environment import Episodes, FlatObservations, PortfolioVecEnv
from training.normalizer import Float32Array, Normalizer, fit_normalizer
from training.observation import ObservationSchema, required_bars, with_signals
from training.policy import PortfolioPolicy
from training.ppo import PortfolioPPO, portfolio_ppo
from training.shared_windows import share_windows
from training.signal_inputs import signals_at
from training.simulation import prepare_market
from training.training_market import TrainingMarket, training_market

Progress = Callable[[int, int], None]
"""``progress(steps_done, total_steps)``, called after every rollout."""

_SELF_CHECK_OBSERVATIONS = 32


def train(
    job: TrainingJob,
    out_dir: Path,
    progress: Progress,
    *,
    checkpoint_every: int = 250_000,
    log_dir: Path | None = None,
    windows_file: Path | None = None,
) -> Path:
    """Train one seed on one window and write the artefact.

    A training that died is resumed by the same call, and ends as if it had not.

    Args:
        job: data, window, seed, hyperparameters, costs.
        out_dir: directory of the artefact to be written (its parent is created).
        progress: told after every rollout.
        checkpoint_every: transitions between checkpoints, which lie beside ``out_dir`` until it is
            written.
        log_dir: where the learning curve goes (``learn``).
        windows_file: where trainings on the same window share its tensor.

    Returns:
        ``out_dir``, a directory that ``training.inference.load_policy`` accepts.

    Raises:
        market.snapshot.SnapshotCorrupt: the snapshot does not match its hash.
        SignalMissing: a signal of the configuration is not in the snapshot.
        ValueError: the window holds too few bars.
        CheckpointRejected: a checkpoint is damaged or of another training.
        SharedWindowsDiffer: ``windows_file`` is of another window.
    """
    snapshot = load_snapshot(job.snapshot_dir)
    signals = signals_at(snapshot.panel, snapshot.signals, job.config.signals)
    window = training_window(snapshot.panel, snapshot.instruments, job, signals)
    if windows_file is not None:
        window = _sharing(window, windows_file)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = out_dir.with_name(f".{out_dir.name}.checkpoint")
    model = learn(
        window, job, progress,
        checkpoint=checkpoint, checkpoint_every=checkpoint_every, log_dir=log_dir,
    )  # fmt: skip
    write_artefact(export(model, window, job, snapshot.id), out_dir)
    checkpoint.unlink(missing_ok=True)
    return out_dir


def _sharing(window: TrainingWindow, path: Path) -> TrainingWindow:
    windows = share_windows(window.market.windows, path)
    return dataclasses.replace(window, market=dataclasses.replace(window.market, windows=windows))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingWindow:
    """The market of one job, its frozen normaliser and its schema."""

    market: TrainingMarket
    normalizer: Normalizer


def training_window(
    panel: Panel,
    instruments: Sequence[Instrument],
    job: TrainingJob,
    signals: SignalPanel | None = None,
) -> TrainingWindow:
    """Cut the job's window out of ``panel``, and fit the normaliser on it alone.

    Bars before ``job.start`` only warm the features up; bars after ``job.stop`` are not read.
    ``signals`` are those of the configuration at every close of ``panel`` (``signals_at``).

    Raises:
        ValueError: no decision fits into the window after the warm-up.
    """
    config = job.config
    schema = ObservationSchema(
        symbols=panel.symbols,
        interval_ms=panel.interval_ms,
        lookback_bars=config.lookback_bars,
        features=config.features,
        sigma_window_bars=config.sigma_window_bars,
        signals=config.signals,
    )
    lead = required_bars(schema, warmup_bars(schema.features, schema.interval_ms))
    begin = int(np.searchsorted(panel.open_time, job.start))
    end = int(np.searchsorted(panel.close_time, job.stop, side="right"))
    origin = max(0, begin - lead)
    if end - origin <= lead + 1:
        raise ValueError(f"training window holds {end - begin} bars, fewer than {lead + 2}")
    cut = panel.window(origin, end)
    first_bar = max(begin - origin, lead - 1)
    features = compute_features(cut, schema.features)
    if signals is not None:
        features = with_signals(features, signals.at(cut.close_time))
    normalizer = fit_normalizer(features.values[first_bar:], features.known[first_bar:])
    market = training_market(
        prepare_market(cut, instruments, margin=job.margin),
        features,
        normalizer,
        schema,
        first_bar=first_bar,
        prediction_ridge=config.prediction_ridge,
    )
    return TrainingWindow(market=market, normalizer=normalizer)


def learn(
    window: TrainingWindow,
    job: TrainingJob,
    progress: Progress,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 250_000,
    log_dir: Path | None = None,
    callbacks: Sequence[BaseCallback] = (),
) -> PortfolioPPO:
    """Run PPO on the window and return the model.

    Args:
        window: of ``job``.
        job: what is trained.
        progress: told after every rollout.
        checkpoint: file to resume from, where there is one, and to write.
        checkpoint_every: transitions between two writings.
        log_dir: directory for the learning curve: ``progress.csv``, ``progress.json``, and for
            TensorBoard where that is installed.
        callbacks: of stable-baselines3, besides.

    Raises:
        CheckpointRejected: the checkpoint is damaged or of another training.
    """
    model = _new_model(window, job)
    model.set_logger(_logger(log_dir))
    told: list[BaseCallback] = [_Report(progress), *callbacks]
    done = False
    if checkpoint is not None:
        done = resume(model, checkpoint, job.job_id)
        told.append(CheckpointWriter(checkpoint, job.job_id, every=checkpoint_every))
    try:
        model.learn(
            job.config.total_steps - model.num_timesteps,
            callback=told,
            log_interval=None if log_dir is None else 1,  # type: ignore[arg-type]  # None is handled
            reset_num_timesteps=not done,
        )
    finally:
        model.logger.close()
    return model


def _logger(directory: Path | None) -> Logger:
    """Write nothing, or to files of ``directory``."""
    if directory is None:
        return Logger(folder=None, output_formats=[])
    kinds = ["csv", "json"]
    if importlib.util.find_spec("tensorboard") is not None:
        kinds.append("tensorboard")
    return configure(str(directory), kinds)


def _new_model(window: TrainingWindow, job: TrainingJob) -> PortfolioPPO:
    torch.set_num_threads(1)
    config, schema = job.config, window.market.schema
    env = PortfolioVecEnv(_episodes(window, job, config.env_count, job.seed))
    return portfolio_ppo(
        env, config,
        asset_count=schema.asset_count, asset_width=schema.asset_width, seed=job.seed,
    )  # fmt: skip


def export(
    model: PortfolioPPO, window: TrainingWindow, job: TrainingJob, snapshot_id: str
) -> Artefact:
    """Return the model as an artefact whose self-check holds SB3's own deterministic actions."""
    policy = cast(PortfolioPolicy, model.policy)
    archive = io.BytesIO()
    model.save(archive)
    obs = _self_check_observations(window, job)
    actions, _ = model.predict(obs, deterministic=True)
    weights = allocate(
        actions.astype(np.float64), budget=job.rules.leverage_limit, long_only=job.config.long_only
    )
    return Artefact(
        model_id="",
        schema=window.market.schema,
        normalizer=window.normalizer,
        config=job.config,
        lineage=Lineage(
            snapshot_id=snapshot_id, start=job.start, stop=job.stop, code_version=code_version()
        ),
        budget=job.rules.leverage_limit,
        long_only=job.config.long_only,
        members=(
            Member(seed=job.seed, actor=policy.export_actor(), policy_zip=archive.getvalue()),
        ),
        self_check=SelfCheck(
            observations=obs, actions=actions[None].astype(np.float64), weights=weights
        ),
    )


class _Report(BaseCallback):
    """Tells ``progress`` after every rollout."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        schedule = cast(PortfolioPPO, self.model).schedule
        assert schedule is not None
        self._progress(min(self.num_timesteps, schedule.total_steps), schedule.total_steps)


def _episodes(window: TrainingWindow, job: TrainingJob, count: int, seed: int) -> Episodes:
    return Episodes(
        window.market,
        job.config,
        costs=job.costs,
        rules=job.rules,
        count=count,
        rng=np.random.default_rng(seed),
    )


def _self_check_observations(window: TrainingWindow, job: TrainingJob) -> Float32Array:
    env = FlatObservations(PortfolioVecEnv(_episodes(window, job, _SELF_CHECK_OBSERVATIONS, 0)))
    env.reset()
    neutral = np.zeros((_SELF_CHECK_OBSERVATIONS, window.market.schema.asset_count))
    return env.step(neutral)[0].copy()  # type: ignore[union-attr, return-value]  # never a dict
