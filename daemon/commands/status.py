"""``ballast status``: what a running daemon says of itself."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from typing import Any

from daemon.commands.common import (
    Subparsers,
    add_json_option,
    add_settings_options,
    print_json,
    settings_from,
)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "status",
        help="ask a running daemon how it is",
        description="Print equity, weights, model, feed and alerts of a running daemon. Exit code "
        "1 where none answers.",
    )
    add_settings_options(parser)
    parser.add_argument("--port", type=int, metavar="P", help="of its monitoring page")
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Ask ``/api/status``."""
    settings = settings_from(args, monitor={"port": args.port})
    url = f"http://{settings.monitor.host}:{settings.monitor.port}/api/status"
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            status: dict[str, Any] = json.load(response)
    except (urllib.error.URLError, OSError, ValueError) as error:
        print(f"ballast: no daemon answers at {url}: {error}", file=sys.stderr)
        return 1
    if args.json:
        print_json(status)
    else:
        print(status_text(status))
    return 0


def status_text(status: dict[str, Any]) -> str:
    """Put the JSON of ``/api/status`` into lines for a terminal."""
    champion, retraining = status["champion"], status["retraining"]
    costs = f"fees {status['fees']:,.2f}, funding {status['funding']:,.2f}"
    weights = ", ".join(f"{name} {weight:.1%}" for name, weight in status["weights"].items())
    lines = [
        ("venue", status["venue_description"]),
        ("phase", status["phase"]),
        ("equity", f"{status['equity']:,.2f} {status['quote']}"),
        ("drawdown", f"{status['drawdown']:.2%}"),
        ("weights", f"{weights or 'none'}; cash {status['cash_weight']:.1%}"),
        ("model", champion["model_id"] if champion else f"none (fallback {status['fallback']})"),
        ("decisions", ", ".join(f"{k} {v}" for k, v in status["decisions"].items()) or "none"),
        (
            "fills",
            f"{status['fills']}, {costs}",
        ),
        *(("shadow", _shadow_text(one, status["quote"])) for one in status["shadows"]),
        ("retraining", f"{retraining['state']} {retraining['stage'] or ''}".strip()),
        *(("alert", f"{alert['name']}: {alert['message']}") for alert in status["alerts"]),
    ]
    return "\n".join(f"{name:<11} {value}" for name, value in lines)


def _shadow_text(shadow: dict[str, Any], quote: str) -> str:
    made = f"{shadow['equity']:,.2f} {quote} ({shadow['total_return']:+.2%})"
    halted = ", halted" if shadow["halted"] else ""
    decisions = f"{shadow['decisions']} decisions{halted}"
    return f"{shadow['account_id']}: {made} by {shadow['target']}, {decisions}"
