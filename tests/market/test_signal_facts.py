"""Which rows of signals say something new, and when they are stamped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from market.facts import new_signals
from market.signal_join import first_stored
from market.signals import Signal, stamped
from tests.market.signal_factory import at, backfilled, live


def insert(stored: Sequence[Signal], incoming: Sequence[Signal], hour: float) -> list[Signal]:
    """What is stored after ``incoming`` came at ``hour``."""
    now = [stamped(row, at(hour)) for row in incoming]
    return [*stored, *new_signals(stored, now, began=first_stored(stored))]


VERSIONS = [
    [backfilled(1, 0.4, ingested=0, lag=1), backfilled(1, 0.5, ingested=0, lag=24)],
    [backfilled(1, 0.4, ingested=0, lag=1), backfilled(1, 0.5, ingested=0, lag=1)],
    [backfilled(1, value, ingested=0, lag=lag) for value, lag in ((0.4, 1), (0.5, 2), (0.4, 3))],
]


@pytest.mark.parametrize("rows", VERSIONS)
def test_versions_of_one_key_that_come_again_add_nothing(rows: list[Signal]) -> None:
    """An export holds all of them; importing it twice is importing it once."""
    once = insert([], rows, 50)
    assert len(once) == len(rows)
    assert insert(once, rows, 60) == once


def test_history_of_what_was_seen_live_adds_nothing() -> None:
    """The export of live revisions, brought back to where they were lived."""
    lived = insert([], [live(1, 0.4, ingested=0)], 2)
    lived = insert(lived, [live(1, 0.5, ingested=0)], 3)
    again = [backfilled(1, 0.4, ingested=0, lag=1), backfilled(1, 0.5, ingested=0, lag=2)]
    assert insert(lived, again, 50) == lived


def test_a_live_row_that_makes_history_usable_earlier_is_kept() -> None:
    """A row that an archive brought with a day of lag, seen when it came out: once."""
    stored = insert([], [backfilled(1, 0.4, ingested=0, lag=24)], 2)
    for hour in (3, 4):
        stored = insert(stored, [live(1, 0.4, ingested=0)], hour)
    assert [(row.is_backfilled, row.available_at) for row in stored] == [
        (True, at(25)), (False, at(3)),
    ]  # fmt: skip


def test_a_live_row_that_is_usable_already_adds_nothing() -> None:
    """The lag of the archive's row is over."""
    stored = insert([], [backfilled(1, 0.4, ingested=0, lag=1)], 2)
    assert insert(stored, [live(1, 0.4, ingested=0)], 3) == stored


@pytest.mark.parametrize("late", [live(3, 7.0, ingested=0), backfilled(0, 7.0, ingested=0)])
def test_no_row_is_stamped_before_its_stream_began(late: Signal) -> None:
    """Whoever stored first stamped ahead: what the beginning decides must not change."""
    stored = insert([], [backfilled(1, 0.4, ingested=0)], 10)
    assert insert(stored, [late], 9)[-1].ingested_at == at(10)


def test_another_stream_has_a_beginning_of_its_own() -> None:
    """A stream that is new begins when it is stored, whatever the others did."""
    stored = insert([], [backfilled(1, 0.4, ingested=0)], 10)
    other = replace(live(3, 7.0, ingested=0), name="other")
    assert insert(stored, [other], 9)[-1].ingested_at == at(9)
