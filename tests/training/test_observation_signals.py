"""Signals in the observation: columns and masks, one join for training and live."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.bar import HOUR_MS
from market.features import WARMUP_BARS, Features, compute_features
from market.panel import Panel
from market.signal_join import SignalPanel, join_signals
from market.signals import Signal, SignalColumn
from market.snapshot import save_snapshot
from tests.training.learner_factory import BARS, TINY, job_on, small_panel, small_schema
from tests.training.market_factory import instruments_of
from training.artefact import read_artefact, write_artefact
from training.config import TrainingConfig, config_from_json
from training.inference import Policy, load_policy
from training.learner import TrainingWindow, export, learn, train, training_window
from training.normalizer import fit_normalizer
from training.observation import (
    ObservationRejected,
    ObservationSchema,
    PortfolioState,
    market_rows,
    portfolio_state,
    with_signals,
)
from training.signal_inputs import SignalMissing, signals_at

MOOD = SignalColumn(source="mood", name="value", version="1", max_age_seconds=6 * 3_600)
TIDE = SignalColumn(source="tide", name="height", version="2", max_age_seconds=48 * 3_600)
SIGNAL_CONFIG = TINY.replace(signals=(MOOD, TIDE))
PORTFOLIO = portfolio_state(
    weights=[0.1, 0.2, 0.0], drawdown=0.1, sigma=0.01, bars_since_trade=3, unit_cost=0.0006
)


def signal(column: SignalColumn, event_time: int, value: float, **changes: object) -> Signal:
    """A live row of the column, stored a minute after its event."""
    facts: dict[str, object] = {
        "source": column.source,
        "version": column.version,
        "name": column.name,
        "symbol": "",
        "event_time": event_time,
        "published_at": event_time,
        "ingested_at": event_time + 60_000,
        "value": value,
        "is_backfilled": False,
    }
    return Signal(**(facts | changes))  # type: ignore[arg-type]  # by name


def moods(panel: Panel, *, seed: int = 0, every: int = 1) -> tuple[Signal, ...]:
    """A market-wide mood at every close, and a tide for each asset once a day."""
    rng = np.random.default_rng(seed)
    market = [
        signal(MOOD, time, 50.0 + 10.0 * rng.normal())
        for time in panel.close_time[::every].tolist()
    ]
    tides = [
        signal(TIDE, time, rng.normal(), symbol=symbol)
        for time in panel.close_time[::24].tolist()
        for symbol in panel.symbols
    ]
    return (*market, *tides)


def observed(panel: Panel, rows: Sequence[Signal]) -> tuple[Features, ObservationSchema]:
    """Features with both signals at every close, and the schema that reads them."""
    joined = join_signals(rows, (MOOD, TIDE), panel.symbols, panel.close_time)
    schema = dataclasses.replace(small_schema(), signals=(MOOD, TIDE))
    return with_signals(compute_features(panel), joined), schema


def test_without_signals_nothing_changes() -> None:
    """A schema without signals has the hash, the width and the rows that it always had."""
    panel, schema = small_panel(), small_schema()
    assert schema.hash == dataclasses.replace(schema, signals=()).hash
    assert schema.asset_width == schema.lookback_bars * (len(schema.features) + 1)
    features = compute_features(panel)
    assert with_signals(features, None) is features


def test_the_hash_covers_everything_about_a_signal() -> None:
    """Another source, version, name, age or order is another observation."""
    columns = [
        (),
        (MOOD,),
        (MOOD, TIDE),
        (TIDE, MOOD),
        (dataclasses.replace(MOOD, source="x"),),
        (dataclasses.replace(MOOD, name="x"),),
        (dataclasses.replace(MOOD, version="x"),),
        (dataclasses.replace(MOOD, max_age_seconds=1),),
    ]
    schemas = [dataclasses.replace(small_schema(), signals=each) for each in columns]
    assert len({schema.hash for schema in schemas}) == len(columns)


def test_a_signal_has_a_value_and_a_mask() -> None:
    """Per bar: F features, S signals, the share of known features, S masks; 0 and 0 if unknown."""
    panel = small_panel()
    stop = int(panel.close_time[300])
    rows = [row for row in moods(panel) if row.stream == TIDE.stream or row.event_time <= stop]
    features, schema = observed(panel, rows)
    normalizer = fit_normalizer(features.values, features.known)
    channels = market_rows(features, normalizer, schema).reshape(
        -1, len(panel.symbols), schema.lookback_bars, len(schema.features) + 5
    )
    mood, tide, share, mood_known, tide_known = np.moveaxis(channels[:, :, -1, -5:], -1, 0)
    first = schema.lookback_bars - 1
    known = 301 + 6 - first  # six hours of age after the last row, the minute of ingestion included
    assert mood_known[50:known].all()
    assert not mood_known[known:].any()
    assert not mood[known:].any()
    assert np.std(mood[50:known]) == pytest.approx(1.0, abs=0.2)
    assert tide_known[50:].all()
    assert len({*tide[200]}) == len(panel.symbols)
    usable = normalizer.usable(features.known)
    assert share[-1] == pytest.approx(usable[-1, 0, : len(schema.features)].mean())


def test_a_signal_that_training_never_had_stays_masked() -> None:
    """Its value and its mask are 0 for ever: the weights behind it were never trained."""
    panel = small_panel()
    rows = [row for row in moods(panel) if row.stream != TIDE.stream]
    without, schema = observed(panel, rows)
    normalizer = fit_normalizer(without.values, without.known)
    features, _ = observed(panel, moods(panel))
    seen, expected = (market_rows(each, normalizer, schema) for each in (features, without))
    assert features.known[..., -1].any()
    np.testing.assert_array_equal(seen, expected)


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(WARMUP_BARS + 10, BARS - 2), seed=st.integers(0, 99))
def test_what_comes_later_never_reaches_an_observation(cut: int, seed: int) -> None:
    """Rows published after a decision, back-filled or revised ones too, leave it bit-equal."""
    panel = small_panel()
    decision = int(panel.close_time[cut])
    lived = [row for row in moods(panel) if row.ingested_at <= decision]
    rng = np.random.default_rng(seed)
    later = [
        signal(
            column,
            int(event),
            1e6 * rng.normal(),
            published_at=int(event) + int(rng.integers(0, HOUR_MS)),
            ingested_at=decision + int(rng.integers(1, 10**9)),
            is_backfilled=bool(rng.integers(0, 2)),
            symbol=str(rng.choice(["", *panel.symbols])),
        )
        for column in (MOOD, TIDE)
        for event in rng.integers(decision - 40 * HOUR_MS, decision + 10 * HOUR_MS, 20)
    ]
    features, schema = observed(panel, lived)
    normalizer = fit_normalizer(features.values, features.known)
    recomputed, _ = observed(panel, [*lived, *later])
    row = cut - schema.lookback_bars + 1
    np.testing.assert_array_equal(
        market_rows(recomputed, normalizer, schema)[row],
        market_rows(features, normalizer, schema)[row],
    )


def trained_with_signals() -> tuple[Panel, tuple[Signal, ...], TrainingWindow, Policy]:
    """A tiny policy that reads both signals."""
    panel = small_panel()
    rows = moods(panel)
    job = job_on(panel, config=SIGNAL_CONFIG)
    joined = signals_at(panel, rows, SIGNAL_CONFIG.signals)
    window = training_window(panel, instruments_of(panel), job, joined)
    model = learn(window, job, lambda _done, _total: None)
    return panel, rows, window, Policy(export(model, window, job, "snapshot"))


def test_live_and_training_build_the_same_rows(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The environment's row of a bar is bit-equal to the one that live builds at its close.

    And live, which reads only recent rows, decides as the evaluation does over all of them; also
    after the artefact was written and read again.
    """
    panel, rows, window, policy = trained_with_signals()
    market = window.market
    directory = tmp_path_factory.mktemp("models") / "one"
    write_artefact(policy.artefact, directory)
    again = Policy(read_artefact(directory))
    assert again.schema == policy.schema
    assert again.artefact.config == SIGNAL_CONFIG
    everything = signals_at(panel, rows, policy.schema.signals)
    prepared = policy.prepare(panel, with_signals(compute_features(panel), everything))
    for bar in (len(panel) - 1, len(panel) - 17):
        seen = panel.window(0, bar + 1)
        decision = int(seen.close_time[-1])
        recent = [row for row in rows if decision - 60 * HOUR_MS <= row.published_at <= decision]
        closes = seen.close_time[-policy.schema.lookback_bars :]
        joined = join_signals(recent, policy.schema.signals, panel.symbols, closes)
        live = again.target_weights(seen, PORTFOLIO, joined)
        row = bar - policy.schema.lookback_bars + 1
        everywhere = with_signals(compute_features(panel), everything)
        trained_on = market_rows(everywhere, policy.artefact.normalizer, policy.schema)[row]
        np.testing.assert_array_equal(market.windows.at(np.array(bar)), trained_on)
        expected = policy.weights_at(prepared, np.array([row]), _batch_of_one(PORTFOLIO))
        np.testing.assert_allclose(live, expected[0], atol=1e-6)


def _batch_of_one(portfolio: PortfolioState) -> PortfolioState:
    return PortfolioState(
        weights=portfolio.weights[None],
        drawdown=np.atleast_1d(portfolio.drawdown),
        sigma=np.atleast_1d(portfolio.sigma),
        bars_since_trade=np.atleast_1d(portfolio.bars_since_trade),
        unit_cost=np.atleast_1d(portfolio.unit_cost),
    )


def test_a_policy_refuses_signals_that_are_not_its_own() -> None:
    """Without its signals, with another version's, or for other closes, it does not decide."""
    panel, rows, _, policy = trained_with_signals()
    other = tuple(dataclasses.replace(one, version="9") for one in policy.schema.signals)
    wrong: list[SignalPanel | None] = [
        None,
        join_signals(rows, other, panel.symbols, panel.close_time),
    ]
    for signals in wrong:
        with pytest.raises(ObservationRejected, match="signals"):
            policy.target_weights(panel, PORTFOLIO, signals)
    early = join_signals(rows, policy.schema.signals, panel.symbols, panel.close_time[:-1])
    with pytest.raises(ValueError, match="not joined"):
        policy.target_weights(panel, PORTFOLIO, early)


def test_signals_move_the_policy() -> None:
    """The columns reach the network: other values give other weights."""
    panel, rows, _, policy = trained_with_signals()
    moved = [dataclasses.replace(row, value=row.value + 30.0) for row in rows]
    first, other = (
        policy.target_weights(
            panel,
            PORTFOLIO,
            join_signals(given_rows, policy.schema.signals, panel.symbols, panel.close_time),
        )
        for given_rows in (rows, moved)
    )
    assert np.abs(first - other).max() > 1e-6


def test_a_column_that_nobody_stored_is_refused_before_training() -> None:
    """The snapshot must know each column at some bar; the message names source and remedy."""
    panel = small_panel()
    only_tides = [row for row in moods(panel) if row.stream == TIDE.stream]
    with pytest.raises(SignalMissing, match="'mood' version '1'.*--signals"):
        signals_at(panel, only_tides, (MOOD, TIDE))
    assert signals_at(panel, only_tides, ()) is None


def test_a_configuration_keeps_its_signals() -> None:
    """They go to JSON and back, and naming one twice is refused."""
    assert config_from_json(SIGNAL_CONFIG.to_json()) == SIGNAL_CONFIG
    assert config_from_json({}) == TrainingConfig()
    with pytest.raises(ValueError, match=r"training\.signals must be distinct"):
        TINY.replace(signals=(MOOD, MOOD))


def test_a_training_reads_its_signals_out_of_the_snapshot(tmp_path: Path) -> None:
    """The artefact of a job on a snapshot with signals is the one that was trained in memory."""
    panel, rows, window, _ = trained_with_signals()
    snapshot = save_snapshot(
        panel, instruments_of(panel), venue="binanceusdm", root=tmp_path, signals=rows
    )
    job = dataclasses.replace(job_on(panel, config=SIGNAL_CONFIG), snapshot_dir=snapshot.directory)
    policy = load_policy(train(job, tmp_path / "model", lambda _done, _total: None))
    assert policy.schema.signals == (MOOD, TIDE)
    np.testing.assert_array_equal(policy.artefact.normalizer.mean, window.normalizer.mean)
    bare = save_snapshot(panel, instruments_of(panel), venue="binanceusdm", root=tmp_path)
    with pytest.raises(SignalMissing):
        train(
            dataclasses.replace(job, snapshot_dir=bare.directory),
            tmp_path / "none",
            lambda _done, _total: None,
        )
