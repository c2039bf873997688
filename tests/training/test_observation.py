"""What the policy sees: layout, look-ahead, rejection, and live = training."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from market.features import WARMUP_BARS, Features, compute_features
from market.panel import ARRAY_FIELDS, Panel
from tests.training.learner_factory import TINY, small_panel, small_schema
from tests.training.market_factory import START
from training.normalizer import fit_normalizer
from training.observation import (
    GLOBALS,
    ObservationRejected,
    ObservationSchema,
    assemble,
    market_rows,
    portfolio_state,
    required_bars,
    rolling_sigma,
)


def scale_of(panel: Panel):  # type: ignore[no-untyped-def]  # two values, used at once
    features = compute_features(panel)
    return features, fit_normalizer(features.values, features.known)


def test_layout_is_market_then_weights_then_globals() -> None:
    """Each part is where the schema says, oldest bar first, the share of known features last."""
    schema, panel = small_schema(), small_panel()
    features, normalizer = scale_of(panel)
    rows = market_rows(features, normalizer, schema)
    state = portfolio_state(
        weights=[0.1, 0.2, 0.3], drawdown=0.05, sigma=0.01, bars_since_trade=0, unit_cost=0.0006
    )
    obs = assemble(rows[300], state, np.int64(START + 6 * 3_600_000), schema)  # type: ignore[arg-type]  # scalar
    width = len(schema.features) + 1
    normal = normalizer.apply(features.values, features.known)
    assert obs.shape == (schema.width,)
    np.testing.assert_array_equal(obs[: width - 1], normal[300, 0])
    usable = normalizer.usable(features.known)
    assert obs[width - 1] == usable[300, 0].mean(dtype=np.float32)
    np.testing.assert_array_equal(obs[width : 2 * width - 1], normal[301, 0])
    np.testing.assert_allclose(obs[-len(GLOBALS) - 3 : -len(GLOBALS)], [0.1, 0.2, 0.3], rtol=1e-6)
    expected = [0.4, 0.05, 0.01 * math.sqrt(8760), 0.0, 0.6, 1.0, 0.0, 0.0, 1.0]
    np.testing.assert_allclose(obs[-len(GLOBALS) :], expected, atol=1e-6)


def test_calendar_turns_once_a_day_and_once_a_week() -> None:
    """Monday 00:00 is the origin; Thursday is 3/7 of the circle."""
    schema = small_schema()
    rows = np.zeros((3, schema.asset_width), dtype=np.float32)
    state = portfolio_state(weights=[0, 0, 0], drawdown=0, sigma=0, bars_since_trade=0, unit_cost=0)
    monday, thursday = START, START + 3 * 86_400_000
    first = assemble(rows, state, np.int64(monday), schema)[-4:]  # type: ignore[arg-type]  # scalar
    later = assemble(rows, state, np.int64(thursday), schema)[-4:]  # type: ignore[arg-type]  # scalar
    angle = 2 * math.pi * 3 / 7
    np.testing.assert_allclose(first, [0, 1, 0, 1], atol=1e-7)
    np.testing.assert_allclose(later, [0, 1, math.sin(angle), math.cos(angle)], atol=1e-6)


def test_rows_do_not_look_ahead() -> None:
    """Cut the data at a bar, and every row up to it is bit-equal."""
    schema, panel = small_schema(), small_panel()
    features, normalizer = scale_of(panel)
    whole = market_rows(features, normalizer, schema)
    cut = market_rows(compute_features(panel.window(0, 350)), normalizer, schema)
    np.testing.assert_array_equal(cut, whole[: len(cut)])


def test_the_last_bars_suffice() -> None:
    """Live computes one row from ``required_bars`` bars, bit-equal to the row of all history."""
    schema, panel = small_schema(), small_panel()
    features, normalizer = scale_of(panel)
    whole = market_rows(features, normalizer, schema)
    needed = required_bars(schema, WARMUP_BARS)
    recent = compute_features(panel.window(len(panel) - needed, len(panel)))
    np.testing.assert_array_equal(market_rows(recent, normalizer, schema)[-1], whole[-1])


def test_a_missing_bar_reaches_the_mask() -> None:
    """A missing bar lowers the share of known features, and is no NaN."""
    schema, panel = small_schema(), small_panel()
    holed = {name: getattr(panel, name).copy() for name in ARRAY_FIELDS}
    for name in ("open", "high", "low", "close", "volume", "mark_close", "mark_open"):
        holed[name][400, 1] = np.nan
    gap = dataclasses.replace(panel, **holed)
    features, normalizer = scale_of(gap)
    row = market_rows(features, normalizer, schema)[400 - 1]
    assert np.isfinite(row).all()
    assert row[1, -1] < row[0, -1]


@pytest.mark.parametrize("field", ["drawdown", "sigma", "unit_cost", "weights"])
def test_a_portfolio_that_is_not_finite_is_rejected(field: str) -> None:
    """A NaN never reaches the network."""
    schema = small_schema()
    facts: dict[str, object] = {
        "weights": [0.0, 0.0, 0.0], "drawdown": 0.0, "sigma": 0.0, "bars_since_trade": 0,
        "unit_cost": 0.0,
    }  # fmt: skip
    facts[field] = [math.nan, 0.0, 0.0] if field == "weights" else math.nan
    rows = np.zeros((3, schema.asset_width), dtype=np.float32)
    with pytest.raises(ObservationRejected, match="not finite"):
        assemble(rows, portfolio_state(**facts), np.int64(START), schema)  # type: ignore[arg-type]  # by test


def test_a_known_feature_that_is_not_finite_is_rejected() -> None:
    """A NaN that claims to be known is a defect of the features, not an average value."""
    schema, panel = small_schema(), small_panel()
    features, normalizer = scale_of(panel)
    values = features.values.copy()
    values[300, 0, 0] = np.nan
    broken = Features(values=values, known=np.ones_like(features.known))
    with pytest.raises(ObservationRejected, match="claims to be known"):
        market_rows(broken, normalizer, schema)


def test_the_hash_tells_schemas_apart() -> None:
    """Another lookback, symbol order, feature list or σ window is another observation."""
    schema = small_schema()
    others = [
        dataclasses.replace(schema, lookback_bars=TINY.lookback_bars + 1),
        dataclasses.replace(schema, symbols=schema.symbols[::-1]),
        dataclasses.replace(schema, features=schema.features[::-1]),
        dataclasses.replace(schema, sigma_window_bars=99),
        dataclasses.replace(schema, interval_ms=60_000),
    ]
    assert small_schema().hash == schema.hash
    assert len({schema.hash, *(other.hash for other in others)}) == 6


def test_the_default_schema_keeps_its_hash() -> None:
    """Artefacts hold this hash: a change of it would refuse every model that was trained."""
    schema = ObservationSchema(
        symbols=("BTC/USDT:USDT", "ETH/USDT:USDT"), interval_ms=3_600_000, lookback_bars=8
    )
    assert schema.hash == "c0619b08343a8f573e7473daa6d65c6e658ae72f183aa3f7bffc81232fd6a15b"


def test_features_of_other_names_are_refused() -> None:
    """As many columns as the schema has, but of another meaning, never reach the network."""
    schema = dataclasses.replace(small_schema(), features=("return_1", "basis"))
    features = compute_features(small_panel(), ("basis", "return_1"))
    normalizer = fit_normalizer(features.values, features.known)
    with pytest.raises(ObservationRejected, match="features are basis, return_1, the schema wants"):
        market_rows(features, normalizer, schema)


def test_a_schema_names_features_that_exist() -> None:
    """A name that the catalogue does not have has no meaning to give a position."""
    with pytest.raises(ValueError, match="unknown feature 'retrun_1'; did you mean return_1"):
        dataclasses.replace(small_schema(), features=("retrun_1",))


def test_rolling_sigma_waits_for_five_returns() -> None:
    """0 until five returns; then the population standard deviation (of 1..5: √2)."""
    assert rolling_sigma(np.array([0.1, -0.1, 0.2, 0.0])) == 0.0
    assert rolling_sigma(np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(math.sqrt(2))
