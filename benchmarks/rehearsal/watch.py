"""What a trial measures from outside the feed: when rows are acknowledged, counters, closes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.rehearsal.script import Trial
from market.bar import MINUTE_MS, Bar
from market.clock import ScaledClock, monotonic_seconds
from market.ingest import Feed
from market.sandbox.faults import CounterSample
from market.warehouse import Warehouse


@dataclass(slots=True, kw_only=True)
class Watch:
    """What the client saw of itself."""

    samples: list[CounterSample] = field(default_factory=list)
    stored_at: dict[tuple[str, int], float] = field(default_factory=dict)
    closes: list[tuple[int, float, tuple[str, ...]]] = field(default_factory=list)


def time_inserts(warehouse: Warehouse, watch: Watch) -> None:
    """Note the moment at which each bar's insert was acknowledged."""
    insert = warehouse.insert_bars

    def timed(bars: Sequence[Bar], **options: Any) -> int:
        written = insert(bars, **options)
        at = monotonic_seconds()
        for bar in bars:
            watch.stored_at.setdefault((bar.symbol, bar.open_time), at)
        return written

    warehouse.insert_bars = timed  # type: ignore[method-assign]  # a stopwatch around it


async def sample(feed: Feed, clock: ScaledClock, watch: Watch) -> None:
    """Note the counters once per venue minute, for as long as the task lives."""
    while True:
        watch.samples.append(CounterSample(at=clock.now(), counters=dict(feed.counters)))
        await clock.sleep_until(clock.now() + MINUTE_MS)


def latencies(
    watch: Watch, entries: list[dict[str, Any]], trial: Trial
) -> dict[str, dict[str, float]]:
    """Real milliseconds from the venue's final frame to the acknowledged row, by symbol group."""
    groups: dict[str, list[float]] = {"all": [], "last": [], "others": []}
    for one in entries:
        if one["kind"] != "final" or not one.get("receivers"):
            continue
        at = watch.stored_at.get((one["symbol"], one["open_time"]))
        if at is None:
            continue
        latency = (at - one["real_seconds"]) * 1000
        groups["all"].append(latency)
        groups["last" if one["symbol"] == trial.names[-1] else "others"].append(latency)
    return {
        name: {
            "bars": len(values),
            "p50": float(np.percentile(values, 50)),
            "p99": float(np.percentile(values, 99)),
            "most": max(values),
        }
        for name, values in groups.items()
        if values
    }


def silence(watch: Watch, entries: list[dict[str, Any]], trial: Trial) -> dict[str, float] | None:
    """Real seconds from the first frame held back to a new subscription, and to being whole."""
    if trial.script != "silence":
        return None
    held_back = [
        one["first_touched_at"] for one in entries if one["kind"] == "fault" and one["touched"]
    ]
    if not held_back:
        return None
    began = next(one["real_seconds"] for one in entries if one["sent_at"] >= held_back[0])
    again = [
        one["real_seconds"]
        for one in entries
        if one["kind"] == "subscribed" and one["real_seconds"] > began
    ]
    whole = [at for _, at, missing in watch.closes if at > began and not missing]
    return {
        "noticed_seconds": again[0] - began if again else float("nan"),
        "whole_seconds": whole[0] - began if whole else float("nan"),
    }
