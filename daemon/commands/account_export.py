"""``ballast account export``: the whole account as CSV or Parquet files."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from daemon.commands.account import add_account_options, open_ledger
from daemon.commands.common import Subparsers, UsageError, print_json, print_table

DESCRIPTION = """\
Write entries, postings, fills, orders, rejections and decisions, one file each.

Amounts, prices and quantities are the exact decimals of the ledger, as text in both formats; times
are UTC milliseconds. The files are of one moment, also beside a running daemon, and have their
names only once all are complete. With the hash chain in them an auditor can verify the account
without Ballast; docs/account.md has the columns and shows how."""

EPILOG = """\
examples:
  ballast account export --format parquet --out ./audit
  ballast account export --format csv --out ./audit --force     replace what is there
  ballast account export --format csv --out ./r1 --account replay-1 --json

exit codes: 0 done; 1 the ledger cannot be read; 2 bad input, nothing written"""


def add(verbs: Subparsers) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "export",
        help="write the whole account to CSV or Parquet files",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.add_argument(
        "--format", choices=["csv", "parquet"], required=True, help="what the files are"
    )
    verb.add_argument(
        "--out", type=Path, metavar="DIR", required=True, help="folder; made where it is missing"
    )
    verb.add_argument("--force", action="store_true", help="replace files that exist")
    add_account_options(verb)
    verb.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Write the files of one account."""
    from broker.export import ExportFormat, ExportRefused, export_account
    from daemon.progress import ProgressBar

    store, account_id = open_ledger(args)
    try:
        with closing(store), ProgressBar(f"export {account_id}", unit="rows") as bar:
            done = export_account(
                store.engine,
                account_id,
                args.out,
                file_format=ExportFormat(args.format),
                force=args.force,
                progress=bar.show,
            )
    except ExportRefused as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{args.out}: cannot be written: {error}") from None
    if args.json:
        print_json(
            {
                "account": account_id,
                "format": args.format,
                "files": [
                    {"table": one.table, "path": str(one.path), "rows": one.rows}
                    for one in done.files
                ],
                "last_sequence": done.last_sequence,
                "last_hash": done.last_hash,
            }
        )
        return 0
    print_table(["table", "rows", "path"], [[one.table, one.rows, one.path] for one in done.files])
    print(f"the chain ends at entry {done.last_sequence} with {done.last_hash}")
    return 0
