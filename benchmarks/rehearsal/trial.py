"""One trial of ingest: a sandbox with scripted faults in one process, a real feed in another.

At the end the warehouse is compared with the venue's own truth, bar for bar and field for field,
and the venue's own log says which fault was injected and which was noticed. Run by
``benchmarks.ingest``; by itself as ``python -m benchmarks.rehearsal.trial --help``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.rehearsal.script import HISTORY_BARS, START, Trial, flags
from benchmarks.rehearsal.truth import compare, truth_of
from benchmarks.rehearsal.watch import Watch, latencies, sample, silence, time_inserts
from daemon.log import configure_logging
from market.bar import DAY_MS, MINUTE_MS
from market.budget import LIMITS, Budget
from market.clock import ScaledClock, monotonic_seconds
from market.exchange import Exchange
from market.gap import GapKind
from market.ingest import Feed
from market.instrument import Market, Venue
from market.sandbox.faults import early_requests, fault_report, fault_totals
from market.sandbox.minutes import minute_tape
from market.sandbox.server import SandboxOptions, serve
from market.warehouse import Warehouse

VENUE_END_SECONDS = 60.0
_EARLY_FACTS = ("detail", "status", "after_refusal_seconds", "before_deadline_ms")


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
        bars=HISTORY_BARS + trial.minutes + trial.tail_bars,
    )
    options = SandboxOptions(
        tape=tape,
        start=START,
        speed=trial.speed,
        faults=trial.faults(),
        enforce_limits=True,
        connection_life_ms=DAY_MS,
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
        sys.executable, "-m", "benchmarks.rehearsal.trial", "--serve", str(log_path), *flags(trial),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 60)
        facts = json.loads(line)
        yield facts["url"], facts["began"]
        # What lasts to the end is logged at the end: a venue cut short would have told too little.
        process.stdin.close()
        if code := await asyncio.wait_for(process.wait(), VENUE_END_SECONDS):
            raise RuntimeError(f"the venue ended with code {code}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _run(trial: Trial, folder: Path) -> dict[str, Any]:
    log_path = folder / "venue.ndjson"
    warehouse = await asyncio.to_thread(Warehouse.open, f"chdb://{folder / 'warehouse'}")
    watch = Watch()
    time_inserts(warehouse, watch)
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


async def _follow(
    trial: Trial, exchange: Exchange, warehouse: Warehouse, watch: Watch, url: str
) -> Feed:
    """Let the feed follow the venue to the end of the trial, as the daemon does."""
    clock = ScaledClock(anchor_ms=(await venue_clock(url))["now"], speed=trial.speed)
    feed = feed_of(trial, exchange, warehouse, clock)
    await feed.backfill(since=START - HISTORY_BARS * MINUTE_MS, progress=lambda *_: None)
    running = asyncio.create_task(feed.run())
    sampling = asyncio.create_task(sample(feed, clock, watch))
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


def feed_of(trial: Trial, exchange: Exchange, warehouse: Warehouse, clock: ScaledClock) -> Feed:
    """Return the feed that a trial is about; it does nothing yet."""
    return Feed(
        exchange=exchange,
        warehouse=warehouse,
        clock=clock,
        symbols=trial.names,
        interval_ms=MINUTE_MS,
        deadline_seconds=trial.deadline_seconds,
        book_depth=trial.book_depth,
    )


async def become_whole(feed: Feed, clock: ScaledClock) -> None:
    """Wait until the last audit is done and nothing but verified absences is missing."""
    last = clock.now() + 15 * MINUTE_MS
    while clock.now() < last:
        await asyncio.sleep(0.5)
        counts = feed.gap_counts
        is_open = counts[GapKind.FETCHABLE.value] + counts[GapKind.DEFERRED.value]
        if not is_open and await feed.audit():
            return


async def venue_clock(url: str) -> dict[str, Any]:
    """Ask a sandbox for its clock."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/sandbox/clock") as answer:
        clock: dict[str, Any] = await answer.json()
        return clock


def _result(
    trial: Trial, feed: Feed, budget: Budget, watch: Watch, entries: list[dict[str, Any]]
) -> dict[str, Any]:
    early = early_requests(entries)
    rows = fault_report(entries, watch.samples)
    bar_latencies = latencies(watch, entries, trial)
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
        "early_requests": len(early),
        "early": [{key: one[key] for key in _EARLY_FACTS} for one in early[:20]],
        "requests": sum(one["kind"] == "request" for one in entries),
        "most_weight_in_window": budget.most_in_window,
        "limit": limit,
        "share_of_limit": budget.most_in_window / limit,
        "refused_by_limit": sum(
            one["kind"] == "request" and one.get("status") == 429 and not one.get("fault")
            for one in entries
        ),
        "latency_ms": bar_latencies,
        "closes_missing": sum(bool(missing) for _, _, missing in watch.closes),
        "silence": silence(watch, entries, trial),
        "counters": dict(feed.counters),
        "gaps_open": feed.gap_counts,
        "cpu_seconds": {
            "client": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
            "venue": sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]),
        },
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
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
