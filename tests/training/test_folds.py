"""Walk-forward folds against indices worked out by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.folds import FoldPlan, HistoryTooShort, Window, purge_bars, walk_forward


def plan(**changes: int | None) -> FoldPlan:
    """Fifty-bar tests after at least a hundred training bars, some fields replaced."""
    settings: dict[str, int | None] = {
        "windows": 4,
        "test_bars": 50,
        "minimum_train_bars": 100,
        "purge_bars": 10,
        "embargo_bars": 5,
        "warmup_bars": 20,
    }
    return FoldPlan(**{**settings, **changes})  # type: ignore[arg-type]  # ints by name


def indices(window: Window) -> tuple[int, int, int, int]:
    """Train start and stop, test start and stop."""
    return (window.train_start, window.train_stop, window.test_start, window.test_stop)


def test_expanding_indices() -> None:
    """Expanding windows start at the warm-up and stop purge + embargo before their test."""
    assert [indices(window) for window in walk_forward(400, plan())] == [
        (20, 185, 200, 250),
        (20, 235, 250, 300),
        (20, 285, 300, 350),
        (20, 335, 350, 400),
    ]


def test_sliding_indices() -> None:
    """Sliding windows all have the stated training length."""
    assert [indices(window) for window in walk_forward(400, plan(sliding_train_bars=120))] == [
        (65, 185, 200, 250),
        (115, 235, 250, 300),
        (165, 285, 300, 350),
        (215, 335, 350, 400),
    ]


def test_shortest_history_that_is_enough() -> None:
    """Exactly the bars needed give a first training of exactly the minimum."""
    assert plan().bars_needed == 20 + 100 + 15 + 200
    first, *_ = walk_forward(335, plan())
    assert indices(first) == (20, 120, 135, 185)


def test_history_too_short_names_what_is_needed() -> None:
    """One bar fewer is an error that names the need, the history and its parts."""
    with pytest.raises(HistoryTooShort, match="needs 335 bars and the history has 334") as caught:
        list(walk_forward(334, plan()))
    assert "100 training" in str(caught.value)
    assert "4 windows of 50" in str(caught.value)


def test_sliding_length_is_part_of_the_need() -> None:
    """A sliding window longer than the minimum raises the need."""
    assert plan(sliding_train_bars=300).bars_needed == 20 + 300 + 15 + 200


def test_fewer_than_four_windows_are_refused() -> None:
    """Three windows are not a walk-forward."""
    with pytest.raises(ValueError, match="at least 4"):
        plan(windows=3)


def test_purge_is_lookback_sigma_and_horizon() -> None:
    """The purge covers everything an observation or a reward reaches."""
    assert purge_bars(lookback_bars=32, sigma_window_bars=48, reward_horizon_bars=2) == 82


@given(
    bars=st.integers(300, 2_000),
    windows=st.integers(4, 9),
    test_bars=st.integers(1, 40),
    gap=st.integers(0, 60),
    sliding=st.none() | st.integers(1, 80),
)
def test_tests_tile_the_end_and_never_touch_training(
    bars: int, windows: int, test_bars: int, gap: int, sliding: int | None
) -> None:
    """Tests tile the end of the history, and every training ends a whole gap before its test."""
    cut = plan(
        windows=windows, test_bars=test_bars, purge_bars=gap, sliding_train_bars=sliding,
        minimum_train_bars=1,
    )  # fmt: skip
    if bars < cut.bars_needed:
        return
    folds = list(walk_forward(bars, cut))
    assert len(folds) == windows
    assert folds[-1].test_stop == bars
    assert all(a.test_stop == b.test_start for a, b in itertools.pairwise(folds))
    assert all(fold.test_start - fold.train_stop == gap + 5 for fold in folds)
    assert all(fold.train_start >= 20 for fold in folds)
