"""``ballast import``: recorded market data into the warehouse."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    print_table,
    settings_from,
)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "import",
        help="import recorded bars, mark candles and funding",
        description="Read Parquet files of bars, mark candles or funding settlements into the "
        "warehouse. Columns are checked before anything is written; importing a file again adds "
        "nothing.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    add_settings_options(parser)
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Import every file and print what each brought."""
    from daemon.progress import ProgressBar
    from market.clock import WallClock
    from market.importing import check_parquet, import_parquet
    from market.warehouse import Warehouse

    settings = settings_from(args)
    files = [file for path in args.paths for file in _files(path)]
    for file in files:
        check_parquet(file)  # all of them before anything is written
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    warehouse = Warehouse.open(settings.warehouse_url)
    summaries = []
    try:
        for file in files:
            with ProgressBar(f"import {file.name}", unit="rows") as bar:
                summaries.append(
                    import_parquet(
                        file,
                        warehouse,
                        ingested_at=WallClock().now(),
                        progress=partial(bar.show, "rows"),
                    )
                )
    finally:
        warehouse.close()
    if args.json:
        print_json([_row(summary) for summary in summaries])
    elif summaries:
        rows = [_row(summary) for summary in summaries]
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    return 0


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.glob("*.parquet"))
        if not found:
            raise UsageError(f"{path}: no *.parquet file in this folder")
        return found
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    return [path]


def _row(summary: object) -> dict[str, object]:
    from dataclasses import fields

    return {
        item.name: value if isinstance(value := getattr(summary, item.name), int) else str(value)
        for item in fields(summary)  # type: ignore[arg-type]  # every summary is a dataclass
    }
