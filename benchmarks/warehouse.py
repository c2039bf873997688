"""How quickly market data come in and out: import, tensor, snapshot, last bars, one bar close.

Generates 21 M one-minute bars (20 symbols, two years) in a folder that it removes, about 6 GB; each
figure is taken in a process of its own, because an embedded store has one owner and the peak of
memory is a process's. Run as ``python -m benchmarks.warehouse --data DIR``: without a folder of
recorded Parquet files the import is skipped.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.document import Check, document
from market.bar import HOUR_MS, MINUTE_MS, Bar, MarkSource, Settlement
from market.clock import monotonic_seconds
from market.coverage import GapRange
from market.importing import find_files, import_file
from market.instrument import Instrument
from market.panel import ARRAY_FIELDS, Panel
from market.snapshot import TENSOR_COLUMNS, load_snapshot, save_snapshot
from market.warehouse import Origin, Warehouse

T0 = 1_640_995_200_000  # 2022-01-01
SYMBOLS = tuple(f"S{number:02d}/USDT:USDT" for number in range(20))
VENUE = "benchmark"
LAST_BARS = 500
CHUNKS = 24
LOADS = 3
# What stands in the recorded spot bars: symbol, first missing bar, missing bars.
REAL_GAPS = {
    "BTC/USDT": ("2018-02-08", 33),
    "BNB/USDT": ("2023-12-30", None),  # counted in the file itself
}
_PAGE = 4096

Figures = dict[str, Any]


def main() -> None:
    """Run every part in a process of its own, and print the document."""
    args = _arguments()
    if args.part:
        figures = _PARTS[args.part](args)
        Path(args.result).write_text(json.dumps(figures), encoding="utf-8")
        return
    with tempfile.TemporaryDirectory(prefix="ballast-warehouse-") as folder:
        figures = _measure(args, Path(folder))
    result = document("warehouse", {"seed": args.seed, **figures}, list(_checks(figures)))
    print(json.dumps(result, indent=2))


def _measure(args: argparse.Namespace, folder: Path) -> Figures:
    figures: Figures = {"import": {"skipped": "no --data was given"}}
    if args.data is not None:
        figures["import"] = _run("import", args, folder)
    for part in ("generate", "live"):
        figures[part] = _run(part, args, folder)
    loads = [_run("load", args, folder) for _ in range(LOADS)]
    figures["load"] = {
        "seconds": float(np.median([load["seconds"] for load in loads])),
        "cpu_seconds": float(np.median([load["cpu_seconds"] for load in loads])),
        "peak_rss_bytes": max(load["peak_rss_bytes"] for load in loads),
        "runs": loads,
    }
    figures["freeze"] = _run("freeze", args, folder)
    maps = [_run("map", args, folder) for _ in range(LOADS)]
    figures["map"] = {"seconds": float(np.median([one["seconds"] for one in maps])), "runs": maps}
    return figures


def _run(part: str, args: argparse.Namespace, folder: Path) -> Figures:
    """Return the figures of one part, taken in a fresh process."""
    result = folder / "result.json"
    command = [sys.executable, "-m", "benchmarks.warehouse", "--part", part]
    command += ["--folder", str(folder), "--result", str(result)]
    command += ["--seed", str(args.seed), "--bars", str(args.bars)]
    command += ["--data", str(args.data)] if args.data is not None else []
    print(f"{part} ...", file=sys.stderr)
    subprocess.run(command, check=True, stdout=sys.stderr)
    figures: Figures = json.loads(result.read_text(encoding="utf-8"))
    return figures


def _import(args: argparse.Namespace) -> Figures:
    """Import every file twice, and look for the gaps that are known to be real."""
    warehouse = Warehouse.open(f"chdb://{args.folder}/imported")
    files = find_files([args.data]).files
    runs = []
    for _ in range(2):
        started = monotonic_seconds()
        found = [import_file(path, warehouse, ingested_at=_now()) for path in files]
        runs.append(
            {
                "seconds": monotonic_seconds() - started,
                "rows": sum(one.rows for one in found),
                "written": sum(one.written for one in found),
                "rejected": sum(one.rejected for one in found),
            }
        )
    started = monotonic_seconds()
    ranges = warehouse.gap_ranges(venue="binance", interval_ms=HOUR_MS)
    seconds = monotonic_seconds() - started
    warehouse.close()
    return {
        "files": len(files),
        "first": runs[0],
        "second": runs[1],
        "gap_ranges_seconds": seconds,
        "gaps": [_real_gap(symbol, ranges, args.data) for symbol in REAL_GAPS],
        "peak_rss_bytes": _peak_rss(),
    }


def _now() -> int:
    """A moment after every recorded bar."""
    return T0 + 20 * 365 * 24 * HOUR_MS


def _real_gap(symbol: str, ranges: Sequence[GapRange], data: Path) -> Figures:
    day, hours = REAL_GAPS[symbol]
    since = int(np.datetime64(day, "ms").astype(np.int64))
    found = [
        one.bars
        for one in ranges
        if one.symbol == symbol and since <= one.first_open_time < since + 24 * HOUR_MS
    ]
    expected = hours if hours is not None else _hours_missing(symbol, since, data)
    return {
        "symbol": symbol,
        "day": day,
        "expected_bars": expected,
        "found_bars": max(found, default=0),
    }


def _hours_missing(symbol: str, since: int, data: Path) -> int:
    """The hole after ``since`` as the file itself has it."""
    rows = pq.read_table(data / "bars_binance_spot_1h.parquet", columns=["symbol", "open_time"])
    times = np.sort(rows.filter(pc.field("symbol") == symbol)["open_time"].to_numpy())
    steps = np.diff(times) // HOUR_MS - 1
    return int(steps[(steps > 0) & (times[:-1] + HOUR_MS >= since)][0])


def _generate(args: argparse.Namespace) -> Figures:
    """Fill a store, chunk by chunk in time as two years would, and wait until it has merged."""
    warehouse = _open(args)
    started = monotonic_seconds()
    edges = np.linspace(0, args.bars, CHUNKS + 1).astype(int)
    for first, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        warehouse._command(_insert_made_up_bars(first, end, args.seed))
    inserted = monotonic_seconds() - started
    _wait_for_merges(warehouse)
    figures = {"bars": args.bars * len(SYMBOLS), "insert_seconds": inserted}
    warehouse.close()
    return figures | {"merged_seconds": monotonic_seconds() - started}


def _insert_made_up_bars(first: int, end: int, seed: int) -> str:
    """Statement: bars ``first`` to ``end`` of every symbol, with prices on a tick of 0.01."""
    count = end - first
    chance = f"sipHash64(bar, asset, {seed}) / pow(2, 64)"
    return (
        "INSERT INTO bars (venue, interval_ms, symbol, open_time, open, high, low, close, volume, "
        "origin, ingested_at) SELECT "
        f"'{VENUE}', {MINUTE_MS}, concat('S', leftPad(toString(asset), 2, '0'), '/USDT:USDT'), "
        f"{T0} + {MINUTE_MS} * bar, price, price + 0.5, price - 0.5, round(price + 0.25, 2), "
        f"round({chance} * 1000, 3), 'import', 1 FROM (SELECT intDiv(number, {count}) AS asset, "
        f"{first} + number % {count} AS bar, "
        f"round(100 + 20 * sin(bar / 9000 + asset) + {chance}, 2) AS price "
        f"FROM numbers({count * len(SYMBOLS)}))"
    )


def _live(args: argparse.Namespace) -> Figures:
    """Insert bar closes of 20 symbols one by one, and read the panel of the last bars."""
    warehouse = _open(args)
    until = T0 + args.bars * MINUTE_MS
    _add_marks_and_funding(warehouse, until)
    inserts = []
    for _ in range(100):
        inserts.append(_seconds(partial(_close_a_bar, warehouse, until)))
        until += MINUTE_MS
    _wait_for_merges(warehouse)
    parts = "SELECT count() FROM system.parts WHERE active AND table = 'bars'"
    figures = {"parts": warehouse._connection.rows(parts, {})[0][0]}
    reads = [_seconds(partial(_read_last_bars, warehouse, until)) for _ in range(100)]
    warehouse.close()
    return figures | {"insert_20_rows": _spread(inserts), "last_500_bars": _spread(reads)}


def _close_a_bar(warehouse: Warehouse, open_time: int) -> None:
    warehouse.insert_bars(
        [_bar(symbol, open_time) for symbol in SYMBOLS],
        venue=VENUE,
        interval_ms=MINUTE_MS,
        origin=Origin.STREAM,
        ingested_at=open_time,
    )


def _read_last_bars(warehouse: Warehouse, until: int) -> None:
    since = until - LAST_BARS * MINUTE_MS
    warehouse.load_panel(SYMBOLS, venue=VENUE, interval_ms=MINUTE_MS, since=since, until=until)


def _wait_for_merges(warehouse: Warehouse) -> None:
    """As in a year-long store, where minutes pass between two inserts."""
    while warehouse._connection.rows("SELECT count() FROM system.merges", {})[0][0]:
        subprocess.run(["sleep", "0.5"], check=True)


def _add_marks_and_funding(warehouse: Warehouse, until: int) -> None:
    times = np.arange(until - 2 * LAST_BARS * MINUTE_MS, until + 200 * MINUTE_MS, MINUTE_MS)
    candles = pa.table(
        {
            "symbol": pa.array(np.repeat(SYMBOLS, len(times))),
            "open_time": np.tile(times, len(SYMBOLS)),
            **{name: np.full(len(times) * len(SYMBOLS), 100.0) for name in ("open", "high")},
            **{name: np.full(len(times) * len(SYMBOLS), 99.0) for name in ("low", "close")},
        }
    )
    warehouse.insert_mark_bar_table(candles, venue=VENUE, interval_ms=MINUTE_MS, ingested_at=1)
    settlements = [
        Settlement(
            symbol=symbol,
            funding_time=int(time),
            rate=1e-4,
            mark_price=None,
            mark_source=MarkSource.UNKNOWN,
        )
        for symbol in SYMBOLS
        for time in times
        if time % (8 * HOUR_MS) == 0
    ]
    warehouse.insert_settlements(settlements, venue=VENUE, ingested_at=1)


def _bar(symbol: str, open_time: int) -> Bar:
    return Bar(
        symbol=symbol,
        open_time=open_time,
        open=100.0,
        high=101.0,
        low=99.0,
        close=100.5,
        volume=3.0,
    )


def _load(args: argparse.Namespace) -> Figures:
    """Every bar as one float32 tensor, in a process that does nothing else."""
    warehouse = _open(args)
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = monotonic_seconds()
    tensor = warehouse.load_tensor(
        SYMBOLS, venue=VENUE, interval_ms=MINUTE_MS, since=T0, until=T0 + args.bars * MINUTE_MS
    )
    seconds = monotonic_seconds() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    figures = {
        "shape": list(tensor.shape),
        "missing_values": int(np.isnan(tensor).sum()),
        "seconds": seconds,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak_rss_bytes": after.ru_maxrss * 1024,
    }
    warehouse.close()
    return figures


def _freeze(args: argparse.Namespace) -> Figures:
    """Write a snapshot of the same size."""
    rng = np.random.default_rng(args.seed)
    shape = (args.bars, len(SYMBOLS))
    price = np.round(100 + rng.standard_normal(shape), 2)
    arrays = dict.fromkeys(ARRAY_FIELDS, np.broadcast_to(np.nan, shape))
    arrays |= dict.fromkeys(("open", "close"), price) | {"high": price + 1, "low": price - 1}
    arrays["volume"] = price
    panel = Panel(
        symbols=SYMBOLS,
        interval_ms=MINUTE_MS,
        open_time=T0 + np.arange(args.bars, dtype=np.int64) * MINUTE_MS,
        **arrays,
    )
    started = monotonic_seconds()
    save_snapshot(panel, _rules(), venue=VENUE, root=args.folder / "snapshots")
    return {"seconds": monotonic_seconds() - started, "panel_bytes": price.nbytes * len(arrays)}


def _map(args: argparse.Namespace) -> Figures:
    """Open the snapshot that this machine has verified, and touch every page of its tensor."""
    (directory,) = (args.folder / "snapshots").iterdir()
    started = monotonic_seconds()
    snapshot = load_snapshot(directory)
    opened = monotonic_seconds() - started
    values = snapshot.tensor.reshape(-1)
    touched = float(np.nansum(values[:: _PAGE // values.itemsize]))
    seconds = monotonic_seconds() - started
    return {"seconds": seconds, "open_seconds": opened, "columns": TENSOR_COLUMNS, "sum": touched}


def _rules() -> list[Instrument]:
    step = Decimal("0.01")
    return [
        Instrument(
            symbol=symbol,
            venue_symbol=symbol.split("/")[0] + "USDT",
            base=symbol.split("/")[0],
            quote="USDT",
            tick_size=step,
            lot_step=step,
            min_quantity=step,
            max_quantity=None,
            min_notional=Decimal(5),
            funding_interval_minutes=480,
        )
        for symbol in SYMBOLS
    ]


def _open(args: argparse.Namespace) -> Warehouse:
    return Warehouse.open(f"chdb://{args.folder}/generated")


def _seconds(work: Callable[[], object]) -> float:
    started = monotonic_seconds()
    work()
    return monotonic_seconds() - started


def _spread(seconds: Sequence[float]) -> Figures:
    p50, p99 = np.percentile(seconds, [50, 99])
    return {"p50_seconds": float(p50), "p99_seconds": float(p99), "runs": len(seconds)}


def _peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _checks(figures: Mapping[str, Any]) -> Iterator[Check]:
    imported = figures["import"]
    if "skipped" not in imported:
        yield _at_most("import_seconds", imported["first"]["seconds"], 60)
        yield _at_most("second_import_adds_rows", imported["second"]["written"], 0)
        for gap in imported["gaps"]:
            yield Check(
                name=f"gap_{gap['symbol']}_{gap['day']}_bars",
                value=gap["found_bars"],
                target=f"== {gap['expected_bars']}",
                holds=gap["found_bars"] == gap["expected_bars"],
            )
    yield _at_most("load_seconds", figures["load"]["seconds"], 3)
    yield _at_most("load_peak_rss_gb", figures["load"]["peak_rss_bytes"] / 1e9, 1.5)
    yield _at_most("snapshot_load_seconds", figures["map"]["seconds"], 0.3)
    yield _at_most("last_500_bars_p50_ms", _ms(figures["live"]["last_500_bars"]), 50)
    yield _at_most("insert_20_rows_p50_ms", _ms(figures["live"]["insert_20_rows"]), 50)


def _ms(spread: Mapping[str, float]) -> float:
    return 1000 * spread["p50_seconds"]


def _at_most(name: str, value: float, limit: float) -> Check:
    return Check(name=name, value=value, target=f"<= {limit}", holds=value <= limit)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.warehouse", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the generated bars (1)")
    parser.add_argument("--data", type=Path, help="folder of recorded Parquet files to import")
    parser.add_argument("--bars", type=int, default=1_051_200, help="per symbol (two years)")
    parser.add_argument("--json", action="store_true", help="as always; progress is on stderr")
    parser.add_argument("--part", choices=sorted(_PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    return parser.parse_args()


_PARTS: Mapping[str, Callable[[argparse.Namespace], Figures]] = {
    "import": _import,
    "generate": _generate,
    "live": _live,
    "load": _load,
    "freeze": _freeze,
    "map": _map,
}


if __name__ == "__main__":
    main()
