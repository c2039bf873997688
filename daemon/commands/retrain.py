"""``ballast retrain``: train a candidate, judge it walk-forward, say why it may lead or not."""

from __future__ import annotations

import argparse
import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    settings_from,
)
from daemon.settings import Settings

NICENESS = 10


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "retrain",
        help="train and judge a candidate now",
        description="Train on a snapshot of the warehouse, judge the candidate walk-forward, and "
        "promote it if every hard gate holds. Exit code 0 whether it is promoted or refused.",
    )
    add_settings_options(parser)
    parser.add_argument("--snapshot", type=Path, metavar="DIR", help="use this frozen snapshot")
    parser.add_argument("--preset", choices=["bootstrap", "default", "textbook"])
    parser.add_argument(
        "--no-promote", action="store_true", help="leave the pointer alone, whatever the verdict"
    )
    parser.add_argument("--supervised", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--run-id", help=argparse.SUPPRESS)
    parser.add_argument("--trigger", default="manual", help=argparse.SUPPRESS)
    parser.add_argument("--at", type=int, help=argparse.SUPPRESS)
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Run under the daemon's supervision, or alone for a person."""
    return _supervised(args) if args.supervised else _alone(args)


def _supervised(args: argparse.Namespace) -> int:
    """Take the settings from stdin, write JSON lines to stdout, end when the daemon does."""
    from training.progress import event_line

    settings = Settings.model_validate_json(_first_line())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _be_modest(settings.training.memory_limit_mb)
    _retrain(
        settings,
        _terms(settings),
        run_id=args.run_id,
        trigger=args.trigger,
        snapshot=args.snapshot,
        at=args.at,
        listener=lambda event: print(event_line(event), flush=True),
    )
    return 0


def _alone(args: argparse.Namespace) -> int:
    from daemon.progress import ProgressBar
    from market.clock import WallClock
    from training.progress import StageProgress
    from training.registry import Registry
    from training.report import verdict_json, verdict_text

    settings = settings_from(args, training={"preset": args.preset, "first_preset": args.preset})
    terms, now = _terms(settings), WallClock().now()
    snapshot = args.snapshot or _take_snapshot(settings)
    _be_modest(settings.training.memory_limit_mb)
    with ProgressBar("retraining") as bar:

        def listener(event: object) -> None:
            if isinstance(event, StageProgress):
                bar.show(event.stage.value, round(event.fraction * 1000), 1000)

        result = _retrain(
            settings, terms, run_id=f"run-{now}", trigger="manual", snapshot=snapshot, at=now,
            listener=listener,
        )  # fmt: skip
    promoted = result.verdict.passed and not args.no_promote
    if promoted:
        registry = Registry.open(settings.ledger_url)
        registry.promote(result.model_id, reason="passed every hard gate", at=now)
        registry.close()
    if args.json:
        verdict = verdict_json(result.verdict)
        print_json({"model_id": result.model_id, "promoted": promoted, **verdict})
    else:
        print(verdict_text(result.verdict, facts={"model": result.model_id}), end="")
        print("promoted" if promoted else "not promoted")
    return 0


def _terms(settings: Settings) -> dict[str, Any]:
    """What the accounts that train and judge go by; refused before anything is written."""
    from daemon.rules import check_account, margin_table, trading_rules, training_costs

    check_account(settings)
    training_costs(settings, settings.exchange.symbols)
    return {"rules": trading_rules(settings), "margin": margin_table(settings)}


def _retrain(settings: Settings, terms, *, run_id, trigger, snapshot, at, listener):  # type: ignore[no-untyped-def]  # imported when it runs
    from daemon.rules import training_costs
    from market.snapshot import load_snapshot
    from training.config import preset
    from training.pipeline import FoldSettings, RetrainRequest, retrain
    from training.registry import Registry

    registry = Registry.open(settings.ledger_url)
    first = registry.champion() is None
    registry.close()
    name = settings.training.first_preset if first else settings.training.preset
    config = preset(name).replace(
        features=settings.training.features,
        seeds=tuple(range(1, settings.training.seeds + 1)),
        deposit_quote=settings.account.deposit_quote,
        signals=settings.training.signal_columns,
    )
    request = RetrainRequest(
        run_id=run_id,
        trigger=trigger,
        snapshot_dir=snapshot,
        registry_url=settings.ledger_url,
        models_dir=settings.state_dir / "models",
        at=at,
        config=config,
        costs=training_costs(settings, load_snapshot(snapshot).panel.symbols),
        **terms,
        folds=FoldSettings(windows=settings.training.windows),
        workers=settings.training.workers,
    )
    return retrain(request, listener)


def _take_snapshot(settings: Settings) -> Path:
    """Freeze what the warehouse holds; the daemon must not be running on an embedded one."""
    from daemon.history import freeze
    from market.warehouse import Warehouse

    warehouse = Warehouse.open(settings.warehouse_url)
    try:
        ends = [
            one.last_open_time
            for one in warehouse.coverage(
                venue=settings.exchange.name.value, interval_ms=settings.exchange.interval_ms
            )
            if one.symbol in settings.exchange.symbols
        ]
        if not ends:
            raise UsageError(
                f"{settings.warehouse_url}: no bars of {', '.join(settings.exchange.symbols)}; "
                "run `ballast run` or `ballast import` first"
            )
        until = max(ends) + settings.exchange.interval_ms
        return freeze(settings, warehouse, until=until).directory
    finally:
        warehouse.close()


def _be_modest(memory_limit_mb: int) -> None:
    """Yield the processor to trading and bound the memory; workers inherit both."""
    os.nice(NICENESS)
    limit = memory_limit_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _first_line() -> bytes:
    """Read the settings from the pipe, byte by byte so that nothing else is taken from it."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line


def _end_with_parent() -> None:
    """End this process group when the daemon's pipe closes, however the daemon died."""
    while os.read(0, 4096):  # unbuffered: nothing to hold at interpreter shutdown
        pass
    os.killpg(os.getpgrp(), signal.SIGTERM)
