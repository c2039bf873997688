"""What the commands about stored data share: the store, and which rows of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
)
from daemon.settings import Settings
from market.bar import interval_ms

if TYPE_CHECKING:
    from market.warehouse import Warehouse

EXIT_STORE = 3


def add_action(
    actions: Subparsers, name: str, *, description: str, epilog: str, brief: str
) -> argparse.ArgumentParser:
    """Add an action on stored rows, with the options that choose a store and rows of it."""
    parser = actions.add_parser(
        name,
        help=brief,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--interval", metavar="INTERVAL", help="length of the bars, such as 1h")
    parser.add_argument(
        "--symbol", action="append", metavar="SYMBOL", help="only this one; may be repeated"
    )
    add_settings_options(parser)
    add_json_option(parser)
    return parser


@contextmanager
def opened(settings: Settings) -> Iterator[Warehouse]:
    """Open the warehouse of the settings, and never make one.

    Raises:
        UsageError: there is none.
        WarehouseError: another process owns it, or the server does not answer.
    """
    from market.store_url import EmbeddedStore, parse_store_url
    from market.warehouse import Warehouse

    store = parse_store_url(settings.warehouse_url)
    if isinstance(store, EmbeddedStore) and not store.path.is_dir():
        raise UsageError(
            f"{store.path}: no warehouse there; name another with --state-dir or --config, or "
            "fill it with ballast import or ballast backfill"
        )
    warehouse = Warehouse.open(settings.warehouse_url)
    try:
        yield warehouse
    finally:
        warehouse.close()


def store_closed(error: Exception) -> int:
    """Report a store that cannot be opened or read, and return the exit code for it."""
    print(f"ballast: error: {error}", file=sys.stderr)
    return EXIT_STORE


def interval_option(args: argparse.Namespace) -> int | None:
    """Read ``--interval`` as milliseconds; ``None`` where it was not given.

    Raises:
        UsageError: it is no interval.
    """
    if args.interval is None:
        return None
    try:
        return interval_ms(args.interval)
    except ValueError as error:
        raise UsageError(f"--interval: {error}") from None
