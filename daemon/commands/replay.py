"""``ballast replay``: the live decision path over warehouse history, at full speed."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
from decimal import Decimal
from pathlib import Path

from broker.records import EquityCurve
from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    settings_from,
)
from daemon.settings import Settings

ACCOUNT_PREFIX = "replay-"


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "replay",
        help="decide over recorded history, on an account of its own",
        description="Run the decision path of the daemon over the bars of the warehouse. The "
        "weights come from a model (default: the champion) or from a CSV file with columns "
        "decision_time,symbol,weight; a time that is not in the file holds.",
    )
    parser.add_argument("--since", required=True, metavar="TIME", help="first decision, UTC")
    parser.add_argument("--until", required=True, metavar="TIME", help="last decision, UTC")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", metavar="ID", help="a model of the registry")
    source.add_argument("--weights", type=Path, metavar="FILE.csv", help="weights to follow")
    source.add_argument("--equal-weight", action="store_true", help="equal weights at every bar")
    parser.add_argument("--account", metavar="ID", help="default: a name made of the arguments")
    parser.add_argument("--equity", type=Path, metavar="FILE.csv", help="write the equity curve")
    add_settings_options(parser)
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Check everything, then replay."""
    from broker.store import Store
    from daemon.progress import ProgressBar
    from daemon.replay import ReplayRejected, replay
    from daemon.rules import check_account
    from market.warehouse import Warehouse

    settings = settings_from(args)
    check_account(settings)
    job = _job(args, settings)
    if not settings.state_dir.exists():
        raise UsageError(f"{settings.state_dir}: no state there; `ballast import` bars first")
    warehouse = Warehouse.open(settings.warehouse_url)
    store = Store.open(settings.ledger_url)
    try:
        with ProgressBar("replay", unit="bars") as bar:
            summary = replay(
                job,
                warehouse=warehouse,
                store=store,
                progress=lambda done, total: bar.show("bars", done, total),
            )
        if args.equity is not None:
            _write_equity(args.equity, store.equity_curve(job.account_id))
    except ReplayRejected as error:
        raise UsageError(str(error)) from None
    finally:
        store.close()
        warehouse.close()
    if args.json:
        print_json(summary.to_json())
    else:
        print(summary.to_text())
    return 0


def _job(args: argparse.Namespace, settings: Settings):  # type: ignore[no-untyped-def]  # imported when it runs
    from daemon.replay import ReplayJob
    from daemon.rules import decision_rules, quoted_costs
    from daemon.targets import parse_time
    from market.sandbox.rules import list_instruments

    interval = settings.exchange.interval_ms
    since, until = parse_time(args.since, "--since"), parse_time(args.until, "--until")
    since, until = since + -since % interval, until - until % interval
    if since > until:
        raise UsageError(f"--since {args.since} is later than --until {args.until}")
    target, required_bars = _target(args, settings, since, until)
    if args.account is not None and not args.account.startswith(ACCOUNT_PREFIX):
        raise UsageError(f"--account {args.account}: a replay's account starts with replay-")
    return ReplayJob(
        account_id=args.account or _account_id(args, settings, target.model_id),
        deposit=Decimal(str(settings.account.deposit_quote)),
        venue=settings.exchange.name.value,
        symbols=settings.exchange.symbols,
        interval_ms=interval,
        since=since,
        until=until,
        target=target,
        required_bars=required_bars,
        rules=decision_rules(
            settings,
            list_instruments(settings.exchange.symbols, venue=settings.exchange.name),
            quoted=quoted_costs(settings),
        ),
    )


def _target(args: argparse.Namespace, settings: Settings, since: int, until: int):  # type: ignore[no-untyped-def]  # as above
    from daemon.targets import EqualWeightTarget, FileTarget, PolicyTarget, load_weights, row_time
    from market.features import WARMUP_BARS

    if args.equal_weight:
        return EqualWeightTarget(), WARMUP_BARS
    if args.weights is not None:
        schedule = load_weights(
            args.weights,
            symbols=settings.exchange.symbols,
            leverage_limit=settings.account.leverage_limit,
            allow_short=settings.account.allow_short,
        )
        for time in schedule:
            if time % settings.exchange.interval_ms or not since <= time <= until:
                raise UsageError(
                    f"{args.weights}: decision_time {row_time(time)} is not the close of a bar "
                    "between --since and --until"
                )
        return FileTarget(schedule=schedule, now=0), WARMUP_BARS
    policy = _policy(args.model, settings)
    return PolicyTarget(policy=policy), policy.required_bars


def _policy(model_id: str | None, settings: Settings):  # type: ignore[no-untyped-def]  # as above
    from broker.database import database_exists
    from training.registry import Registry, UnknownModel

    if not database_exists(settings.ledger_url):
        raise UsageError(f"{settings.ledger_url}: no registry there; name weights with --weights")
    registry = Registry.open(settings.ledger_url)
    try:
        if model_id is not None:
            return _fitting(model_id, registry.model(model_id).artefact_path, settings)
        champion = registry.champion()
        if champion is None:
            raise UsageError("no model leads; name one with --model, or weights with --weights")
        return _fitting(champion.model_id, champion.artefact_path, settings)
    except UnknownModel as error:
        raise UsageError(str(error)) from None
    finally:
        registry.close()


def _fitting(model_id: str, path: Path, settings: Settings):  # type: ignore[no-untyped-def]  # as above
    """Load a model, unless it would hold at every decision."""
    from daemon.deployment import check_fits
    from training.artefact import ArtefactRejected
    from training.inference import load_policy

    try:
        policy = load_policy(path)
        check_fits(policy, settings)
    except (ArtefactRejected, ValueError) as error:
        raise UsageError(f"model {model_id}: {error}") from None
    return policy


def _account_id(args: argparse.Namespace, settings: Settings, model_id: str | None) -> str:
    """Name the account after everything that decides its history."""
    from daemon.rules import margin_table

    weights = args.weights.read_text(encoding="utf-8") if args.weights else None
    facts = [args.since, args.until, model_id, args.equal_weight, weights]
    # Not the name of the file with the tiers: what is in it.
    facts += [settings.account.model_dump(exclude={"margin_tiers"}), settings.costs.model_dump()]
    facts += [margin_table(settings).content_hash]
    facts += [settings.protection.model_dump()]
    facts += [settings.exchange.model_dump(mode="json")]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return f"{ACCOUNT_PREFIX}{digest[:12]}"


def _write_equity(path: Path, curve: EquityCurve) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["decision_time", "equity"])
        writer.writerows(
            (int(time), repr(float(equity)))
            for time, equity in zip(curve.decision_time, curve.equity, strict=True)
        )
