"""The market history of the settings: panels and snapshots out of the warehouse."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from daemon.settings import Settings
from market.bar import DAY_MS
from market.instrument import Instrument
from market.panel import Panel
from market.sandbox.rules import list_instruments
from market.snapshot import Snapshot, save_snapshot
from market.warehouse import Warehouse

SNAPSHOTS_KEPT = 3


def load_panel(settings: Settings, warehouse: Warehouse, *, since: int, until: int) -> Panel:
    """Read the configured symbols' bars with ``since <= open_time < until``."""
    return warehouse.load_panel(
        settings.exchange.symbols,
        venue=settings.exchange.name.value,
        interval_ms=settings.exchange.interval_ms,
        since=since,
        until=until,
    )


def freeze(
    settings: Settings,
    warehouse: Warehouse,
    *,
    until: int,
    instruments: Sequence[Instrument] | None = None,
) -> Snapshot:
    """Save ``exchange.history_days`` before ``until`` as a snapshot; the oldest ones go.

    Without ``instruments`` (no venue was asked) the venue's published rules are used.
    """
    root = settings.state_dir / "snapshots"
    venue = settings.exchange.name
    since = until - settings.exchange.history_days * DAY_MS
    snapshot = save_snapshot(
        load_panel(settings, warehouse, since=since, until=until),
        tuple(instruments or list_instruments(settings.exchange.symbols, venue=venue)),
        venue=venue.value,
        root=root,
    )
    _forget_oldest(root, keep=SNAPSHOTS_KEPT)
    return snapshot


def _forget_oldest(root: Path, *, keep: int) -> None:
    """Remove all but the newest snapshots; a half-written one counts as old."""
    found = [(each.stat().st_mtime_ns, each) for each in root.iterdir() if each.is_dir()]
    for _, each in sorted(found, reverse=True)[keep:]:
        shutil.rmtree(each, ignore_errors=True)
