"""The market history of the settings: panels and snapshots out of the warehouse."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from daemon.settings import Settings
from market.bar import DAY_MS
from market.instrument import Instrument
from market.panel import Panel
from market.sandbox.rules import list_instruments
from market.signals import Signal, sources_of
from market.snapshot import Snapshot, save_snapshot
from market.warehouse import Warehouse

SNAPSHOTS_KEPT = 3
IN_USE_SECONDS = 3_600.0


def load_panel(settings: Settings, warehouse: Warehouse, *, since: int, until: int) -> Panel:
    """Read the configured symbols' bars with ``since <= open_time < until``."""
    return warehouse.load_panel(
        settings.exchange.symbols,
        venue=settings.exchange.name.value,
        interval_ms=settings.exchange.interval_ms,
        since=since,
        until=until,
    )


def load_signals(settings: Settings, warehouse: Warehouse, *, until: int) -> tuple[Signal, ...]:
    """Read every row of ``training.signals`` that was published by ``until``; none without them.

    From the first row on: when a stream was first stored decides what counts
    (``market.signal_join``).
    """
    columns = settings.training.signal_columns
    if not columns:
        return ()
    rows = warehouse.signals(sources=sources_of(columns), since=0, until=until + 1)
    streams = {column.stream for column in columns}
    return tuple(row for row in rows if row.stream in streams)


def freeze(
    settings: Settings,
    warehouse: Warehouse,
    *,
    until: int,
    since: int | None = None,
    instruments: Sequence[Instrument] | None = None,
    root: Path | None = None,
) -> Snapshot:
    """Save the history from ``since`` to ``until`` as a snapshot; the oldest ones go.

    Without ``since`` it is ``exchange.history_days`` long. Without ``instruments`` (no venue was
    asked) the venue's published rules are used; without ``root`` it joins the snapshots of the
    state directory.
    """
    root = root or settings.state_dir / "snapshots"
    venue = settings.exchange.name
    if since is None:
        since = until - settings.exchange.history_days * DAY_MS
    snapshot = save_snapshot(
        load_panel(settings, warehouse, since=since, until=until),
        tuple(instruments or list_instruments(settings.exchange.symbols, venue=venue)),
        venue=venue.value,
        signals=load_signals(settings, warehouse, until=until),
        root=root,
    )
    os.utime(snapshot.directory)  # content that was frozen before is in use again
    _forget_oldest(root, than=snapshot.directory, keep=SNAPSHOTS_KEPT)
    return snapshot


def _forget_oldest(root: Path, *, than: Path, keep: int) -> None:
    """Remove all but the newest snapshots, and what a killed process left half-written.

    Nothing that is less than an hour older ``than`` the latest one goes: a process may still be
    writing it, or be about to open it for training.
    """
    old = than.stat().st_mtime - IN_USE_SECONDS
    found = sorted((each.stat().st_mtime, each) for each in root.iterdir() if each.is_dir())
    whole = [each for _, each in found if not each.name.startswith(".")]
    for changed_at, each in found:
        if each not in whole[-keep:] and changed_at < old:
            shutil.rmtree(each, ignore_errors=True)
