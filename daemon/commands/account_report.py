"""``ballast account report``: how well the account did, and where every cent came from."""

from __future__ import annotations

import argparse
import math
import sys
from contextlib import closing
from dataclasses import asdict
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from broker.attribution import PART_NAMES, Attribution, AttributionRefused, Parts, attribute
from broker.database import read_transaction
from broker.history import History, decision_at, read_entries, read_history
from broker.metrics import Performance, performance
from broker.money import money
from broker.records import DecisionRecord
from broker.store import Store
from broker.valuation import MarkMissing
from daemon.commands.account import add_account_options, open_ledger
from daemon.commands.common import Subparsers, UsageError, print_json, print_table
from daemon.commands.spans import add_span_options, moment, span_options
from daemon.targets import row_time
from market.bar import bars_per_year, interval_name

EXIT_FINDINGS = 1

DESCRIPTION = """\
Figures of merit, and the attribution of the result to its causes by symbol.

price is what the market did to what was held, before costs; slippage is fill against reference
price; fee, funding, liquidation and insurance are what was booked. They sum to the change of the
equity exactly; the table rounds to 0.01, --json has every decimal. A figure that the record does
not define (a ratio without anything to divide by) is - in the table and null in JSON. A year has
365 days. docs/account.md has every formula with its source."""

EPILOG = """\
examples:
  ballast account report                                     since the deposit
  ballast account report --since 2024-01-01 --until 2024-02-01
  ballast account report --account replay-1 --json

The span begins at the last decision at or before --since, else with the deposit, and ends at the
last one at or before --until.

exit codes: 0 done; 1 the ledger does not add up to what was recorded (see ballast account check);
2 bad input, such as a span without a decision"""

_PERCENT = {
    *("total_return", "annual_return", "volatility", "max_drawdown", "hit_rate"),
    *("gross_exposure", "net_exposure"),
}


class Span(NamedTuple):
    """The decisions that a report lies between."""

    opening: DecisionRecord | None
    closing: DecisionRecord


class Report(NamedTuple):
    """What is printed: the usual time between decisions, if there are two, and the figures."""

    bar_ms: int | None
    performance: Performance
    attribution: Attribution


def add(verbs: Subparsers) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "report",
        help="how well it did, and where every cent came from",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_span_options(
        verb,
        since="begin here (default: the deposit)",
        until="end here (default: the last decision)",
    )
    add_account_options(verb)
    verb.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Print the report of one account."""
    since, until = span_options(args)
    store, account_id = open_ledger(args)
    with closing(store):
        try:
            report = _report(store, account_id, since, until)
        except (AttributionRefused, MarkMissing) as error:
            print(f"ballast: error: account {account_id}: {error}", file=sys.stderr)
            return EXIT_FINDINGS
    if args.json:
        print_json({"account": account_id, **_document(report)})
    else:
        _print(account_id, report)
    return 0


def _report(store: Store, account_id: str, since: int | None, until: int | None) -> Report:
    with read_transaction(store.engine) as connection:
        opening = None if since is None else decision_at(connection, account_id, since)
        last = decision_at(connection, account_id, until)
        span = _span(account_id, opening, last)
        after = None if span.opening is None else span.opening.decision_time
        history = read_history(
            connection, account_id, after=after, until=span.closing.decision_time
        )
        with closing(read_entries(connection, account_id)) as entries:
            found = attribute(entries, opening=span.opening, closing=span.closing)
    bar_ms = _bar_ms(history, after)
    return Report(
        bar_ms=bar_ms,
        performance=performance(
            history.record, bars_per_year=math.nan if bar_ms is None else bars_per_year(bar_ms)
        ),
        attribution=found,
    )


def _span(account_id: str, opening: DecisionRecord | None, last: DecisionRecord | None) -> Span:
    if last is None:
        raise UsageError(f"account {account_id}: no decision at or before the end of the span")
    if opening is not None and opening.decision_time >= last.decision_time:
        raise UsageError(
            f"account {account_id}: no decision between --since and --until; the last one before "
            f"is at {moment(opening.decision_time)}"
        )
    return Span(opening, last)


def _bar_ms(history: History, after: int | None) -> int | None:
    times = history.decision_time if after is None else np.append(after, history.decision_time)
    return int(np.median(np.diff(times))) if len(times) > 1 else None


def _document(report: Report) -> dict[str, Any]:
    found = report.attribution
    begins = found.opening_time
    return {
        "since": None if begins is None else row_time(begins),
        "until": row_time(found.closing_time),
        "bar_ms": report.bar_ms,
        "metrics": {name: _or_null(value) for name, value in asdict(report.performance).items()},
        "attribution": {
            "opening_equity": _text(found.opening_equity),
            "closing_equity": _text(found.closing_equity),
            "deposits": _text(found.deposits),
            "symbols": {symbol: _parts(one) for symbol, one in found.by_symbol.items()},
            "account": _parts(found.account),
            "total": _parts(found.total),
        },
    }


def _parts(parts: Parts) -> dict[str, str]:
    amounts = {name: _text(getattr(parts, name)) for name in PART_NAMES}
    return {**amounts, "total": _text(parts.total)}


def _text(amount: Decimal) -> str:
    return format(money(amount), "f")


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _print(account_id: str, report: Report) -> None:
    found = report.attribution
    begins = "the deposit" if found.opening_time is None else moment(found.opening_time)
    bars = "-" if report.bar_ms is None else interval_name(report.bar_ms)
    print(f"account {account_id}, {begins} to {moment(found.closing_time)}, bars of {bars}")
    print()
    for name, value in asdict(report.performance).items():
        print(f"{name.replace('_', ' '):<22} {_figure(name, value):>12}")
    print()
    for name, amount in (
        ("opening equity", found.opening_equity),
        ("deposits", found.deposits),
        ("closing equity", found.closing_equity),
    ):
        print(f"{name:<15} {amount:>16,.2f}")
    print()
    rows = [*found.by_symbol.items(), ("the account", found.account), ("total", found.total)]
    print_table(
        ["symbol", *(f"{name:>12}" for name in (*PART_NAMES, "total"))],
        [[name, *(f"{amount:>12,.2f}" for amount in _amounts(one))] for name, one in rows],
    )


def _amounts(parts: Parts) -> list[Decimal]:
    return [*(getattr(parts, name) for name in PART_NAMES), parts.total]


def _figure(name: str, value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return "-"
    return f"{value:.2%}" if name in _PERCENT else f"{value:.3f}"
