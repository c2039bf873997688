"""How dependable and how quick ingest is: exactly once, latency, silence, isolation, power cuts.

Every trial is a process of its own (``benchmarks.rehearsal.trial``), against a sandbox over real
sockets; its result is a file in ``--results``, so that long runs are made in parts and merged::

    python -m benchmarks.ingest --part exactly-once --seeds 1-20 --jobs 4 --results DIR
    python -m benchmarks.ingest --part long --results DIR
    python -m benchmarks.ingest --part latency --part silence --part isolation --part kills \
        --results DIR
    python -m benchmarks.ingest --merge --results DIR --json

Without ``--part`` a short version of all of them is run, which takes some minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.document import Check, document
from benchmarks.rehearsal.kill import run_kills
from benchmarks.rehearsal.script import Trial, flags
from market.instrument import Venue
from market.sandbox.faults import FaultKind

BOTH = (Venue.BINANCEUSDM, Venue.BYBIT)
PARTS = ("exactly-once", "long", "latency", "silence", "isolation", "kills")
DAY_MINUTES = 1_440
HALF_DAY_MINUTES = 720
KILLS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One trial and the file of its result."""

    part: str
    trial: Trial

    @property
    def name(self) -> str:
        """The file's name without suffix."""
        return f"{self.part}-{self.trial.venue.value}-{self.trial.script}-{self.trial.seed:03d}"


def main() -> None:
    """Run what was asked for, merge every result there is, and print."""
    args = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        results = args.results or Path(folder)
        results.mkdir(parents=True, exist_ok=True)
        if not args.merge:
            _run(args, results)
        report = _merge(results)
    if not args.json:
        _print_table(report["figures"])
    print(json.dumps(report, indent=None if args.json else 2))


def _run(args: argparse.Namespace, results: Path) -> None:
    parts = args.part or PARTS
    trials = [work for part in parts for work in _trials(part, args)]
    todo = [work for work in trials if not (results / f"{work.name}.json").exists()]
    with ThreadPoolExecutor(args.jobs) as pool:
        running = [pool.submit(_run_trial, work, results) for work in todo]
        for done in tqdm(as_completed(running), total=len(running), unit="trial", disable=None):
            done.result()
    if "kills" in parts:
        _run_kills(args, results)


def _trials(part: str, args: argparse.Namespace) -> Iterator[Work]:
    """The trials of one part; the short version where no part was named."""
    short = not args.part
    first, last = args.seeds
    match part:
        case "exactly-once":
            minutes = 150 if short else args.minutes or HALF_DAY_MINUTES
            for seed in range(first, (first if short else last) + 1):
                for venue in BOTH:
                    trial = Trial(
                        venue=venue, seed=seed, minutes=minutes, speed=args.speed, book_depth=0
                    )
                    yield Work(part=part, trial=trial)
        case "long" if not short:
            trial = Trial(
                venue=BOTH[0],
                seed=100 + first,
                minutes=args.minutes or 10 * DAY_MINUTES,
                speed=args.speed,
                deadline_seconds=42.0 / args.speed,
                book_depth=0,
            )
            yield Work(part=part, trial=trial)
        case "latency":
            for venue in BOTH:
                trial = Trial(
                    venue=venue,
                    seed=first,
                    minutes=10 if short else 60,
                    speed=10.0,
                    symbols=20,
                    script="none",
                    deadline_seconds=4.0,
                )
                yield Work(part=part, trial=trial)
        case "silence":
            trial = Trial(
                venue=BOTH[0],
                seed=first,
                minutes=6,
                speed=1.0,
                script="silence",
                deadline_seconds=20.0,
            )
            yield Work(part=part, trial=trial)
        case "isolation":
            for script in ("none", "bad_symbol"):
                trial = Trial(
                    venue=BOTH[0],
                    seed=first,
                    minutes=60,
                    speed=20.0,
                    script=script,
                    deadline_seconds=2.0,
                )
                yield Work(part=part, trial=trial)
        case _:
            return


def _run_trial(work: Work, results: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.rehearsal.trial", *flags(work.trial)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    (results / f"{work.name}.json").write_text(done.stdout.splitlines()[-1] + "\n")


def _run_kills(args: argparse.Namespace, results: Path) -> None:
    path = results / f"kills-{args.seeds[0]:03d}.json"
    if not path.exists():
        kills = KILLS if args.part else 5
        found = asyncio.run(
            run_kills(seed=args.seeds[0], kills=kills, speed=60.0, venue=Venue.BINANCEUSDM)
        )
        path.write_text(json.dumps(found) + "\n")


def _merge(results: Path) -> dict[str, Any]:
    """Read every result file and judge what was asked for."""
    parts: dict[str, list[dict[str, Any]]] = {part: [] for part in PARTS}
    for path in sorted(results.glob("*.json")):
        part = next(part for part in PARTS if path.name.startswith(part))
        parts[part].append(json.loads(path.read_text()))
    figures = {part: found for part, found in parts.items() if found}
    checks = [
        *_exactness(parts["exactly-once"], "20 seeds"),
        *_exactness(parts["long"], "10 days"),
        *_speed(parts),
        *_cuts(parts["kills"]),
    ]
    totals = fault_totals_of([*parts["exactly-once"], *parts["long"]])
    return document("ingest", {"faults": totals} | figures, checks)


def fault_totals_of(trials: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Sum (scripted, injected, noticed) of each kind over trials."""
    totals = {kind.value: [0, 0, 0] for kind in FaultKind}
    for trial in trials:
        for kind, counts in trial["faults"].items():
            totals[kind] = [a + b for a, b in zip(totals[kind], counts, strict=True)]
    names = ("scripted", "injected", "noticed")
    return {kind: dict(zip(names, counts, strict=True)) for kind, counts in totals.items()}


def _exactness(trials: Sequence[dict[str, Any]], name: str) -> Iterator[Check]:
    if not trials:
        return
    for figure in ("missing", "different", "extra", "duplicates", "early_requests"):
        yield _zero(f"{name}: {figure}", sum(trial[figure] for trial in trials))
    unexplained = sum(trial["absent"] - trial["absent_explained"] for trial in trials)
    yield _zero(f"{name}: absent bars without a record", unexplained)
    totals = fault_totals_of(trials).values()
    unnoticed = sum(counts["injected"] - counts["noticed"] for counts in totals)
    yield _zero(f"{name}: injected faults that were not noticed", unnoticed)
    share = max(trial["share_of_limit"] for trial in trials)
    yield Check(
        name=f"{name}: most request weight against the limit",
        value=share,
        target="at most 1",
        holds=share <= 1,
    )


def _speed(parts: dict[str, list[dict[str, Any]]]) -> Iterator[Check]:
    """Figures without a target in the issue; those here are our own."""
    for trial in parts["latency"]:
        found = trial["latency_ms"]["all"]
        venue = trial["trial"]["venue"]
        for quantile, most in (("p50", 150.0), ("p99", 500.0)):
            yield Check(
                name=f"{venue}, 20 symbols: final frame to queryable row, {quantile} ms",
                value=found[quantile],
                target=f"at most {most:g}",
                holds=found[quantile] <= most,
            )
    for trial in parts["silence"]:
        for figure, most in (("noticed_seconds", 90.0), ("whole_seconds", 90.0)):
            value = trial["silence"][figure]
            yield Check(
                name=f"silent 1m stream at real speed: {figure}",
                value=value,
                target=f"at most {most:g}",
                holds=value <= most,
            )
    by_script = {trial["trial"]["script"]: trial for trial in parts["isolation"]}
    if len(by_script) == 2:
        quiet = by_script["none"]["latency_ms"]["others"]["p50"]
        beside = by_script["bad_symbol"]["latency_ms"]["others"]["p50"]
        yield Check(
            name="one bad symbol: p50 of the other nine against a quiet run",
            value=beside / quiet,
            target="at most 1.5",
            holds=beside <= 1.5 * quiet,
        )
        yield _zero("one bad symbol: bars that differ", by_script["bad_symbol"]["different"])


def _cuts(runs: Sequence[dict[str, Any]]) -> Iterator[Check]:
    for run in runs:
        for figure in ("lost", "missing", "different", "extra", "duplicates"):
            yield _zero(f"{run['kills']} power cuts: {figure}", run[figure])
        most = run["start_seconds_most"]
        yield Check(
            name="power cuts: slowest start, seconds", value=most, target="at most 5",
            holds=most <= 5,
        )  # fmt: skip


def _zero(name: str, value: float) -> Check:
    return Check(name=name, value=value, target="0", holds=value == 0)


def _print_table(figures: dict[str, Any]) -> None:
    print(f"{'fault':<20} {'scripted':>9} {'injected':>9} {'noticed':>9}")
    for kind, counts in figures["faults"].items():
        print(f"{kind:<20} " + " ".join(f"{counts[name]:>9}" for name in counts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print the JSON document alone")
    parser.add_argument("--part", action="append", choices=PARTS, help="run one part whole")
    parser.add_argument("--seed", type=int, help="the first seed; the same as --seeds N-N")
    parser.add_argument("--seeds", type=_seeds, default=(1, 20), metavar="A-B", help="(1-20)")
    parser.add_argument("--minutes", type=int, help="venue minutes of exactly-once or long")
    parser.add_argument("--speed", type=float, default=60.0, help="of exactly-once and long (60)")
    parser.add_argument("--jobs", type=int, default=1, help="trials side by side (1)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="keep and reuse results here")
    parser.add_argument("--merge", action="store_true", help="run nothing, only merge --results")
    args = parser.parse_args()
    if args.seed is not None:
        args.seeds = (args.seed, args.seed)
    return args


def _seeds(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    return int(first), int(last or first)


if __name__ == "__main__":
    main()
