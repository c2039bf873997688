"""Snapshots of the settings' history: which are kept, and which go."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.history import IN_USE_SECONDS, SNAPSHOTS_KEPT, freeze
from daemon.settings import Settings
from market.bar import HOUR_MS, Bar
from market.snapshot import load_snapshot
from market.warehouse import Origin, Warehouse

SINCE = 1_767_225_600_000
Freezer = Callable[[int], Path]


@pytest.fixture
def freezer(empty_warehouse: Warehouse, tmp_path: Path) -> Freezer:
    """Freezes the first hours of a small history below ``tmp_path``."""
    settings = Settings()
    bars = [
        Bar(symbol=symbol, open_time=SINCE + hour * HOUR_MS, open=1, high=1, low=1, close=1,
            volume=1)
        for symbol in settings.exchange.symbols
        for hour in range(10)
    ]  # fmt: skip
    empty_warehouse.insert_bars(
        bars,
        venue=settings.exchange.name.value,
        interval_ms=settings.exchange.interval_ms,
        origin=Origin.REST,
        ingested_at=SINCE,
    )

    def freeze_hours(hours: int) -> Path:
        until = SINCE + hours * HOUR_MS
        return freeze(settings, empty_warehouse, since=SINCE, until=until, root=tmp_path).directory

    return freeze_hours


def grow_old(*directories: Path) -> None:
    """Let more time pass than a process needs to open a snapshot."""
    for place, each in enumerate(directories):
        then = each.stat().st_mtime - 2 * IN_USE_SECONDS + place
        os.utime(each, (then, then))


def test_the_oldest_snapshots_go(freezer: Freezer, tmp_path: Path) -> None:
    """Of five old ones and a new one the three newest stay."""
    made = [freezer(hours) for hours in range(1, 6)]
    grow_old(*made)
    latest = freezer(6)
    assert {*tmp_path.iterdir()} == {*made[-(SNAPSHOTS_KEPT - 1) :], latest}


def test_no_snapshot_goes_within_the_hour(freezer: Freezer, tmp_path: Path) -> None:
    """A training process may be about to open any of them."""
    made = {freezer(hours) for hours in range(1, 7)}
    assert {*tmp_path.iterdir()} == made


def test_a_snapshot_that_is_frozen_again_is_the_newest(freezer: Freezer, tmp_path: Path) -> None:
    """Its content was known, so nothing is written; it must not go all the same."""
    made = [freezer(hours) for hours in range(1, 5)]
    load_snapshot(made[0])  # found sound, which is noted beside it once
    grow_old(*made)
    again = freezer(1)
    assert again == made[0]
    assert {*tmp_path.iterdir()} == {made[0], made[2], made[3]}


def test_what_a_killed_process_left_goes(freezer: Freezer, tmp_path: Path) -> None:
    """It takes no other's place, and one that may still be written stays."""
    killed, written = tmp_path / ".partial-killed", tmp_path / ".partial-written"
    killed.mkdir()
    written.mkdir()
    grow_old(killed)
    made = freezer(1)
    assert {*tmp_path.iterdir()} == {written, made}
