"""The warehouse against the venue's own truth, bar for bar and field for field."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np

from benchmarks.rehearsal.script import START, Trial
from market.bar import HOUR_MS, MINUTE_MS
from market.gap import Gap
from market.listing import ListingEvent
from market.panels import BAR_ARRAYS
from market.warehouse import Warehouse

_LISTED = 20  # missing bars that are named


async def truth_of(url: str, until: int) -> list[dict[str, Any]]:
    """Ask a sandbox which bars of ``[START, until)`` it truly has."""
    params = {"since": str(START), "until": str(until)}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/sandbox/truth", params=params) as answer,
    ):
        return [json.loads(line) async for line in answer.content]


def compare(
    trial: Trial, warehouse: Warehouse, truth: list[dict[str, Any]], until: int
) -> dict[str, Any]:
    """Count where warehouse and truth differ over ``[START, until)``."""
    venue, names = trial.venue.value, trial.names
    scope: dict[str, Any] = {
        "venue": venue,
        "interval_ms": MINUTE_MS,
        "since": START,
        "until": until,
    }
    panel = warehouse.load_panel(names, **scope)
    stored = {
        symbol: dict(zip(panel.open_time.tolist(), _rows(panel, place), strict=True))
        for place, symbol in enumerate(names)
    }
    different = extra = explained = 0
    missing: list[tuple[str, int]] = []
    recorded = {(gap.symbol, gap.open_time): gap for gap in warehouse.gaps(**scope)}
    gone_since = _gone_since(warehouse, venue, until)
    for row in truth:
        if row["symbol"] not in stored:
            continue  # listed under a new name during the trial; nobody asked for it
        have = stored[row["symbol"]].get(row["open_time"])
        if "absent" in row:
            extra += have is not None
            key = (row["symbol"], row["open_time"])
            is_gone = row["open_time"] >= gone_since.get(row["symbol"], math.inf)
            explained += have is None and (key in recorded or is_gone)
        elif have is None:
            missing.append((row["symbol"], row["open_time"]))
        else:
            different += have != tuple(row[name] for name in BAR_ARRAYS)
    lacking = sum("absent" in row and row["symbol"] in stored for row in truth)
    revised = [one for symbol in names for one in warehouse.revisions(symbol, **scope)]
    return {
        "bars": sum("absent" not in row and row["symbol"] in stored for row in truth),
        "missing": len(missing),
        "missing_because": [
            f"{symbol} {time}: {_reason(recorded.get((symbol, time)))}"
            for symbol, time in missing[:_LISTED]
        ],
        "different": different,
        "extra": extra,
        "duplicates": _duplicates(warehouse, names, scope),
        "absent": lacking,
        "absent_explained": explained,
        "superseded": {
            origin: sum(one.origin == origin for one in revised) for origin in ("stream", "rest")
        },
    }


def _reason(gap: Gap | None) -> str:
    return "no gap recorded" if gap is None else f"{gap.kind}, {gap.attempts} tries: {gap.reason}"


def _gone_since(warehouse: Warehouse, venue: str, until: int) -> dict[str, int]:
    """When each symbol's leaving the venue was recorded."""
    changes = warehouse.listing_changes(venue=venue, since=START, until=until + HOUR_MS)
    gone = (ListingEvent.DELISTED, ListingEvent.RENAMED)
    return {one.symbol: one.noticed_at for one in changes if one.event in gone}


def _duplicates(warehouse: Warehouse, names: Sequence[str], scope: dict[str, Any]) -> int:
    """Rows beyond one per bar that a reader would get."""
    statement = (
        "SELECT count() - uniqExact(symbol, open_time) FROM bars FINAL WHERE venue = "
        "{venue:String} AND interval_ms = {interval_ms:Int64} AND open_time >= {since:Int64} "
        "AND open_time < {until:Int64} AND symbol IN {symbols:Array(String)}"
    )
    rows = warehouse._connection.rows(statement, scope | {"symbols": list(names)})
    return int(rows[0][0])


def _rows(panel: Any, place: int) -> list[tuple[float | None, ...] | None]:
    columns = np.stack([getattr(panel, name)[:, place] for name in BAR_ARRAYS], axis=1)
    return [
        None if np.isnan(row[3]) else tuple(None if np.isnan(x) else float(x) for x in row)
        for row in columns
    ]
