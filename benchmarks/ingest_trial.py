"""One trial of ingest: a sandbox with scripted faults in one process, a real feed in another.

At the end the warehouse is compared with the venue's own truth, bar for bar and field for field,
and the venue's own log says which fault was injected and which was noticed. Run by
``benchmarks.ingest``; by itself as ``python -m benchmarks.ingest_trial --help``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from daemon.log import configure_logging
from market.bar import HOUR_MS, MINUTE_MS, Bar
from market.budget import LIMITS, Budget
from market.clock import ScaledClock, monotonic_seconds
from market.exchange import Exchange
from market.gap import GapKind
from market.ingest import Feed
from market.instrument import Market, Venue
from market.listing import ListingEvent
from market.panels import BAR_ARRAYS
from market.sandbox.faults import (
    CounterSample,
    Fault,
    FaultKind,
    early_requests,
    fault_report,
    fault_totals,
    random_faults,
)
from market.sandbox.minutes import minute_tape
from market.sandbox.rules import listed_symbols
from market.sandbox.server import SandboxOptions, serve
from market.warehouse import Warehouse

START = 1_735_689_600_000  # 2025-01-01
HISTORY_BARS = 240
TAIL_BARS = 60
DAY_HOURS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What to run.

    Attributes:
        script: ``random`` faults of the seed, ``none``, ``bad_symbol`` or ``silence``.
        deadline_seconds: real seconds that a close waits for its bars.
    """

    venue: Venue
    seed: int
    minutes: int
    speed: float
    symbols: int = 10
    script: str = "random"
    deadline_seconds: float = 0.7
    book_depth: int = 20

    @property
    def names(self) -> tuple[str, ...]:
        """The symbols that are followed."""
        return listed_symbols(self.venue)[: self.symbols]

    @property
    def until(self) -> int:
        """The end of what is compared, UTC milliseconds of the venue."""
        return START + self.minutes * MINUTE_MS

    def faults(self) -> tuple[Fault, ...]:
        """The script."""
        match self.script:
            case "random":
                return random_faults(
                    seed=self.seed,
                    since=START,
                    until=self.until,
                    symbols=self.names,
                    venue=self.venue,
                )
            case "bad_symbol":
                return _bad_symbol(self.names[-1], self.until)
            case "silence":
                at = START + 2 * MINUTE_MS + 30_000
                return (Fault(kind=FaultKind.SILENCE, at=at, duration_ms=10 * MINUTE_MS),)
            case _:
                return ()


def _bad_symbol(symbol: str, until: int) -> tuple[Fault, ...]:
    """One trouble after the other, of one symbol only."""
    kinds: list[dict[str, Any]] = [
        {"kind": FaultKind.NAN_FIELDS, "text": "NaN"},
        {"kind": FaultKind.FORMING_STAYS},
        {"kind": FaultKind.SHIFTED_TIMES, "shift_ms": 30_000},
        {"kind": FaultKind.MISSING_BARS},
        {"kind": FaultKind.SILENCE},
        {"kind": FaultKind.LATE_FINAL, "delay_ms": 20_000},
    ]
    span = (until - START) // len(kinds)
    return tuple(
        Fault(at=START + place * span, duration_ms=span, symbols=(symbol,), **facts)
        for place, facts in enumerate(kinds)
    )


@dataclass(slots=True, kw_only=True)
class Watch:
    """What the client saw of itself."""

    samples: list[CounterSample] = field(default_factory=list)
    stored_at: dict[tuple[str, int], float] = field(default_factory=dict)
    closes: list[tuple[int, float, tuple[str, ...]]] = field(default_factory=list)


def main() -> None:
    """Run one trial and print its result as one JSON line."""
    args = _arguments()
    configure_logging(args.log)
    trial = Trial(
        venue=Venue(args.venue),
        seed=args.seed,
        minutes=args.minutes,
        speed=args.speed,
        symbols=args.symbols,
        script=args.script,
        deadline_seconds=args.deadline,
        book_depth=args.book_depth,
    )
    if args.serve:
        asyncio.run(_serve(trial, Path(args.serve)))
        return
    with tempfile.TemporaryDirectory(prefix="ballast-ingest-") as folder:
        result = asyncio.run(_run(trial, Path(folder)))
    print(json.dumps(result))


async def _serve(trial: Trial, log_path: Path) -> None:
    """Be the venue until standard input closes."""
    tape = minute_tape(
        seed=trial.seed,
        venue=trial.venue,
        symbols=trial.names,
        start=START - HISTORY_BARS * MINUTE_MS,
        bars=HISTORY_BARS + trial.minutes + TAIL_BARS,
    )
    options = SandboxOptions(
        tape=tape,
        start=START,
        speed=trial.speed,
        faults=trial.faults(),
        enforce_limits=True,
        connection_life_ms=DAY_HOURS * HOUR_MS,
        log_path=log_path,
    )
    sandbox = serve(options)
    began = monotonic_seconds()  # the log counts real seconds from here
    async with sandbox:
        print(json.dumps({"url": sandbox.url, "began": began}), flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextlib.asynccontextmanager
async def _venue(trial: Trial, log_path: Path) -> AsyncIterator[tuple[str, float]]:
    """Start the venue's process; yield its address and when its log begins."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.ingest_trial", "--serve", str(log_path), *flags(trial),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        facts = json.loads(line)
        yield facts["url"], facts["began"]
    finally:
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 10)
        if process.returncode is None:
            process.kill()
            await process.wait()


def flags(trial: Trial) -> list[str]:
    """Return the command line that means ``trial``."""
    return [
        *("--venue", trial.venue.value),
        *("--seed", str(trial.seed)),
        *("--minutes", str(trial.minutes)),
        *("--speed", repr(trial.speed)),
        *("--symbols", str(trial.symbols)),
        *("--script", trial.script),
        *("--deadline", repr(trial.deadline_seconds)),
        *("--book-depth", str(trial.book_depth)),
    ]


async def _run(trial: Trial, folder: Path) -> dict[str, Any]:
    log_path = folder / "venue.ndjson"
    warehouse = await asyncio.to_thread(Warehouse.open, f"chdb://{folder / 'warehouse'}")
    watch = Watch()
    _time_inserts(warehouse, watch)
    try:
        async with _venue(trial, log_path) as (url, began):
            budget = Budget(LIMITS[trial.venue], speed=trial.speed)
            exchange = await Exchange.open(trial.venue, base_url=url, budget=budget)
            try:
                feed = await _follow(trial, exchange, warehouse, watch, url)
                truth = await truth_of(url, trial.until)
            finally:
                await exchange.close()
        entries = [json.loads(line) for line in log_path.read_text().splitlines()]
        for one in entries:
            one["real_seconds"] += began
        return _result(trial, feed, budget, watch, entries) | await asyncio.to_thread(
            compare, trial, warehouse, truth, trial.until
        )
    finally:
        warehouse.close()


def _time_inserts(warehouse: Warehouse, watch: Watch) -> None:
    """Note the moment at which each bar's insert was acknowledged."""
    insert = warehouse.insert_bars

    def timed(bars: Sequence[Bar], **options: Any) -> int:
        written = insert(bars, **options)
        at = monotonic_seconds()
        for bar in bars:
            watch.stored_at.setdefault((bar.symbol, bar.open_time), at)
        return written

    warehouse.insert_bars = timed  # type: ignore[method-assign]  # a stopwatch around it


async def _follow(
    trial: Trial, exchange: Exchange, warehouse: Warehouse, watch: Watch, url: str
) -> Feed:
    """Let the feed follow the venue to the end of the trial, as the daemon does."""
    clock = ScaledClock(anchor_ms=(await venue_clock(url))["now"], speed=trial.speed)
    feed = Feed(
        exchange=exchange,
        warehouse=warehouse,
        clock=clock,
        symbols=trial.names,
        interval_ms=MINUTE_MS,
        deadline_seconds=trial.deadline_seconds,
        book_depth=trial.book_depth,
    )
    await feed.backfill(since=START - HISTORY_BARS * MINUTE_MS, progress=lambda *_: None)
    running = asyncio.create_task(feed.run())
    sampling = asyncio.create_task(_sample(feed, clock, watch))
    try:
        now = clock.now()
        after = now - now % MINUTE_MS
        while after < trial.until:
            close = await feed.next_close(after)
            watch.closes.append((close.decision_time, monotonic_seconds(), close.missing))
            after = close.decision_time
            if running.done():
                running.result()
        await become_whole(feed, clock)
    finally:
        for task in (running, sampling):
            task.cancel()
        await asyncio.gather(running, sampling, return_exceptions=True)
    return feed


async def become_whole(feed: Feed, clock: ScaledClock) -> None:
    """Wait until the last audit is done and nothing but verified absences is missing."""
    last = clock.now() + 15 * MINUTE_MS
    while clock.now() < last:
        await asyncio.sleep(0.5)
        counts = feed.gap_counts
        is_open = counts[GapKind.FETCHABLE.value] + counts[GapKind.DEFERRED.value]
        if not is_open and await feed.audit():
            return


async def _sample(feed: Feed, clock: ScaledClock, watch: Watch) -> None:
    while True:
        watch.samples.append(CounterSample(at=clock.now(), counters=dict(feed.counters)))
        await clock.sleep_until(clock.now() + MINUTE_MS)


async def venue_clock(url: str) -> dict[str, Any]:
    """Ask a sandbox for its clock."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/sandbox/clock") as answer:
        clock: dict[str, Any] = await answer.json()
        return clock


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
    missing = different = extra = explained = 0
    recorded = {(gap.symbol, gap.open_time) for gap in warehouse.gaps(**scope)}
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
            missing += 1
        else:
            different += have != tuple(row[name] for name in BAR_ARRAYS)
    lacking = sum("absent" in row and row["symbol"] in stored for row in truth)
    revised = [one for symbol in names for one in warehouse.revisions(symbol, **scope)]
    return {
        "bars": sum("absent" not in row and row["symbol"] in stored for row in truth),
        "missing": missing,
        "different": different,
        "extra": extra,
        "duplicates": _duplicates(warehouse, names, scope),
        "absent": lacking,
        "absent_explained": explained,
        "superseded": {
            origin: sum(one.origin == origin for one in revised) for origin in ("stream", "rest")
        },
    }


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


def _result(
    trial: Trial, feed: Feed, budget: Budget, watch: Watch, entries: list[dict[str, Any]]
) -> dict[str, Any]:
    rows = fault_report(entries, watch.samples)
    latencies = _latencies(watch, entries, trial)
    limit = LIMITS[trial.venue].weight
    return {
        "trial": asdict(trial),
        "market": Market(trial.venue.market).value,
        "faults": {
            kind.value: list(counts) for kind, counts in fault_totals(rows).items() if counts[0]
        },
        "unnoticed": [
            {"kind": row.kind.value, "at": row.at, "touched": row.touched, "symbols": row.symbols}
            for row in rows
            if row.injected and not row.noticed
        ],
        "early_requests": len(early_requests(entries)),
        "requests": sum(one["kind"] == "request" for one in entries),
        "most_weight_in_window": budget.most_in_window,
        "limit": limit,
        "share_of_limit": budget.most_in_window / limit,
        "refused_by_limit": sum(
            one["kind"] == "request" and one.get("status") == 429 and not one.get("fault")
            for one in entries
        ),
        "latency_ms": latencies,
        "closes_missing": sum(bool(missing) for _, _, missing in watch.closes),
        "silence": _silence(watch, entries, trial),
        "counters": dict(feed.counters),
        "gaps_open": feed.gap_counts,
        "cpu_seconds": {
            "client": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
            "venue": sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]),
        },
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _latencies(
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


def _silence(watch: Watch, entries: list[dict[str, Any]], trial: Trial) -> dict[str, float] | None:
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venue", default=Venue.BINANCEUSDM.value, choices=[*Venue])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=int, default=120, help="venue minutes (120)")
    parser.add_argument("--speed", type=float, default=60.0, help="venue seconds per second (60)")
    parser.add_argument("--symbols", type=int, default=10)
    parser.add_argument(
        "--script", default="random", choices=["random", "none", "bad_symbol", "silence"]
    )
    parser.add_argument("--deadline", type=float, default=0.7, help="real seconds per close (0.7)")
    parser.add_argument("--book-depth", type=int, default=20, help="levels; 0 for no books (20)")
    parser.add_argument("--log", default="error", help="level of the log on stderr (error)")
    parser.add_argument("--serve", metavar="LOG", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
