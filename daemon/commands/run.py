"""``ballast run``: the daemon."""

from __future__ import annotations

import argparse
import asyncio
import sys

from daemon.commands.common import (
    Subparsers,
    UsageError,
    add_json_option,
    add_settings_options,
    print_json,
    settings_from,
)


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "run",
        help="run the daemon",
        description="Stream closed bars, decide, fill on paper, retrain on schedule. Without "
        "--config, --exchange or --base-url it starts a sandbox venue of its own.",
    )
    add_settings_options(parser)
    parser.add_argument(
        "--until-bars", type=int, metavar="N", help="stop after N decisions and print a summary"
    )
    parser.add_argument(
        "--speed",
        type=float,
        metavar="X",
        help="venue seconds per real second of the own sandbox; 0: as fast as decisions commit",
    )
    parser.add_argument("--start", metavar="TIME", help="venue time at which the sandbox starts")
    parser.add_argument(
        "--fallback", choices=["cash", "equal_weight"], help="what decides without a champion"
    )
    parser.add_argument("--port", type=int, metavar="P", help="of the monitoring page")
    parser.add_argument(
        "--no-training", action="store_true", help="never retrain; use the champion or the fallback"
    )
    add_json_option(parser)
    parser.set_defaults(execute=execute)


def execute(args: argparse.Namespace) -> int:
    """Run until stopped, then print the summary."""
    if args.until_bars is not None and args.until_bars < 1:
        raise UsageError(f"--until-bars {args.until_bars}: must be at least 1")
    settings = settings_from(
        args,
        sandbox={"speed": args.speed, "start": args.start},
        account={"fallback": args.fallback},
        monitor={"port": args.port},
        training={"enabled": False if args.no_training else None},
    )
    from daemon.run import RunOptions, run_daemon
    from market.retry import VenueError

    options = RunOptions(until_bars=args.until_bars, config_path=args.config)
    try:
        summary = asyncio.run(run_daemon(settings, options))
    except VenueError as error:
        if not settings.sandbox.enabled:
            error.add_note("`ballast run` without --exchange starts a sandbox venue of its own")
        raise
    if summary is None:
        print("ballast: stopped before the daemon had started", file=sys.stderr)
        return 0
    if args.json:
        print_json(summary.to_json())
    else:
        print(summary.to_text())
    return 0
