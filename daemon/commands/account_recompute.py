"""``ballast account recompute``: every fill once more, from what was stored."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from daemon.commands.account import add_account_options, open_ledger
from daemon.commands.account_costs import check_market
from daemon.commands.common import (
    Subparsers,
    UsageError,
    print_json,
    print_table,
    settings_from,
)
from daemon.commands.spans import moment, time_option
from daemon.commands.stored import opened, store_closed
from daemon.settings import Settings
from daemon.targets import row_time

if TYPE_CHECKING:
    from broker.book_walk import Taken
    from broker.orders import Fill
    from broker.recompute import Recomputed
    from broker.store import Store
    from market.warehouse import Warehouse

EXIT_DIFFERENT = 1
BARS_AT_ONCE = 20_000

Facts = Mapping[str, Mapping[str, str]]
"""What each fill's entry states, by the fill's id."""

RECOMPUTE = """\
Compute fills again from what was stored, and say of each: equal, or what differs.

A fill that walked an order book is walked again over the recorded snapshot that it names, behind
the earlier fills of the same snapshot. A modelled fill is computed again from the bars of the
warehouse: the open of its bar, and the volume and volatility of the week before. Both with the
parameters that the ledger states for that fill. Price, fee and slippage must be equal to the last
digit. A bar that the venue has revised since shows as a difference: the ledger keeps what was known
then."""

RECOMPUTE_END = """\
examples:
  ballast account recompute                     every fill of the account
  ballast account recompute --since 2024-06-01 --json
  ballast account recompute --fill main:order:1717200000000:BTC/USDT:USDT:fill

exit codes: 0 every fill is equal; 1 one differs, or what it was made of is not stored; 2 bad input;
3 the warehouse cannot be opened (a daemon that runs owns an embedded one)"""


def add(verbs: Subparsers) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "recompute",
        help="compute fills again from stored bars and books; exit code 1 if one differs",
        description=RECOMPUTE,
        epilog=RECOMPUTE_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    chosen = verb.add_mutually_exclusive_group()
    chosen.add_argument(
        "--fill", metavar="ID", help="only this one, as account fills --json names it"
    )
    chosen.add_argument("--since", metavar="TIME", help="fills from here on (default: all)")
    add_account_options(verb)
    verb.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Recompute what was asked for, and print it."""
    from market.warehouse import WarehouseError

    since = time_option(args, "since")
    settings = settings_from(args)
    store, account_id = open_ledger(args)
    with closing(store):
        check_market(store, settings)
        fills = _fills(store, account_id, args.fill, since, settings.exchange.interval_ms)
        facts = _facts(store, account_id, fills)
        try:
            with opened(settings) as warehouse:
                found = list(_recomputed(warehouse, settings, fills, facts))
        except WarehouseError as error:
            return store_closed(error)
    found = [
        one
        for one in found
        if args.fill in (None, one.fill.fill_id) and one.fill.event_time >= (since or 0)
    ]
    found.sort(key=lambda one: (one.fill.event_time, one.fill.fill_id))
    if args.json:
        print_json(_document(account_id, found))
    else:
        _print(account_id, found)
    return 0 if all(one.is_equal for one in found) else EXIT_DIFFERENT


def _fills(
    store: Store, account_id: str, wanted: str | None, since: int | None, interval_ms: int
) -> list[Fill]:
    """The fills to compute; of a snapshot also those before, whose quantity was gone."""
    if wanted is None:
        return store.fills(account_id, since=None if since is None else since - interval_ms)
    fills = store.fills(account_id)
    found = [fill for fill in fills if fill.fill_id == wanted]
    if not found:
        raise UsageError(
            f"--fill {wanted}: account {account_id} has no such fill; ballast account fills "
            "--json names them"
        )
    book = found[0].book_id
    return found if book is None else [fill for fill in fills if fill.book_id == book]


def _facts(store: Store, account_id: str, fills: Sequence[Fill]) -> Facts:
    """By fill, in the order of posting."""
    if not fills:
        return {}
    wanted = {fill.fill_id for fill in fills}
    since = min(fill.event_time for fill in fills)
    entries = store.entries(account_id, since=since)
    return {entry.entry_id: entry.facts for entry in entries if entry.entry_id in wanted}


def _recomputed(
    warehouse: Warehouse, settings: Settings, fills: Sequence[Fill], facts: Facts
) -> Iterator[Recomputed]:
    modelled: dict[str, list[Fill]] = {}
    walked: dict[str, list[Fill]] = {}
    posted = {fill_id: position for position, fill_id in enumerate(facts)}
    for fill in sorted(fills, key=lambda one: posted.get(one.fill_id, len(posted))):
        if fill.book_id is None:
            modelled.setdefault(fill.symbol, []).append(fill)
        else:
            walked.setdefault(fill.book_id, []).append(fill)
    for of_symbol in modelled.values():
        of_symbol.sort(key=lambda one: one.event_time)
        for piece in _pieces(of_symbol, BARS_AT_ONCE * settings.exchange.interval_ms):
            yield from _modelled(warehouse, settings, piece, facts)
    for name, of_book in walked.items():
        yield from _walked(warehouse, settings, name, of_book, facts)


def _pieces(fills: Sequence[Fill], length_ms: int) -> Iterator[list[Fill]]:
    """Cut fills in the order of time into pieces no longer than ``length_ms``."""
    piece: list[Fill] = []
    for fill in fills:
        if piece and fill.event_time - piece[0].event_time > length_ms:
            yield piece
            piece = []
        piece.append(fill)
    if piece:
        yield piece


def _modelled(
    warehouse: Warehouse, settings: Settings, fills: Sequence[Fill], facts: Facts
) -> Iterator[Recomputed]:
    """Recompute fills of one symbol from its bars, read at once."""
    from broker.execution import REQUIRED_BARS, liquidity
    from broker.recompute import recompute_modelled

    interval = settings.exchange.interval_ms
    # The latency is below a minute, the shortest interval.
    opens = [fill.event_time - fill.event_time % interval for fill in fills]
    panel = warehouse.load_panel(
        [fills[0].symbol],
        venue=settings.exchange.name.value,
        interval_ms=interval,
        since=opens[0] - REQUIRED_BARS * interval,
        until=opens[-1] + interval,
    )
    known = liquidity(panel)
    for fill, open_time in zip(fills, opens, strict=True):
        row = (open_time - int(panel.open_time[0])) // interval
        yield recompute_modelled(
            fill,
            facts.get(fill.fill_id, {}),
            open_price=float(panel.open[row, 0]),
            liquidity=(
                float(known.adv_quote[row - 1, 0]),
                float(known.sigma_daily[row - 1, 0]),
            ),
        )


def _walked(
    warehouse: Warehouse, settings: Settings, name: str, fills: Sequence[Fill], facts: Facts
) -> Iterator[Recomputed]:
    """Recompute the fills of one snapshot, in the order of posting."""
    from broker.book_walk import parse_book_id
    from broker.recompute import recompute_walk

    key = parse_book_id(name)
    books = warehouse.books(
        [key.symbol],
        venue=settings.exchange.name.value,
        since=key.decision_time,
        until=key.decision_time + 1,
    )
    taken: Taken | None = None
    for fill in fills:
        found, taken = recompute_walk(
            fill,
            facts.get(fill.fill_id, {}),
            book=books[0] if books else None,
            taken=taken,
        )
        yield found


def _document(account_id: str, found: Sequence[Recomputed]) -> dict[str, Any]:
    return {
        "account": account_id,
        "fills": len(found),
        "equal": sum(one.is_equal for one in found),
        "recomputed": [
            {
                "fill_id": one.fill.fill_id,
                "time": row_time(one.fill.event_time),
                "symbol": one.fill.symbol,
                "kind": one.kind.value,
                "book_id": one.fill.book_id,
                "is_equal": one.is_equal,
                "missing": one.missing or None,
                "differences": [asdict(each) for each in one.differences],
            }
            for one in found
        ],
    }


def _print(account_id: str, found: Sequence[Recomputed]) -> None:
    rows = [
        (
            moment(one.fill.event_time),
            one.fill.symbol,
            str(one.fill.quantity),
            one.kind.value,
            _verdict(one),
        )
        for one in found
    ]
    if rows:
        print_table(["time", "symbol", "quantity", "kind", "recomputed"], rows)
    equal = sum(one.is_equal for one in found)
    print(f"account {account_id}: {equal} of {len(found)} fills are equal")
    for one in found:
        for each in one.differences:
            words = f"{each.figure} is {each.stored}, recomputed {each.recomputed}"
            print(f"ballast: {one.fill.fill_id}: {words}", file=sys.stderr)
    for missing, fills in Counter(one.missing for one in found if one.missing).items():
        print(f"ballast: {missing} ({fills} fills)", file=sys.stderr)


def _verdict(one: Recomputed) -> str:
    if one.is_equal:
        return "equal"
    if one.missing:
        return "not stored"
    return "differs: " + ", ".join(each.figure for each in one.differences)
