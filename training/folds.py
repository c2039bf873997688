"""Walk-forward folds: which bars a training may see and which bars then judge it.

Pure index arithmetic over a history of ``bars`` bars. It knows nothing of prices or models, and
it never yields a window whose training bars reach its test bars, gap included.

The test windows lie back to back at the end of the history, so that joined they are one
out-of-sample record without holes; each training ends ``purge + embargo`` bars before its test::

    expanding   |== train 0 ==|gap|test 0|
                |==== train 1 =======|gap|test 1|
    sliding            |== train 1 ==|gap|test 1|
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MINIMUM_WINDOWS = 4


class HistoryTooShort(Exception):
    """The history cannot hold the folds that were asked for; the message says what would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One fold, in bar indices of the history; stops are exclusive."""

    number: int
    train_start: int
    train_stop: int
    test_start: int
    test_stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.train_start < self.train_stop <= self.test_start < self.test_stop:
            raise ValueError(f"window {self} is not train, then test")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldPlan:
    """How a history is cut.

    Attributes:
        windows: number of test windows, at least four.
        test_bars: length of each test window.
        minimum_train_bars: what the first (shortest) training must have.
        purge_bars: bars dropped between training and test because their information overlaps;
            see ``purge_bars``.
        embargo_bars: further bars dropped there, against slow leakage.
        warmup_bars: bars at the start of the history whose features are not known yet.
        sliding_train_bars: length of every training window, or ``None`` for expanding ones.
    """

    windows: int = MINIMUM_WINDOWS
    test_bars: int
    minimum_train_bars: int
    purge_bars: int
    embargo_bars: int = 0
    warmup_bars: int = 0
    sliding_train_bars: int | None = None

    def __post_init__(self) -> None:
        if self.windows < MINIMUM_WINDOWS:
            raise ValueError(f"windows must be at least {MINIMUM_WINDOWS}, got {self.windows}")
        if self.test_bars < 1 or self.minimum_train_bars < 1:
            raise ValueError("test_bars and minimum_train_bars must be positive")
        if min(self.purge_bars, self.embargo_bars, self.warmup_bars) < 0:
            raise ValueError("purge_bars, embargo_bars and warmup_bars must not be negative")
        if self.sliding_train_bars is not None and self.sliding_train_bars < 1:
            raise ValueError(f"sliding_train_bars must be positive, got {self.sliding_train_bars}")

    @property
    def first_train_bars(self) -> int:
        """Training bars that the first window must have."""
        return max(self.minimum_train_bars, self.sliding_train_bars or 0)

    @property
    def bars_needed(self) -> int:
        """Shortest history that holds every window."""
        gap = self.purge_bars + self.embargo_bars
        return self.warmup_bars + self.first_train_bars + gap + self.windows * self.test_bars


def purge_bars(*, lookback_bars: int, sigma_window_bars: int, reward_horizon_bars: int = 1) -> int:
    """Bars after a training window whose observations or rewards still overlap it.

    The first test observation looks back over ``lookback_bars`` of features and
    ``sigma_window_bars`` of returns, and the last training reward is earned
    ``reward_horizon_bars`` after its decision.
    """
    return lookback_bars + sigma_window_bars + reward_horizon_bars


def walk_forward(bars: int, plan: FoldPlan) -> Iterator[Window]:
    """Yield the windows in time order; the last test window ends with the history.

    Raises:
        HistoryTooShort: the history is shorter than ``plan.bars_needed``.
    """
    if bars < plan.bars_needed:
        raise HistoryTooShort(_shortage(bars, plan))
    first_test = bars - plan.windows * plan.test_bars
    for number in range(plan.windows):
        test_start = first_test + number * plan.test_bars
        train_stop = test_start - plan.purge_bars - plan.embargo_bars
        yield Window(
            number=number,
            train_start=_train_start(train_stop, plan),
            train_stop=train_stop,
            test_start=test_start,
            test_stop=test_start + plan.test_bars,
        )


def _train_start(train_stop: int, plan: FoldPlan) -> int:
    if plan.sliding_train_bars is None:
        return plan.warmup_bars
    return train_stop - plan.sliding_train_bars


def _shortage(bars: int, plan: FoldPlan) -> str:
    return (
        f"walk-forward needs {plan.bars_needed} bars and the history has {bars}: "
        f"{plan.warmup_bars} warm-up + {plan.first_train_bars} training + "
        f"{plan.purge_bars} purge + {plan.embargo_bars} embargo + "
        f"{plan.windows} windows of {plan.test_bars}"
    )
