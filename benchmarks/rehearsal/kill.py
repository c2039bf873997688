"""Power cuts: a feed is killed at random moments, again and again, while the venue goes on.

The parent plays the venue and kills; the child is a real feed that says, line by line, which bars
the warehouse has acknowledged. At the end every acknowledged row must be there and the warehouse
must equal the venue's truth. Run by ``benchmarks.ingest``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rehearsal.script import HISTORY_BARS, START, Trial
from benchmarks.rehearsal.trial import become_whole, feed_of, venue_clock
from benchmarks.rehearsal.truth import compare, truth_of
from daemon.log import configure_logging
from market.bar import DAY_MS, MINUTE_MS, Bar
from market.budget import LIMITS, Budget
from market.clock import ScaledClock, monotonic_seconds
from market.exchange import Exchange
from market.instrument import Venue
from market.sandbox.minutes import minute_tape
from market.sandbox.server import SandboxOptions, serve
from market.warehouse import Warehouse

SHORTEST_LIFE_SECONDS = 0.1
LONGEST_LIFE_SECONDS = 3.0
READY_SECONDS = 60.0
RECOVERY_SECONDS = 300.0
LINE_BYTES = 2**24  # a first backfill acknowledges tens of thousands of bars in one line


async def run_kills(*, seed: int, kills: int, speed: float, venue: Venue) -> dict[str, Any]:
    """Kill ``kills`` times and return what was found.

    The child's life after it is ready is drawn anew each time; some of the kills come while it
    starts or backfills.
    """
    # Starting takes a child seconds: the tape must outlast all of its lives.
    minutes = int((kills + 10) * 12 * speed / 60)
    trial = Trial(venue=venue, seed=seed, minutes=minutes, speed=speed, script="none")
    tape = minute_tape(
        seed=seed,
        venue=venue,
        symbols=trial.names,
        start=START - HISTORY_BARS * MINUTE_MS,
        bars=HISTORY_BARS + minutes + trial.tail_bars,
    )
    rng = np.random.default_rng(seed)
    acknowledged: set[tuple[str, int]] = set()
    starts: list[float] = []
    unready = 0
    async with serve(SandboxOptions(tape=tape, start=START, speed=speed)) as sandbox:
        with tempfile.TemporaryDirectory(prefix="ballast-kill-") as folder:
            path = Path(folder) / "warehouse"
            for _ in range(kills):
                life = rng.uniform(SHORTEST_LIFE_SECONDS, LONGEST_LIFE_SECONDS)
                before_ready = bool(rng.random() < 0.2)
                started, rows = await _live_and_die(
                    trial, sandbox.url, path, life=life, before_ready=before_ready
                )
                acknowledged |= rows
                unready += started is None
                starts += [] if started is None else [started]
            now = sandbox.now()
            until = now - now % MINUTE_MS
            seconds = await _recover(trial, sandbox.url, path, until)
            truth = await truth_of(sandbox.url, until)
            warehouse = await asyncio.to_thread(Warehouse.open, f"chdb://{path}")
            try:
                found = await asyncio.to_thread(compare, trial, warehouse, truth, until)
                lost = await asyncio.to_thread(_lost, warehouse, trial, acknowledged, until)
            finally:
                warehouse.close()
    return {
        "kills": kills,
        "kills_before_ready": unready,
        "acknowledged": len(acknowledged),
        "lost": lost,
        "start_seconds_p50": float(np.median(starts)),
        "start_seconds_most": max(starts),
        "whole_again_seconds": seconds,
        **found,
    }


async def _live_and_die(
    trial: Trial, url: str, path: Path, *, life: float, before_ready: bool
) -> tuple[float | None, set[tuple[str, int]]]:
    """Let a child live, kill it, and return how long it took to be ready and what it stored."""
    began = monotonic_seconds()
    process = await _child(trial, url, path)
    assert process.stdout is not None
    ready = asyncio.Event()
    rows: set[tuple[str, int]] = set()
    reading = asyncio.create_task(_read(process.stdout, rows, ready))
    started = None
    try:
        if before_ready:
            await asyncio.sleep(life)
        else:
            async with asyncio.timeout(READY_SECONDS):
                await ready.wait()
            started = monotonic_seconds() - began
            await asyncio.sleep(life)
    finally:
        process.kill()
        await process.wait()
        await reading
    return started, rows


async def _recover(trial: Trial, url: str, path: Path, until: int) -> float:
    """Let a last child live until it is whole; return how long that took, from its start."""
    began = monotonic_seconds()
    process = await _child(trial, url, path, "--until", str(until))
    try:
        await asyncio.wait_for(process.communicate(), RECOVERY_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the last feed ended with code {process.returncode}")
    return monotonic_seconds() - began


async def _child(trial: Trial, url: str, path: Path, *more: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.rehearsal.kill", "--url", url, "--path", str(path),
        "--venue", trial.venue.value, "--speed", repr(trial.speed), *more,
        stdout=subprocess.PIPE, limit=LINE_BYTES,
    )  # fmt: skip


async def _read(
    lines: asyncio.StreamReader, rows: set[tuple[str, int]], ready: asyncio.Event
) -> None:
    async for line in lines:
        with contextlib.suppress(json.JSONDecodeError):  # the last line may be cut off
            said = json.loads(line)
            if said == "ready":
                ready.set()
            else:
                rows.update((symbol, time) for symbol, time in said)


def _lost(
    warehouse: Warehouse, trial: Trial, acknowledged: set[tuple[str, int]], until: int
) -> int:
    stored: set[tuple[str, int]] = set()
    for symbol in trial.names:
        times = warehouse.bar_times(
            symbol, venue=trial.venue.value, interval_ms=MINUTE_MS, since=0, until=until + DAY_MS
        )
        stored |= {(symbol, int(time)) for time in times}
    return len(acknowledged - stored)


async def _follow(args: argparse.Namespace) -> None:
    """Be the child: follow the venue and say what is stored."""
    trial = Trial(venue=Venue(args.venue), seed=0, minutes=0, speed=args.speed, book_depth=0)
    warehouse = await asyncio.to_thread(Warehouse.open, f"chdb://{args.path}")
    insert = warehouse.insert_bars

    def telling(bars: Sequence[Bar], **options: Any) -> int:
        written = insert(bars, **options)
        print(json.dumps([(bar.symbol, bar.open_time) for bar in bars]), flush=True)
        return written

    warehouse.insert_bars = telling  # type: ignore[method-assign]  # a witness beside it
    exchange = await Exchange.open(
        trial.venue, base_url=args.url, budget=Budget(LIMITS[trial.venue], speed=args.speed)
    )
    clock = ScaledClock(anchor_ms=(await venue_clock(args.url))["now"], speed=args.speed)
    feed = feed_of(trial, exchange, warehouse, clock)
    await feed.backfill(since=START - HISTORY_BARS * MINUTE_MS, progress=lambda *_: None)
    running = asyncio.create_task(feed.run())
    print(json.dumps("ready"), flush=True)
    now = clock.now()
    after = now - now % MINUTE_MS
    while args.until is None or after < args.until:
        after = (await feed.next_close(after)).decision_time
        if running.done():
            running.result()
    await become_whole(feed, clock)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await exchange.close()
    warehouse.close()


def main() -> None:
    """Be the child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--venue", required=True)
    parser.add_argument("--speed", type=float, required=True)
    parser.add_argument("--until", type=int)
    args = parser.parse_args()
    configure_logging("error")
    asyncio.run(_follow(args))


if __name__ == "__main__":
    main()
