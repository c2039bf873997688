"""The catalogue: what holds for every feature, and what hides one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from market import features as features_module
from market.bar import DAY_MS, HOUR_MS, MINUTE_MS
from market.feature_formulas import FORMULAS
from market.feature_spec import FeatureGroup, FeatureSpec
from market.feature_table import markdown_table
from market.features import (
    DEFAULT_FEATURES,
    FEATURES,
    WARMUP_BARS,
    Features,
    UnknownFeature,
    compute_features,
    selected,
    warmup_bars,
)
from tests.market.feature_market import (
    ALL,
    BAR_FIELDS,
    changed,
    column,
    full_panel,
    unknown,
    without,
)

DOCS = Path(__file__).parents[2] / "docs" / "features.md"
RHYTHM = {"funding_countdown", "funding_carry"}
BITCOIN = {"beta", "btc_correlation", "residual_return"}
AMONG_ASSETS = {"return_rank", "return_rank_6", "return_rank_168", "volatility_rank", "dispersion"}


def reading(*fields: str) -> set[str]:
    """Return the features that read any of the panel's ``fields``."""
    return {name for name, spec in FEATURES.items() if set(fields) & set(spec.needs)}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    interval_ms=st.sampled_from([MINUTE_MS, 5 * MINUTE_MS, HOUR_MS, DAY_MS]),
    assets=st.integers(1, 4),
    missing=st.sampled_from([0.0, 0.02, 0.1]),
    after=st.integers(0, 200),
    surplus=st.integers(0, 100),
)
@example(seed=1, interval_ms=MINUTE_MS, assets=2, missing=0.02, after=3, surplus=0)
def test_features_from_cut_data_are_bit_equal_to_features_from_all_data(
    seed: int, interval_ms: int, assets: int, missing: float, after: int, surplus: int
) -> None:
    """Neither what came later nor what lies before the warm-up changes one bit of any feature."""
    warmup = warmup_bars(ALL, interval_ms)
    bars = warmup + 100 + after
    panel = full_panel(seed, bars=bars, assets=assets, interval_ms=interval_ms, missing=missing)
    stop = bars - after
    whole = compute_features(panel, ALL)
    cut = compute_features(panel.window(stop - warmup - surplus, stop), ALL)
    assert cut.values[-1].tobytes() == whole.values[stop - 1].tobytes()
    assert cut.known[-1].tobytes() == whole.known[stop - 1].tobytes()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("interval_ms", [5 * MINUTE_MS, HOUR_MS])
def test_each_feature_alone_needs_no_more_than_its_own_warmup(name: str, interval_ms: int) -> None:
    """Chosen alone, from its own warm-up, it is bit-equal to the whole catalogue's column."""
    warmup = warmup_bars([name], interval_ms)
    panel = full_panel(2, bars=warmup + 50, interval_ms=interval_ms)
    expected = compute_features(panel, ALL)
    alone = compute_features(panel.window(50, warmup + 50), [name])
    place = ALL.index(name)
    assert alone.values.shape == (warmup, 4, 1)
    assert alone.known[-1].any() or name in RHYTHM
    assert alone.values[-1, :, 0].tobytes() == expected.values[-1, :, place].tobytes()
    assert alone.known[-1, :, 0].tobytes() == expected.known[-1, :, place].tobytes()


@pytest.mark.parametrize(
    "name", [name for name in ALL if FEATURES[name].bars > 1 and "funding" not in name]
)
def test_a_warmup_is_not_longer_than_the_feature_looks(name: str) -> None:
    """With one bar less than the stated warm-up the value is another one, or unknown."""
    warmup = warmup_bars([name], HOUR_MS)
    panel = full_panel(3, bars=warmup)
    for prices in (panel.open, panel.high, panel.low, panel.close):
        prices[0, 0] *= 2.0  # so that the oldest bar alone decides who is the most volatile
    enough = column(compute_features(panel, [name]), name)[-1]
    short = column(compute_features(panel.window(1, warmup), [name]), name)[-1]
    assert np.isfinite(enough).all()
    assert not np.array_equal(enough, short)


def test_a_long_history_in_blocks_is_bit_equal_to_one_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How the bars are cut for the sake of memory cannot be seen in any value."""
    panel = full_panel(4, bars=3_000, missing=0.02)
    whole = compute_features(panel, ALL)
    monkeypatch.setattr(features_module, "_BLOCK_CELLS", 1)
    monkeypatch.setattr(features_module, "_LEADS_PER_BLOCK", 1)
    blocks = compute_features(panel, ALL)
    assert blocks.values.tobytes() == whole.values.tobytes()
    assert blocks.known.tobytes() == whole.known.tobytes()


@pytest.mark.parametrize("layout", [np.asfortranarray, np.ascontiguousarray])
def test_the_memory_layout_of_the_panel_changes_no_bit(layout: object) -> None:
    """A column-major panel (a mapped file) gives what a row-major one gives."""
    panel = full_panel(5)
    arrays = {name: layout(getattr(panel, name)) for name in BAR_FIELDS}  # type: ignore[operator]  # numpy function
    other = compute_features(changed(panel, **arrays), ALL)
    assert other.values.tobytes() == compute_features(panel, ALL).values.tobytes()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.1, 0.9]))
def test_values_are_finite_bounded_and_zero_where_unknown(seed: int, missing: float) -> None:
    """Nothing that is not a number, nothing beyond its bound, no value without knowledge."""
    features = compute_features(full_panel(seed, missing=missing), ALL)
    bounds = np.array([FEATURES[name].bound for name in ALL], dtype=np.float32)
    assert np.isfinite(features.values).all()
    assert (np.abs(features.values) <= bounds).all()
    assert not features.values[~features.known].any()


@pytest.mark.parametrize("bars", [0, 1, 2, 30])
def test_a_history_shorter_than_the_warmup_is_masks_and_no_error(bars: int) -> None:
    """Short panels give rows of the right shape, and nothing that needs a longer window."""
    features = compute_features(full_panel(17, bars=bars), ALL)
    assert features.values.shape == features.known.shape == (bars, 4, len(ALL))
    long = [ALL.index(name) for name in ALL if warmup_bars([name], HOUR_MS) > 100]
    settled = {"funding_last", "funding_mean"}
    assert not any(features.known[..., idx].any() for idx in long if ALL[idx] not in settled)


def test_absurd_inputs_give_neither_a_warning_nor_an_unbounded_value() -> None:
    """Jumps of 1e9, volumes of 1e300 and 1e-300, a mark of nothing, more bought than traded."""
    panel = full_panel(18)
    tiny = {name: getattr(panel, name).copy() for name in BAR_FIELDS}
    for name in ("open", "high", "low", "close"):
        tiny[name][200:, 0] *= 1e9
        tiny[name][:, 1] *= 1e-12
    tiny["volume"][300:, 2], tiny["quote_volume"][300:, 2] = 1e300, 1e-300
    tiny["trades"][350:, 2], tiny["taker_buy_volume"][300:, 2] = 0.0, 1e303
    tiny["mark_close"][:, 3] = 0.0
    features = compute_features(changed(panel, funding_rate=panel.funding_rate * 1e9, **tiny), ALL)
    bounds = np.array([FEATURES[name].bound for name in ALL], dtype=np.float32)
    assert np.isfinite(features.values).all()
    assert (np.abs(features.values) <= bounds).all()


def test_every_feature_is_known_where_everything_is_given() -> None:
    """A venue that gives all fields leaves no feature of the newest bar unknown."""
    features = compute_features(full_panel(6), ALL)
    assert all(unknown(features, asset=asset) == set() for asset in range(4))


@pytest.mark.parametrize(
    "field",
    ["volume", "quote_volume", "trades", "taker_buy_volume", "mark_close", "funding_rate", "high"],
)
def test_a_field_that_is_not_given_hides_its_readers_and_no_others(field: str) -> None:
    """What a venue or a file does not give is masked, never replaced by a guess."""
    features = compute_features(without(full_panel(7), field), ALL)
    assert unknown(features) == reading(field)


def test_bars_as_bybit_gives_them_hide_trades_and_taker_volumes() -> None:
    """Seven fields: no trade count and no taker volume, but a quote volume."""
    features = compute_features(without(full_panel(8), "trades", "taker_buy_volume"), ALL)
    assert unknown(features) == {
        "trades_surprise", "trades_relative", "trades_seasonal", "trade_size_seasonal",
        "taker_imbalance", "taker_imbalance_24", "taker_relative",
    }  # fmt: skip


def test_a_field_that_one_asset_lacks_hides_nothing_of_the_others() -> None:
    """A panel of mixed origin keeps what the other assets know."""
    panel = full_panel(9)
    quote_volume = panel.quote_volume.copy()
    quote_volume[:, 1] = np.nan
    features = compute_features(changed(panel, quote_volume=quote_volume), ALL)
    assert unknown(features, asset=1) == reading("quote_volume")
    assert unknown(features, asset=0) == set()


def test_a_market_without_trade_knows_no_volume_feature() -> None:
    """Zero volume has no logarithm, no imbalance and no price impact."""
    panel = full_panel(10)
    zero = np.zeros_like(panel.close)
    still = changed(panel, volume=zero, quote_volume=zero, trades=zero, taker_buy_volume=zero)
    hidden = reading("volume", "quote_volume", "trades", "taker_buy_volume")
    assert unknown(compute_features(still, ALL)) == hidden


def test_a_price_that_never_moves_has_no_scale() -> None:
    """Flat prices: nothing is divided by a volatility of zero, and no spread can be told."""
    panel = full_panel(11)
    flat = {name: panel.close.copy() for name in ("open", "high", "low", "close")}
    for array in flat.values():
        array[:, 2] = 7.0
    features = compute_features(changed(panel, **flat), ALL)
    known = reading("close", "open", "high", "low") - unknown(features, asset=2)
    assert known == {
        "basis", "basis_mean", "basis_change", "return_rank", "return_rank_6", "return_rank_168",
        "beta", "market_return", "dispersion",
    }  # fmt: skip
    assert column(features, "beta")[-1, 2] == 0.0


@pytest.mark.parametrize("symbol", ["ETH/BTC", "1000BTC/USDT:USDT", "WBTC/USDT"])
def test_without_bitcoin_there_is_no_beta(symbol: str) -> None:
    """Bitcoin is the symbol whose base is BTC; none other stands in for it."""
    panel = full_panel(12)
    features = compute_features(changed(panel, symbols=(symbol, *panel.symbols[1:])), ALL)
    assert unknown(features) == BITCOIN


def test_bitcoin_is_found_wherever_it_stands() -> None:
    """Its own beta and correlation are 1 and nothing of its return is left over."""
    panel = full_panel(13)
    spot = changed(panel, symbols=("ETH/USDT", "SOL/USDT", "BTC/USDT", "XRP/USDT"))
    features = compute_features(spot, ALL)
    assert column(features, "beta")[-1, 2] == 1.0
    assert column(features, "btc_correlation")[-1, 2] == pytest.approx(1.0)
    assert column(features, "residual_return")[-1, 2] == 0.0


def test_an_asset_alone_has_no_rank_and_no_dispersion() -> None:
    """Among fewer than two known assets a rank and a spread of returns say nothing."""
    assert unknown(compute_features(full_panel(14, assets=1), ALL)) == AMONG_ASSETS


def test_a_missing_bar_hides_everything_but_funding_and_calendar() -> None:
    """A window that is covered without the present bar would show a stale value as today's."""
    panel = full_panel(15)
    gone = {name: getattr(panel, name).copy() for name in BAR_FIELDS}
    for array in gone.values():
        array[-3, 3] = np.nan
    features = compute_features(changed(panel, **gone), ALL)
    fresh = {name for name, spec in FEATURES.items() if not spec.group.needs_bar}
    assert set(ALL) - unknown(features, bar=-3, asset=3) == fresh
    assert {FEATURES[name].group for name in fresh} == {
        FeatureGroup.FUNDING, FeatureGroup.CALENDAR,
    }  # fmt: skip
    assert unknown(features, bar=-3, asset=1) == set()
    # Two of its six returns need the missing close.
    assert unknown(features, asset=3) == {"volatility_ratio_6"}


def test_the_default_set_is_what_the_presets_were_tuned_on() -> None:
    """These thirteen names in this order, within 246 bars of any interval."""
    assert DEFAULT_FEATURES == (
        "return_1", "return_6", "return_24", "return_72", "volatility_ratio", "range_ratio",
        "volume_surprise", "volume_relative", "volume_shock", "funding_last", "funding_mean",
        "basis", "return_rank",
    )  # fmt: skip
    for interval_ms in (MINUTE_MS, HOUR_MS, DAY_MS):
        assert warmup_bars(DEFAULT_FEATURES, interval_ms) == WARMUP_BARS == 246


def test_columns_follow_the_order_of_the_names() -> None:
    """A choice gives its columns in its order, each equal to the catalogue's."""
    panel, names = full_panel(16), ("basis", "hour_sin", "return_6")
    chosen, whole = compute_features(panel, names), compute_features(panel, ALL)
    assert chosen.names == names
    for name in names:
        np.testing.assert_array_equal(column(chosen, name), column(whole, name))


@pytest.mark.parametrize(
    ("interval_ms", "bars"), [(MINUTE_MS, 6 + 7 * 1440), (HOUR_MS, 6 + 7 * 24), (DAY_MS, 6 + 7)]
)
def test_a_warmup_in_days_spans_days_whatever_the_interval(interval_ms: int, bars: int) -> None:
    """Seven days of bars and the six that are averaged."""
    assert warmup_bars(["volume_seasonal"], interval_ms) == bars


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["retrun_1"], r"unknown feature 'retrun_1'; did you mean return_1"),
        (["zzz"], r"unknown feature 'zzz'; there are return_1, "),
        (["basis", "basis"], "'basis' is selected twice"),
        ([], "no feature is selected"),
        ("basis", "must be a list of names"),
        (3, "must be a list of names"),
    ],
)
def test_a_choice_that_makes_no_sense_is_refused(names: list[str], message: str) -> None:
    """Unknown, double, none, or not a list: the error says which, and what is near."""
    with pytest.raises(UnknownFeature, match=message):
        selected(names)


def test_features_know_their_names() -> None:
    """Values whose last axis does not fit the names are a defect, found at once."""
    with pytest.raises(ValueError, match="features have shapes"):
        Features(values=np.zeros((2, 1, 3), np.float32), known=np.zeros((2, 1, 3), np.bool_))


def test_every_feature_has_one_formula_and_one_line() -> None:
    """The table and the arithmetic name the same features; names repeat their key."""
    assert set(FORMULAS) == set(FEATURES)
    assert all(name == spec.name for name, spec in FEATURES.items())


@pytest.mark.parametrize(("bars", "days", "bound"), [(0, 0, 1.0), (1, -1, 1.0), (1, 0, 0.0)])
def test_a_line_without_window_or_bound_is_refused(bars: int, days: int, bound: float) -> None:
    """A feature looks at the present bar at least, and has a bound."""
    with pytest.raises(ValueError, match="feature x"):
        FeatureSpec(
            name="x",
            group=FeatureGroup.FLOW,
            formula="1",
            bars=bars,
            days=days,
            bound=bound,
            needs=(),
            source="none",
        )


def test_the_documented_table_is_the_code() -> None:
    """docs/features.md holds ``markdown_table()`` word for word, and explains each source."""
    text = DOCS.read_text(encoding="utf-8")
    assert markdown_table() in text
    for source in {spec.source for spec in FEATURES.values()}:
        assert text.count(f"- {source} ") == 1
