"""``ballast models``: every candidate, its verdict, and which one leads."""

from __future__ import annotations

import argparse
import sys

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    print_table,
    settings_from,
)
from daemon.settings import Settings
from daemon.targets import row_time


def add(subparsers: Subparsers) -> None:
    """Add the command and its verbs."""
    parser = subparsers.add_parser(
        "models",
        help="list, show, promote, roll back or verify models",
        description="The registry of models: why each was promoted or refused.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, (words, execute, wants_model) in {
        "list": ("every model and its verdict", list_models, False),
        "show": ("one verdict in full (default: the newest)", show, True),
        "promote": ("let a model lead; a refused one needs --force --reason", promote, True),
        "rollback": ("let the champion before this one lead again", rollback, False),
        "verify": ("load an artefact and run its self-check", verify, True),
    }.items():
        verb = verbs.add_parser(name, help=words, description=words[:1].upper() + words[1:] + ".")
        if wants_model:
            verb.add_argument("model_id", nargs="?", metavar="MODEL", help="default: the newest")
        if name in ("promote", "rollback"):
            verb.add_argument("--reason", default="", help="for the audit trail")
        if name == "promote":
            verb.add_argument("--force", action="store_true", help="although the gates refused")
        add_settings_options(verb)
        add_json_option(verb)
        verb.set_defaults(execute=execute)


def list_models(args: argparse.Namespace) -> int:
    """Print one row for each model."""
    registry = _registry(settings_from(args))
    rows = [
        {
            "model": model.model_id,
            "created": row_time(model.created_at),
            "verdict": "passed" if model.passed else "refused",
            "leads": model.leads,
            "snapshot": model.snapshot_id,
        }
        for model in registry.list_models()
    ]
    if args.json:
        print_json(rows)
    elif rows:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        print("no model has been trained yet")
    return 0


def show(args: argparse.Namespace) -> int:
    """Print the verdict on one model."""
    from training.report import verdict_json, verdict_text

    registry = _registry(settings_from(args))
    model = registry.model(_chosen(registry, args.model_id))
    verdict = registry.verdict(model.model_id)
    facts = {
        "model": model.model_id,
        "created": row_time(model.created_at),
        "snapshot": model.snapshot_id,
        "artefact": str(model.artefact_path),
    }
    if args.json:
        print_json({**facts, **verdict_json(verdict)})
    else:
        print(verdict_text(verdict, facts=facts), end="")
    return 0


def promote(args: argparse.Namespace) -> int:
    """Move the pointer to a model; a running daemon deploys it at its next decision."""
    from market.clock import WallClock
    from training.registry import PromotionRefused

    if args.force and (args.model_id is None or not args.reason.strip()):
        raise UsageError("--force wants a MODEL by name and a --reason")
    registry = _registry(settings_from(args))
    model_id = _chosen(registry, args.model_id)
    try:
        registry.promote(
            model_id, reason=args.reason or "by hand", at=WallClock().now(), force=args.force
        )
    except PromotionRefused as refusal:
        raise UsageError(str(refusal)) from None
    print(f"{model_id} leads")
    return 0


def rollback(args: argparse.Namespace) -> int:
    """Move the pointer back."""
    from market.clock import WallClock
    from training.registry import NoChampion

    registry = _registry(settings_from(args))
    try:
        champion = registry.rollback(reason=args.reason or "by hand", at=WallClock().now())
    except NoChampion as error:
        raise UsageError(str(error)) from None
    print(f"{champion.model_id} leads again" if champion else "no model leads now")
    return 0


def verify(args: argparse.Namespace) -> int:
    """Load the artefact as the daemon would; exit code 1 where it fails its self-check."""
    from training.artefact import ArtefactRejected
    from training.inference import load_policy

    registry = _registry(settings_from(args))
    model = registry.model(_chosen(registry, args.model_id))
    try:
        load_policy(model.artefact_path)
    except ArtefactRejected as error:
        print(f"ballast: {error}", file=sys.stderr)
        return 1
    print(f"{model.model_id}: the artefact is whole and its self-check holds")
    return 0


def _registry(settings: Settings):  # type: ignore[no-untyped-def]  # imported when it runs
    from broker.database import database_exists
    from training.registry import Registry

    if not database_exists(settings.ledger_url):
        raise UsageError(f"{settings.ledger_url}: no ledger there yet; `ballast run` makes one")
    return Registry.open(settings.ledger_url)


def _chosen(registry, model_id: str | None) -> str:  # type: ignore[no-untyped-def]  # as above
    models = registry.list_models()
    if model_id is None:
        if not models:
            raise UsageError("no model has been trained yet")
        return str(models[0].model_id)
    if model_id not in {model.model_id for model in models}:
        known = ", ".join(model.model_id for model in models) or "none"
        raise UsageError(f"unknown model {model_id!r}; known: {known}")
    return model_id
