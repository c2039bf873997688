"""``ballast account``: what the ledger says; longer verbs have modules of their own."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from broker.database import database_exists
from broker.store import Store
from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    print_table,
    settings_from,
)
from daemon.targets import row_time

# Each offers ``add(verbs)``, as a command does.
VERB_MODULES = (
    "account_report",
    "account_costs",
    "account_recompute",
    "account_export",
)


def add(subparsers: Subparsers) -> None:
    """Add the command and its verbs."""
    parser = subparsers.add_parser(
        "account",
        help="show, report on, check and export the ledger",
        description="Read the paper account: equity, fills, the double-entry journal, how well it "
        "did and why, and a check of every invariant. Works beside a running daemon. What each "
        "figure is: docs/account.md.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, (words, execute) in {
        "show": ("the account at a glance", show),
        "equity": ("equity at every decision", equity),
        "fills": ("every fill", fills),
        "journal": ("every entry with its postings", journal),
        "check": ("verify the hash chain and every invariant; exit code 1 if one fails", check),
    }.items():
        verb = verbs.add_parser(name, help=words, description=words[:1].upper() + words[1:] + ".")
        if name in ("equity", "fills", "journal"):
            verb.add_argument("--limit", type=int, metavar="N", help="only the newest N")
        add_account_options(verb)
        verb.set_defaults(execute=execute)
    for module in VERB_MODULES:
        import_module(f"daemon.commands.{module}").add(verbs)


def add_account_options(verb: argparse.ArgumentParser) -> None:
    """Add the options that every verb has: which account, of which settings, and ``--json``."""
    verb.add_argument("--account", metavar="ID", help="default: account.id of the settings")
    add_settings_options(verb)
    add_json_option(verb)


def open_ledger(args: argparse.Namespace) -> tuple[Store, str]:
    """Open the ledger of the settings, and name the account that was asked for.

    Raises:
        UsageError: there is no ledger, or no such account in it.
    """
    settings = settings_from(args)
    account_id = args.account or settings.account.id
    if not database_exists(settings.ledger_url):
        raise UsageError(f"{settings.ledger_url}: no ledger there yet; `ballast run` makes one")
    store = Store.open(settings.ledger_url)
    known = store.account_ids()
    if account_id not in known:
        store.close()
        raise UsageError(f"unknown account {account_id!r}; known: {', '.join(known) or 'none'}")
    return store, account_id


def show(args: argparse.Namespace) -> int:
    """Print balances, positions and totals."""
    store, account_id = open_ledger(args)
    state = store.load_account(account_id)
    assert state is not None
    records = store.decisions(account_id)
    last = records[-1] if records else None
    facts = {
        "account": account_id,
        "wallet": f"{state.wallet} {state.quote}",
        "equity": None if last is None else last.equity,
        "decisions": len(records),
        "last_decision": None if last is None else row_time(last.decision_time),
        "source": None if last is None else last.source,
        "fees": sum(record.fees for record in records),
        "slippage": sum(record.slippage for record in records),
        "funding": sum(record.funding for record in records),
        "positions": {
            symbol: {"quantity": str(held.quantity), "entry_price": str(held.entry_price)}
            for symbol, held in sorted(state.positions.items())
        },
        "pending_orders": len(state.pending),
    }
    if args.json:
        print_json(facts)
        return 0
    for name, value in facts.items():
        if name != "positions":
            print(f"{name.replace('_', ' '):<15} {'-' if value is None else value}")
    for symbol, held in sorted(state.positions.items()):
        print(f"{'position':<15} {symbol} {held.quantity} at {held.entry_price}")
    return 0


def equity(args: argparse.Namespace) -> int:
    """Print the equity curve."""
    limit = _limit(args)
    store, account_id = open_ledger(args)
    curve = store.equity_curve(account_id)
    rows: list[dict[str, object]] = [
        {"time": row_time(int(time)), "equity": float(value)}
        for time, value in zip(curve.decision_time, curve.equity, strict=True)
    ]
    return _print_rows(args, rows if limit is None else rows[-limit:])


def fills(args: argparse.Namespace) -> int:
    """Print the fills; ``--json`` names them and the books that they walked as well."""
    limit = _limit(args)
    store, account_id = open_ledger(args)
    found = store.fills(account_id, limit=limit)
    rows: list[dict[str, object]] = [
        {
            "time": row_time(fill.event_time),
            "symbol": fill.symbol,
            "quantity": str(fill.quantity),
            "reference_price": str(fill.reference_price),
            "fill_price": str(fill.fill_price),
            "fee": str(fill.fee),
            "slippage": str(fill.slippage),
            "shortfall": None if fill.shortfall is None else fill.shortfall.value,
        }
        for fill in found
    ]
    if args.json:
        for row, fill in zip(rows, found, strict=True):
            row |= {"fill_id": fill.fill_id, "book_id": fill.book_id}
    return _print_rows(args, rows)


def journal(args: argparse.Namespace) -> int:
    """Print the entries."""
    limit = _limit(args)
    store, account_id = open_ledger(args)
    entries = store.entries(account_id, limit=limit)
    if args.json:
        print_json(
            [
                {
                    "entry_id": entry.entry_id,
                    "kind": entry.kind.value,
                    "symbol": entry.symbol,
                    "event_time": entry.event_time,
                    "posted_at": entry.posted_at,
                    "facts": dict(entry.facts),
                    "postings": [
                        {
                            "account": posting.ledger_account,
                            "currency": posting.currency,
                            "amount": str(posting.amount),
                        }
                        for posting in entry.postings
                    ],
                }
                for entry in entries
            ]
        )
        return 0
    for entry in entries:
        print(f"{row_time(entry.event_time)}  {entry.kind.value:<11} {entry.entry_id}")
        for posting in entry.postings:
            print(f"    {posting.ledger_account:<44} {posting.amount:>24} {posting.currency}")
    return 0


def check(args: argparse.Namespace) -> int:
    """Verify the ledger."""
    store, account_id = open_ledger(args)
    problems = store.check(account_id)
    if args.json:
        print_json({"account": account_id, "problems": problems})
    for problem in problems:
        print(f"ballast: {problem}", file=sys.stderr)
    if not problems and not args.json:
        counts = f"{len(store.entries(account_id))} entries, {len(store.decisions(account_id))}"
        print(f"account {account_id}: {counts} decisions, the chain and every invariant hold")
    return 1 if problems else 0


def _limit(args: argparse.Namespace) -> int | None:
    limit: int | None = args.limit
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: must be at least 1")
    return limit


def _print_rows(args: argparse.Namespace, rows: list[dict[str, object]]) -> int:
    if args.json:
        print_json(rows)
    elif rows:
        lines = [["-" if value is None else value for value in row.values()] for row in rows]
        print_table(list(rows[0]), lines)
    else:
        print("none yet")
    return 0
