"""How quick the broker is: rebalance steps of a batch, one account's decisions, a year replayed.

Everything runs on one thread. ``kernel`` counts account-steps (a plan, fills, funding and the
margin test of ten assets) per processor second; ``account`` counts decisions of one ``Decimal``
account without a store; ``replay`` replays a year of hourly bars of nine perpetuals out of a
warehouse into a SQLite ledger, with weights given once a day and every hour, each in a process of
its own. ``rounding`` is what lots and minimum notionals change of the final equity. The market is
made up from ``--seed``; with ``--data FOLDER`` a recorded year is replayed too
(``benchmarks.recorded_year``). Run as ``python -m benchmarks.broker --json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from benchmarks.document import Check, document
from benchmarks.recorded_year import recorded_year
from broker import kernel
from broker.account import open_account, place_orders, plan_orders
from broker.carry import step
from broker.costs import CostModel, TradingRules
from broker.execution import MarketArrays, market_arrays
from broker.filling import FillBar, execute_pending
from broker.margin import ladder_at
from broker.rebalance import lot_rules
from broker.store import Store
from broker.tiers import shipped_tiers
from daemon.replay import ReplayJob, replay
from daemon.rules import decision_rules
from daemon.settings import Settings
from daemon.targets import FileTarget
from market.bar import DAY_MS, HOUR_MS
from market.clock import monotonic_seconds
from market.instrument import Instrument
from market.panel import ARRAY_FIELDS, Float64Array, Panel
from market.warehouse import Origin, Warehouse

T0 = 1_640_995_200_000  # 2022-01-01
VENUE = "binanceusdm"
BATCHES = (64, 256, 1024)
KERNEL_ASSETS = 10
KERNEL_STEPS = 200
ACCOUNT_DECISIONS = 1_000
YEAR_BARS = 365 * 24
WARM_UP_BARS = 240
REPLAY_SYMBOLS = tuple(
    f"{base}/USDT:USDT"
    for base in ("BTC", "ETH", "BNB", "SOL", "XRP", "ADA", "DOGE", "LTC", "LINK")
)
COSTS = CostModel(fee_rate=0.0005, half_spread_bps=1.0, impact_coefficient=0.1)
RULES = TradingRules(participation_cap=0.1)

Figures = dict[str, Any]


def main() -> None:
    """Run every part and print the document."""
    args = _arguments()
    if args.part:
        figures = _PARTS[args.part](args)
        Path(args.result).write_text(json.dumps(figures), encoding="utf-8")
        return
    figures = {"seed": args.seed}
    parts: dict[str, Callable[[], Figures]] = {
        "kernel": lambda: _kernel(args.seed),
        "account": lambda: _account(args.seed),
        "rounding": lambda: _rounding(args.seed),
        "replay": lambda: _replays(args),
    }
    for name, part in tqdm(parts.items(), unit="part", disable=args.json):
        figures[name] = part()
    print(json.dumps(document("broker", figures, list(_checks(figures))), indent=2))


def made_up_panel(seed: int, *, bars: int, symbols: tuple[str, ...]) -> Panel:
    """Return hourly random walks with mark candles and funding every eight hours."""
    rng = np.random.default_rng(seed)
    shape = (bars, len(symbols))
    level = np.geomspace(30_000, 0.1, len(symbols))
    close = level * np.exp(np.cumsum(rng.normal(0, 0.006, shape), axis=0))
    opened = np.vstack([close[:1], close[:-1]])
    high, low = np.maximum(opened, close) * 1.002, np.minimum(opened, close) * 0.998
    volume = np.exp(rng.normal(14, 0.5, shape)) / level
    rate = np.zeros(shape)
    rate[::8] = rng.normal(1e-4, 1e-4, rate[::8].shape)
    arrays = dict.fromkeys(ARRAY_FIELDS, np.full(shape, np.nan))
    arrays |= {"open": opened, "high": high, "low": low, "close": close, "volume": volume}
    arrays |= {"mark_open": opened, "mark_high": high, "mark_low": low, "mark_close": close}
    arrays |= {"funding_rate": np.where(rate == 0, np.nan, rate)}
    arrays |= {"funding_at_open": rate * opened, "funding_in_bar": np.zeros(shape)}
    open_time = T0 + np.arange(bars, dtype=np.int64) * HOUR_MS
    return Panel(symbols=symbols, interval_ms=HOUR_MS, open_time=open_time, **arrays)


def _instruments(symbols: tuple[str, ...], *, whole: bool = True) -> list[Instrument]:
    """Trading rules: usual steps, or steps so small that nothing is rounded."""
    step = Decimal("0.001") if whole else Decimal("1e-12")
    return [
        Instrument(
            symbol=symbol,
            venue_symbol=symbol.split(":")[0].replace("/", ""),
            base=symbol.split("/")[0],
            quote="USDT",
            tick_size=Decimal("0.01"),
            lot_step=step,
            min_quantity=step,
            max_quantity=None,
            min_notional=Decimal(5) if whole else Decimal(0),
            funding_interval_minutes=480,
        )
        for symbol in symbols
    ]


def _targets(seed: int, *, steps: int, accounts: int, assets: int) -> Float64Array:
    """(steps, accounts, assets) weights whose sum is below 0.95."""
    rng = np.random.default_rng(seed)
    weights: Float64Array = rng.dirichlet(np.ones(assets + 1), (steps, accounts))[..., :assets]
    return weights * 0.95


def _carry(
    arrays: MarketArrays, symbols: tuple[str, ...], targets: Float64Array, *, whole: bool = True
) -> Float64Array:
    """Equity (accounts,) after rebalancing every account to its target at every close."""
    steps, accounts, assets = targets.shape
    lots = lot_rules(_instruments(symbols, whole=whole))
    schedule = shipped_tiers().schedule(symbols)
    ladder = ladder_at(schedule, T0 + np.arange(1, steps + 2, dtype=np.int64) * HOUR_MS)
    shape = (accounts, assets)
    book = kernel.Book(np.full(accounts, 10_000.0), np.zeros(shape), np.zeros(shape))
    value = book.wallet
    for bar in range(steps):
        liquidity = arrays.liquidity_at(bar)
        plan = kernel.plan_rebalance(
            targets[bar], book, arrays.price[bar], arrays.mark[bar],
            tradable=arrays.tradable[bar], liquidity=liquidity, lots=lots, costs=COSTS, rules=RULES,
        )  # fmt: skip
        interval = arrays.interval(bar + 1, ladder)
        limits = kernel.FillLimits(
            kernel.capacity(interval.volume, RULES.participation_cap), lots.lot_step, False
        )
        done = step(
            book, plan.traded, interval,
            liquidity=liquidity, costs=COSTS, limits=limits, schedule=schedule,
        )  # fmt: skip
        book, value = done.book, done.equity
    return value


def _kernel(seed: int) -> Figures:
    symbols = tuple(f"K{number}/USDT:USDT" for number in range(KERNEL_ASSETS))
    arrays = market_arrays(made_up_panel(seed, bars=KERNEL_STEPS + 1, symbols=symbols))
    figures: Figures = {"assets": KERNEL_ASSETS, "steps": KERNEL_STEPS}
    for accounts in BATCHES:
        targets = _targets(seed, steps=KERNEL_STEPS, accounts=accounts, assets=KERNEL_ASSETS)
        _carry(arrays, symbols, targets[:10])
        seconds = _processor_seconds_of(lambda: _carry(arrays, symbols, targets))  # noqa: B023  # called at once
        figures[f"account_steps_per_second_{accounts}"] = round(accounts * KERNEL_STEPS / seconds)
    return figures


def _account(seed: int) -> Figures:
    """Plan and fill one account's orders in every bar; nothing is stored."""
    symbols = REPLAY_SYMBOLS
    panel = made_up_panel(seed, bars=ACCOUNT_DECISIONS + 1, symbols=symbols)
    instruments = {one.symbol: one for one in _instruments(symbols)}
    targets = _targets(seed, steps=ACCOUNT_DECISIONS, accounts=1, assets=len(symbols))[:, 0]
    depth = dict.fromkeys(symbols, (1e9, 0.03))

    def named(values: Float64Array) -> dict[str, float]:
        return dict(zip(symbols, map(float, values), strict=True))

    def live() -> None:
        state, _ = open_account("main", deposit=Decimal(10_000), quote="USDT", time=T0 - 1)
        for bar in range(ACCOUNT_DECISIONS):
            close = named(panel.close[bar])
            plan = plan_orders(
                state, target_weights=named(targets[bar]), price=close, mark=close,
                instruments=instruments, costs=COSTS, rules=RULES,
                decision_time=int(panel.close_time[bar]), tradable=set(symbols), liquidity=depth,
            )  # fmt: skip
            following = FillBar(
                open_time=int(panel.open_time[bar + 1]),
                open_price=named(panel.open[bar + 1]),
                volume=named(panel.volume[bar + 1]),
                liquidity=depth,
            )
            state = execute_pending(
                place_orders(state, plan.orders), following,
                instruments=instruments, costs=COSTS, rules=RULES,
            ).state  # fmt: skip

    seconds = _processor_seconds_of(live)
    return {
        "symbols": len(symbols),
        "decisions_per_second": round(ACCOUNT_DECISIONS / seconds, 1),
    }


def _rounding(seed: int) -> Figures:
    """Final equity of 256 accounts with lots and minimums, against the same without."""
    symbols = tuple(f"K{number}/USDT:USDT" for number in range(KERNEL_ASSETS))
    arrays = market_arrays(made_up_panel(seed, bars=501, symbols=symbols))
    targets = _targets(seed, steps=500, accounts=256, assets=KERNEL_ASSETS)
    rounded, exact = (_carry(arrays, symbols, targets, whole=whole) for whole in (True, False))
    apart = np.abs(rounded / exact - 1.0)
    return {
        "steps": 500,
        "accounts": 256,
        "median_relative_difference": float(np.median(apart)),
        "most_relative_difference": float(apart.max()),
    }


def _replays(args: argparse.Namespace) -> Figures:
    with tempfile.TemporaryDirectory(prefix="ballast-broker-") as folder:
        return {
            part: _run(part, args, Path(folder))
            for part in _PARTS
            if part != "recorded_year" or args.data is not None
        }


def _run(part: str, args: argparse.Namespace, folder: Path) -> Figures:
    """Return the figures of one replay, made in a fresh process."""
    result = folder / "result.json"
    command = [sys.executable, "-m", "benchmarks.broker", "--part", part]
    command += ["--folder", str(folder), "--result", str(result), "--seed", str(args.seed)]
    command += ["--data", str(args.data)] if args.data is not None else []
    subprocess.run(command, check=True, stdout=sys.stderr)
    figures: Figures = json.loads(result.read_text(encoding="utf-8"))
    return figures


def _fill_warehouse(args: argparse.Namespace) -> Figures:
    panel = made_up_panel(args.seed, bars=YEAR_BARS + WARM_UP_BARS, symbols=REPLAY_SYMBOLS)
    warehouse = Warehouse.open(f"chdb://{args.folder}/warehouse")
    names = pa.array(np.tile(REPLAY_SYMBOLS, len(panel)))
    times = np.repeat(panel.open_time, len(REPLAY_SYMBOLS))
    prices = {name: getattr(panel, name).ravel() for name in ("open", "high", "low", "close")}
    bars = {"symbol": names, "open_time": times, **prices, "volume": panel.volume.ravel()}
    scope: dict[str, Any] = {"venue": VENUE, "interval_ms": HOUR_MS, "ingested_at": 1}
    warehouse.insert_bar_table(pa.table(bars), origin=Origin.IMPORT, **scope)
    marks = {"symbol": names, "open_time": times, **prices}
    warehouse.insert_mark_bar_table(pa.table(marks), **scope)
    due = ~np.isnan(panel.funding_rate.ravel())
    settlements = {
        "symbol": names.filter(pa.array(due)),
        "funding_time": times[due],
        "rate": panel.funding_rate.ravel()[due],
        "mark_price": panel.open.ravel()[due],
        "mark_source": pa.array(["venue"] * int(due.sum())),
    }
    warehouse.insert_settlement_table(pa.table(settlements), venue=VENUE, ingested_at=1)
    warehouse.close()
    return {"bars": len(times), "settlements": int(due.sum())}


def _replay(args: argparse.Namespace, *, daily: bool) -> Figures:
    """Replay the year with equal weights, once a day or in every hour with other weights."""
    first = T0 + WARM_UP_BARS * HOUR_MS
    last = first + YEAR_BARS * HOUR_MS - HOUR_MS
    rng = np.random.default_rng(args.seed)
    schedule = {
        time: dict(
            zip(
                REPLAY_SYMBOLS,
                [0.1] * len(REPLAY_SYMBOLS)
                if daily
                else (0.9 * rng.dirichlet(np.ones(len(REPLAY_SYMBOLS)))).tolist(),
                strict=True,
            )
        )
        for time in range(first, last + 1, DAY_MS if daily else HOUR_MS)
    }
    settings = Settings.model_validate(
        {"exchange": {"symbols": list(REPLAY_SYMBOLS)}, "protection": {"drawdown_limit": 0.99}}
    )
    rules = decision_rules(settings, tuple(_instruments(REPLAY_SYMBOLS)))
    warehouse = Warehouse.open(f"chdb://{args.folder}/warehouse")
    store = Store.open(f"sqlite:///{args.folder}/{args.part}.sqlite")
    job = ReplayJob(
        account_id="replay-benchmark",
        deposit=Decimal(100_000),
        venue=VENUE,
        symbols=REPLAY_SYMBOLS,
        interval_ms=HOUR_MS,
        since=first,
        until=last,
        target=FileTarget(schedule=schedule, now=0),
        required_bars=1,
        rules=rules,
    )
    started, used = monotonic_seconds(), _processor_seconds()
    summary = replay(job, warehouse=warehouse, store=store, progress=lambda _done, _total: None)
    seconds, processor = monotonic_seconds() - started, _processor_seconds() - used
    problems = store.check(job.account_id)
    store.close()
    warehouse.close()
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "decisions": summary.decisions_this_run,
        "fills": summary.fills,
        "problems": len(problems),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def _checks(figures: Mapping[str, Any]) -> Iterator[Check]:
    for part, limit in (("daily", 10), ("hourly", 40)):
        one = figures["replay"][part]
        yield _at_most(f"replay_year_{part}_seconds", one["seconds"], limit)
        yield _at_most(f"replay_year_{part}_ledger_problems", one["problems"], 0)
    if (year := figures["replay"].get("recorded_year")) is not None:
        yield _at_most("recorded_year_ledger_problems", year["ledger_problems"], 0)


def _at_most(name: str, value: float, limit: float) -> Check:
    return Check(name=name, value=round(value, 3), target=f"<= {limit:g}", holds=value <= limit)


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _processor_seconds_of(work: Callable[[], object]) -> float:
    before = _processor_seconds()
    work()
    return _processor_seconds() - before


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.broker", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the made-up market (1)")
    parser.add_argument("--data", type=Path, help="folder of recorded market data")
    parser.add_argument("--json", action="store_true", help="print the JSON document alone")
    parser.add_argument("--part", choices=sorted(_PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--result", help=argparse.SUPPRESS)
    return parser.parse_args()


_PARTS: Mapping[str, Callable[[argparse.Namespace], Figures]] = {
    "market": _fill_warehouse,
    "daily": lambda args: _replay(args, daily=True),
    "hourly": lambda args: _replay(args, daily=False),
    "recorded_year": lambda args: recorded_year(args.data, args.folder),
}


if __name__ == "__main__":
    main()
