"""``ballast import``: recorded market data and signals into the warehouse."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    print_table,
    settings_from,
)
from market.instrument import Market, Venue

if TYPE_CHECKING:
    from daemon.progress import ProgressBar
    from market.importing import CheckedFile, FoundFiles, ImportHints, ImportSummary, Progress
    from market.warehouse import Warehouse

# Above so many files one bar counts the rows of all of them.
MOST_BARS = 20
MOST_SKIPPED_NAMED = 10
# rows = written + unchanged + rejected, and written = new + revised.
COUNTS = ("rows", "written", "new", "revised", "unchanged", "rejected")

REMEDY = (
    "get klines, markPriceKlines or fundingRate of futures/um, or klines of spot, from "
    "data.binance.vision; or files of another kind that docs/importing.md lists"
)

DESCRIPTION = """\
Read recorded files into the warehouse: bars, mark candles, funding settlements, signals.

Parquet and CSV are told by their columns; the zips of data.binance.vision and freqtrade's Feather
and JSON by their names. Every file is checked from end to end before anything is written. A bad row
is quarantined with its reason; a gap stays a gap; importing a file again adds nothing."""

EPILOG = """\
examples, each with --exchange binanceusdm, --state-dir DIR or --config FILE, which name the store:
  ballast import bars.parquet                 the columns say exchange, symbol and timeframe
  ballast import ./market                     a folder, with everything below it
  ballast import BTCUSDT-1m-2023-07.zip --market perp
  ballast import data/futures/um              Binance's own folders tell market and kind
  ballast import user_data/data/binance       freqtrade's Feather files, spot and futures
  ballast import btc.csv --symbol BTC/USDT --interval 1h --market spot
  ballast import --signals sentiment.csv      source,version,symbol,event_time,published_at,...

docs/importing.md lists every format with its columns.

exit codes: 0 done; 1 a file of which no row was taken; 2 bad input, nothing written; 3 the store
cannot be opened (a daemon that runs owns an embedded one)"""


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "import",
        help="import recorded bars, mark candles, funding and signals",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", type=Path, metavar="PATH", help="files or folders")
    parser.add_argument(
        "--signals",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a CSV or Parquet file of signals; may be repeated",
    )
    group = parser.add_argument_group(
        "what a file does not say itself",
        "Of a file that names its exchange, --exchange only chooses the settings.",
    )
    group.add_argument("--market", choices=[market.value for market in Market])
    group.add_argument("--symbol", metavar="SYMBOL", help="BTC/USDT:USDT (perpetual) or BTC/USDT")
    group.add_argument("--interval", metavar="INTERVAL", help="length of its bars, such as 1h")
    group.add_argument("--kind", choices=["bars", "mark_bars"], help="traded prices or mark prices")
    add_settings_options(parser)
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Check every file, import every file, and print what each brought."""
    from market.importers.recording import venue_in
    from market.importing import find_files
    from market.warehouse import Warehouse

    if args.exchange and args.market:
        args.exchange = venue_in(Venue(args.exchange), Market(args.market)).value
    settings = settings_from(args)
    found = find_files(args.paths)
    if not found.files and not args.signals:
        raise _nothing_found(args.paths, found.skipped)
    if found.files and settings.sandbox.enabled and not (args.config or args.state_dir):
        raise UsageError(
            "recorded bars and the sandbox's synthetic ones do not belong into one store: name the "
            "venue whose store they join (--exchange binanceusdm), or a store (--state-dir, "
            "--config)"
        )
    checked = _check(found, args.signals, _hints(args))
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    warehouse = Warehouse.open(settings.warehouse_url)
    try:
        summaries = _import(checked, warehouse)
    finally:
        warehouse.close()
    _print(found, summaries, as_json=args.json)
    useless = [summary for summary in summaries if summary.rejected == summary.rows]
    for summary in useless:
        cause = _reasons(summary) or "it has none"
        print(f"ballast: warning: {summary.path}: no row was taken: {cause}", file=sys.stderr)
    return 1 if useless else 0


def _hints(args: argparse.Namespace) -> ImportHints:
    from market.importing import ImportHints, ImportKind

    return ImportHints(
        exchange=Venue(args.exchange) if args.exchange else None,
        market=Market(args.market) if args.market else None,
        symbol=args.symbol,
        interval=args.interval,
        kind=ImportKind(args.kind) if args.kind else None,
    )


def _nothing_found(paths: Sequence[Path], skipped: Mapping[Path, str]) -> UsageError:
    if not paths:
        return UsageError("name files or folders to import, or --signals FILE")
    places = ", ".join(map(str, paths))
    if not skipped:
        return UsageError(f"{places}: no file there; see ballast import --help")
    error = UsageError(f"{places}: none of the {len(skipped)} files there can be imported")
    for line in _skipped_lines(skipped):
        error.add_note(line)
    error.add_note(REMEDY)
    return error


def _skipped_lines(skipped: Mapping[Path, str]) -> list[str]:
    """The first of the skipped files with their reasons, and how many more there are."""
    lines = [f"skipped {path}: {reason}" for path, reason in skipped.items()]
    if len(lines) <= MOST_SKIPPED_NAMED:
        return lines
    more = f"skipped {len(lines) - MOST_SKIPPED_NAMED} more files"
    return [*lines[:MOST_SKIPPED_NAMED], more]


def _check(found: FoundFiles, signals: Sequence[Path], hints: ImportHints) -> list[CheckedFile]:
    """All of them before anything is written."""
    from daemon.progress import ProgressBar
    from market.importing import ImportHints, ImportKind, check_file

    due = [(path, hints) for path in found.files]
    due += [(path, ImportHints(kind=ImportKind.SIGNALS)) for path in signals]
    checked = []
    with ProgressBar("check", unit="files") as bar:
        for path, told in due:
            checked.append(check_file(path, told))
            if len(due) > 1:
                bar.show("files", len(checked), len(due))
    return checked


def _import(files: Sequence[CheckedFile], warehouse: Warehouse) -> list[ImportSummary]:
    from daemon.progress import ProgressBar

    if len(files) > MOST_BARS:
        with ProgressBar("import", unit="rows") as total:
            return _import_counted(files, warehouse, total)
    summaries = []
    for number, file in enumerate(files, start=1):
        place = f" {number}/{len(files)}" if len(files) > 1 else ""
        with ProgressBar(f"import{place} {file.recording.path.name}", unit="rows") as bar:
            summaries.append(_import_one(file, warehouse, partial(bar.show, "rows")))
    return summaries


def _import_counted(
    files: Sequence[CheckedFile], warehouse: Warehouse, bar: ProgressBar
) -> list[ImportSummary]:
    rows, before, summaries = sum(file.rows for file in files), 0, []
    for file in files:
        summaries.append(_import_one(file, warehouse, None))
        before += file.rows
        bar.show("rows", before, rows)
    return summaries


def _import_one(
    file: CheckedFile, warehouse: Warehouse, progress: Progress | None
) -> ImportSummary:
    from daemon.signal_desk import OTHERS_MARGIN_MS, StoreClock
    from market.clock import WallClock
    from market.importing import ImportKind, import_checked

    wall = WallClock()
    newest_close = warehouse.newest_close() if file.kind is ImportKind.SIGNALS else 0
    clock = StoreClock(wall=wall, newest_close=newest_close)
    return import_checked(
        file,
        warehouse,
        ingested_at=wall.now(),
        signals_stamp=lambda: clock.now() + OTHERS_MARGIN_MS,
        progress=progress,
    )


def _print(found: FoundFiles, summaries: Sequence[ImportSummary], *, as_json: bool) -> None:
    counts = [{name: getattr(summary, name) for name in COUNTS} for summary in summaries]
    total = {name: sum(one[name] for one in counts) for name in COUNTS}
    if as_json:
        reasons = {str(path): reason for path, reason in found.skipped.items()}
        files = [_document(summary, one) for summary, one in zip(summaries, counts, strict=True)]
        print_json({"files": files, "total": total, "skipped": reasons})
        return
    table = [
        [summary.path, summary.kind.value, *one.values(), _reasons(summary)]
        for summary, one in zip(summaries, counts, strict=True)
    ]
    if len(table) > 1:
        table.append(["total", "", *total.values(), ""])
    print_table(["path", "kind", *COUNTS, "rejected by"], table)
    for line in _skipped_lines(found.skipped):
        print(line)


def _document(summary: ImportSummary, counts: Mapping[str, int]) -> dict[str, object]:
    told = {"path": str(summary.path), "kind": summary.kind.value}
    return told | dict(counts) | {"rejected_by": dict(summary.rejected_by)}


def _reasons(summary: ImportSummary) -> str:
    return ", ".join(f"{reason} {rows}" for reason, rows in summary.rejected_by.items())
