"""``ballast account costs``: what trading was modelled to cost, and what the books say it costs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from daemon.commands.account import add_account_options, open_ledger
from daemon.commands.common import (
    Subparsers,
    UsageError,
    print_json,
    print_table,
    settings_from,
)
from daemon.commands.spans import add_span_options, check_span, moment, span_options
from daemon.commands.stored import opened, store_closed
from daemon.settings import Settings
from market.bar import DAY_MS

if TYPE_CHECKING:
    from broker.calibration import (
        Calibration,
        Estimate,
        NotCalibrated,
        SymbolCosts,
    )
    from broker.orders import Fill
    from broker.realised_costs import RealisedCosts
    from broker.store import Store
    from market.warehouse import Warehouse

DEFAULT_SPAN_MS = 28 * DAY_MS
SIZE_STEPS = 6
SEED = 0

COSTS = """\
Show per symbol what trading was modelled to cost and what the recorded order books say it costs.

The half spread, and the coefficient of the square-root impact, are estimated from the books and
quotes that were recorded at each close: from their best prices, and from walks of several sizes
over each book. Each number has a 95 % interval and its source. Below a week of 168 snapshots, or
where more than a twentieth of them cannot be used, there is no number but a reason. Realised is
what the fills that walked a book cost besides the fee, beside what the model says of the same
fills. How all of it is computed: docs/costs.md."""

COSTS_END = """\
examples:
  ballast account costs                         the last 28 days of books
  ballast account costs --since 2024-06-01 --until 2024-07-01 --json
  ballast account costs --size 500 --size 5000  walk these notionals, in quote currency
  ballast account costs --save                  the next training charges what was found

exit codes: 0 done; 1 --save and there is no number to save; 2 bad input; 3 the warehouse cannot be
opened (a daemon that runs owns an embedded one)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """Books with ``since <= decision_time < until``, UTC milliseconds."""

    since: int
    until: int


def add(verbs: Subparsers) -> None:
    """Add the verb."""
    verb = verbs.add_parser(
        "costs",
        help="modelled against realised costs, and a calibration from recorded books",
        description=COSTS,
        epilog=COSTS_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_span_options(
        verb,
        since="first decision (default: 28 days before the end)",
        until="decisions before this (default: all)",
    )
    verb.add_argument(
        "--size",
        action="append",
        type=float,
        metavar="QUOTE",
        help="a notional to walk; may be repeated (default: what the account can order, halved "
        f"{SIZE_STEPS - 1} times)",
    )
    verb.add_argument("--save", action="store_true", help="keep it in the ledger for training")
    add_account_options(verb)
    verb.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Estimate, compare, print, and save where that was asked for."""
    from broker.calibrated_costs import META_KEY, write_calibration
    from market.warehouse import WarehouseError

    since, until = span_options(args)
    settings = settings_from(args)
    store, account_id = open_ledger(args)
    with closing(store):
        check_market(store, settings)
        sizes = _sizes(args, store, account_id, settings)
        try:
            with opened(settings) as warehouse:
                span = _span(warehouse, since, until)
                found = _calibration(warehouse, settings, span, sizes)
                realised = _realised(store, account_id, warehouse, settings, span)
        except WarehouseError as error:
            return store_closed(error)
        worth_saving = any(_has_number(one) for one in found.symbols.values())
        if args.save and worth_saving:
            store.set_meta(META_KEY, write_calibration(found))
    if args.json:
        print_json(_document(account_id, settings, span, sizes, found, realised))
    else:
        _print(settings, span, found, realised)
    if args.save and not worth_saving:
        print("ballast: nothing saved: no symbol has a number", file=sys.stderr)
        return 1
    return 0


def check_market(store: Store, settings: Settings) -> None:
    """Refuse settings of another market than the ledger's: its data would not be the account's.

    Raises:
        UsageError: naming both.
    """
    from daemon.stores import MARKET_KEY

    known = store.meta(MARKET_KEY)
    if known not in (None, settings.market_identity):
        raise UsageError(
            f"{settings.ledger_url}: its account trades {known!r}, the settings say "
            f"{settings.market_identity!r}; name its own with --config or --exchange"
        )


def _sizes(
    args: argparse.Namespace, store: Store, account_id: str, settings: Settings
) -> tuple[float, ...]:
    """The notionals to walk: those asked for, else the largest order of the account and less."""
    if args.size:
        wrong = [size for size in args.size if not 0 < size < float("inf")]
        if wrong:
            raise UsageError(f"--size {wrong[0]:g}: must be a positive notional")
        return tuple(sorted(set(args.size)))
    latest = store.recent_decisions(account_id, 1)
    equity = latest[0].equity if latest and latest[0].equity > 0 else settings.account.deposit_quote
    largest = equity * settings.account.leverage_limit
    return tuple(largest / 2**step for step in reversed(range(SIZE_STEPS)))


def _span(warehouse: Warehouse, since: int | None, until: int | None) -> _Span:
    end = warehouse.newest_close() + 1 if until is None else until
    begin = max(0, end - DEFAULT_SPAN_MS) if since is None else since
    check_span(begin, end)
    return _Span(since=begin, until=end)


def _calibration(
    warehouse: Warehouse, settings: Settings, span: _Span, sizes: Sequence[float]
) -> Calibration:
    from broker.calibration import Calibration
    from daemon.rules import book_origin, cost_model

    return Calibration(
        origin=book_origin(settings),
        fee_rate=cost_model(settings).fee_rate,
        symbols={
            symbol: _symbol_costs(warehouse, settings, symbol, span, sizes)
            for symbol in settings.exchange.symbols
        },
    )


def _symbol_costs(
    warehouse: Warehouse, settings: Settings, symbol: str, span: _Span, sizes: Sequence[float]
) -> SymbolCosts:
    import numpy as np

    from broker.calibration import (
        SymbolCosts,
        estimate_half_spread,
        estimate_impact,
        half_tick_bps,
    )
    from daemon.rules import book_origin

    venue = settings.exchange.name.value
    books = warehouse.books([symbol], venue=venue, since=span.since, until=span.until)
    quotes = warehouse.quotes([symbol], venue=venue, since=span.since, until=span.until)
    whose, rng = book_origin(settings), np.random.default_rng(SEED)
    return SymbolCosts(
        half_spread_bps=estimate_half_spread(books, quotes, origin=whose, rng=rng),
        impact_coefficient=estimate_impact(
            books,
            _liquidity(warehouse, settings, symbol, span) if books else {},
            sizes_quote=sizes,
            origin=whose,
            rng=rng,
        ),
        half_tick_bps=half_tick_bps(books),
    )


def _liquidity(
    warehouse: Warehouse, settings: Settings, symbol: str, span: _Span
) -> dict[int, tuple[float, float]]:
    """(ADV, daily σ) by decision time, from the bars that had closed by then."""
    from broker.execution import REQUIRED_BARS, liquidity

    interval = settings.exchange.interval_ms
    panel = warehouse.load_panel(
        [symbol],
        venue=settings.exchange.name.value,
        interval_ms=interval,
        since=max(0, span.since - REQUIRED_BARS * interval),
        until=span.until,
    )
    known = liquidity(panel)
    return {
        int(time): (float(known.adv_quote[row, 0]), float(known.sigma_daily[row, 0]))
        for row, time in enumerate(panel.close_time)
    }


def _realised(
    store: Store, account_id: str, warehouse: Warehouse, settings: Settings, span: _Span
) -> dict[str, RealisedCosts]:
    """By symbol, of the fills that walked a book of the span."""
    import numpy as np

    from broker.book_walk import parse_book_id
    from broker.realised_costs import realised_costs
    from daemon.rules import cost_model

    fills: dict[str, list[Fill]] = {}
    for fill in store.fills(account_id, since=span.since):
        if fill.book_id is None:
            continue
        if span.since <= parse_book_id(fill.book_id).decision_time < span.until:
            fills.setdefault(fill.symbol, []).append(fill)
    rng, costs = np.random.default_rng(SEED), cost_model(settings)
    found = {
        symbol: realised_costs(
            own, _liquidity(warehouse, settings, symbol, span), costs=costs, rng=rng
        )
        for symbol, own in sorted(fills.items())
    }
    return {name: one for name, one in found.items() if one is not None}


def _has_number(costs: SymbolCosts) -> bool:
    from broker.calibration import Estimate

    return isinstance(costs.half_spread_bps, Estimate) or isinstance(
        costs.impact_coefficient, Estimate
    )


def _document(
    account_id: str,
    settings: Settings,
    span: _Span,
    sizes: Sequence[float],
    found: Calibration,
    realised: Mapping[str, RealisedCosts],
) -> dict[str, Any]:
    from broker.calibrated_costs import symbol_costs
    from daemon.rules import cost_model

    configured = cost_model(settings)
    return {
        "account": account_id,
        "market": settings.market_identity,
        "origin": asdict(found.origin),
        "since": span.since,
        "until": span.until,
        "sizes_quote": list(sizes),
        "modelled": asdict(configured),
        "symbols": {
            symbol: asdict(costs)
            | {
                "calibrated": asdict(symbol_costs(configured, found, symbol, account=found.origin)),
                "realised": asdict(realised[symbol]) if symbol in realised else None,
            }
            for symbol, costs in found.symbols.items()
        },
    }


def _print(
    settings: Settings, span: _Span, found: Calibration, realised: Mapping[str, RealisedCosts]
) -> None:
    from broker.calibration import NotCalibrated
    from daemon.rules import cost_model

    model = cost_model(settings)
    print(
        f"{settings.market_identity}, books from {moment(span.since)} to {moment(span.until)} UTC\n"
        f"modelled: fee {model.fee_rate * 1e4:g} bps, half spread {model.half_spread_bps:g} bps, "
        f"impact coefficient {model.impact_coefficient:g}\n"
    )
    header = ["symbol", "half spread bps", "impact coefficient", "half tick bps"]
    header += ["fills", "realised bps", "modelled bps", "error bps"]
    print_table(
        header,
        [_row(symbol, costs, realised.get(symbol)) for symbol, costs in found.symbols.items()],
    )
    for symbol, costs in found.symbols.items():
        numbers = {
            "half spread": costs.half_spread_bps,
            "impact coefficient": costs.impact_coefficient,
        }
        for name, one in numbers.items():
            if isinstance(one, NotCalibrated):
                print(f"{symbol}: no {name}: {one.reason.value}: {one.detail}")


def _row(symbol: str, costs: SymbolCosts, realised: RealisedCosts | None) -> list[object]:
    row: list[object] = [
        symbol,
        _figure(costs.half_spread_bps),
        _figure(costs.impact_coefficient),
        f"{costs.half_tick_bps:.4g}",
    ]
    if realised is None:
        return [*row, 0, "-", "-", "-"]
    error = realised.error_interval_bps
    return [
        *row,
        realised.fills,
        f"{realised.realised_bps:.4g}",
        f"{realised.modelled_bps:.4g}",
        "-" if error is None else f"[{error[0]:.3g}, {error[1]:.3g}]",
    ]


def _figure(one: Estimate | NotCalibrated) -> str:
    from broker.calibration import NotCalibrated

    if isinstance(one, NotCalibrated):
        return "-"
    return f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}] n={one.source.snapshots}"
